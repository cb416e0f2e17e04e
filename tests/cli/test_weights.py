"""``bespoke train`` from images to a zoo entry that can be searched, and what belongs to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from bespoke.cli import app
from bespoke.cli.finishing import staged
from bespoke.predictors import read_predictor
from bespoke.search import Constraint, Problem, search
from bespoke.supernet import zoo
from bespoke.supernet.errors import BespokeError, FileInvalid, InvalidInput
from bespoke.supernet.zoo.writing import write_entry
from tests.supernet.training.tiny import fresh, two_colours

PNG = b"\x89PNG\r\n"
SHORT = (
    "--recipe", "progressive_shrinking", "--scale", 0.0005, "--resolutions", 32, "--side", 36, "--batch", 16,
    "--statistics", 100, "--subnets", 30, "--random", 2, "--no-gap",
)  # fmt: skip


def bespoke(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, BespokeError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reddish, greenish and bluish images, twelve each, in a folder without a split."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir()
        for number in range(12):
            pixels = rng.integers(0, 90, (40, 44, 3)).astype(np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options to start from a narrow supernet of two classes, so that all goes fast."""
    root = tmp_path_factory.mktemp("begun")
    write_entry(root, "narrow", fresh(), None, {"epochs": 3})
    return ("--start", "narrow", "--zoo", str(root))


@pytest.fixture(scope="module")
def trained(
    photos: Path, begun: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, str]:
    """The run's folder, the zoo's, and what the command said."""
    folder = tmp_path_factory.mktemp("trained")
    run, made = folder / "run", folder / "zoo" / "mine"
    return run, made.parent, bespoke("train", "--data", photos, "--out", made, "--run", run, *begun, *SHORT)


def test_training_ends_with_an_entry_that_can_be_searched(
    trained: tuple[Path, Path, str], begun: tuple[str, ...]
) -> None:
    run, root, told = trained
    assert zoo.names(root) == ("mine",)
    entry = zoo.entry("mine", root)
    assert entry.card == json.loads(told)
    assert entry.card["classes"] == ["blue", "green", "red"]
    assert list(entry.card["phases"]) == ["largest", "kernel", "depth 1", "depth 2", "expand 1", "expand 2"]
    assert (entry.card["predictor_subnets"], entry.card["predictor_unseen_subnets"]) == (20, 10)
    assert entry.card["epochs"] == pytest.approx(3 + 0.0005 * 605, abs=0.01)
    assert len(entry.card["front_points"]) > 1
    assert "--recipe progressive_shrinking --resolutions 32 --scale 0.0005" in entry.card["command"]
    assert entry.card["command"].endswith("--seed 0 --no-gap --start narrow --zoo begun0 --out mine")
    assert (entry.card["side"], entry.card["seed"], entry.card["subnets_seed"]) == (36, 0, 0)
    assert entry.card["start"] == {"name": "narrow", "digest": zoo.entry("narrow", Path(begun[3])).digest}
    predictor = read_predictor(entry.folder, entry.space)
    assert search(Problem(entry.space, predictor, (Constraint("macs", 1e6),))).best.metrics["macs"] <= 1e6
    assert (run / "log.csv").read_text().count("\n") == 7


