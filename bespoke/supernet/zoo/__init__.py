"""Pre-trained supernets, bundled or in a folder of yours: one folder each. No torch here.

The bundled ones are a distribution of their own, ``bespoke-zoo``: a device's agent needs none.

space.json              what the network can be
weights.safetensors     shared weights, half precision
statistics.safetensors  BN statistics table; imported supernets have none before they are calibrated
predictor.json, predictor.safetensors   accuracy predictor
card.json               model card: what it is, measured numbers, the commands behind them
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bespoke.supernet.architecture import Architecture, SearchSpace
from bespoke.supernet.errors import FileInvalid, InvalidInput, NotFound, StatisticsMissing, Unavailable
from bespoke.supernet.json_files import read_object
from bespoke.supernet.spaces import space_from_json
from bespoke.supernet.whole_files import digest_of

BUNDLED = find_spec("bespoke_zoo")
ROOT = Path(BUNDLED.origin).parent if BUNDLED and BUNDLED.origin else Path(__file__).parent
"""The zoo of ``bespoke-zoo``; an empty one where that is not installed."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pixels in [0, 1], per channel: ImageNet's, with which every supernet is trained."""
NEEDED = ("space.json", "weights.safetensors")
STATISTICS = "statistics.safetensors"


@dataclass(frozen=True)
class ZooEntry:
    """One pre-trained supernet on disk.

    Attributes:
        name: e.g. ``ofa-mbv3-imagenette``.
        folder: Where its files stand.
        space: What the network can be.
        digest: sha256 over space, weights and statistics, if any: what every subnet follows from.
        card: The model card.
    """

    name: str
    folder: Path
    space: SearchSpace
    digest: str
    card: dict[str, Any] = field(compare=False, hash=False)

    @property
    def has_statistics(self) -> bool:
        """Whether it has a BN statistics table; without one each subnet needs images to be cut out."""
        return (self.folder / STATISTICS).is_file()

    def check_measurable(self) -> None:
        """See that subnets can be cut out without images of their own, and so be measured.

        Raises:
            StatisticsMissing: There is no BN statistics table.
        """
        if not self.has_statistics:
            raise StatisticsMissing(
                f"supernet {self.name!r} has no BN statistics, so that its subnets cannot be measured: make "
                f"them with `bespoke zoo calibrate {self.name} --images FOLDER`"
            )


def names(root: Path = ROOT) -> tuple[str, ...]:
    """The supernets in a zoo folder."""
    return tuple(sorted(p.parent.name for p in root.glob("*/space.json")))


def entry(name: str, root: Path = ROOT) -> ZooEntry:
    """Open one supernet of the zoo.

    Args:
        name: Its folder's name.
        root: The zoo's folder; the bundled one where none is given.

    Raises:
        NotFound: There is no such supernet.
        Unavailable: Bundled ones are asked for, and bespoke-zoo is not installed.
        FileInvalid: A file of it is missing, cannot be read, or is not what it should be.
    """
    if root == ROOT and not BUNDLED:
        raise Unavailable(
            f"supernet {name!r}: none is bundled here. Install bespoke-zoo (pip install ./zoo, in the "
            "project's folder), or name a zoo folder of yours"
        )
    if name not in names(root):
        raise NotFound("supernet", name, names(root))
    folder = root / name
    digest = hashlib.sha256()
    for file in (*NEEDED, STATISTICS):
        path = folder / file
        if path.is_file():
            digest.update(bytes.fromhex(digest_of(path)))
        elif file in NEEDED:
            raise FileInvalid(path, f"missing; a supernet has {', '.join(NEEDED)}")
    described = read_object(folder / "space.json")
    try:
        space = space_from_json(described)
    except (InvalidInput, NotFound) as error:
        raise FileInvalid(folder / "space.json", f"is no search space: {error}") from error
    card_path = folder / "card.json"
    card = read_object(card_path) if card_path.is_file() else {}
    return ZooEntry(name, folder, space, digest.hexdigest(), card)


def describe(entry: ZooEntry, architecture: Architecture, statistics: str) -> dict[str, str]:
    """What an exported subnet says of itself, as ONNX metadata.

    Args:
        entry: The supernet that it was cut out of.
        architecture: What was cut out.
        statistics: Source of its BN statistics: ``table`` or ``recalibrated``.
    """
    facts = {
        "architecture": architecture.to_json(),
        "space": entry.space.to_json(),
        "supernet": entry.name,
        "supernet_digest": entry.digest,
        "classes": entry.space.classes,
        "input_size": architecture.resolution,
        "input_layout": "NCHW, RGB in [0, 1], then (x - mean) / std",
        "mean": list(MEAN),
        "std": list(STD),
        "bn_statistics": statistics,
    }
    if "classes" in entry.card:
        facts["class_names"] = entry.card["classes"]
    return {k: v if isinstance(v, str) else json.dumps(v, separators=(",", ":")) for k, v in facts.items()}
