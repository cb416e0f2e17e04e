"""Item 2: what a search returns at latency budgets, and the networks that a user would pick instead."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.setup import Setup
from benchmarks.accuracy.training import RATE, trained_alone
from benchmarks.baselines import efficientnet_lite0, mobilenet_v2, mobilenet_v3, module_onnx, resnet18
from benchmarks.latency_table import profile_here
from benchmarks.plain_training import train_module
from bespoke.agent import ChildBench
from bespoke.latency_tables import EFFORTS, LatencyTable, plan_profiling
from bespoke.predictors import read_predictor
from bespoke.search import Constraint, Problem, feasible_ranges, search
from bespoke.supernet.architecture import Architecture
from bespoke.supernet.genomes import largest
from bespoke.supernet.json_files import read_object
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.onnx import write_onnx
from bespoke.supernet.spaces import FixedNetwork
from bespoke.supernet.subnet import extract, fold, load_supernet
from bespoke.supernet.training.data import ImageSet
from bespoke.supernet.training.evaluation import calibrated_statistics, module_score, subnet_top1
from bespoke.supernet.whole_files import write_file

RESNET = "resnet-18"


def against_baselines(setup: Setup) -> dict[str, Any]:
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
        for space in baselines(side, setup.space.classes):
            if space.name not in setup.options.baselines:
                continue
            name, kept_as[name] = f"{space.name} at {side} px", f"{space.name}-{side}"
            top1 = trained_alone(setup, space, f"2/{kept_as[name]}", 0)
            rows[name] = {"resolution": side, "top1": top1}
            models[name] = _fixed_onnx(space)
        if RESNET in setup.options.baselines:
            name, kept_as[name] = f"{RESNET} at {side} px", f"{RESNET}-{side}"
            rows[name] = {"resolution": side, "top1": _resnet_top1(setup, side)}
            models[name] = module_onnx(resnet18(setup.space.classes), side)
    by_model = _kept_latencies_ms(setup, {kept_as[name]: model for name, model in models.items()})
    for name, row in rows.items():
        row["latency_ms"] = by_model[kept_as[name]]
    instead = {name: row for name, row in rows.items() if "budget_ms" not in row}
    for row in rows.values():
        if "budget_ms" in row:
            # As fast as what the search returned, or as the budget allows: whichever is more.
            limit = max(row["latency_ms"], row["budget_ms"])
            as_fast = [n for n in instead if instead[n]["latency_ms"] <= limit]
            best = max(as_fast, key=lambda name: instead[name]["top1"], default=None)
            row["instead"] = best
            row["points_more"] = round(100 * (row["top1"] - instead[best]["top1"]), 2) if best else None
    told = {"epochs": setup.options.epochs, "supernet_epochs": setup.entry.card.get("epochs")}
    return told | {"networks": rows}


def baselines(side: int, classes: int) -> list[FixedNetwork]:
    """All baselines but ResNet-18, which is a torch module of its own."""
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
            epochs=options.epochs, rate=RATE, batch=options.batch, device=options.device,
            bf16=options.resnet_bf16 or options.device != "cpu",
        )  # fmt: skip
        return module_score(module.eval(), setup.validation, side, options.device).top1

    return float(setup.once(f"2/{RESNET}-{side}", make))


def _within_budgets(setup: Setup) -> list[tuple[float, Architecture]]:
    """Searched at evenly spaced latencies between the fastest subnet and the slowest one."""
    path = setup.run / "table.json"
    if not path.exists():
        plan = plan_profiling(setup.space, effort=setup.options.effort)
        table = profile_here(setup.space, setup.options, plan)
        write_file(path, json.dumps(table.to_json()))
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
    """The latency of each model, in ms, all measured together: one more, and all are measured again."""
    path = setup.run / "results" / "2" / "latencies.json"
    kept = read_object(path) if path.exists() else {}
    if models.keys() - kept.keys():
        kept = _latencies_ms(setup, models)
        write_file(path, json.dumps(kept, indent=2) + "\n")
    return {name: kept[name] for name in models}


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
