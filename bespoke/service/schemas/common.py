"""What every room shares: names as they may be written, and the two kinds of body."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

# Neither database takes NUL, and nobody wants a line break in a name.
Label = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]
ApiName = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]
SupernetName = Annotated[str, Query(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]
RevisionName = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="Digest of the table.")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Range = Annotated[list[float], Field(min_length=2, max_length=2, description="Smallest and largest.")]


class Incoming(BaseModel):
    """A body that comes in: strict types, and nothing that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Outgoing(BaseModel):
    """A body that goes out."""

    model_config = ConfigDict(from_attributes=True)


class Request(Outgoing):
    """A request that is ready to be sent."""

    method: Literal["POST"] = "POST"
    href: str
    body: dict[str, Any]
