"""Wall 6: the public surface is what ``__all__`` says, and all of it is documented."""

from __future__ import annotations

import importlib
import inspect

import pytest

PACKAGES = (
    "bespoke.supernet",
    "bespoke.supernet.spaces",
    "bespoke.latency_tables",
    "bespoke.predictors",
    "bespoke.search",
    "bespoke.client",
    "bespoke.agent",
)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_hands_on_exactly_what_all_says(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__all__ == sorted(package.__all__, key=_ruff_order)
    for public in package.__all__:
        thing = getattr(package, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name}.{public} has no docstring"


def _ruff_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as the linter sorts them."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name
