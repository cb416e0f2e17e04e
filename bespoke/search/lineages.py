"""Rounds of a search: lineages start, climb by jumps, and the best of them are refined.

Each step of a climb linearises the predictor at every lineage, lets a random part of its genes
move, ever fewer, and jumps to the linear model's optimum on the budget (see ``moves``). What a jump finds is
predicted exactly, once, and replaces its parent only if it is better. The weaker half stops now and
then. The best few are refined by all changes of one gene and the most promising changes of two,
until none helps.

A search is a sequence of such rounds that the effort only cuts off: each one takes its randomness from
the seed and its own number. So more effort knows everything that less effort knows, and never answers
worse. The first three begin with what the one before them ended with; all others begin anew.

Source: successive halving as in Jamieson and Talwalkar (2016); the moves are those of ``moves``.
The published search (Cai et al., Once-for-All, 2020) mutates and rejects, one architecture a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.accuracy import LinearisedPredictor
from bespoke.search.evaluator import Limits
from bespoke.search.goals import Goal, MostAccurate
from bespoke.search.loosening import Draws, loosened
from bespoke.search.moves import Jumps, pairs
from bespoke.search.problem import Effort, Problem
from bespoke.search.seen import Seen
from bespoke.supernet.architecture import Genomes, SearchSpace, canonical, cardinalities
from bespoke.supernet.genomes import every_choice

_STARTS = 4
"""Genomes drawn per lineage; the better ones become lineages."""

_CHILDREN, _JUMPS = 3, 96
"""Jumps per lineage and step, at least; and per step, where few lineages are left."""

_FREE_SHARE = (0.1, 0.6), (0.03, 0.2)
"""Share of the private genes that may move in one jump, drawn anew for each: at first, and at last."""

_FREE_GENES = 3
"""How many genes may move at least, on average: a small space has no small shares."""

_CROSSED = 0.6
"""Share of the jumps that start from a parent mixed with another lineage."""

_HALVINGS = (0.25, 0.45, 0.65)
"""When the weaker half of the lineages stops, as shares of all steps."""

_LEAST, _PAIRS, _CLIMBS = 2, 60, 30
"""How many lineages are left when they are refined; pairs tried a climb, and climbs at most."""

_TILT = 1.7
"""Spread of how far a start leans to small or large choices."""


@dataclass(frozen=True)
class Round:
    """How large a round is.

    Attributes:
        lineages: How many start.
        steps: How often they jump.
        refined: How many of them are refined.
        anew: Whether it is given nothing of the rounds before it.
    """

    lineages: int
    steps: int
    refined: int
    anew: bool = False


_FIRST_ROUNDS = (Round(8, 4, 1), Round(24, 10, 3), Round(48, 16, 6))
"""The rounds that every search begins with, each from where the one before it ended."""

_FURTHER = Round(48, 16, 6, anew=True)
"""All that follow: one that begins with what is known ends in the same optimum."""

_REFINEMENT = 8
"""How many steps of all lineages a round's refinement counts as."""


def rounds(effort: Effort) -> Iterator[Round]:
    """The rounds that an effort covers: the first, and those whose steps, summed over lineages, fit it."""
    yield _FIRST_ROUNDS[0]
    left = effort.population * effort.generations
    for size in itertools.chain(_FIRST_ROUNDS[1:], itertools.repeat(_FURTHER)):
        left -= size.lineages * (size.steps + _REFINEMENT)
        if left < 0:
            return
        yield size


def explore(
    problem: Problem,
    goal: MostAccurate,
    seen: Seen,
    size: Round,
    starts: Genomes,
    rng: np.random.Generator,
) -> Genomes:
    """One round.

    Args:
        problem: Space and predictor.
        goal: The highest top-1, and the limits within which it is looked for.
        seen: Remembers everything that is met.
        size: Of the round.
        starts: Lineages to begin with beside random ones, (K, G); the first one meets the limits.
        rng: Decides everything that is random.

    Returns:
        The lineages after their refinement, best first.
    """
    lineages = _starts(problem.space, goal.limits, seen, size.lineages, starts, rng)
    lineages = _climb(problem, goal.jumps, seen, size, lineages, rng)
    return refine(problem.space, goal, seen, lineages[: size.refined])


