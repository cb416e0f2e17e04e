"""``bespoke zoo import`` and ``calibrate``, from a file, a folder and an address to ONNX."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bespoke.cli import app
from bespoke.predictors import read_predictor
from bespoke.predictors.fitting import fit
from bespoke.supernet import zoo
from bespoke.supernet.architecture import encode
from bespoke.supernet.checkpoints import save_statistics
from bespoke.supernet.errors import BespokeError, FileInvalid, InvalidInput, NotFound, StatisticsMissing
from bespoke.supernet.genomes import largest, smallest, stratified
from bespoke.supernet.networks.chain import ChainSupernet, norm_sites
from bespoke.supernet.official_names import official_names
from bespoke.supernet.spaces import space
from bespoke.supernet.subnet import load_network
from tests.supernet.official_reference import mobile_config, mobile_forward, random_state
from tests.supernet.training.tiny import any_statistics

STAGES = [[[3, 3], [5, 4]], [[3, 3]], [[7, 4]], [[3, 3]], [[3, 6]], [[5, 4]]]


def bespoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, BespokeError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def named_state(made: Any, old: bool) -> dict[str, torch.Tensor]:
    parameters = {name: tuple(p.shape) for name, p in ChainSupernet.empty(made).named_parameters()}
    widths = {site: (width,) for op in made.plan(largest(made)).ops for site, width in norm_sites(op)}
    names = official_names(made, old)
    return random_state(
        {n: () if t.role == "count" else (parameters | widths)[t.name] for n, t in names.items()}
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet, and the folder of a specialised network, with random weights and few classes."""
    root = tmp_path_factory.mktemp("published")
    made = space("ofa-mobilenetv3-w1.0", (64,), 4)
    torch.save({"state_dict": named_state(made, old=True)}, root / "ofa_mbv3")
    folder = root / "cpu_lat@9ms"
    folder.mkdir()
    (folder / "net.config").write_text(json.dumps(mobile_config("proxyless", 40, STAGES, 3)))
    (folder / "run.config").write_text(json.dumps({"image_size": 64}))
    from bespoke.supernet.official_configs import read_config

    fixed = read_config(folder / "net.config", "special", 64)
    torch.save({"state_dict": named_state(fixed, old=True)}, folder / "init")
    return root


@pytest.fixture
def address(published: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(published)))
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(6):
        folder = root / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (80, 80, 3), np.uint8)).save(folder / f"{number}.png")
    return root