def test_two_processes_of_torchrun_finish_a_run_as_one_does(
    trained: tuple[Path, Path, str], begun: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train = ("train", "--data", photos, "--out", tmp_path / "mine", "--run", run, *begun, *SHORT)
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "bespoke.cli")
    ended = subprocess.run(
        [sys.executable, "-m", *torchrun, *map(str, train)], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    card, alone = json.loads(ended.stdout), json.loads(trained[2])  # one of them prints it
    assert zoo.entry("mine", tmp_path).card == card
    same = ("classes", "images", "epochs", "phases", "command", "held_out", "images_digest")
    assert {name: card[name] for name in same} == {name: alone[name] for name in same}
    assert (run / "log.csv").read_text().count("\n") == 7
    assert len(list((run / "images").iterdir())) == 4  # training and validation images, decoded once
    weights = load_file(tmp_path / "mine" / "weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_pictures_are_drawn_from_the_card(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    _, root, _ = trained
    told = json.loads(bespoke("zoo", "show", "mine", "--zoo", root, "--plots", tmp_path / "drawn", "--json"))
    assert [Path(path).name for path in told["plots"]] == ["top1_macs.png", "effects.png"]
    for path in told["plots"]:
        assert Path(path).read_bytes().startswith(PNG)
        assert Path(path).read_bytes() == (root / "mine" / "plots" / Path(path).name).read_bytes()
    with pytest.raises(FileInvalid, match="cannot be written"):
        bespoke("zoo", "show", "mine", "--zoo", root, "--plots", root / "mine" / "card.json")
    text = bespoke("zoo", "show", "mine", "--zoo", root)
    assert "2 subnets (--json tells them" in text


def test_a_finished_run_is_only_read_and_a_card_that_was_made_of_it_before_is_forgotten(
    trained: tuple[Path, Path, str], begun: tuple[str, ...], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, root, told = trained
    files = {path: path.stat().st_mtime_ns for path in run.glob("*") if path.is_file()}
    staged = run / "entry" / "mine" / "card.json"
    staged.parent.mkdir(parents=True, exist_ok=True)
    staged.write_text('{"bn_table_gap": {"mean": 0.5, "worst": 0.5}}')
    monkeypatch.chdir(photos)  # where the images are called "." and nevertheless have a name
    again = bespoke("train", "--data", ".", "--out", root / "mine", "--run", run, *begun, *SHORT)
    assert json.loads(again) == json.loads(told)
    assert {path: path.stat().st_mtime_ns for path in run.glob("*") if path.is_file()} == files


def test_two_workers_measure_and_a_predictor_is_fitted_on_both_files(
    trained: tuple[Path, Path, str], photos: Path, tmp_path: Path
) -> None:
    _, root, _ = trained
    files = [tmp_path / f"{number}.jsonl" for number in range(2)]
    for number, file in enumerate(files):
        options = (
            "--subnets",
            32,
            "--shard",
            f"{number}/2",
            "--cache",
            tmp_path,
            "--zoo",
            root,
        )
        bespoke("zoo", "measure", "mine", "--images", photos, "--dataset", file, *options)
    before = read_predictor(root / "mine", zoo.entry("mine", root).space).revision
    datasets = [part for file in files for part in ("--dataset", file)]
    fields = json.loads(bespoke("zoo", "fit", "mine", *datasets, "--zoo", root))
    entry = zoo.entry("mine", root)
    assert entry.card["predictor_subnets"] == fields["predictor_subnets"] == 22
    assert read_predictor(entry.folder, entry.space).revision != before
    assert "front_points" not in entry.card
    assert json.loads(files[0].read_text().splitlines()[0])["supernet"] == entry.digest
    fewer = Path(shutil.copytree(photos, tmp_path / "fewer"))
    (fewer / "red" / "3.png").unlink()
    few = ("--subnets", 32, "--cache", tmp_path, "--zoo", root)
    with pytest.raises(FileInvalid, match="not the training images of supernet 'mine'"):
        bespoke("zoo", "measure", "mine", "--images", fewer, "--dataset", tmp_path / "new.jsonl", *few)
    with pytest.raises(FileInvalid, match="measured on other images, or on images of another side"):
        bespoke("zoo", "measure", "mine", "--images", photos, "--dataset", files[0], *few, "--side", 40)


def test_a_run_that_is_begun_anew_gets_a_table_of_its_own(tmp_path: Path) -> None:
    options = {"architectures": 100, "seed": 0, "device": torch.device("cpu"), "report": lambda _: None}
    tables = []
    for seed in range(2):
        entry = staged(fresh(seed=seed), two_colours(), tmp_path, "mine", **options)  # type: ignore[arg-type]
        tables.append((entry.folder / zoo.STATISTICS).read_bytes())
    assert tables[0] != tables[1]
    assert sorted(path.read_bytes() for path in tmp_path.glob("statistics-*")) == sorted(tables)


@pytest.mark.parametrize("shard", ["2/2", "1", "a/b", "-1/2"])
def test_a_shard_that_is_none_is_refused(
    trained: tuple[Path, Path, str], photos: Path, tmp_path: Path, shard: str
) -> None:
    _, root, _ = trained
    with pytest.raises(InvalidInput, match="shard"):
        bespoke(
            "zoo", "measure", "mine", "--images", photos, "--dataset", tmp_path / "set.jsonl", "--zoo", root,
            f"--shard={shard}",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "given"),
    [("resolutions", "96.5"), ("resolutions", ""), ("epochs", "1,x"), ("epochs", "nan,1,1"), ("epochs", "")],
)
def test_numbers_that_cannot_be_read_are_told_before_any_image_is(
    tmp_path: Path, option: str, given: str
) -> None:
    images, run = tmp_path / "nothing here", tmp_path / "run"
    with pytest.raises(InvalidInput, match=f"--{option}: got '{given}'"):
        bespoke("train", "--data", images, "--out", tmp_path / "mine", "--run", run, f"--{option}", given)
    assert not run.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--views", 5), "--views: got 5, expected 1 to 4"),
        (("--unsure", 30, "--subnets", 30), "--unsure: got 30 of 30 subnets, expected 0 to 27"),
        (("--unsure", 28, "--subnets", 30), "--unsure: got 28 of 30"),
        (("--subnets", 29), "--subnets: got 29, expected 30"),
        (("--statistics", 20), "20 architectures do not cover"),
        (("--recipe", "other"), "no recipe named 'other'"),
        (("--space", "other"), "no space named 'other'"),
        (("--epochs", "1,2,3"), "expected 2 numbers"),
        (("--resolutions", "96,0"), "resolutions"),
        (("--start", "narrow", "--space", "ofa-resnet50"), "--space: got 'ofa-resnet50', and --start is of"),
        (("--seed", -1), "--seed: got -1"),
        (("--seed", 2**63), "--seed: got"),
        (("--side", 0), "--side: got 0"),
        (("--scale", "inf"), "--scale: got inf, expected a positive factor"),
        (("--rate", "nan"), "--rate: got nan, expected a positive factor"),
        (("--start", ""), r"no supernet in .*begun0 \(see --zoo\) named ''; known: narrow"),
        (("--out", "my zoo/my net"), "--out: got a folder named 'my net'"),
        (("--start", "narrow", "--statistics", 100, "--device", "gpu"), "got 'gpu', expected cpu or cuda"),
        (("--start", "narrow", "--statistics", 100, "--batch", 1), "--batch: got 1 images"),
    ],
)
def test_what_cannot_be_trained_is_told_before_any_image_is_read(
    begun: tuple[str, ...], tmp_path: Path, options: tuple[object, ...], told: str
) -> None:
    images, run = tmp_path / "nothing here", tmp_path / "run"
    with pytest.raises(BespokeError, match=told):
        bespoke("train", "--data", images, "--out", tmp_path / "mine", "--run", run, *begun[2:], *options)
    assert not run.exists()


