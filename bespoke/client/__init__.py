"""The Python client: one method per endpoint."""

from bespoke.client.client import Client
from bespoke.supernet.errors import ApiError

__all__ = ["ApiError", "Client"]
