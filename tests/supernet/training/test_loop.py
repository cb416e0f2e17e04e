from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bespoke.supernet.architecture import Architecture
from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.genomes import largest, smallest
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.spaces import space
from bespoke.supernet.training import loop
from bespoke.supernet.training.collection import collect_table
from bespoke.supernet.training.data import ImageSet
from bespoke.supernet.training.recipe import Phase, accumulate_gradients, plain_recipe, step_architectures

TINY = space("ofa-mobilenetv3-w1.0", (32,), 2)
PHASES = (
    Phase("largest", 1, 1e-3, (32,), subnets="largest"),
    Phase("sandwich", 1, 1e-3, (32,)),
)


def two_colours(count: int = 12) -> ImageSet:
    """Reddish images are class 0, bluish ones class 1."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = rng.integers(0, 60, (count, 40, 40, 3)).astype(np.uint8)
    images[np.arange(count), :, :, 2 * labels] += 150
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), ("red", "blue"))


def fresh() -> ChainSupernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ChainSupernet(TINY)


class Stop(Exception):
    """Stands for a kill between two steps."""


def stop_at(step: str) -> Callable[[str], None]:
    def report(line: str) -> None:
        if step in line:
            raise Stop

    return report


def test_a_run_that_was_cut_off_ends_with_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    images = two_colours()
    unbroken, resumed = fresh(), fresh()
    options = {"batch": 4, "checkpoint_every": 1}
    loop.train(unbroken, images, PHASES, tmp_path / "a", report=lambda _: None, **options)
    for cut in ("largest: step 2/3", "sandwich: step 1/3"):
        with pytest.raises(Stop):
            loop.train(fresh(), images, PHASES, tmp_path / "b", report=stop_at(cut), **options)
    loop.train(resumed, images, PHASES, tmp_path / "b", report=lambda _: None, **options)
    for name, tensor in unbroken.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    images = two_colours()
    loop.train(fresh(), images, PHASES[:1], tmp_path, batch=4, report=lambda _: None)
    with pytest.raises(FileInvalid, match="other phases"):
        loop.train(fresh(), images, PHASES, tmp_path, batch=4, report=lambda _: None)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    images, first, second = two_colours(), fresh(), fresh()
    loop.train(first, images, PHASES[:1], tmp_path, batch=4, report=lambda _: None)
    lines: list[str] = []
    loop.train(second, images, PHASES[:1], tmp_path, batch=4, report=lines.append)
    assert lines == []
    name = "slots.first_conv.weight"
    torch.testing.assert_close(second.state_dict()[name], first.state_dict()[name], rtol=0, atol=0)


def test_training_learns_what_is_there_to_learn(tmp_path: Path) -> None:
    images = two_colours(24)
    losses: list[float] = []

    def report(line: str) -> None:
        losses.append(float(line.split("loss ")[1].split()[0]))

    phase = Phase("largest", 6, 1e-3, (32,), subnets="largest")
    loop.train(fresh(), images, [phase], tmp_path, batch=8, checkpoint_every=3, report=report)
    assert losses[-1] < 0.8 * losses[0]


def test_a_sandwich_is_the_largest_the_smallest_and_random_ones() -> None:
    phase = Phase("sandwich", 1, 1e-3, (32,), random_subnets=2)
    found = step_architectures(fresh(), phase, 32, np.random.default_rng(0))
    assert found[:2] == [largest(TINY), smallest(TINY)]
    assert len(found) == 4


def test_gradients_of_the_subnets_add_up() -> None:
    images = torch.randn(4, 3, 32, 32)
    labels = torch.tensor([0, 1, 0, 1])
    pair: list[Architecture] = [largest(TINY), smallest(TINY)]
    network = fresh()
    accumulate_gradients(network, images, labels, pair)
    together = network.slots["classifier"].linear.bias.grad.clone()  # type: ignore[union-attr]
    network.zero_grad()
    accumulate_gradients(network, images, labels, pair[:1])
    alone = network.slots["classifier"].linear.bias.grad.clone()  # type: ignore[union-attr]
    assert not torch.allclose(together, alone)
    soft = network(images, pair[0]).detach().softmax(1)
    network.zero_grad()
    torch.nn.functional.cross_entropy(network(images, pair[1]), soft).backward()
    rest = network.slots["classifier"].linear.bias.grad  # type: ignore[union-attr]
    torch.testing.assert_close(together, alone + rest, rtol=1e-4, atol=1e-5)


def test_a_table_is_collected_from_images_and_covers_every_subnet() -> None:
    network = fresh()
    table = collect_table(network, two_colours(), architectures=160, batch=4, report=lambda _: None)
    for architecture in (smallest(TINY), largest(TINY)):
        for mean_C, var_C in table.lookup(architecture).values():
            assert mean_C.isfinite().all()
            assert (var_C > 0).all()


def test_the_same_seed_collects_the_same_table() -> None:
    tables = [
        collect_table(fresh(), two_colours(), architectures=160, batch=2, report=lambda _: None).tensors()
        for _ in range(2)
    ]
    for name, tensor in tables[0].items():
        torch.testing.assert_close(tables[1][name], tensor, rtol=0, atol=0)


def test_the_plain_recipe_ends_on_the_spaces_own_resolutions() -> None:
    phases = plain_recipe((96, 112, 128), (1, 2, 3))
    assert [phase.epochs for phase in phases] == [1, 2, 3]
    assert set(phases[-1].resolutions) == {96, 112, 128}
    assert phases[0].resolutions == (64,)
