from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import plain_training
from benchmarks.accuracy import at_latency, recipes
from benchmarks.accuracy.setup import Setup
from benchmarks.baselines import StaticNetwork, mobilenet_v3
from benchmarks.input_pipeline import through_floats
from bespoke.supernet import zoo
from bespoke.supernet.architecture import Architecture, SearchSpace
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.genomes import largest, random_architecture, smallest
from bespoke.supernet.spaces import FixedNetwork, space
from bespoke.supernet.training.augmentation import draw_crops, resampled_one_by_one
from bespoke.supernet.training.evaluation import LabelledImages
from bespoke.supernet.training.phase import Phase
from bespoke.supernet.training.run_files import save_checkpoint
from tests.supernet.training.tiny import two_colours

ASKED = {
    "epochs": 60, "batch": 64, "side": 160, "images": None, "effort": "standard", "runtime": "onnxruntime",
    "threads": 1, "precision": "fp32", "device": "cpu", "baseline_sides": [32], "budgets": 1, "random": 50,
    "baselines": ["resnet-18"], "resnet_bf16": False,
}  # fmt: skip


def asked(run: Path, root: Path, images: int = 12, **others: Any) -> Setup:
    options = argparse.Namespace(**{**ASKED, "run": run, **others})
    found = two_colours(images)
    return Setup(options, zoo.entry("tiny", root), found, LabelledImages(found))


@pytest.mark.parametrize(
    ("tried", "told"),
    [
        ({"epochs": 1}, r"epochs 1 \(now 60\)"),
        ({"images": 8}, "training_images"),
        ({"effort": "quick"}, "effort quick"),
        ({"threads": 4}, "threads 4"),
    ],
)
def test_what_a_try_out_kept_is_not_taken_for_the_real_run(
    random_zoo: Path, tmp_path: Path, tried: dict[str, Any], told: str
) -> None:
    asked(tmp_path, random_zoo, **tried).claim([1, 2, 3])
    with pytest.raises(FileInvalid, match=told):
        asked(tmp_path, random_zoo).claim([1, 2])


def test_what_only_adds_work_may_change_and_a_folder_without_settings_gets_them(
    random_zoo: Path, tmp_path: Path
) -> None:
    setup = asked(tmp_path, random_zoo)
    setup.once("1/kept before there were settings", lambda: 0.5)
    setup.claim([1])
    # The timing concerns item 2, which was not asked for yet; no option of item 4 is kept.
    more = asked(tmp_path, random_zoo, effort="quick", budgets=9, baseline_sides=[32, 48], random=2)
    more.claim([2, 3])
    asked(tmp_path, random_zoo, epochs=1).claim([4])
    with pytest.raises(FileInvalid, match=r"effort quick \(now standard\); give another --run"):
        setup.claim([2])


def test_items_may_be_added_in_any_order_but_not_to_numbers_of_an_earlier_training(
    random_zoo: Path, tmp_path: Path
) -> None:
    for items in ([3], [1], [2]):
        asked(tmp_path, random_zoo).claim(items)
    settings = tmp_path / "settings.json"
    kept = json.loads(settings.read_text())
    del kept["training_revision"]  # as folders of before it was told
    settings.write_text(json.dumps(kept))
    with pytest.raises(FileInvalid, match=r"training_revision 1 \(now"):
        asked(tmp_path, random_zoo).claim([1])


