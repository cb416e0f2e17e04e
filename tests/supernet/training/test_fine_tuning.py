from __future__ import annotations

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
    assert start_from(network, started)
    kept = dict(load_network(started).named_parameters())
    for name, parameter in network.named_parameters():
        if not name.startswith("slots.classifier."):
            torch.testing.assert_close(parameter, kept[name], rtol=0, atol=0)
    torch.testing.assert_close(network.slots["classifier"].linear.weight, head, rtol=0, atol=0)
    assert head.shape[0] == 7


def test_as_many_classes_keep_the_head(random_zoo: Path) -> None:
    started = zoo.entry("tiny", random_zoo)
    network = fresh(like(started.space, (32, 48), started.space.classes), seed=5)
    assert not start_from(network, started)
    kept = dict(load_network(started).named_parameters())
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, kept[name], rtol=0, atol=0)


@pytest.mark.parametrize("other", [OfaProxyless(1.3, (32,), 4), OfaMobileNetV3(0.4, (32,), 4)])
def test_a_supernet_of_another_space_is_refused(random_zoo: Path, other: OfaMobileNetV3) -> None:
    with pytest.raises(InvalidInput, match="cannot start from 'tiny'"):
        start_from(fresh(other), zoo.entry("tiny", random_zoo))


def test_a_new_head_teaches_nothing_before_it_was_trained() -> None:
    space = OfaMobileNetV3(1.0, (32,), 4)
    phases = recipe("progressive_shrinking", space)
    with pytest.raises(InvalidInput, match="phase 'kernel': got a teacher whose classifier is new"):
        check_head_is_trained(with_epochs(phases, [0, 1, 0, 0, 0, 0]))
    check_head_is_trained(with_epochs(phases, [0.5, 1, 0, 0, 0, 0]))
    check_head_is_trained(with_epochs(phases, [0, 0, 0, 0, 0, 0]))
    check_head_is_trained(with_epochs(recipe("plain", space), [0, 2, 2]))
