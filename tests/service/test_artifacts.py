"""Every artifact store passes this suite: a local folder, and S3."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from bespoke.service.artifacts import ArtifactStore, open_artifacts
from bespoke.service.settings import Settings
from bespoke.supernet.errors import InvalidInput, NotFound
from tests.service.conftest import BUCKET


@pytest.fixture(params=["folder", "s3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return open_artifacts(Settings(artifacts_url=str(tmp_path / "artifacts")))
    return open_artifacts(
        Settings(
            artifacts_url=f"s3://{BUCKET}/{tmp_path.name}",
            s3_endpoint=request.getfixturevalue("s3_endpoint"),
            s3_key_id="any",
            s3_secret="any",
        )
    )


def test_bytes_come_back_whole_and_in_parts(artifacts: ArtifactStore) -> None:
    content = os.urandom(3_000_001)
    artifact = artifacts.put(content)
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert artifact.size == artifacts.size(artifact.sha256) == len(content)
    assert b"".join(artifacts.read(artifact.sha256)) == content
    assert b"".join(artifacts.read(artifact.sha256, 10, 500_000)) == content[10:500_000]
    assert b"".join(artifacts.read(artifact.sha256, len(content) - 1)) == content[-1:]


def test_an_empty_file_is_a_file(artifacts: ArtifactStore) -> None:
    artifact = artifacts.put(b"")
    assert (artifact.size, b"".join(artifacts.read(artifact.sha256))) == (0, b"")


def test_putting_again_is_harmless_also_from_many_threads(artifacts: ArtifactStore) -> None:
    content, got = os.urandom(100_000), []
    threads = [threading.Thread(target=lambda: got.append(artifacts.put(content))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len(set(got)) == 1
    assert b"".join(artifacts.read(got[0].sha256)) == content


def test_what_is_removed_is_gone_until_it_is_put_again(artifacts: ArtifactStore) -> None:
    content = os.urandom(1000)
    artifact = artifacts.put(content)
    for _ in range(2):
        artifacts.remove(artifact.sha256)
        with pytest.raises(NotFound):
            artifacts.size(artifact.sha256)
    assert artifacts.put(content) == artifact
    assert b"".join(artifacts.read(artifact.sha256)) == content


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", "F" * 64, ""])
def test_what_is_not_there_is_not_found(artifacts: ArtifactStore, name: str) -> None:
    with pytest.raises(NotFound):
        artifacts.size(name)
    with pytest.raises(NotFound):
        artifacts.read(name, 0, 5)


def test_an_unknown_kind_of_address_is_refused() -> None:
    with pytest.raises(InvalidInput, match="ftp://"):
        open_artifacts(Settings(artifacts_url="ftp://somewhere"))
