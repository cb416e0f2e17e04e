"""The search: many lineages climb side by side, the weaker half stops now and then, the best are refined.

Each step linearises the predictor at every lineage, lets a random part of its genes move, and jumps
to the linear model's optimum on the budget (see ``moves``). What a jump finds is predicted exactly,
once, and replaces its parent only if it is better. The best few then climb by all changes of one
gene and the most promising changes of two, until none helps.

Source: successive halving as in Jamieson and Talwalkar (2016); the moves are those of ``moves``.
The published search (Cai et al., Once-for-All, 2020) mutates and rejects, one architecture a time.

One seed gives one answer whatever the number of threads: every price is a sum in a fixed order,
every prediction the same arithmetic wherever it stands in a batch, and ties fall to the earlier.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.accuracy import LinearisedPredictor
from bespoke.search.blas import one_thread
from bespoke.search.evaluator import Limits, candidates, prices
from bespoke.search.feasibility import feasible_genome
from bespoke.search.moves import Jumps, pairs
from bespoke.search.problem import Candidate, Problem, SearchResult
from bespoke.supernet.architecture import Genomes, SearchSpace, canonical, cardinalities
from bespoke.supernet.genomes import neighbours

_STARTS = 2
"""Genomes drawn per lineage; the better ones become lineages."""

_CHILDREN = 3
"""Jumps per lineage and step."""

_FREE_SHARE = (0.2, 0.9)
"""Share of the private genes that may move in one jump; drawn anew for each."""

_SHARED_CHANGES = 0.12
"""Chance of each shared gene but the resolution to be drawn anew before a jump."""

_RESOLUTION_CHANGES = 0.05

_CROSSED = 0.3
"""Share of the jumps that start from a parent mixed with another lineage."""

_HALVINGS = (0.25, 0.45, 0.65)
"""When the weaker half of the lineages stops, as shares of all steps."""

_REFINED, _PAIRS, _CLIMBS = 12, 60, 30
"""How many lineages are refined, pairs tried a climb, and climbs at most."""

_TILT = 1.7
"""Spread of how far a start leans to small or large choices."""

_FRONT = 32
"""Members of the front that is returned, at most."""


def search(problem: Problem) -> SearchResult:
    """Find the most accurate architecture within the limits.

    Args:
        problem: Space, predictor, limits, seed and effort.

    Returns:
        The best architecture that was met, and the front that leads to it.

    Raises:
        BudgetInfeasible: No architecture meets the limits.
    """
    with one_thread():
        return _search(problem)


def _search(problem: Problem) -> SearchResult:
    rng = np.random.default_rng(problem.seed)
    limits = Limits(problem)
    anchor = feasible_genome(problem, limits, rng)
    seen = _Seen(problem)
    lineages, top1 = _starts(problem, limits, anchor, seen, rng)
    lineages, top1 = _climb(problem, limits, seen, lineages, top1, rng)
    best = np.argsort(-top1, kind="stable")[:_REFINED]
    _refine(problem, limits, seen, lineages[best], top1[best])
    front = _front(problem, seen)
    return SearchResult(front[-1], front, seen.evaluations, problem.effort.generations, problem.seed)


class _Seen:
    """Every genome that was predicted, so that none is predicted twice."""

    def __init__(self, problem: Problem) -> None:
        self._predictor = problem.predictor
        genes = len(cardinalities(problem.space))
        # Odd random multipliers make a 64-bit hash; two genomes that meet by chance cost one try.
        self._mix = np.random.default_rng(0).integers(0, 2**63, genes, dtype=np.uint64) * 2 + 1
        self._known: dict[int, float] = {}
        self._genomes: list[Genomes] = []
        self._top1: list[NDArray[np.float64]] = []

    @property
    def evaluations(self) -> int:
        """How many genomes were predicted."""
        return len(self._known)

    @property
    def genomes(self) -> Genomes:
        """All of them, in order, (N, G)."""
        return np.concatenate(self._genomes)

    @property
    def top1(self) -> NDArray[np.float64]:
        """Their predicted top-1, (N,)."""
        return np.concatenate(self._top1)

    def top1_of(self, genomes: Genomes) -> NDArray[np.float64]:
        """Predicted top-1, shape (N,); only genomes that are new are predicted."""
        keys: list[int] = (genomes.astype(np.uint64) * self._mix).sum(axis=1, dtype=np.uint64).tolist()
        new = {key: row for row, key in reversed(list(enumerate(keys))) if key not in self._known}
        if new:
            fresh = genomes[sorted(new.values())]
            values = self._predictor.top1(fresh)
            self._genomes.append(fresh)
            self._top1.append(values)
            ordered = sorted(new, key=new.__getitem__)
            self._known.update(zip(ordered, values.tolist(), strict=True))
        return np.array([self._known[key] for key in keys])


def _starts(
    problem: Problem, limits: Limits, anchor: Genomes, seen: _Seen, rng: np.random.Generator
) -> tuple[Genomes, NDArray[np.float64]]:
    """Feasible genomes of all sizes and resolutions; the better ones of each resolution first."""
    count = problem.effort.population
    drawn = np.concatenate([anchor[None], _leaning(problem.space, _STARTS * count - 1, rng)])
    drawn = _unique(_repaired(problem.space, limits, drawn, anchor, rng))
    top1 = seen.top1_of(drawn)
    order = np.argsort(-top1, kind="stable")
    rank = np.zeros(len(drawn), np.intp)
    for resolution in np.unique(drawn[:, -1]):
        mine = order[drawn[order, -1] == resolution]
        rank[mine] = np.arange(len(mine))
    chosen = order[np.argsort(rank[order], kind="stable")][:count]
    return drawn[chosen], top1[chosen]


def _leaning(space: SearchSpace, count: int, rng: np.random.Generator) -> Genomes:
    """Random genomes, each leaning to small or to large choices by its own amount."""
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
    problem: Problem,
    limits: Limits,
    seen: _Seen,
    lineages: Genomes,
    top1: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[Genomes, NDArray[np.float64]]:
    """Let lineages jump, halving their number now and then."""
    jumps, steps = Jumps(problem.space, limits), problem.effort.generations
    halvings = {round(share * steps) for share in _HALVINGS}
    gains = _gains(problem, seen, lineages)
    for step in range(steps):
        if step in halvings:
            best = np.argsort(-top1, kind="stable")[: max(_REFINED, len(top1) // 2)]
            lineages, top1, gains = lineages[best], top1[best], gains[best]
        parents = np.repeat(np.arange(len(lineages)), _CHILDREN)
        bases, free = _loosened(problem.space, jumps, lineages[parents], rng)
        children, rows = jumps.jump(bases, gains[parents], free, rng)
        if len(children):
            owners, best = _better(top1, seen.top1_of(children), parents[rows])
            lineages[owners], top1[owners] = children[best], seen.top1_of(children[best])
            gains[owners] = _gains(problem, seen, lineages[owners])
    return lineages, top1


def _gains(problem: Problem, seen: _Seen, lineages: Genomes) -> NDArray[np.float32]:
    """What each choice adds at each lineage, (N, G, C)."""
    if isinstance(problem.predictor, LinearisedPredictor):
        return problem.predictor.gains(lineages)
    effects = _main_effects(problem.space, seen.genomes, seen.top1)
    return np.repeat(effects[None], len(lineages), axis=0)


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
    space: SearchSpace, jumps: Jumps, parents: Genomes, rng: np.random.Generator
) -> tuple[Genomes, NDArray[np.bool_]]:
    """Parents, some crossed or with shared genes drawn anew, and which of the other genes may move."""
    count, genes = parents.shape
    chance = np.zeros(genes)
    chance[jumps.shared] = _SHARED_CHANGES
    chance[-1] = _RESOLUTION_CHANGES
    draws = rng.random((3, count, genes), np.float32)
    drawn = rng.integers(0, cardinalities(space), (count, genes))
    mates = parents[rng.integers(0, count, count)]
    crossed = (draws[2] < 0.5) & (rng.random((count, 1)) < _CROSSED)
    bases = np.where(crossed, mates, parents)
    bases = np.where(draws[0] < chance, drawn, bases).astype(np.int16)
    share = rng.uniform(*_FREE_SHARE, (count, 1))
    free = (draws[1] < share) | ~space.active(parents) | crossed
    return bases, free


def _better(
    top1: NDArray[np.float64], children: NDArray[np.float64], parents: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which lineages have a child that is better, and the row of their best child."""
    order = np.lexsort((-children, parents))
    owners, first = np.unique(parents[order], return_index=True)
    best = order[first]
    better = children[best] > top1[owners]
    return owners[better], best[better]


