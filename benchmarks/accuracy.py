"""What training a supernet is worth, in four items, as one command that resumes.

    python -m benchmarks.accuracy --data imagenette2-160 --run RUN [--items 1 2 3 4] [--json]

1  Progressive shrinking against the sandwich recipe, as many epochs each, against training the same
   subnets alone for as many epochs: largest, smallest, mean of random ones, and three searched ones.
2  What a search returns at latency budgets on this CPU, against what a user would pick instead, trained
   from scratch for ``--epochs`` on the same images: the best of those within the same measured latency.
3  BN statistics of random subnets: the supernet's table against re-calibration.
4  Training throughput of a sampled subnet against plain torch training of the same network.

Items 2 and 3 are about ``--supernet``, a finished one; 1 and 4 take its space. Every number that took long
stands in a file under RUN, and is not made again; what decides it stands in settings.json there, and a run
that was asked for something else is refused. ``--items``, ``--seeds``, ``--random``, ``--alone-random``,
``--budgets``, ``--baselines`` and ``--baseline-sides`` only add work, and may change. Top-1 is on the
validation images; of the networks of item 1 and of the baselines it is with re-calibrated BN statistics.

JSON: ``item_1`` ... ``item_4``; see the functions of those names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.baselines import (
    StaticNetwork,
    check_plain,
    efficientnet_lite0,
    mobilenet_v2,
    mobilenet_v3,
    module_onnx,
    resnet18,
)
from benchmarks.images import read_images
from benchmarks.latency_table import profile_here
from benchmarks.plain_training import optimiser_of, plain_step, train_module
from bespoke.agent import ChildBench
from bespoke.latency_tables import EFFORTS, LatencyTable, plan_profiling
from bespoke.predictors import read_predictor
from bespoke.predictors.card import measure_accuracy
from bespoke.search import Constraint, Problem, feasible_ranges, search
from bespoke.supernet import zoo
from bespoke.supernet.architecture import Architecture, SearchSpace
from bespoke.supernet.errors import BespokeError, FileInvalid
from bespoke.supernet.genomes import largest, random_architecture, smallest
from bespoke.supernet.json_files import read_object
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.onnx import write_onnx
from bespoke.supernet.spaces import FixedNetwork
from bespoke.supernet.subnet import extract, fold, load_supernet
from bespoke.supernet.training import loop
from bespoke.supernet.training.averaging import WeightAverage
from bespoke.supernet.training.data import ImageSet, augmented, normalised, training_batch
from bespoke.supernet.training.distillation import accumulate_gradients
from bespoke.supernet.training.evaluation import (
    LabelledImages,
    calibrated_statistics,
    module_score,
    subnet_top1,
)
from bespoke.supernet.training.initialisation import initialised
from bespoke.supernet.training.phase import Phase, scaled
from bespoke.supernet.training.processes import Group, device_of
from bespoke.supernet.training.recipes import recipe
from bespoke.supernet.whole_files import replacing, write_file

RECIPES = {"progressive_shrinking": "progressive_shrinking", "sandwich": "plain"}
RATE = 2e-3
"""Of networks that are trained alone: that of the recipes' first phase."""
SEARCHED = (0.2, 0.45, 0.7)
"""Limits of the searched subnets of item 1, as shares of the range of MACs."""
RESNET = "resnet-18"
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
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(found))
            print(f"{name}: {json.dumps(found)[:200]}", flush=True)
        return json.loads(path.read_text())

    def claim(self, items: Sequence[int]) -> None:
        """Write down what decides the kept numbers of some items, or compare it with what is written.

        What was kept before anything was written down is taken as of these settings.

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
        }
        own |= {name: getattr(self.options, name) for item in keeping for name in DECIDING[item]}
        kept = read_object(path) if path.exists() else {}
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


def item_1(setup: Setup) -> dict[str, Any]:
    """Top-1 by recipe (means over the seeds), and what training alone gave of the same architectures."""
    options, space = setup.options, setup.space
    rng = np.random.default_rng(2026)
    randoms = [random_architecture(space, rng) for _ in range(options.random)]
    groups: dict[str, Sequence[Architecture]] = {
        "largest": [largest(space)],
        "smallest": [smallest(space)],
        "searched": _searched_by_macs(setup),
        "random": randoms,
    }
    alone = {name: own[: options.alone_random] if name == "random" else own for name, own in groups.items()}
    found: dict[str, Any] = {}
    for kind in RECIPES:
        top1 = {name: _by_recipe(setup, kind, own) for name, own in groups.items()}
        found[kind] = {name: round(float(np.mean(values)), 4) for name, values in top1.items()}
    by_alone = {name: _alone(setup, own) for name, own in alone.items() if own}
    found["alone"] = {name: round(float(np.mean(values)), 4) for name, values in by_alone.items()}
    for kind in RECIPES:
        same = {name: _by_recipe(setup, kind, own) for name, own in alone.items() if own}
        gaps = {name: np.mean(by_alone[name]) - np.mean(values) for name, values in same.items()}
        found[f"alone_less_{kind}"] = {name: round(float(gap), 4) for name, gap in gaps.items()}
    return found | {"epochs": options.epochs, "seeds": options.seeds, "alone_random": options.alone_random}


def _searched_by_macs(setup: Setup) -> list[Architecture]:
    low, high = feasible_ranges(setup.space, None)["macs"]
    predictor = read_predictor(setup.entry.folder / "predictor.json", setup.space)
    limits = [Constraint("macs", low + share * (high - low)) for share in SEARCHED]
    return [search(Problem(setup.space, predictor, (limit,))).best.architecture for limit in limits]


def _by_recipe(setup: Setup, kind: str, architectures: Sequence[Architecture]) -> list[float]:
    """Top-1 of each architecture as a part of supernets, one for each seed."""
    found = []
    for seed in range(setup.options.seeds):
        names = {a: f"1/{kind}-{seed}-{a.id}" for a in architectures}
        missing = [a for a, name in names.items() if not (setup.run / "results" / f"{name}.json").exists()]
        network = _trained(setup, kind, seed) if missing else None
        for architecture, name in names.items():
            found.append(setup.once(name, partial(_top1, setup, network, architecture)))
    return found


def _trained(setup: Setup, kind: str, seed: int) -> ChainSupernet:
    phases = recipe(RECIPES[kind], setup.space)
    phases = scaled(phases, setup.options.epochs / sum(phase.epochs for phase in phases))
    return _run(setup, setup.space, phases, f"{kind}-{seed}", seed)


def _alone(setup: Setup, architectures: Sequence[Architecture]) -> list[float]:
    """Top-1 of each architecture trained by itself, one for each seed."""
    found = []
    for architecture in architectures:
        network = FixedNetwork(architecture.id, setup.space.plan(architecture).ops)
        for seed in range(setup.options.seeds):
            found.append(_fixed_top1(setup, network, f"1/alone-{seed}-{architecture.id}", seed))
    return found


def _fixed_top1(setup: Setup, space: FixedNetwork, name: str, seed: int) -> float:
    """Top-1 of a network that is trained from scratch."""

    def make() -> float:
        side = space.dimensions[-1].choices[0]
        phase = Phase("alone", setup.options.epochs, RATE, (side,), subnets="largest")
        network = _run(setup, space, [phase], name.replace("/", "-"), seed)
        return _top1(setup, network, largest(space))

    return float(setup.once(name, make))


def _run(setup: Setup, space: SearchSpace, phases: Sequence[Phase], name: str, seed: int) -> ChainSupernet:
    options = setup.options
    network = initialised(space, seed)
    folder = setup.run / "runs" / name
    loop.train(
        network, setup.training, phases, folder, batch=options.batch, seed=seed, device=options.device,
        report=lambda line: print(f"{name}: {line}", flush=True),
    )  # fmt: skip
    return network.cpu().eval()


def _top1(setup: Setup, network: ChainSupernet | None, architecture: Architecture) -> float:
    assert network is not None
    own = calibrated_statistics(network, architecture, setup.training)
    return subnet_top1(network, architecture, own, setup.validation, device=setup.options.device)


def item_2(setup: Setup) -> dict[str, Any]:
    """Each budget: what the search returned, the best baseline that is as fast, and the points between."""
    rows: dict[str, dict[str, Any]] = {}
    models: dict[str, bytes] = {}
    kept_as: dict[str, str] = {}
    for budget_ms, architecture in _within_budgets(setup):
        name, kept_as[name] = f"searched at {budget_ms:.3g} ms", f"searched-{architecture.id}"
        rows[name] = {
            "budget_ms": budget_ms,
            "resolution": architecture.resolution,
            "top1": setup.once(f"2/{kept_as[name]}", partial(_zoo_top1, setup, architecture)),
        }
        network, table = load_supernet(setup.entry)
        subnet = extract(network, architecture, table.lookup(architecture))
        models[name] = write_onnx(subnet.plan, fold(subnet))
    for side in setup.options.baseline_sides or [setup.space.dimensions[-1].choices[-1]]:
        for space in _baselines(side, setup.space.classes):
            if space.name not in setup.options.baselines:
                continue
            name, kept_as[name] = f"{space.name} at {side} px", f"{space.name}-{side}"
            top1 = _fixed_top1(setup, space, f"2/{kept_as[name]}", 0)
            rows[name] = {"resolution": side, "top1": top1}
            models[name] = _fixed_onnx(space)
        if RESNET in setup.options.baselines:
            name, kept_as[name] = f"{RESNET} at {side} px", f"{RESNET}-{side}"
            rows[name] = {"resolution": side, "top1": _resnet_top1(setup, side)}
            models[name] = module_onnx(resnet18(setup.space.classes), side)
    by_model = _kept_latencies_ms(setup, {kept_as[name]: model for name, model in models.items()})
    for name, row in rows.items():
        row["latency_ms"] = by_model[kept_as[name]]
    baselines = {name: row for name, row in rows.items() if "budget_ms" not in row}
    for row in rows.values():
        if "budget_ms" in row:
            # As fast as what the search returned, or as the budget allows: whichever is more.
            limit = max(row["latency_ms"], row["budget_ms"])
            as_fast = [n for n in baselines if baselines[n]["latency_ms"] <= limit]
            best = max(as_fast, key=lambda name: baselines[name]["top1"], default=None)
            row["instead"] = best
            row["points_more"] = round(100 * (row["top1"] - baselines[best]["top1"]), 2) if best else None
    return {"epochs": setup.options.epochs, "networks": rows}


def _baselines(side: int, classes: int) -> list[FixedNetwork]:
    found = [mobilenet_v2(width, side, classes) for width in (0.35, 0.5, 0.75, 1.0)]
    found += [mobilenet_v3("small", width, side, classes) for width in (0.75, 1.0)]
    found += [mobilenet_v3("large", width, side, classes) for width in (0.5, 0.75, 1.0)]
    return [*found, efficientnet_lite0(side, classes)]


def _fixed_onnx(space: FixedNetwork) -> bytes:
    """With random weights, which take as long as trained ones."""
    network, architecture = ChainSupernet(space).eval(), largest(space)
    side = space.dimensions[-1].choices[0]
    statistics = calibrated_statistics(network, architecture, _noise(side), batch=8)
    subnet = extract(network, architecture, statistics)
    return write_onnx(subnet.plan, fold(subnet))


def _noise(side: int) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 255, (8, side, side, 3), np.uint8)
    return ImageSet(torch.from_numpy(pixels), torch.zeros(8, dtype=torch.int64), ("noise",))


def _resnet_top1(setup: Setup, side: int) -> float:
    def make() -> float:
        options = setup.options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = resnet18(setup.space.classes)
        train_module(
            module, setup.training, setup.run / "runs" / f"2-{RESNET}-{side}", resolution=side,
            epochs=options.epochs, learning_rate=RATE, batch=options.batch, device=options.device,
            bf16=options.resnet_bf16 or options.device != "cpu",
        )  # fmt: skip
        return module_score(module.eval(), setup.validation, side, options.device).top1

    return float(setup.once(f"2/{RESNET}-{side}", make))


def _within_budgets(setup: Setup) -> list[tuple[float, Architecture]]:
    """Searched at evenly spaced latencies between the fastest subnet and the slowest one."""
    path = setup.run / "table.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        plan = plan_profiling(setup.space, effort=setup.options.effort)
        table = profile_here(setup.space, setup.options, plan)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(table.to_json()))
    pricer = LatencyTable.from_json(json.loads(path.read_text())).pricer(setup.space)
    predictor = read_predictor(setup.entry.folder / "predictor.json", setup.space)
    low, high = feasible_ranges(setup.space, pricer)["latency_ms"]
    found = []
    for budget_ms in np.linspace(low, high, setup.options.budgets + 1)[1:].tolist():
        problem = Problem(setup.space, predictor, (Constraint("latency_ms", budget_ms),), pricer)
        found.append((budget_ms, search(problem).best.architecture))
    return found


def _zoo_top1(setup: Setup, architecture: Architecture) -> float:
    network, table = load_supernet(setup.entry)
    return subnet_top1(network, architecture, table, setup.validation, device=setup.options.device)


def _kept_latencies_ms(setup: Setup, models: Mapping[str, bytes]) -> dict[str, float]:
    """The latency of each model, in ms: those that are new are measured, and kept one by one."""
    files = {name: setup.run / "results" / "2" / f"latency-{name}.json" for name in models}
    missing = {name: model for name, model in models.items() if not files[name].exists()}
    found = _latencies_ms(setup, missing) if missing else {}
    return {name: setup.once(f"2/latency-{name}", partial(found.get, name)) for name in models}


def _latencies_ms(setup: Setup, models: Mapping[str, bytes]) -> dict[str, float]:
    """The fastest tenth of each network's quietest round, in rounds over all of them, in ms."""
    effort, options = EFFORTS[setup.options.effort], setup.options
    found = dict.fromkeys(models, float("inf"))
    with tempfile.TemporaryDirectory() as folder, ChildBench(options.runtime, options.threads) as bench:
        files = {}
        for number, (name, model) in enumerate(models.items()):
            path = Path(folder) / f"{number}.onnx"
            path.write_bytes(model)
            files[name] = path, hashlib.sha256(model).hexdigest()
        for number in range(effort.rounds):
            for at in np.random.default_rng(number).permutation(len(files)):
                name = list(files)[at]
                samples_ms = bench.measure(*files[name], effort.timing.of("subnet")).samples_ms
                found[name] = min(found[name], float(np.quantile(samples_ms, 0.1)))
    return found


