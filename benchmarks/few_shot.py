"""How well a table of one profile and a few networks of another rank that other's networks.

    python -m benchmarks.few_shot [--second-runtime openvino] [--second-threads 1] [--json]
    python -m benchmarks.few_shot --reference note10/ --space ofa-mobilenetv3-w1.2 [--json]

On this machine, the first profile's ops are measured as in ``benchmarks.latency_table``; of the second
profile only whole networks are: the chosen ones, which are fitted on, and held-out random ones, which judge.

With ``--reference`` nothing is measured: the given table is the reference, and invented devices that differ
from it by random factors (per kind, kernel, stage, side and op; standard deviations 40, 25, 20, 10 and 3%),
each network with 3% noise, are the second device.

JSON: ``spearman``, ``mape``, ``interval`` and ``covered`` (share of held-out networks in it) by the number
of networks that were measured, 0, 5, 10, 20 and 50; ``subnets`` (held out) and, where measured, ``profiles``.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency_table import add_options, measure_plan, profile_here, space_of, subnet_entry
from bespoke.agent import ChildBench, device_profile
from bespoke.latency_tables import (
    EFFORTS,
    DeviceProfile,
    LatencyTable,
    NetworkSample,
    ProfilingPlan,
    choose_networks,
    covered_space,
    few_shot_table,
    plan_profiling,
    read_table,
)
from bespoke.latency_tables.learning import measured_ms
from bespoke.supernet.agreement import spearman
from bespoke.supernet.architecture import Architecture, SearchSpace, decode
from bespoke.supernet.errors import Unavailable
from bespoke.supernet.genomes import sample
from bespoke.supernet.ops import parse_key
from bespoke.supernet.spaces import space as make_space

COUNTS = (0, 5, 10, 20, 50)
HELD_OUT = 60
SIDES = tuple(range(8, 513, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    parser.add_argument("--second-runtime", default="openvino")
    parser.add_argument("--second-threads", type=int, default=1)
    parser.add_argument("--second-precision", default="fp32", choices=["fp32", "int8"])
    parser.add_argument("--reference", type=Path, nargs="+", help="tables in files: measure nothing")
    parser.add_argument("--devices", type=int, default=5, help="invented ones, with --reference")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = _invented(options) if options.reference else _measured(options)
    if options.json:
        print(json.dumps(result))
        return
    print("networks  Spearman    MAPE  interval  covered")
    for count in COUNTS:
        row = [result[name][str(count)] for name in ("spearman", "mape", "interval", "covered")]
        print(f"{count:8}  {row[0]:8.4f}  {row[1]:6.2%}  {row[2]:8.2%}  {row[3]:7.1%}")
    print({name: value for name, value in result.items() if not isinstance(value, dict)})


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    """Two profiles of this machine."""
    space = space_of(options)
    reference = profile_here(space, options, plan_profiling(space, effort=options.effort))
    chosen = choose_networks(space, [reference], max(COUNTS))
    unseen = _random(space, HELD_OUT, set(chosen))
    with ChildBench(options.second_runtime, options.second_threads) as bench:
        profile = device_profile("this machine", bench, precision=options.second_precision)
        seen_ms = _measure_whole(bench, [*chosen, *unseen], reference, space, options)
    samples = [NetworkSample(a, seen_ms[a.id]) for a in chosen]
    rows = _judge(space, reference, samples, [NetworkSample(a, seen_ms[a.id]) for a in unseen], profile)
    names = [f"{p.runtime} x{p.threads} {p.precision}" for p in (reference.profile, profile)]
    return rows | {"subnets": len(unseen), "profiles": names}


def _measure_whole(
    bench: ChildBench,
    architectures: Sequence[Architecture],
    reference: LatencyTable,
    space: SearchSpace,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Each network's latency in ms by its id, by the statistic that the reference prices by."""
    effort = EFFORTS[options.effort]
    entries = tuple(subnet_entry(a.to_json(), a.id) for a in architectures)
    plan = ProfilingPlan(entries, effort.rounds, options.effort, 0, effort.timing)
    reports = list(measure_plan(bench, plan, space, options.second_precision))
    for report in reports:
        if report.error:
            raise Unavailable(f"{report.entry_id}: {report.error}")
    found = measured_ms(reference, plan, reports)
    return {entry_id.removeprefix("subnet:"): ms for entry_id, ms in found.items()}


def _invented(options: argparse.Namespace) -> dict[str, Any]:
    """Invented devices; means over them."""
    reference = read_table(options.reference)
    space = covered_space(reference, make_space(options.space, SIDES, 1000))
    chosen = choose_networks(space, [reference], max(COUNTS))
    unseen = _random(space, 10 * HELD_OUT, set(chosen))
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(options.devices):
        device = _invent(reference, seed)
        rng = np.random.default_rng(seed)

        def measure(architecture: Architecture, noise: float, device: LatencyTable = device) -> NetworkSample:
            return NetworkSample(architecture, device.predict(space.plan(architecture)) * (1 + noise))

        samples = [measure(a, 0.03 * rng.standard_normal()) for a in chosen]
        rows = _judge(space, reference, samples, [measure(a, 0.0) for a in unseen], device.profile)
        for name, by_count in rows.items():
            for count, value in by_count.items():
                found[name][count].append(value)
    means = {name: {c: float(np.mean(v)) for c, v in rows.items()} for name, rows in found.items()}
    return means | {"subnets": len(unseen), "devices": options.devices}


def _invent(reference: LatencyTable, seed: int) -> LatencyTable:
    """A device about three times as slow as the reference, and unlike it in many ways."""
    rng = np.random.default_rng(seed)
    factors: dict[Hashable, float] = {}

    def factor(trait: Hashable, spread: float) -> float:
        if trait not in factors:
            factors[trait] = float(np.exp(spread * rng.standard_normal()))
        return factors[trait]

    stats = {}
    for key, stat in sorted(reference.stats.items()):
        op = parse_key(key)
        ms = 3 * reference.measured_ms(key)
        ms *= factor(("kind", op.kind), 0.4) * factor(("kernel", op.kernel), 0.25)
        ms *= factor(("stage", op.in_shape[2], op.out_channels), 0.2)
        ms *= factor(("side", op.in_shape[0] // 16), 0.1) * factor(key, 0.03)
        stats[key] = replace(stat, median_ms=ms, low_ms=ms, mean_ms=ms)
    return replace(reference, stats=stats, by_resolution={})


def _random(space: SearchSpace, count: int, without: set[Architecture]) -> list[Architecture]:
    drawn = [decode(space, genome) for genome in sample(space, 2 * count, np.random.default_rng(2024))]
    return [a for a in dict.fromkeys(drawn) if a not in without][:count]


def _judge(
    space: SearchSpace,
    reference: LatencyTable,
    samples: Sequence[NetworkSample],
    unseen: Sequence[NetworkSample],
    profile: DeviceProfile,
) -> dict[str, dict[str, float]]:
    """Agreement on networks that nobody has seen, by how many were."""
    seen = np.array([one.latency_ms for one in unseen])
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for count in COUNTS:
        table = few_shot_table(space, [reference], samples[:count], profile)
        predicted = np.array([table.predict(space.plan(one.architecture)) for one in unseen])
        errors = np.abs(predicted - seen)
        found["spearman"][str(count)] = spearman(predicted, seen)
        found["mape"][str(count)] = float((errors / seen).mean())
        found["interval"][str(count)] = table.interval
        found["covered"][str(count)] = float((errors / predicted <= table.interval).mean())
    return dict(found)


if __name__ == "__main__":
    main()
