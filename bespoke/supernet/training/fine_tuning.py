"""Starting from another supernet's weights: all of them, or all but the classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.networks.chain import ChainSupernet, layer_name
from bespoke.supernet.spaces import space_from_json
from bespoke.supernet.subnet import load_network
from bespoke.supernet.training.phase import Phase
from bespoke.supernet.zoo import ZooEntry


def like(space: SearchSpace, resolutions: Sequence[int], classes: int) -> SearchSpace:
    """The same space at other resolutions and with another number of classes.

    Raises:
        InvalidInput: A space without choices, e.g. an imported specialised network.
    """
    fields = space.to_json()
    if "resolutions" not in fields or "classes" not in fields:
        raise InvalidInput(f"space {space.name!r} has no choices to train; start from a supernet")
    return space_from_json({**fields, "resolutions": list(resolutions), "classes": classes})


@torch.no_grad()
def start_from(network: ChainSupernet, started: ZooEntry, classes: Sequence[str]) -> bool:
    """Take over a supernet's weights.

    Args:
        network: Freshly made, of the same space but for resolutions and classes.
        started: What to start from. A card that names no classes, as that of an imported supernet, is
            taken for one of the same classes where it has as many.
        classes: Names of the classes that are to be trained, in their order.

    Returns:
        Whether the classifier kept its own fresh weights, since the classes are others.

    Raises:
        InvalidInput: The supernet is of another space.
    """
    source, target = load_network(started).state_dict(), dict(network.named_parameters())
    sizes = {name: (tuple(source[name].shape), tuple(target[name].shape)) for name in source.keys() & target}
    same = list(started.card.get("classes", classes)) == list(classes)
    new_head = started.space.classes != network.space.classes or not same
    head = f"slots.{layer_name(network.space.slots[-1].name)}."
    differing = [n for n, (a, b) in sizes.items() if a != b and not (new_head and n.startswith(head))]
    if source.keys() != target.keys() or differing or started.space.name != network.space.name:
        raise InvalidInput(
            f"cannot start from {started.name!r}: it is of space {started.space.name!r}, expected "
            f"{network.space.name!r}"
        )
    for name, parameter in target.items():
        if not (new_head and name.startswith(head)):
            parameter.copy_(source[name])
    return new_head


def check_head_is_trained(phases: Sequence[Phase]) -> None:
    """See that a new classifier learns from labels before a frozen copy of it teaches.

    Args:
        phases: Of a training that starts from other weights, with a new classifier.

    Raises:
        InvalidInput: The first phase that trains anything is already taught by that copy.
    """
    first = next((phase for phase in phases if phase.epochs), None)
    if first is not None and first.taught:
        raise InvalidInput(
            f"phase {first.name!r}: got a teacher whose classifier is new and untrained, expected epochs of "
            f"phase {phases[0].name!r} before it; see --epochs"
        )
