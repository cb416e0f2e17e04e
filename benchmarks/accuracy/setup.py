"""What all items read, and the folder that keeps what they found."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bespoke.supernet import zoo
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.json_files import read_object
from bespoke.supernet.training.data import ImageSet
from bespoke.supernet.training.evaluation import LabelledImages
from bespoke.supernet.training.run_files import REVISION
from bespoke.supernet.whole_files import write_file

DECIDING: Mapping[int, Sequence[str]] = {1: ("epochs", "batch"), 3: ()} | {
    2: ("epochs", "batch", "effort", "runtime", "threads", "precision", "resnet_bf16")
}
"""Options that decide the numbers which an item keeps in files; item 4 keeps none."""


@dataclass(frozen=True)
class Setup:
    """What all items read."""

    options: argparse.Namespace
    entry: zoo.ZooEntry
    training: ImageSet
    validation: LabelledImages

    @property
    def run(self) -> Path:
        """Folder of all that was measured."""
        folder: Path = self.options.run
        return folder

    @property
    def space(self) -> SearchSpace:
        """The supernet's."""
        return self.entry.space

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """A result that is in its file, or is made and put there."""
        path = self.run / "results" / f"{name}.json"
        if not path.exists():
            found = make()
            write_file(path, json.dumps(found))
            print(f"{name}: {json.dumps(found)[:200]}", flush=True)
        return json.loads(path.read_text())

    def claim(self, items: Sequence[int]) -> None:
        """Write down what decides the kept numbers of some items, or compare it with what is written.

        What was kept before anything was written down is taken as of these settings; where a folder does
        not tell the revision of the training, it is the first.

        Raises:
            FileInvalid: The folder's numbers are of other settings.
        """
        keeping = [item for item in items if item in DECIDING]
        if not keeping:
            return
        path = self.run / "settings.json"
        own = {
            "side": self.options.side,
            "images": self.options.images,
            "training_images": self.training.digest[:12],
            "validation_images": self.validation.images.digest[:12],
            "supernet": self.entry.digest[:12],
            "training_revision": REVISION,
        }
        own |= {name: getattr(self.options, name) for item in keeping for name in DECIDING[item]}
        kept = {"training_revision": 1} | read_object(path) if path.exists() else {}
        others = [name for name in own if name in kept and kept[name] != own[name]]
        if others:
            told = ", ".join(f"{name} {kept[name]} (now {own[name]})" for name in others)
            raise FileInvalid(
                path,
                f"the numbers of this folder were made with {told}; give another --run, or the settings of "
                "this one",
            )
        if own.keys() - kept.keys():
            write_file(path, json.dumps(kept | own, indent=2) + "\n")
