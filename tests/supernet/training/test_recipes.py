from __future__ import annotations

import numpy as np
import pytest

from bespoke.supernet.errors import InvalidInput, NotFound
from bespoke.supernet.genomes import largest
from bespoke.supernet.spaces import OfaMobileNetV3, OfaResNet50
from bespoke.supernet.training.phase import Phase, open_ops, scaled, step_architectures, with_epochs
from bespoke.supernet.training.recipes import RECIPES, recipe

SPACE = OfaMobileNetV3(1.0, (96, 112, 128), 10)


def drawn(phase: Phase, dimension: str) -> set[float]:
    """The values of one dimension that a phase's subnets have in blocks that are always there."""
    rng = np.random.default_rng(0)
    found = [a for _ in range(20) for a in step_architectures(SPACE, phase, 96, rng)]
    return {v for a in found for v in (a[dimension] if dimension == "depth" else a[dimension][0:2])}


def test_progressive_shrinking_opens_kernel_depth_and_expand_in_turn() -> None:
    phases = {phase.name: phase for phase in recipe("progressive_shrinking", SPACE)}
    assert list(phases) == ["largest", "kernel", "depth 1", "depth 2", "expand 1", "expand 2"]
    seen = {n: [drawn(p, d) for d in ("kernel", "depth", "expand")] for n, p in phases.items()}
    assert seen == {
        "largest": [{7}, {4}, {6}],
        "kernel": [{3, 5, 7}, {4}, {6}],
        "depth 1": [{3, 5, 7}, {3, 4}, {6}],
        "depth 2": [{3, 5, 7}, {2, 3, 4}, {6}],
        "expand 1": [{3, 5, 7}, {2, 3, 4}, {4, 6}],
        "expand 2": [{3, 5, 7}, {2, 3, 4}, {3, 4, 6}],
    }
    assert [phase.name for phase in phases.values() if phase.sort_channels] == ["expand 1", "expand 2"]
    assert [phase.random_subnets for phase in phases.values() if phase.taught] == [1, 2, 2, 4, 4]


def test_progressive_shrinking_lasts_as_long_as_published_times_the_scale() -> None:
    phases = scaled(recipe("progressive_shrinking", SPACE), 0.1)
    assert [round(phase.epochs, 1) for phase in phases] == [18, 12.5, 2.5, 12.5, 2.5, 12.5]


def test_a_space_without_kernels_shrinks_its_widths_last() -> None:
    names = [phase.name for phase in recipe("progressive_shrinking", OfaResNet50((64,), 10))]
    assert names == ["largest", "depth 1", "depth 2", "expand 1", "expand 2", "width 1", "width 2"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_begins_with_the_largest_and_ends_with_all_choices_at_all_resolutions(name: str) -> None:
    phases = recipe(name, SPACE)
    assert step_architectures(SPACE, phases[0], 128, np.random.default_rng(0)) == [largest(SPACE, 128)]
    assert phases[-1].open_choices == ()
    assert set(phases[-1].resolutions) == {96, 112, 128}


def test_an_unknown_recipe_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(NotFound, match="progressive_shrinking"):
        recipe("shrinking", SPACE)


def test_lengths_are_one_a_phase() -> None:
    phases = recipe("sandwich", SPACE)
    assert [phase.epochs for phase in with_epochs(phases, (0, 2.5))] == [0, 2.5]
    with pytest.raises(InvalidInput, match="largest, sandwich"):
        with_epochs(phases, (1, 2, 3))


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_a_scale_is_positive(factor: float) -> None:
    with pytest.raises(InvalidInput, match="positive"):
        scaled(recipe("sandwich", SPACE), factor)


def test_open_ops_are_those_that_a_phase_may_draw() -> None:
    phases = {phase.name: phase for phase in recipe("progressive_shrinking", SPACE)}
    slot = next(s for s in SPACE.slots if s.name == "blocks.2")
    width = slot.ops[0].in_shape[2]  # type: ignore[union-attr]

    def ratios(name: str) -> set[float]:
        return {op.mid_channels / width for op in open_ops(SPACE, slot, phases[name])}

    assert [ratios(n) for n in ("largest", "depth 2", "expand 1")] == [{6}, {6}, {4, 6}]