def item_3(setup: Setup) -> dict[str, Any]:
    """The card's fields, ``bn_table_gap`` among them: points that re-calibration gives more."""
    fields = measure_accuracy(
        setup.entry, setup.validation.images, setup.training, folder=setup.run / "item-3",
        subnets=setup.options.random, device=setup.options.device,
        report=lambda line: print(line, flush=True),
    )  # fmt: skip
    kept = (
        "bn_table_gap",
        "top1_mean_random",
        "top1_mean_recalibrated",
        "random_subnets",
        "validation_images",
    )
    return {name: fields[name] for name in kept}


def item_4(setup: Setup) -> dict[str, Any]:
    """Images/s of both, and their ratio, over random subnets: medians of interleaved steps.

    Wall time and CPU time: on a machine that does other work only the latter's ratio counts.
    """
    options, space = setup.options, setup.space
    device, rng = torch.device(options.device), np.random.default_rng(0)
    batch = min(options.batch, len(setup.training))
    network = ChainSupernet(space).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser, average = loop.optimiser_of(network), WeightAverage(network, 1000)
    rows = []
    for number in range(options.throughput_subnets):
        architecture = random_architecture(space, rng)
        module = StaticNetwork(space.plan(architecture).ops).train()
        module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        plain = optimiser_of(module)
        x_NHWC, labels_N, crops = training_batch(setup.training, batch, number, 0)
        x_NCHW = normalised(augmented(x_NHWC.to(device), architecture.resolution, crops), device)
        labels_N = labels_N.to(device)

        def ours(a: Architecture = architecture, x: Any = x_NCHW, y: Any = labels_N) -> None:
            accumulate_gradients(network, x, y, [a], bf16=device.type == "cuda")
            loop.optimiser_step(network, optimiser, Group())
            average.update(network, 0)

        def theirs(m: Any = module, o: Any = plain, x: Any = x_NCHW, y: Any = labels_N) -> None:
            plain_step(m, o, x, y, bf16=device.type == "cuda")

        rows.append(_interleaved(ours, theirs, options.steps, device))
    own, other = np.array(rows).transpose(1, 2, 0)
    return {
        "images_per_s": round(float(batch / np.mean(own[0])), 1),
        "plain_images_per_s": round(float(batch / np.mean(other[0])), 1),
        "ratio": round(float(np.mean(other[0]) / np.mean(own[0])), 3),
        "ratio_cpu": round(float(np.mean(other[1]) / np.mean(own[1])), 3),
        "worst_ratio_cpu": round(float((other[1] / own[1]).min()), 3),
        "batch": batch,
        "subnets": len(rows),
        "torch_threads": torch.get_num_threads(),
        "device": options.device,
    }