def test_an_imported_supernet_gives_subnets_once_there_are_images(
    address: str, images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "zoo"
    printed = bespoke("zoo", "import", f"{address}/ofa_mbv3", "--zoo", root, "--resolutions", "32,64")
    assert "bespoke zoo calibrate ofa-mobilenetv3-w1.0" in printed
    assert zoo.names(root) == ("ofa-mobilenetv3-w1.0",)
    opened = zoo.entry("ofa-mobilenetv3-w1.0", root)
    assert (opened.space.classes, opened.has_statistics) == (4, False)
    assert not list((root / ".downloads").iterdir())
    (tmp_path / "a.json").write_text(json.dumps(smallest(opened.space).to_json()))
    extract = ["extract", "--architecture", tmp_path / "a.json", "--out", tmp_path / "a.onnx", "--zoo", root]
    extract += ["--supernet", opened.name]
    with pytest.raises(StatisticsMissing, match=r"--images FOLDER.*bespoke zoo calibrate"):
        bespoke(*extract)
    bespoke(*extract, "--images", images)
    session = onnxruntime.InferenceSession((tmp_path / "a.onnx").read_bytes())
    (logits,) = session.run(None, {"image": np.ones((1, 3, 32, 32), np.float32)})
    assert logits.shape == (1, 4)
    assert np.isfinite(logits).all()


def test_the_classes_of_an_imported_supernet_can_be_named(
    published: Path, images: Path, tmp_path: Path
) -> None:
    names, root = tmp_path / "names.txt", tmp_path / "zoo"
    imported = ["zoo", "import", published / "ofa_mbv3", "--zoo", root, "--resolutions", "64", "--classes"]
    for text, told in (
        ("a\nb\nc\n", "got 3 names, expected 4"),
        ("b\na\nc\nd", "not sorted"),
        ("a\na", "twice"),
    ):
        names.write_text(text)
        with pytest.raises(InvalidInput, match=f"--classes: .*{told}"):
            bespoke(*imported, names)
    with pytest.raises(InvalidInput, match="--classes: got 2 names, expected 4"):
        bespoke(*imported, images)
    names.write_bytes(b"\xff")
    with pytest.raises(FileInvalid, match="is no text"):
        bespoke(*imported, names)
    assert not zoo.names(root)
    names.write_text("a\nb\r\n\nc d\ne\n")
    bespoke(*imported, names)
    assert zoo.entry("ofa-mobilenetv3-w1.0", root).card["classes"] == ["a", "b", "c d", "e"]


def test_images_of_other_classes_than_an_imported_supernets_measure_nothing(
    published: Path, images: Path, tmp_path: Path
) -> None:
    root, dataset = tmp_path / "zoo", tmp_path / "set.jsonl"
    bespoke("zoo", "import", published / "ofa_mbv3", "--zoo", root, "--resolutions", "64")
    measure = ("zoo", "measure", "ofa-mobilenetv3-w1.0", "--zoo", root, "--dataset", dataset, "--images")
    with pytest.raises(StatisticsMissing, match="has no BN statistics"):
        bespoke(*measure, tmp_path / "nothing here")
    entry = zoo.entry("ofa-mobilenetv3-w1.0", root)
    save_statistics(any_statistics(entry.space), entry.folder / zoo.STATISTICS)
    with pytest.raises(FileInvalid, match=r"got 2 classes: class0, class1; supernet .* knows 4;"):
        bespoke(*measure, images, "--cache", tmp_path)
    with pytest.raises(InvalidInput, match="has no accuracy predictor to draw: fit one first"):
        bespoke("zoo", "show", "ofa-mobilenetv3-w1.0", "--zoo", root, "--plots", tmp_path / "plots")
    assert not dataset.exists()


def test_a_zoo_that_the_environment_names_is_listed_and_shown(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESPOKE_ZOO", str(tmp_path))
    bespoke("zoo", "import", published / "ofa_mbv3", "--resolutions", "64", "--name", "mine")
    assert bespoke("zoo", "list").split() == ["mine"]
    assert "imported; 4 classes" in bespoke("zoo", "show", "mine")
    with pytest.raises(NotFound, match=r"no supernet in .* named 'other'; known: mine"):
        bespoke("zoo", "show", "other")


def test_a_wrong_file_costs_no_download_but_its_own(address: str, tmp_path: Path) -> None:
    root, kept = tmp_path / "zoo", tmp_path / "zoo" / ".downloads"
    imported = ["zoo", "import", f"{address}/ofa_mbv3", "--zoo", root, "--resolutions", "32,64"]
    with pytest.raises(FileInvalid, match=r"typo\.json"):
        bespoke(*imported, "--predictor", tmp_path / "typo.json")
    assert [path.name for path in kept.glob("*/*")] == ["ofa_mbv3"]
    assert not zoo.names(root)
    with pytest.raises(FileInvalid, match="run"):
        bespoke("zoo", "import", f"{address}/cpu_lat@9ms/run.config", "--zoo", root)
    assert [path.name for path in kept.glob("*/*")] == ["ofa_mbv3"]
    bespoke(*imported)
    assert not list(kept.iterdir())


def test_a_specialised_network_needs_no_images_and_can_be_calibrated(
    published: Path, address: str, images: Path, tmp_path: Path
) -> None:
    root = tmp_path / "zoo"
    told = json.loads(bespoke("zoo", "import", f"{address}/cpu_lat@9ms/", "--zoo", root, "--json"))
    assert told["name"] == "cpu_lat-9ms"
    opened = zoo.entry("cpu_lat-9ms", root)
    architecture = tmp_path / "a.json"
    architecture.write_text(json.dumps({"resolution": 64}))
    out = tmp_path / "a.onnx"
    bespoke("extract", "--architecture", architecture, "--out", out, "--zoo", root, "--supernet", opened.name)
    x_NCHW = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    (logits,) = onnxruntime.InferenceSession(out.read_bytes()).run(None, {"image": x_NCHW.numpy()})
    state = torch.load(published / "cpu_lat@9ms" / "init", weights_only=True)["state_dict"]
    expected = mobile_forward(state, "proxyless", STAGES, x_NCHW, elastic=False).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-3 * float(np.abs(expected).max()))

    before = (opened.folder / "statistics.safetensors").read_bytes()
    card = opened.card | {"top1_largest": 0.8, "random_points": []}
    (opened.folder / "card.json").write_text(json.dumps(card))
    few = ["--architectures", 6, "--batch", 3]
    bespoke("zoo", "calibrate", opened.name, "--zoo", root, "--images", images, *few)
    assert (opened.folder / "statistics.safetensors").read_bytes() != before
    calibrated = zoo.entry(opened.name, root)
    assert calibrated.digest != opened.digest
    made = "a table, made of 6 random subnets on 4 images"
    assert calibrated.card == opened.card | {"bn_statistics": made}  # without top-1 by other statistics


def test_the_same_weights_come_from_a_file_and_its_digest_is_checked(published: Path, tmp_path: Path) -> None:
    from bespoke.supernet.whole_files import digest_of

    root, file = tmp_path / "zoo", published / "ofa_mbv3"
    with pytest.raises(FileInvalid, match="sha256"):
        bespoke("zoo", "import", file, "--zoo", root, "--sha256", "0" * 64)
    assert zoo.names(root) == ()
    bespoke("zoo", "import", file, "--zoo", root, "--sha256", digest_of(file), "--name", "mine")
    network = load_network(zoo.entry("mine", root))
    state = torch.load(file, weights_only=True)["state_dict"]
    stem = network.get_parameter("slots.first_conv.weight")
    assert torch.equal(stem, state["first_conv.conv.weight"])
    made = zoo.entry("mine", root).space
    chosen = stratified(made, 30, 0)
    own = fit(made, encode(made, chosen), np.linspace(0.5, 0.6, 30))
    own.save(tmp_path / "predictor.json")
    predictor = ("--predictor", tmp_path / "predictor.json", "--name", "ours")
    bespoke("zoo", "import", file, "--zoo", root, *predictor)  # of another kind than the published ones
    assert read_predictor(root / "ours", made).revision == own.revision
    with pytest.raises(InvalidInput, match="exists already"):
        bespoke("zoo", "import", file, "--zoo", root, "--name", "mine")
    with pytest.raises(InvalidInput, match="expected at most 100 letters"):
        bespoke("zoo", "import", file, "--zoo", root, "--name", "../mine")


def test_the_folder_that_one_stands_in_names_its_network(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(published / "cpu_lat@9ms")
    assert json.loads(bespoke("zoo", "import", ".", "--zoo", tmp_path, "--json"))["name"] == "cpu_lat-9ms"


def test_a_card_tells_no_secret_of_an_address(address: str, tmp_path: Path) -> None:
    signed = f"{address.replace('//', '//me:word@')}/ofa_mbv3?token=secret"
    told = json.loads(bespoke("zoo", "import", signed, "--zoo", tmp_path, "--resolutions", "64", "--json"))
    assert told["card"]["source"] == f"{address}/ofa_mbv3"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--batch", 0), "--batch: got 0"),
        (("--batch", -1), "--batch: got -1"),
        (("--architectures", 3), "3 architectures do not cover"),
    ],
)
def test_what_cannot_be_calibrated_is_told_before_any_image_is_read(
    random_zoo: Path, tmp_path: Path, options: tuple[object, ...], told: str
) -> None:
    before = (random_zoo / "tiny" / "statistics.safetensors").read_bytes()
    with pytest.raises(BespokeError, match=told):
        bespoke("zoo", "calibrate", "tiny", "--zoo", random_zoo, "--images", tmp_path / "nothing", *options)
    assert (random_zoo / "tiny" / "statistics.safetensors").read_bytes() == before


def test_what_is_no_published_network_leaves_nothing(published: Path, address: str, tmp_path: Path) -> None:
    root = tmp_path / "zoo"
    with pytest.raises(FileInvalid, match=r"torch file|more than tensors"):
        bespoke("zoo", "import", f"{address}/cpu_lat@9ms/run.config", "--zoo", root)
    with pytest.raises(InvalidInput, match="expected ofa"):
        bespoke("zoo", "import", published / "ofa_mbv3", "--zoo", root, "--format", "timm")
    config = published / "cpu_lat@9ms" / "net.config"
    with pytest.raises(FileInvalid, match="as a file of"):
        bespoke("zoo", "import", published / "ofa_mbv3", "--zoo", root, "--config", config)
    assert zoo.names(root) == ()
    assert not [path for path in root.rglob("*") if path.is_file()]
