"""What the random weights look like that a training begins on."""

from __future__ import annotations

import pytest
import torch

from bespoke.supernet.architecture import SearchSpace, read_architecture
from bespoke.supernet.genomes import largest
from bespoke.supernet.training.initialisation import initialised
from tests.supernet.training.tiny import SPACES


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_at_first_all_depths_are_one_function_and_every_block_learns(space: SearchSpace) -> None:
    network, deep = initialised(space), largest(space)
    depths = next(d for d in space.dimensions if d.name == "depth")
    lowest = [depths.choices[0]] * depths.count
    shallow = read_architecture(space, {**deep.to_json(), "depth": lowest})
    x_NCHW = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    logits = network(x_NCHW, deep)
    assert shallow != deep and logits.std() > 0
    torch.testing.assert_close(logits, network(x_NCHW, shallow), rtol=1e-4, atol=1e-5)
    logits.square().sum().backward()
    norms = {n: p.grad for n, p in network.named_parameters() if n.endswith("projection_bn.weight")}
    assert norms and all(grad is not None and grad.abs().max() > 0 for grad in norms.values())


def test_weights_follow_from_the_seed_and_disturb_no_other_randomness() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (initialised(SPACES[0], seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert any(not torch.equal(other[name], tensor) for name, tensor in first.items())