def test_another_training_does_not_replace_an_entry(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    _, root, _ = trained
    with pytest.raises(InvalidInput, match=r"mine is a supernet already, and .* holds no training to go on"):
        bespoke("train", "--data", tmp_path / "nothing", "--out", root / "mine", "--run", tmp_path / "other")


def test_a_run_is_kept_under_its_supernets_name(
    photos: Path, begun: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = Path("var/train/mine/checkpoint.pt")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"half")
    with pytest.raises(FileInvalid, match=f"{checkpoint}: is damaged"):
        bespoke("train", "--data", photos, "--out", tmp_path / "mine", *begun, *SHORT)


def test_a_place_where_no_entry_can_come_is_told_before_any_image_is_read(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("...")
    for out, told in ((tmp_path / "thesis", "no zoo entry"), (tmp_path / "thesis" / "chapter.txt", "a file")):
        with pytest.raises(InvalidInput, match=told):
            bespoke("train", "--data", tmp_path / "nothing here", "--out", out, "--run", tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--shard", "3/4", "--subnets", 2), "none for this worker"),
        (("--subnets", 0), "--subnets: got 0"),
        (("--views", 0), "--views: got 0"),
        (("--unsure", 999), "--unsure: got 999 of 1000"),
        (("--unsure", 9, "--subnets", 3001), "--unsure: got 9 of 3001 subnets, expected 3000 at most"),
        (("--seed", -1), "--seed: got -1"),
        (("--side", 0), "--side: got 0"),
        (("--device", "gpu"), "got 'gpu'"),
    ],
)
def test_what_cannot_be_measured_is_told_before_any_image_is_read(
    random_zoo: Path, tmp_path: Path, options: tuple[object, ...], told: str
) -> None:
    files = ("--images", tmp_path / "nothing here", "--dataset", tmp_path / "set.jsonl", "--zoo", random_zoo)
    with pytest.raises(InvalidInput, match=told):
        bespoke("zoo", "measure", "tiny", *files, *options)
