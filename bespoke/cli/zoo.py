"""``bespoke zoo import`` and ``zoo calibrate``: published supernets in a zoo folder of yours."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from bespoke.cli.asking import EntryName, Json, check_seed, progress, read_sides, zoo_entry
from bespoke.cli.weights import zoo_app
from bespoke.supernet.errors import FileInvalid, InvalidInput

WEIGHTS, CONFIG, RUN_CONFIG = "init", "net.config", "run.config"
"""The files of a specialised network's folder, as published."""

ZooFolder = Annotated[
    Path, typer.Option("--zoo", envvar="BESPOKE_ZOO", help="Your zoo's folder; made where there is none.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to ``bespoke zoo``."""
    zoo_app.command("import")(zoo_import)
    zoo_app.command("calibrate")(zoo_calibrate)


def zoo_import(
    source: Annotated[
        str, typer.Argument(metavar="FILE_OR_URL", help="Weights; or a specialised network's folder.")
    ],
    format_: Annotated[str, typer.Option("--format", help="Whose checkpoint: ofa.")] = "ofa",
    name: Annotated[str | None, typer.Option(help="Of the new supernet; told by the file otherwise.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Digest that the weights must have.")] = None,
    config: Annotated[
        str | None, typer.Option(help="net.config of a specialised network: a file or address.")
    ] = None,
    resolutions: Annotated[
        str | None, typer.Option(help="Sides of the input, in pixels; 128 to 224 by 4 otherwise.")
    ] = None,
    predictor: Annotated[
        str | None, typer.Option(help="The published accuracy predictor: a file or address.")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="Names of its classes: its image folder, or a file with one a line; sorted."),
    ] = None,
    zoo_folder: ZooFolder = Path("var/zoo"),
    as_json: Json = False,
) -> None:
    """Bring a published Once-for-All network into a zoo folder of yours."""
    from bespoke.predictors.accuracy import MlpPredictor, read_predictor
    from bespoke.predictors.gaussian import GaussianPredictor
    from bespoke.supernet.official_checkpoints import constant_table, read_specialised, read_supernet
    from bespoke.supernet.official_configs import read_config
    from bespoke.supernet.spaces import RESOLUTIONS, FixedNetwork
    from bespoke.supernet.zoo.writing import check_new_name, write_entry

    if format_ != "ofa":
        raise InvalidInput(f"--format: got {format_!r}, expected ofa")
    if name is not None:
        check_new_name(name, zoo_folder)
    sides = None if resolutions is None else tuple(read_sides(resolutions))
    class_names = None if classes is None else _class_names(classes)
    files = _Files(zoo_folder / ".downloads")
    try:
        found = _bring(files, source, sha256, config)
        if found.config is None:
            official = read_supernet(found.weights, sides or RESOLUTIONS)
        else:
            fixed = read_config(found.config, name or found.label, _one_side(sides, found))
            official = read_specialised(found.weights, fixed)
        space = official.network.space
        predicts = read_predictor(files.local(predictor), space) if predictor else None
    except FileInvalid as error:
        files.forget(error.path)  # Else the next call would find the same file, and fail again.
        raise
    table = constant_table(space, official.statistics) if isinstance(space, FixedNetwork) else None
    if class_names and len(class_names) != space.classes:
        raise InvalidInput(f"--classes: got {len(class_names)} names, expected {space.classes}")
    card = _card(source, found.weights, space.classes, specialised=table is not None)
    card |= {"classes": class_names} if class_names else {}

    def with_predictor(folder: Path) -> None:
        if isinstance(predicts, MlpPredictor | GaussianPredictor):
            predicts.save(folder / "predictor.json")

    entry = write_entry(zoo_folder, name or space.name, official.network, table, card, with_predictor)
    files.remove()
    told = {"name": entry.name, "folder": str(entry.folder), "digest": entry.digest, "card": entry.card}
    if as_json:
        print(json.dumps(told))
        return
    print(f"{entry.name}  {entry.folder}  sha256 {entry.card['sha256']}")
    if table is None:
        print(
            "Its BN statistics are to be made on your own images: for one subnet with\n"
            f"  bespoke extract --zoo {zoo_folder} --supernet {entry.name} --images FOLDER ...\n"
            "or for all of them, once, with\n"
            f"  bespoke zoo calibrate {entry.name} --zoo {zoo_folder} --images FOLDER"
        )


def zoo_calibrate(
    name: EntryName,
    images: Annotated[Path, typer.Option(help="Image folder: train/<class>/*.")],
    zoo_folder: ZooFolder = Path("var/zoo"),
    cache: Annotated[Path, typer.Option(help="Folder of the decoded images.")] = Path("var/images"),
    architectures: Annotated[int, typer.Option(help="Random subnets to see.")] = 2000,
    batch: Annotated[int, typer.Option(help="Images for each.")] = 64,
    most: Annotated[int, typer.Option(help="Images to decode at most, of all classes alike.")] = 20_000,
    seed: Annotated[int, typer.Option(help="All randomness follows from it.", callback=check_seed)] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Make a supernet's BN statistics table on your images, so that subnets need none."""
    from bespoke.predictors.card import write_calibration
    from bespoke.supernet.checkpoints import save_statistics
    from bespoke.supernet.statistics import check_covered
    from bespoke.supernet.subnet import load_network
    from bespoke.supernet.training.collection import collect_table, table_architectures
    from bespoke.supernet.training.data import evenly, read_split
    from bespoke.supernet.training.processes import device_of
    from bespoke.supernet.training.sides import side_for
    from bespoke.supernet.zoo import STATISTICS

    if batch < 2:
        raise InvalidInput(f"--batch: got {batch}, expected 2 or more: one image has no BN statistics")
    if most < batch:
        raise InvalidInput(f"--most: got {most}, expected {batch} or more, the images for one subnet")
    device_of(device)
    opened = zoo_entry(name, zoo_folder)
    check_covered(opened.space, table_architectures(opened.space, architectures, seed))
    found = read_split(
        images, "train", side_for(opened.space.dimensions[-1].choices), cache, choose=evenly(most)
    )
    table = collect_table(
        load_network(opened),
        found,
        architectures=architectures,
        batch=batch,
        seed=seed,
        device=device,
        report=progress,
    )
    save_statistics(table, opened.folder / STATISTICS)
    write_calibration(opened, f"a table, made of {architectures} random subnets on {len(found)} images")
    print(f"{opened.folder / STATISTICS}")


@dataclass(frozen=True)
class _Found:
    """The files of one published network, on this machine.

    Attributes:
        weights: The torch file.
        config: The ``net.config`` of a specialised network.
        run_config: Its ``run.config``, which holds its resolution.
        label: What it is called where it comes from.
    """

    weights: Path
    config: Path | None
    run_config: Path | None
    label: str


def _bring(files: _Files, source: str, sha256: str | None, config: str | None) -> _Found:
    """Find or download what an import reads. A folder has everything of a specialised network."""
    if source.endswith("/") or Path(source).is_dir():
        folder = source.rstrip("/")
        weights = files.local(f"{folder}/{WEIGHTS}", sha256)
        found = files.local(config or f"{folder}/{CONFIG}")
        # "." is a folder as well, and has a name.
        label = Path(source).absolute().name if Path(source).is_dir() else folder.rpartition("/")[2]
        return _Found(weights, found, files.local(f"{folder}/{RUN_CONFIG}"), _plain(label))
    weights = files.local(source, sha256)
    if config is None:
        return _Found(weights, None, None, _plain(weights.stem))
    beside = Path(config).with_name(RUN_CONFIG)
    return _Found(weights, files.local(config), beside if beside.is_file() else None, _plain(weights.stem))


def _public(url: str) -> str:
    """An address without what it may hold of secrets: whoever may search reads cards."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _plain(text: str) -> str:
    """A text as a name of files and entries."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)


class _Files:
    """Files that are here, or are brought here first; downloads are kept until they are not needed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._brought = folder, set[Path]()

    def local(self, source: str, sha256: str | None = None) -> Path:
        """Where a file or an address can be read."""
        from bespoke.supernet.downloads import check_digest, is_url

        if is_url(source):
            return self._download(source, sha256)
        check_digest(Path(source), sha256)
        return Path(source)

    def remove(self) -> None:
        """Delete what was downloaded."""
        for folder in self._brought:
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self, path: str) -> None:
        """Delete a download that is not what it should be; the others stay."""
        for folder in self._brought:
            if Path(path).is_relative_to(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def _download(self, url: str, sha256: str | None) -> Path:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        from bespoke.supernet.downloads import check_digest, download

        label = url.rstrip("/").rpartition("/")[2].partition("?")[0] or "file"
        folder = self._folder / hashlib.sha256(url.encode()).hexdigest()[:16]
        self._brought.add(folder)
        target = folder / _plain(label)
        if target.is_file():
            check_digest(target, sha256)
            return target
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            bar = bars.add_task(label, total=None)
            return download(
                url,
                target,
                sha256=sha256,
                progress=lambda done, total: bars.update(bar, completed=done, total=total),
            )


def _class_names(source: Path) -> list[str]:
    """Names of classes, in the order of the classifier's outputs, which is that of their folders.

    Raises:
        InvalidInput: They are not sorted, or come twice: folders would be taken for other classes.
        FileInvalid: The file is no text, or the folder holds no images.
    """
    from bespoke.supernet.training.folders import list_split

    if source.is_dir():
        return list(list_split(source, "train").classes)
    try:
        names = source.read_text().split("\n")
    except UnicodeDecodeError as error:
        raise FileInvalid(source, f"is no text ({error}); expected a class's name a line") from error
    names = [name.strip() for name in names if name.strip()]
    if names != sorted(set(names)):
        raise InvalidInput(
            f"--classes: the names in {source} are not sorted, or come twice; expected those of the class "
            "folders, in their order"
        )
    return names


def _one_side(sides: tuple[int, ...] | None, found: _Found) -> int:
    """The resolution of a specialised network: as given, or as its run.config says."""
    from bespoke.supernet.official_configs import read_image_size

    if sides is not None:
        if len(sides) != 1:
            raise InvalidInput(f"--resolutions: a specialised network has one, got {list(sides)}")
        return sides[0]
    if found.run_config is None:
        raise InvalidInput(f"{found.config} has no {RUN_CONFIG} beside it: say --resolutions PIXELS")
    return read_image_size(found.run_config)


def _card(source: str, weights: Path, classes: int, specialised: bool) -> dict[str, Any]:
    """What is known of an imported network."""
    from bespoke.supernet.whole_files import digest_of

    what = "Specialised network" if specialised else "Supernet"
    return {
        "summary": f"{what} of the Once-for-All authors, imported; {classes} classes",
        "source": _public(source) if "://" in source else Path(source).name,
        "sha256": digest_of(weights),
        "bn_statistics": "the network's own" if specialised else "none: re-calibrate on images",
    }