def _interleaved(
    ours: Callable[[], None], theirs: Callable[[], None], steps: int, device: torch.device
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Median wall and CPU seconds of one step of each."""
    times: tuple[list[tuple[float, float]], ...] = ([], [])
    for _ in range(steps + 1):
        for work, found in zip((ours, theirs), times, strict=True):
            began, began_cpu = time.perf_counter(), time.process_time()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            found.append((time.perf_counter() - began, time.process_time() - began_cpu))
    first, second = (np.median(found[1:], axis=0).tolist() for found in times)
    return tuple(first), tuple(second)


ITEMS: Mapping[int, Callable[[Setup], dict[str, Any]]] = {1: item_1, 2: item_2, 3: item_3, 4: item_4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="image folder")
    parser.add_argument("--run", type=Path, required=True, help="folder of what was measured: resumes")
    parser.add_argument("--items", type=int, nargs="+", default=[1, 2, 3, 4], choices=list(ITEMS))
    parser.add_argument("--supernet", default="ofa-mbv3-imagenette")
    parser.add_argument("--zoo", type=Path, default=zoo.ROOT)
    parser.add_argument("--epochs", type=float, default=60, help="of each training of items 1 and 2")
    parser.add_argument("--seeds", type=int, default=1, help="of item 1")
    parser.add_argument("--random", type=int, default=50, help="random subnets of items 1 and 3")
    parser.add_argument("--alone-random", type=int, default=3, help="of these, how many are trained alone")
    parser.add_argument("--budgets", type=int, default=5, help="of item 2")
    names = [*(space.name for space in _baselines(32, 2)), RESNET]
    parser.add_argument("--baselines", nargs="+", default=names, choices=names, help="of item 2; all of them")
    parser.add_argument("--resnet-bf16", action="store_true", help="on a CPU too: faster where it has AMX")
    parser.add_argument("--baseline-sides", type=int, nargs="+", help="the space's largest unless given")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=160, help="side of the kept images")
    parser.add_argument("--images", type=int, help="of each split, at most: for trying the command out")
    parser.add_argument("--device", default="cpu", help="cpu or cuda: where networks are trained")
    parser.add_argument("--throughput-subnets", type=int, default=8, help="of item 4")
    parser.add_argument("--steps", type=int, default=7, help="of each of them")
    parser.add_argument("--runtime", default="onnxruntime", help="that times item 2")
    parser.add_argument("--threads", type=int, default=1, help="of that runtime")
    parser.add_argument("--precision", default="fp32", choices=["fp32"])
    parser.add_argument("--effort", default="standard", choices=["quick", "standard", "thorough"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        found = run(options)
    except BespokeError as error:
        raise SystemExit(f"benchmarks.accuracy: {error}") from error
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """What the items found, each under its name."""
    device_of(options.device)
    entry = zoo.entry(options.supernet, options.zoo)
    if 4 in options.items:
        check_plain(entry.space.plan(largest(entry.space)).ops)
    training, validation = read_images(options, options.side, int(entry.card.get("seed", 0)))
    setup = Setup(options, entry, training, LabelledImages(validation))
    setup.claim(options.items)
    return {f"item_{item}": ITEMS[item](setup) for item in options.items}


if __name__ == "__main__":
    main()
