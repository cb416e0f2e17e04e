"""Every training recipe by its name: a literal dict, readable and greppable."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import NotFound
from bespoke.supernet.training.phase import Phase
from bespoke.supernet.training.progressive_shrinking import progressive_shrinking
from bespoke.supernet.training.sandwich import sandwich

RECIPES: Mapping[str, Callable[[SearchSpace], list[Phase]]] = {
    "progressive_shrinking": progressive_shrinking,
    "sandwich": sandwich,
}


def recipe(name: str, space: SearchSpace) -> list[Phase]:
    """The phases of a recipe for a space, at their own lengths.

    Args:
        name: A key of ``RECIPES``.
        space: What is trained.

    Raises:
        NotFound: There is no such recipe.
    """
    if name not in RECIPES:
        raise NotFound("recipe", name, sorted(RECIPES))
    return RECIPES[name](space)
