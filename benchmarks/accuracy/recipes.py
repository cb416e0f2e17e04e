"""Item 1: progressive shrinking, the sandwich, and the same subnets trained alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.accuracy.setup import Setup
from benchmarks.accuracy.training import calibrated_top1, train_network, trained_alone
from bespoke.predictors import read_predictor
from bespoke.search import Constraint, Problem, feasible_ranges, search
from bespoke.supernet.architecture import Architecture
from bespoke.supernet.genomes import largest, random_architecture, smallest
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.spaces import FixedNetwork
from bespoke.supernet.training.phase import scaled
from bespoke.supernet.training.recipes import recipe

RECIPES = ("progressive_shrinking", "sandwich")
SEARCHED = (0.2, 0.45, 0.7)
"""Limits of the searched subnets, as shares of the range of MACs."""


def recipes_against_alone(setup: Setup) -> dict[str, Any]:
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
            found.append(setup.once(name, partial(calibrated_top1, setup, network, architecture)))
    return found


def _trained(setup: Setup, kind: str, seed: int) -> ChainSupernet:
    phases = recipe(kind, setup.space)
    phases = scaled(phases, setup.options.epochs / sum(phase.epochs for phase in phases))
    return train_network(setup, setup.space, phases, f"{kind}-{seed}", seed)


def _alone(setup: Setup, architectures: Sequence[Architecture]) -> list[float]:
    """Top-1 of each architecture trained by itself, one for each seed."""
    found = []
    for architecture in architectures:
        network = FixedNetwork(architecture.id, setup.space.plan(architecture).ops)
        for seed in range(setup.options.seeds):
            found.append(trained_alone(setup, network, f"1/alone-{seed}-{architecture.id}", seed))
    return found
