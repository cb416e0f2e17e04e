from __future__ import annotations

import csv
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bespoke.supernet.architecture import Architecture
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.genomes import largest, smallest
from bespoke.supernet.statistics import StatisticsTable
from bespoke.supernet.training import loop, run_files
from bespoke.supernet.training.averaging import WeightAverage
from bespoke.supernet.training.collection import collect_table
from bespoke.supernet.training.distillation import accumulate_gradients, soft_answers
from bespoke.supernet.training.phase import Phase, step_architectures
from bespoke.supernet.training.processes import Group
from tests.supernet.training.tiny import NARROW, fresh, two_colours

TINY = NARROW
PHASES = (
    Phase("largest", 1, 1e-3, (32,), subnets="largest"),
    Phase("sandwich", 1, 1e-3, (32,)),
)


class Stop(Exception):
    """Stands for a kill in a step."""


def stop_in(step: int) -> Callable[..., None]:
    """An optimiser that stops a run in its step of this number, from 1 on."""
    steps, optimiser_step = count(1), loop.optimiser_step

    def counted(*args: Any) -> None:
        if next(steps) == step:
            raise Stop
        optimiser_step(*args)

    return counted


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint_to_the_same_weights_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = two_colours()
    unbroken, resumed = fresh(), fresh()
    narrower = Phase("expand", 1, 1e-3, (32,), 2, "random", sort_channels=True)
    phases, quiet = [replace(phase, epochs=2) for phase in (*PHASES, narrower)], lambda _: None
    options = {"batch": 4, "checkpoint_every": 2}
    loop.train(unbroken, images, phases, tmp_path / "a", report=quiet, **options)
    # Six steps a phase: cut off in the fourth of each, which costs the third, too.
    for cut in (4, 4 + 4, 4 + 4):
        with monkeypatch.context() as broken, pytest.raises(Stop):
            broken.setattr(loop, "optimiser_step", stop_in(cut))
            loop.train(fresh(), images, phases, tmp_path / "b", report=quiet, **options)
    lines: list[str] = []
    loop.train(resumed, images, phases, tmp_path / "b", report=lines.append, **options)
    assert [line.split(" loss")[0] for line in lines] == ["expand: step 4/6", "expand: step 6/6"]
    for name, tensor in unbroken.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_checkpoint_that_was_half_written_goes_with_the_next_run(tmp_path: Path) -> None:
    left = tmp_path / ".checkpoint.pt.abc"
    left.write_bytes(b"half")
    loop.train(fresh(), two_colours(), PHASES[:1], tmp_path, batch=4, report=lambda _: None)
    assert not left.exists()