def _starts(
    space: SearchSpace, limits: Limits, seen: Seen, count: int, given: Genomes, rng: np.random.Generator
) -> Genomes:
    """Feasible genomes of all sizes and resolutions; the given ones and the better of each resolution."""
    drawn = np.concatenate([given, leaning(space, _STARTS * count, rng)])
    drawn = _unique(_repaired(space, limits, drawn, given[0], rng))
    order = np.argsort(-seen.top1_of(drawn), kind="stable")
    rank = np.zeros(len(drawn), np.intp)
    for resolution in np.unique(drawn[:, -1]):
        mine = order[drawn[order, -1] == resolution]
        rank[mine] = np.arange(len(mine))
    chosen = order[np.argsort(rank[order], kind="stable")][:count]
    return drawn[chosen]


def leaning(space: SearchSpace, count: int, rng: np.random.Generator) -> Genomes:
    """Random genomes of all sizes: each leans to small or to large choices by its own amount, (count, G)."""
    sizes = cardinalities(space)
    power = np.exp(-rng.normal(0, _TILT, (count, 1)))
    place = rng.random((count, len(sizes))) ** power
    place[:, -1] = rng.random(count)
    return canonical(space, np.minimum(place * sizes, sizes - 1).astype(np.int16))


def _repaired(
    space: SearchSpace, limits: Limits, genomes: Genomes, anchor: Genomes, rng: np.random.Generator
) -> Genomes:
    """Bring genomes within the limits by giving them ever more genes of a feasible one."""
    genomes = genomes.copy()
    for share in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0):
        over = np.flatnonzero(~limits.meets(genomes))
        if not len(over):
            break
        taken = rng.random((len(over), len(anchor)), np.float32) < share
        genomes[over] = canonical(space, np.where(taken, anchor, genomes[over]))
    return genomes


def _unique(genomes: Genomes) -> Genomes:
    """Without repetitions, in the order of first appearance."""
    _, first = np.unique(genomes, axis=0, return_index=True)
    return genomes[np.sort(first)]


