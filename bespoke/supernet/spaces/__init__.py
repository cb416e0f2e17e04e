"""Every search space by its name: a literal dict, readable and greppable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import InvalidInput, NotFound
from bespoke.supernet.spaces.fixed import FixedNetwork
from bespoke.supernet.spaces.inverted_bottlenecks import RESOLUTIONS
from bespoke.supernet.spaces.ofa_mobilenetv3 import OfaMobileNetV3
from bespoke.supernet.spaces.ofa_proxyless import OfaProxyless
from bespoke.supernet.spaces.ofa_resnet50 import OfaResNet50

__all__ = [
    "FAMILIES",
    "RESOLUTIONS",
    "SPACES",
    "FixedNetwork",
    "OfaMobileNetV3",
    "OfaProxyless",
    "OfaResNet50",
    "space",
    "space_from_json",
]

SPACES: Mapping[str, Callable[[tuple[int, ...], int], SearchSpace]] = {
    "ofa-mobilenetv3-w1.0": lambda resolutions, classes: OfaMobileNetV3(1.0, resolutions, classes),
    "ofa-mobilenetv3-w1.2": lambda resolutions, classes: OfaMobileNetV3(1.2, resolutions, classes),
    "ofa-mobilenetv3-w1.0-cifar": lambda resolutions, classes: OfaMobileNetV3(
        1.0, resolutions, classes, "cifar"
    ),
    "ofa-proxyless-w1.3": lambda resolutions, classes: OfaProxyless(1.3, resolutions, classes),
    "ofa-resnet50": lambda resolutions, classes: OfaResNet50(resolutions, classes),
}

FAMILIES: Mapping[str, Callable[..., SearchSpace]] = {
    "ofa_mobilenetv3": OfaMobileNetV3,
    "ofa_proxyless": OfaProxyless,
    "ofa_resnet50": OfaResNet50,
    "fixed": FixedNetwork.from_fields,
}


def space(name: str, resolutions: Sequence[int] = RESOLUTIONS, classes: int = 1000) -> SearchSpace:
    """Make a space by its name.

    Args:
        name: A key of ``SPACES``.
        resolutions: Sides of the input in pixels, ascending.
        classes: Size of the classifier.

    Raises:
        NotFound: There is no such space.
        InvalidInput: The resolutions or the classes make no network.
    """
    if name not in SPACES:
        raise NotFound("space", name, sorted(SPACES))
    return SPACES[name](tuple(resolutions), classes)


def space_from_json(data: Mapping[str, Any]) -> SearchSpace:
    """Read what ``space.to_json()`` wrote.

    Raises:
        NotFound: The family is unknown.
        InvalidInput: A field is missing, left over or wrong.
    """
    fields = dict(data)
    family = fields.pop("family", None)
    if family not in FAMILIES:
        raise NotFound("family of spaces", str(family), sorted(FAMILIES))
    try:
        return FAMILIES[family](**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    except TypeError as error:
        raise InvalidInput(f"space {family!r}: got the fields {sorted(fields)}; {error}") from error
