"""A running service, as the tests of the API talk to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from bespoke.client import Client


@dataclass(frozen=True)
class Api:
    """A running service, with a key for everything and one for each scope."""

    http: TestClient
    keys: dict[str, str]
    zoo: Path

    @property
    def client(self) -> Client:
        return Client(http=self.http, key=self.keys["all"], attempts=1)

    def request(self, method: str, path: str, scope: str = "all", **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.keys[scope]}"} | options.pop("headers", {})
        return self.http.request(method, path, headers=headers, **options)


def problem_of(answer: Any, status: int, slug: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"https://bespoke.dev/problems/{slug}"
    assert problem["status"] == status
    assert problem["detail"]
    return problem