def _climb(
    problem: Problem, jumps: Jumps, seen: Seen, size: Round, lineages: Genomes, rng: np.random.Generator
) -> Genomes:
    """Let lineages jump, halving their number now and then; best first."""
    halvings = {round(share * size.steps) for share in _HALVINGS}
    gains_of = _gains(problem, seen)
    top1, gains = seen.top1_of(lineages), gains_of(lineages)
    for step in range(size.steps):
        if step in halvings:
            best = np.argsort(-top1, kind="stable")[: max(size.refined, len(top1) // 2)]
            lineages, top1, gains = lineages[best], top1[best], gains[best]
        parents = np.repeat(np.arange(len(lineages)), max(_CHILDREN, _JUMPS // len(lineages)))
        bases, free = _loosened(problem.space, jumps, lineages[parents], step / size.steps, rng)
        children, rows = jumps.jump(bases, _mixed(gains, parents, rng), free, rng)
        if len(children):
            values = seen.top1_of(children)
            owners, best = _better(top1, values, parents[rows])
            lineages[owners], top1[owners] = children[best], values[best]
            gains[owners] = gains_of(lineages[owners])
    return lineages[np.argsort(-top1, kind="stable")]


def _gains(problem: Problem, seen: Seen) -> Callable[[Genomes], NDArray[np.float32]]:
    """Tells what each choice adds at each lineage, (N, G, C)."""
    if isinstance(problem.predictor, LinearisedPredictor):
        return problem.predictor.gains

    def main_effects(lineages: Genomes) -> NDArray[np.float32]:
        effects = _main_effects(problem.space, seen.genomes, seen.top1)
        return np.repeat(effects[None], len(lineages), axis=0)

    return main_effects


def _main_effects(space: SearchSpace, genomes: Genomes, top1: NDArray[np.float64]) -> NDArray[np.float32]:
    """Mean top-1 of the genomes with each choice, less the mean of all, (G, C)."""
    sizes = cardinalities(space)
    active, mean = space.active(genomes), top1.mean()
    effects = np.zeros((len(sizes), int(sizes.max())), np.float32)
    for gene in range(len(sizes)):
        rows = active[:, gene]
        count = np.bincount(genomes[rows, gene], minlength=effects.shape[1])
        total = np.bincount(genomes[rows, gene], top1[rows] - mean, minlength=effects.shape[1])
        effects[gene] = total / np.maximum(count, 1)
    return effects


def _loosened(
    space: SearchSpace, jumps: Jumps, parents: Genomes, progress: float, rng: np.random.Generator
) -> tuple[Genomes, NDArray[np.bool_]]:
    count, genes = parents.shape
    changed, freed, taken = rng.random((3, count, genes), np.float32)
    choices = rng.integers(0, cardinalities(space), (count, genes))
    mates = parents[rng.integers(0, count, count)]
    crossed = rng.random((count, 1)) < _CROSSED
    low, high = ((1 - progress) * first + progress * last for first, last in zip(*_FREE_SHARE, strict=True))
    share = np.maximum(rng.uniform(low, high, (count, 1)), _FREE_GENES / genes)
    return loosened(
        space, jumps.shared, parents, mates, Draws(changed, choices, taken, crossed, freed, share)
    )


def _mixed(
    gains: NDArray[np.float32], parents: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Gains of each parent, mixed with another lineage's: a slope over a wider part, and another way each."""
    others = gains[rng.integers(0, len(gains), len(parents))]
    weight = rng.random((len(parents), 1, 1), np.float32)
    return np.asarray(gains[parents] * (1 - weight) + others * weight)


def _better(
    worth: NDArray[np.float64], children: NDArray[np.float64], parents: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which lineages have a child that is better, and the row of their best child."""
    order = np.lexsort((-children, parents))
    owners, first = np.unique(parents[order], return_index=True)
    best = order[first]
    better = children[best] > worth[owners]
    return owners[better], best[better]


def refine(space: SearchSpace, goal: Goal, seen: Seen, genomes: Genomes) -> Genomes:
    """Climb by single changes and promising pairs until none helps, the weaker half stopping now and then.

    Args:
        space: The space.
        goal: What is worth more.
        seen: Remembers everything that is met.
        genomes: Where to begin, (N, G); the goal allows all of them.

    Returns:
        The ends, best first, (at most N, G).
    """
    ends: list[Genomes] = []
    begun = len(genomes)
    for climb in range(_CLIMBS):
        genomes = np.unique(genomes, axis=0)
        top1 = seen.top1_of(genomes)
        worth = goal.worth(genomes, top1)
        best = np.argsort(-worth, kind="stable")[: max(_LEAST, begun >> climb)]
        genomes, top1, worth = genomes[best], top1[best], worth[best]
        around, owners = _surroundings(space, goal, seen, genomes, top1)
        climbing, found = _better(worth, goal.worth(around, seen.top1_of(around)), owners)
        settled = np.ones(len(genomes), np.bool_)
        settled[climbing] = False
        ends.append(genomes[settled])
        genomes = around[found]
        if not len(climbing):
            break
    everything = _unique(np.concatenate([*ends, genomes]))
    return everything[goal.order(everything, seen.top1_of(everything))]


def _singles(
    space: SearchSpace, genomes: Genomes
) -> tuple[Genomes, NDArray[np.intp], NDArray[np.intp], Genomes]:
    """All changes of one active gene: the results, whose they are (ascending), and genes and choices."""
    genes, choices = every_choice(space)  # type: ignore[arg-type]
    owners, moves = np.nonzero(space.active(genomes)[:, genes] & (choices != genomes[:, genes]))
    genes, choices = genes[moves], choices[moves]
    result = genomes[owners]
    result[np.arange(len(owners)), genes] = choices
    return canonical(space, result), owners, genes, choices


def _surroundings(
    space: SearchSpace, goal: Goal, seen: Seen, genomes: Genomes, top1: NDArray[np.float64]
) -> tuple[Genomes, NDArray[np.intp]]:
    """Allowed single changes and promising pairs of each genome, and whose they are."""
    together, owners, genes, choices = _singles(space, genomes)
    ends = np.searchsorted(owners, np.arange(1, len(genomes)))
    # Changes that break a limit are predicted too: the other half of a pair may pay for them.
    values = seen.top1_of(together)
    worths, shares = (
        np.split(parts, ends) for parts in (goal.worth(together, values), goal.shares(together, values))
    )
    own, used = goal.worth(genomes, top1), goal.shares(genomes, top1)
    doubles = []
    for i, steps in enumerate(zip(np.split(genes, ends), np.split(choices, ends), strict=True)):
        shared = np.concatenate([used[i : i + 1], shares[i]])
        doubles.append(pairs(space, genomes[i], steps, worths[i] - own[i], shared, _PAIRS))
    around = np.concatenate([together, *doubles])
    paired = np.repeat(np.arange(len(genomes)), [len(double) for double in doubles])
    owners = np.concatenate([owners, paired])
    inside = np.flatnonzero(goal.fits(around))
    inside = inside[goal.reaches(seen.top1_of(around[inside]))]
    return around[inside], owners[inside]
