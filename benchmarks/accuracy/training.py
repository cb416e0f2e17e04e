"""Trainings that items 1 and 2 have in common."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.accuracy.setup import Setup
from bespoke.supernet.architecture import Architecture, SearchSpace
from bespoke.supernet.genomes import largest
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.spaces import FixedNetwork
from bespoke.supernet.training import loop
from bespoke.supernet.training.evaluation import calibrated_statistics, subnet_top1
from bespoke.supernet.training.initialisation import initialised
from bespoke.supernet.training.phase import Phase

RATE = 2e-3
"""Of networks that are trained alone: that of the recipes' first phase."""


def trained_alone(setup: Setup, space: FixedNetwork, name: str, seed: int) -> float:
    """Top-1 of a network that is trained from scratch."""

    def make() -> float:
        side = space.dimensions[-1].choices[0]
        phase = Phase("alone", setup.options.epochs, RATE, (side,), subnets="largest")
        network = train_network(setup, space, [phase], name.replace("/", "-"), seed)
        return calibrated_top1(setup, network, largest(space))

    return float(setup.once(name, make))


def train_network(
    setup: Setup, space: SearchSpace, phases: Sequence[Phase], name: str, seed: int
) -> ChainSupernet:
    """Train from random weights, or go on where the run's folder of that name says."""
    options = setup.options
    network = initialised(space, seed)
    folder = setup.run / "runs" / name
    loop.train(
        network, setup.training, phases, folder, batch=options.batch, seed=seed, device=options.device,
        report=lambda line: print(f"{name}: {line}", flush=True),
    )  # fmt: skip
    return network.cpu().eval()


def calibrated_top1(setup: Setup, network: ChainSupernet | None, architecture: Architecture) -> float:
    """Validation top-1, with BN statistics that are re-calibrated for the architecture."""
    assert network is not None
    own = calibrated_statistics(network, architecture, setup.training)
    return subnet_top1(network, architecture, own, setup.validation, device=setup.options.device)