def _refine(
    problem: Problem, limits: Limits, seen: _Seen, lineages: Genomes, top1: NDArray[np.float64]
) -> None:
    """Climb by single changes and promising pairs until none helps; ``seen`` remembers the way."""
    for _ in range(_CLIMBS):
        lineages, rows = np.unique(lineages, axis=0, return_index=True)
        top1 = top1[rows]
        around, owners = _surroundings(problem.space, limits, seen, lineages, top1)
        climbing, best = _better(top1, seen.top1_of(around), owners)
        if not len(climbing):
            return
        lineages = around[best]
        top1 = seen.top1_of(lineages)


def _surroundings(
    space: SearchSpace, limits: Limits, seen: _Seen, lineages: Genomes, top1: NDArray[np.float64]
) -> tuple[Genomes, NDArray[np.intp]]:
    """Single changes and promising pairs of each genome within the limits, and whose they are."""
    singles = [neighbours(space, genome) for genome in lineages]
    ends = np.cumsum([len(single) for single, _, _ in singles])[:-1]
    together = np.concatenate([single for single, _, _ in singles])
    # Changes that break a limit are predicted too: the other half of a pair may pay for them.
    values, shares = np.split(seen.top1_of(together), ends), np.split(limits.shares(together), ends)
    own = limits.shares(lineages)
    found = []
    for i, (single, genes, choices) in enumerate(singles):
        used = np.concatenate([own[i : i + 1], shares[i]])
        double = pairs(space, lineages[i], (genes, choices), values[i] - top1[i], used, _PAIRS)
        found.append(np.concatenate([single, double]))
    around = np.concatenate(found)
    owners = np.repeat(np.arange(len(lineages)), [len(part) for part in found])
    inside = limits.meets(around)
    return around[inside], owners[inside]


def _front(problem: Problem, seen: _Seen) -> tuple[Candidate, ...]:
    """The best at each smaller price, cheapest first; the last one is the best of all."""
    genomes, top1 = seen.genomes, seen.top1
    inside = Limits(problem).meets(genomes)
    genomes, top1 = genomes[inside], top1[inside]
    known = prices(problem.space, problem.latency, problem.devices)
    limited = problem.constraints[0].name if problem.constraints else "macs"
    price = known["latency_ms" if problem.latency else limited].of(genomes)
    order = np.lexsort((price, -top1))
    cheapest = np.minimum.accumulate(np.append(np.inf, price[order]))[:-1]
    members = order[price[order] < cheapest][::-1]
    if len(members) > _FRONT:
        members = members[np.linspace(0, len(members) - 1, _FRONT).round().astype(np.intp)]
    return candidates(problem, genomes[members], top1[members])
