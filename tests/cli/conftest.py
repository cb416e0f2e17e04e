"""A running service for the commands that talk to one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bespoke.cli.local import LocalService, local_service
from bespoke.client import Client
from bespoke.supernet import zoo
from bespoke.supernet.architecture import SearchSpace


@dataclass(frozen=True)
class Live:
    """A service in a process of its own, with a key for everything."""

    service: LocalService
    key: str
    zoo: Path
    space: SearchSpace

    @property
    def client(self) -> Client:
        return Client(self.service.url, self.key)

    @property
    def access(self) -> tuple[str, str, str, str]:
        """The options with which a command reaches it."""
        return ("--server", self.service.url, "--key", self.key)


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, random_zoo: Path) -> Iterator[Live]:
    """A service on loopback whose only supernet is ``tiny``."""
    var = tmp_path_factory.mktemp("live")
    with local_service(var, {"BESPOKE_ZOO": str(random_zoo), "BESPOKE_ARCHIVES": "false"}) as service:
        key = service.key(["search", "device:admin", "agent"], "tests")
        yield Live(service, key, random_zoo, zoo.entry("tiny", random_zoo).space)
    shutil.rmtree(var)
