from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bespoke.supernet import zoo
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.spaces import OfaMobileNetV3, OfaProxyless
from bespoke.supernet.subnet import load_network
from bespoke.supernet.training.fine_tuning import check_head_is_trained, like, start_from
from bespoke.supernet.training.phase import with_epochs
from bespoke.supernet.training.recipes import recipe
from tests.supernet.training.tiny import fresh


def test_other_classes_get_a_new_head_and_everything_else_is_kept(random_zoo: Path) -> None:
    started = zoo.entry("tiny", random_zoo)
    network = fresh(like(started.space, (32,), 7), seed=5)
    head = network.slots["classifier"].linear.weight.clone()
    assert start_from(network, started, [f"class {n}" for n in range(7)])
    kept = dict(load_network(started).named_parameters())
    for name, parameter in network.named_parameters():
        if not name.startswith("slots.classifier."):
            torch.testing.assert_close(parameter, kept[name], rtol=0, atol=0)
    torch.testing.assert_close(network.slots["classifier"].linear.weight, head, rtol=0, atol=0)
    assert head.shape[0] == 7


@pytest.mark.parametrize("named", [True, False])
def test_the_same_classes_keep_the_head_and_as_many_do_where_none_are_named(
    random_zoo: Path, named: bool
) -> None:
    started = zoo.entry("tiny", random_zoo)
    classes = [f"class {n}" for n in range(started.space.classes)]
    started = replace(started, card={"classes": classes} if named else {})
    network = fresh(like(started.space, (32, 48), started.space.classes), seed=5)
    assert not start_from(network, started, classes)
    kept = dict(load_network(started).named_parameters())
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, kept[name], rtol=0, atol=0)


def test_other_classes_of_the_same_number_get_a_new_head(random_zoo: Path) -> None:
    started = zoo.entry("tiny", random_zoo)
    classes = [f"class {n}" for n in range(started.space.classes)]
    started = replace(started, card={"classes": classes})
    network = fresh(like(started.space, (32,), started.space.classes), seed=5)
    head = network.slots["classifier"].linear.weight.clone()
    assert start_from(network, started, classes[::-1])
    torch.testing.assert_close(network.slots["classifier"].linear.weight, head, rtol=0, atol=0)


@pytest.mark.parametrize("other", [OfaProxyless(1.3, (32,), 4), OfaMobileNetV3(0.4, (32,), 4)])
def test_a_supernet_of_another_space_is_refused(random_zoo: Path, other: OfaMobileNetV3) -> None:
    with pytest.raises(InvalidInput, match="cannot start from 'tiny'"):
        start_from(fresh(other), zoo.entry("tiny", random_zoo), "abcd")


def test_a_new_head_teaches_nothing_before_it_was_trained() -> None:
    space = OfaMobileNetV3(1.0, (32,), 4)
    phases = recipe("progressive_shrinking", space)
    with pytest.raises(InvalidInput, match="phase 'kernel': got a teacher whose classifier is new"):
        check_head_is_trained(with_epochs(phases, [0, 1, 0, 0, 0, 0]))
    check_head_is_trained(with_epochs(phases, [0.5, 1, 0, 0, 0, 0]))
    check_head_is_trained(with_epochs(phases, [0, 0, 0, 0, 0, 0]))
    check_head_is_trained(with_epochs(recipe("sandwich", space), [0, 4]))
