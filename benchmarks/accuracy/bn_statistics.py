"""Item 3: BN statistics of random subnets, the supernet's table against re-calibration."""

from __future__ import annotations

from typing import Any

from benchmarks.accuracy.setup import Setup
from bespoke.predictors.card import measure_accuracy


def table_against_recalibration(setup: Setup) -> dict[str, Any]:
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
