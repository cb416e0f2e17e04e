"""Writing a zoo entry: the whole folder appears at once, or nothing does. Needs torch."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bespoke.supernet.checkpoints import save_tensors
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.statistics import StatisticsTable
from bespoke.supernet.whole_files import named
from bespoke.supernet.zoo import STATISTICS, ZooEntry, entry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
STAGING = ".partial"
"""Folder of a zoo in which new entries are written."""


def check_new_name(name: str, root: Path) -> None:
    """Refuse a name that a new entry cannot have.

    Raises:
        InvalidInput: It is no plain name, or is taken.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"name: got {name!r}, expected at most 100 letters, digits, '.', '_' or '-', the first one a "
            "letter or a digit"
        )
    if (root / name).exists():
        raise InvalidInput(f"{root / name} exists already: give another --name, or remove it first")


def write_entry(
    root: Path,
    name: str,
    network: ChainSupernet,
    statistics: StatisticsTable | None,
    card: Mapping[str, Any],
    add: Callable[[Path], object] | None = None,
) -> ZooEntry:
    """Write a zoo entry, its weights and statistics in single precision.

    Args:
        root: The zoo's folder; made where there is none.
        name: Of the entry.
        network: Whose space and weights are written.
        statistics: Its BN statistics table, if there is one.
        card: The model card.
        add: Writes what else belongs to the entry into its folder, before it comes to its place.

    Raises:
        InvalidInput: The name is no plain name, or is taken.
        FileInvalid: It cannot be written.
    """
    check_new_name(name, root)
    with named(root / name):
        (root / STAGING).mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root / STAGING))
        try:
            weights = {key: parameter.float() for key, parameter in network.named_parameters()}
            save_tensors(weights, folder / "weights.safetensors")
            if statistics is not None:
                save_tensors(statistics.tensors(), folder / STATISTICS)
            (folder / "card.json").write_text(json.dumps(dict(card), indent=2) + "\n")
            (folder / "space.json").write_text(json.dumps(network.space.to_json(), indent=2) + "\n")
            if add is not None:
                add(folder)
            folder.chmod(0o755)
            folder.rename(root / name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return entry(name, root)


def check_target(out: Path) -> None:
    """Refuse a place to which ``publish`` cannot bring an entry.

    Raises:
        InvalidInput: It has no name, is no folder, lies in none, or is something else than an entry.
    """
    if not out.name:
        raise InvalidInput(f"got --out {out}, expected a folder of the entry's own, e.g. var/zoo/mine")
    blocked = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
    if blocked is not None:
        raise InvalidInput(f"{blocked} is a file: give another --out, which is a folder or is made one")
    if out.exists() and not (out / "space.json").is_file() and any(out.iterdir()):
        raise InvalidInput(f"{out} is no zoo entry, and is not empty: give another --out")


def publish(made: Path, out: Path) -> ZooEntry:
    """Bring a whole entry to its place in a zoo; one of the same name is replaced.

    Args:
        made: The folder of an entry; it stays as it is.
        out: Where it goes, e.g. ``var/zoo/mine``.

    Raises:
        InvalidInput: See ``check_target``.
        FileInvalid: It cannot be written; what was there stays.
    """
    check_target(out)
    with named(out):
        (out.parent / STAGING).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{out.name}-", dir=out.parent / STAGING) as folder:
            new, old = Path(folder) / "new", Path(folder) / "old"
            shutil.copytree(made, new)
            if out.exists():
                out.rename(old)
            try:
                new.rename(out)
            except BaseException:
                if old.exists():
                    old.rename(out)
                raise
    return entry(out.name, out.parent)