def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    loop.train(fresh(), two_colours(), PHASES[:1], tmp_path, batch=4, report=lambda _: None)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(FileInvalid, match=r"checkpoint\.pt: cannot be written"):
            run_files.save_checkpoint(tmp_path, run_files.Checkpoint(0, 0, fresh().state_dict()), "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.glob("*checkpoint.pt*")] == ["checkpoint.pt"]
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_run_of_an_earlier_revision_of_the_training_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.train(fresh(), two_colours(), PHASES[:1], tmp_path, batch=4, report=lambda _: None)
    monkeypatch.setattr(run_files, "REVISION", run_files.REVISION + 1)
    with pytest.raises(FileInvalid, match="earlier revision"):
        loop.train(fresh(), two_colours(), PHASES[:1], tmp_path, batch=4, report=lambda _: None)


def test_a_step_is_as_long_as_its_gradients_clipped_and_is_left_out_where_they_are_no_numbers() -> None:
    network = fresh()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    plain = torch.optim.SGD(network.parameters(), lr=1.0)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    loop.optimiser_step(network, plain, Group())
    moved = torch.cat([(b - p).flatten() for b, p in zip(before, network.parameters(), strict=True)])
    assert float(moved.norm().detach()) == pytest.approx(loop.GRADIENT_NORM, rel=1e-3)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    loop.optimiser_step(network, plain, Group())
    assert all(torch.equal(b, p) for b, p in zip(before, network.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_bn_and_biases_do_not_decay() -> None:
    network = fresh()
    decaying, spared = loop.optimiser_of(network).param_groups
    assert (decaying["weight_decay"], spared["weight_decay"]) == (loop.WEIGHT_DECAY, 0.0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    told = {names[id(parameter)].rsplit(".", 2)[-2] for parameter in spared["params"]}
    assert any("bn" in layer for layer in told)
    assert not any("bn" in names[id(parameter)] for parameter in decaying["params"])
    assert not any(names[id(parameter)].endswith(".bias") for parameter in decaying["params"])


def test_a_rate_warms_up_for_20_steps_or_a_quarter_and_falls_to_zero() -> None:
    long = [loop.learning_rate(2.0, step, 1000) for step in range(1000)]
    middling = [loop.learning_rate(2.0, step, 200) for step in range(200)]
    short = [loop.learning_rate(2.0, step, 40) for step in range(40)]
    assert [rates.index(max(rates)) for rates in (long, middling, short)] == [49, 19, 9]
    assert max(long) == max(short) == 2.0
    assert long[0] == pytest.approx(2.0 / 50)
    assert long[-1] < 1e-4
    assert loop.learning_rate(2.0, 0, 1) == 2.0


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
    found = step_architectures(TINY, phase, 32, np.random.default_rng(0))
    assert found[:2] == [largest(TINY), smallest(TINY)]
    assert len(found) == 4


def test_in_a_sandwich_all_learn_from_labels_and_the_largest_teaches_the_rest() -> None:
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
    logits_NC = network(images, pair[1])
    loss = torch.nn.functional.cross_entropy(logits_NC, labels, label_smoothing=0.1)
    ((loss + torch.nn.functional.cross_entropy(logits_NC, soft)) / 2).backward()
    rest = network.slots["classifier"].linear.bias.grad  # type: ignore[union-attr]
    torch.testing.assert_close(together, alone + rest, rtol=1e-4, atol=1e-5)


def collected() -> StatisticsTable:
    return collect_table(fresh(), two_colours(), architectures=100, batch=2, report=lambda _: None)


@pytest.fixture(scope="module")
def table() -> StatisticsTable:
    return collected()


def test_a_table_is_collected_from_images_and_covers_every_subnet(table: StatisticsTable) -> None:
    for architecture in (smallest(TINY), largest(TINY)):
        for mean_C, var_C in table.lookup(architecture).values():
            assert mean_C.isfinite().all()
            assert (var_C > 0).all()


def test_the_same_seed_collects_the_same_table(table: StatisticsTable) -> None:
    again = collected().tensors()
    for name, tensor in table.tensors().items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)


def test_a_teachers_answers_are_learned_beside_the_labels() -> None:
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    teacher, pair = fresh(seed=3), [largest(TINY), smallest(TINY)]
    soft_NC = soft_answers(teacher, images, pair[0])
    network = fresh()
    accumulate_gradients(network, images, labels, pair, soft_NC=soft_NC)
    found = network.slots["classifier"].linear.bias.grad.clone()  # type: ignore[union-attr]
    network.zero_grad()
    for architecture in pair:
        logits_NC = network(images, architecture)
        loss = torch.nn.functional.cross_entropy(logits_NC, labels, label_smoothing=0.1)
        ((loss + torch.nn.functional.cross_entropy(logits_NC, soft_NC)) / 2).backward()
    expected = network.slots["classifier"].linear.bias.grad  # type: ignore[union-attr]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_teacher_is_the_largest_network_as_the_first_phase_left_it(tmp_path: Path) -> None:
    phases = (PHASES[0], *(Phase(name, 1, 1e-3, (32,), subnets="random") for name in ("a", "b")))
    network = fresh()
    loop.train(network, two_colours(), phases[:1], tmp_path / "first", batch=4, report=lambda _: None)
    loop.train(fresh(), two_colours(), phases, tmp_path / "all", batch=4, report=lambda _: None)
    teacher = load_file(tmp_path / "all" / "teacher.safetensors")
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(teacher[name], parameter.detach(), rtol=0, atol=0)


def test_weights_are_averaged_over_the_last_steps() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    average = WeightAverage(network, steps=500)
    for step in range(500):
        torch.nn.init.constant_(network.weight, step)
        average.update(network, step)
    assert 480 < average.tensors["weight"].item() < 495
    average.move_into(network)
    assert network.weight.item() == average.tensors["weight"].item()


def test_half_precision_trains_on_a_cpu_too(tmp_path: Path) -> None:
    full, half = fresh(), fresh()
    for network, bf16 in ((full, False), (half, True)):
        folder = tmp_path / str(bf16)
        loop.train(network, two_colours(), PHASES[:1], folder, batch=4, bf16=bf16, report=lambda _: None)
    name = "slots.first_conv.weight"
    assert half.state_dict()[name].dtype == torch.float32
    assert half.state_dict()[name].isfinite().all()
    assert not torch.equal(half.state_dict()[name], full.state_dict()[name])


def test_a_run_on_other_images_or_from_another_start_is_refused(tmp_path: Path) -> None:
    images = two_colours()
    loop.train(fresh(), images, PHASES[:1], tmp_path, batch=4, report=lambda _: None)
    named = replace(images, classes=("red", "something else"))
    darker = replace(images, stored_NHWC=images.stored_NHWC // 2)
    for other in (named, darker):
        with pytest.raises(FileInvalid, match="images, space or start"):
            loop.train(fresh(), other, PHASES[:1], tmp_path, batch=4, report=lambda _: None)
    with pytest.raises(FileInvalid, match="images, space or start"):
        loop.train(fresh(), images, PHASES[:1], tmp_path, batch=4, origin="another", report=lambda _: None)


def test_a_run_with_another_seed_or_batch_is_refused(tmp_path: Path) -> None:
    loop.train(fresh(), two_colours(), PHASES[:1], tmp_path, batch=4, report=lambda _: None)
    for other in ({"batch": 6}, {"batch": 4, "seed": 1}):
        with pytest.raises(FileInvalid, match="another batch or seed"):
            loop.train(fresh(), two_colours(), PHASES[:1], tmp_path, report=lambda _: None, **other)


def test_a_phase_without_steps_is_passed_over(tmp_path: Path) -> None:
    phases = (Phase("largest", 0, 1e-3, (32,), subnets="largest"), PHASES[1])
    lines: list[str] = []
    loop.train(fresh(), two_colours(), phases, tmp_path, batch=4, report=lines.append)
    assert [line.split(":")[0] for line in lines] == ["sandwich"]


def test_fewer_images_than_a_batch_train_too(tmp_path: Path) -> None:
    lines: list[str] = []
    loop.train(fresh(), two_colours(3), PHASES[:1], tmp_path, batch=64, report=lines.append)
    assert len(lines) == 1
    assert "step 1/1" in lines[0]


def test_the_log_is_a_table_of_all_phases(tmp_path: Path) -> None:
    loop.train(fresh(), two_colours(), PHASES, tmp_path, batch=4, report=lambda _: None)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["phase"], row["step"]) for row in rows] == [("largest", "3"), ("sandwich", "3")]
    assert all(float(row["loss"]) > 0 and float(row["images_per_s"]) > 0 for row in rows)


def test_channels_are_sorted_only_before_steps_and_not_of_what_another_run_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[str] = []
    monkeypatch.setattr(loop, "sort_channels", lambda _, phase: before.append(phase.name))

    def sorted_before(*epochs: float, origin: str = "") -> list[str]:
        before.clear()
        names = ("largest", "expand 1", "expand 2")
        phases = [
            Phase(name, length, 1e-3, (32,), subnets="largest", sort_channels=name != "largest")
            for name, length in zip(names, epochs, strict=True)
        ]
        folder = tmp_path / f"{epochs}{origin}"
        loop.train(fresh(), two_colours(), phases, folder, batch=12, origin=origin, report=lambda _: None)
        return list(before)

    assert sorted_before(1, 0, 1) == ["largest"]
    assert sorted_before(1, 1, 1) == ["largest", "expand 1"]
    assert sorted_before(1, 0, 1, origin="another") == []


def test_one_image_a_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--batch: got 1 images for 1 processes, expected 2 or more"):
        loop.train(fresh(), two_colours(), PHASES, tmp_path, batch=1)
    with pytest.raises(InvalidInput, match="got 1 training images"):
        loop.train(fresh(), two_colours(1), PHASES, tmp_path)


def test_a_training_that_diverges_ends_with_the_rate_that_did_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MOST_LOST", 3)
    images = two_colours()
    phase = Phase("largest", 4, 1e30, (32,), subnets="largest")
    with pytest.raises(InvalidInput, match=r"phase 'largest': the gradients of 3 steps.*a smaller --rate"):
        loop.train(fresh(), images, [phase], tmp_path, batch=4, report=lambda _: None)


def test_a_step_between_lost_ones_lets_a_training_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MOST_LOST", 2)
    taken = iter([False, True, False, True, False, True])
    monkeypatch.setattr(loop, "optimiser_step", lambda *_: next(taken))
    phase = Phase("largest", 2, 1e-3, (32,), subnets="largest")
    loop.train(fresh(), two_colours(), [phase], tmp_path, batch=4, report=lambda _: None)
    assert not list(taken)


def test_damaged_files_of_a_run_are_named(tmp_path: Path) -> None:
    phases = (PHASES[0], Phase("random", 1, 1e-3, (32,), subnets="random"))
    loop.train(fresh(), two_colours(), phases, tmp_path, batch=4, checkpoint_every=2, report=lambda _: None)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no torch file"):
        (tmp_path / "checkpoint.pt").write_bytes(damaged)
        with pytest.raises(FileInvalid, match=r"checkpoint\.pt: is damaged; remove it to begin anew"):
            loop.train(fresh(), two_colours(), phases, tmp_path, batch=4, report=lambda _: None)
    (tmp_path / "teacher.safetensors").write_bytes(b"half")
    with pytest.raises(FileInvalid, match=r"teacher\.safetensors: is damaged"):
        run_files.load_teacher(tmp_path, fresh())
