from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.genomes import largest
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.ops import make_divisible
from bespoke.supernet.training.channel_sorting import sort_channels
from bespoke.supernet.training.phase import Phase, step_architectures
from bespoke.supernet.training.recipes import recipe
from tests.supernet.training.tiny import NARROW, SPACES, fresh


def shaken(space: SearchSpace) -> ChainSupernet:
    """A network whose scales and shifts differ from channel to channel, as trained ones do.

    In double precision: BN over the few pixels of tiny images enlarges rounding errors a lot.
    """
    network = fresh(space).double()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.rand(parameter.shape, generator=rng)
    return network


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
@torch.no_grad()
def test_sorting_leaves_the_function_of_the_largest_network(space: SearchSpace) -> None:
    network, phases = shaken(space), recipe("progressive_shrinking", space)
    x_NCHW = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    weights = {name: p.clone() for name, p in network.named_parameters()}
    expected = network(x_NCHW, largest(space))
    for phase, before in zip(phases[1:], phases, strict=False):
        if phase.sort_channels:
            sort_channels(network, before)
            torch.testing.assert_close(network(x_NCHW, largest(space)), expected, rtol=1e-5, atol=1e-5)
    assert any(not torch.equal(p, weights[name]) for name, p in network.named_parameters())


@torch.no_grad()
def test_sorting_again_leaves_the_widths_that_were_trained_before() -> None:
    network = shaken(NARROW)
    phase = next(p for p in recipe("progressive_shrinking", NARROW) if p.name == "expand 1")
    rng = np.random.default_rng(0)
    drawn = [step_architectures(NARROW, phase, 32, rng)[0] for _ in range(3)]
    assert {expand for a in drawn for expand in a["expand"]} >= {4, 6}
    x_NCHW = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    expected = [network(x_NCHW, architecture) for architecture in drawn]
    sort_channels(network, phase)
    for architecture, logits_NC in zip(drawn, expected, strict=True):
        torch.testing.assert_close(network(x_NCHW, architecture), logits_NC, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_most_important_channels_come_first_between_the_widths_of_before() -> None:
    network = shaken(NARROW)
    projection = network.slots["blocks_2"].projection
    full, width = projection.shape[1], projection.shape[0]
    whole = Phase("depth", 1, 1e-3, (32,), subnets="random", open_choices=(("expand", 1),))
    sort_channels(network, whole)
    importance = projection.abs().sum((0, 2, 3))
    assert (importance.diff() <= 0).all()
    projection[:, 0] *= 0.01
    sort_channels(network, replace(whole, open_choices=(("expand", 2),)))
    four = make_divisible(width * 4)
    importance = projection.abs().sum((0, 2, 3))
    assert four < full
    assert importance[:four].argmin() == four - 1
    assert importance[four] > importance[four - 1]