def test_with_a_baseline_that_is_added_all_are_timed_again_and_without_one_none_is(
    random_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[list[str]] = []

    def latencies_ms(setup: Setup, models: Mapping[str, bytes]) -> dict[str, float]:
        timed.append(sorted(models))
        return {name: len(timed) + (9.0 if name == "resnet-18-32" else 0.0) * slow for name in models}

    slow = False
    fastest = smallest(zoo.entry("tiny", random_zoo).space)
    monkeypatch.setattr(at_latency, "_latencies_ms", latencies_ms)
    monkeypatch.setattr(at_latency, "_within_budgets", lambda setup: [(0.5, fastest)])
    monkeypatch.setattr(at_latency, "baselines", lambda side, classes: [])
    monkeypatch.setattr(at_latency, "_zoo_top1", lambda setup, architecture: 0.5)
    monkeypatch.setattr(at_latency, "_resnet_top1", lambda setup, side: {32: 0.6, 48: 0.55}[side])
    monkeypatch.setattr(at_latency, "module_onnx", lambda module, side: b"")
    at_latency.against_baselines(asked(tmp_path, random_zoo))
    found = at_latency.against_baselines(asked(tmp_path, random_zoo, baseline_sides=[32, 48]))["networks"]
    at_latency.against_baselines(asked(tmp_path, random_zoo))
    first = ["resnet-18-32", f"searched-{fastest.id}"]
    assert timed == [first, sorted([*first, "resnet-18-48"])]
    assert [row["latency_ms"] for row in found.values()] == [2.0, 2.0, 2.0]
    assert found["searched at 0.5 ms"]["instead"] == "resnet-18 at 32 px"
    assert found["searched at 0.5 ms"]["points_more"] == -10
    slow = True  # the better one takes longer than the budget allows, and than what was searched
    searched = at_latency.against_baselines(asked(tmp_path / "slow", random_zoo, baseline_sides=[32, 48]))
    assert searched["networks"]["searched at 0.5 ms"]["instead"] == "resnet-18 at 48 px"
    nothing = at_latency.against_baselines(asked(tmp_path / "nothing", random_zoo))
    assert nothing["networks"]["searched at 0.5 ms"]["instead"] is None


def test_recipes_are_compared_on_the_subnets_that_were_trained_alone_too(
    random_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = asked(tmp_path, random_zoo, random=4, alone_random=1, seeds=2, epochs=1)
    trained: list[str] = []

    def train_network(setup: Setup, space: SearchSpace, phases: list[Phase], name: str, seed: int) -> str:
        trained.append(name)
        assert sum(phase.epochs for phase in phases) == pytest.approx(1)
        return name

    def top1(setup: Setup, network: str, architecture: Architecture) -> float:
        of = {smallest(setup.space): 0.3, largest(setup.space): 0.5}.get(architecture)
        if of is None:
            of = 0.4 if architecture == first_random else 0.2
        return of + 0.1 * network.startswith("progressive") + 0.02 * network.endswith("1")

    monkeypatch.setattr(recipes, "train_network", train_network)
    monkeypatch.setattr(recipes, "calibrated_top1", top1)
    alone = list[tuple[str, int]]()

    def trained_alone(setup: Setup, space: FixedNetwork, name: str, seed: int) -> float:
        alone.append((name, seed))
        return 0.6

    first_random = random_architecture(setup.space, np.random.default_rng(2026))
    monkeypatch.setattr(recipes, "trained_alone", trained_alone)
    monkeypatch.setattr(recipes, "_searched_by_macs", lambda setup: [smallest(setup.space)])
    found = recipes.recipes_against_alone(setup)
    assert set(trained) == {f"{kind}-{seed}" for kind in recipes.RECIPES for seed in (0, 1)}
    assert found["sandwich"] == {"largest": 0.51, "smallest": 0.31, "searched": 0.31, "random": 0.26}
    assert found["progressive_shrinking"]["random"] == 0.36
    randoms = [(f"1/alone-{seed}-{first_random.id}", seed) for seed in (0, 1)]
    assert [one for one in alone if one in randoms] == randoms
    assert len({name.rsplit("-", 1)[1] for name, _ in alone}) == 3  # largest, smallest, and one random
    gaps = {"largest": 0.09, "smallest": 0.29, "searched": 0.29, "random": 0.19}
    assert found["alone_less_sandwich"] == gaps
    trained.clear()
    assert recipes.recipes_against_alone(setup) == found
    assert trained == []  # what is kept is not trained again


def test_a_plain_training_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(folder: Path, epochs: float = 3) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
            module(torch.zeros(2, 3, 16, 16))
        plain_training.train_module(module, two_colours(12), folder, resolution=16, epochs=epochs, batch=4)
        return module.state_dict()

    def killed(*checkpoint: Any) -> None:
        save_checkpoint(*checkpoint)
        raise KeyboardInterrupt

    monkeypatch.setattr(plain_training, "CHECKPOINT_STEPS", 4)
    whole = trained(tmp_path / "whole")
    with monkeypatch.context() as broken:
        broken.setattr(plain_training, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "stopped")
    resumed = trained(tmp_path / "stopped")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    with pytest.raises(FileInvalid, match="another --run folder"):
        trained(tmp_path / "stopped", epochs=2)


def test_a_network_that_the_plain_one_cannot_be_is_refused() -> None:
    resnet = space("ofa-resnet50", (32,), 2)
    with pytest.raises(InvalidInput, match="ops of kind bottleneck, maxpool"):
        StaticNetwork(resnet.plan(smallest(resnet)).ops)
    mobile = mobilenet_v3("small", 0.35, 32, 2)
    StaticNetwork(mobile.plan(smallest(mobile)).ops)


def test_crops_through_floats_are_those_of_bytes() -> None:
    x_NHWC = two_colours(4).stored_NHWC
    crops = draw_crops(4, 40, np.random.default_rng(0))
    made, expected = through_floats(x_NHWC, crops, 24), resampled_one_by_one(x_NHWC, crops, 24)
    assert made.dtype == torch.uint8
    assert (made.int() - expected.int()).abs().max() <= 1
