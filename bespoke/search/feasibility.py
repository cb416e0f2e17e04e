"""Whether limits can be met at all, decided before anything is searched.

A limit on a maximum (peak memory) forbids single combinations of a slot. Limits on sums are
weighed into one sum, whose exact minimum either meets every limit, or proves that none can, or
says which limit to weigh more (a Lagrangian dual). What this leaves open is enumerated, exactly (see
``labels``); for latencies that are no sums, and where there is too much to enumerate, a short evolution on
the violation settles it, which always ends.

The same proofs, on fewer limits, tell which of them exclude each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.search.elimination import Factor, minimise, slot_factors
from bespoke.search.evaluator import Limits, Price, cheapest, limited_value, ranges_of
from bespoke.search.labels import meeting_all
from bespoke.search.problem import Problem
from bespoke.search.restriction import of_base
from bespoke.supernet.architecture import Genomes, decode
from bespoke.supernet.errors import BudgetInfeasible
from bespoke.supernet.genomes import crossover, extremes, mutate, neighbours, sample

_DUAL_STEPS = 40
_VIOLATION_STEPS, _VIOLATION_POPULATION, _PATIENCE = 40, 128, 6
"""Of the evolution on the violation; it ends early where so many steps did not help."""

_ROUNDING = 1e-9

_LARGEST_CONFLICT, _PROOFS = 3, 60
"""Limits in a conflict that is looked for among fewer than all, and proofs that are tried at most."""


def feasible_genome(problem: Problem, limits: Limits, rng: np.random.Generator) -> Genomes:
    """A genome that meets every limit, shape (G,).

    Raises:
        BudgetInfeasible: There is none, or (for latencies that are no sums, and where there is too much to
            enumerate) none was found.
    """
    smallest = extremes(problem.space)[0]
    if not limits.prices or limits.meets(smallest[None])[0]:
        return smallest
    tried, open_question = _settled(problem, limits)
    if limits.meets(tried[-1:])[0]:
        return tried[-1]
    inexact = [price for price in limits.prices if price.exact]
    if inexact:
        open_question = True
        tried = np.stack([*tried, *(cheapest(problem.space, price) for price in inexact)])
    if len(limits.prices) > 1 or inexact:
        tried = _least_violation(problem, limits, tried, rng)
        if open_question and limits.meets(tried[:1])[0]:
            return tried[0]
    nearest = _descended(problem, limits, tried[_violation(limits.shares(tried)).argmin()])
    if limits.meets(nearest[None])[0]:
        return nearest
    raise _infeasible(problem, limits, nearest, conflicts(problem, limits, tried))


def _settled(problem: Problem, limits: Limits) -> tuple[Genomes, bool]:
    """By the dual, and where it leaves the question open by labels, whether anything meets the limits.

    Returns:
        The genomes that were met, of which the last one fits if any does, and whether the
        question is still open.
    """
    tried, open_question, weights = _dual(problem, limits)
    if not open_question or limits.meets(tried[-1:])[0] or any(price.exact for price in limits.prices):
        return tried, open_question
    sums = _sums(limits)
    factors = [_shares(problem, price, limit) for price, limit in sums]
    offsets = np.array([price.offset / limit for price, limit in sums])
    found, settled = meeting_all(problem.space, factors, _forbidden(problem, limits), offsets, weights)
    return (tried, not settled) if found is None else (np.concatenate([tried, found[None]]), True)


def _dual(problem: Problem, limits: Limits) -> tuple[Genomes, bool, NDArray[np.float64]]:
    """Minimise weighted sums of the limited metrics until a genome fits or none can.

    Returns:
        The genomes that were met, of which the last one fits if any does; whether the question is still
        open; and the weights of the limits on sums under which the least weighted sum was greatest.
    """
    space = problem.space
    sums = _sums(limits)
    found = [minimise(space, slot_factors(space, p.slots), p.join)[1] for p in limits.prices if p.maximum]
    weights = best = np.full(len(sums), 1 / max(1, len(sums)))
    if not sums:
        return np.stack(found), False, best
    factors = [_shares(problem, price, limit) for price, limit in sums]
    forbidden = _forbidden(problem, limits)
    highest = -np.inf
    for step in range(_DUAL_STEPS):
        joined = [
            Factor(parts[0].genes, sum((w * p.values for w, p in zip(weights, parts, strict=True)), ban))
            for parts, ban in zip(zip(*factors, strict=True), forbidden, strict=True)
        ]
        value, genome = minimise(space, joined, np.add)
        if not np.isfinite(value):
            return _with_minimisers(problem, [p for p, _ in sums], found), False, best
        found.append(genome)
        if limits.meets(genome[None])[0]:
            return np.stack(found), True, best
        offset = sum(w * p.offset / limit for w, (p, limit) in zip(weights, sums, strict=True))
        if value + offset > highest:
            highest, best = value + offset, weights
        if value + offset > 1 + _ROUNDING or len(sums) == 1:
            return np.stack(found), False, best
        share = np.array([p.of(genome[None])[0] / limit for p, limit in sums])
        weights = weights * np.exp((share - 1) * 4 / (1 + step / 4))
        weights = weights / weights.sum()
    return np.stack(found), True, best


def _sums(limits: Limits) -> list[tuple[Price, float]]:
    """The limits that are no maxima, and what each is on."""
    return [(p, float(limit)) for p, limit in zip(limits.prices, limits.limits, strict=True) if not p.maximum]


def _shares(problem: Problem, price: Price, limit: float) -> list[Factor]:
    factors = slot_factors(problem.space, price.slots)
    return [Factor(f.genes, f.values * price.scale / limit) for f in factors]


def _forbidden(problem: Problem, limits: Limits) -> list[NDArray[np.float64]]:
    """Per slot: infinite where a limit on a maximum is exceeded, else 0."""
    bans: list[NDArray[np.float64]] = []
    for price, limit in zip(limits.prices, limits.limits, strict=True):
        if price.maximum:
            factors = slot_factors(problem.space, price.slots)
            over = [price.offset + price.scale * f.values > limit for f in factors]
            here = [np.where(o, np.inf, 0.0) for o in over]
            bans = [a + b for a, b in zip(bans, here, strict=True)] if bans else here
    return bans or [np.zeros(f.values.shape) for f in slot_factors(problem.space, limits.prices[0].slots)]


def _with_minimisers(problem: Problem, prices: Sequence[Price], found: Sequence[Genomes]) -> Genomes:
    own = [minimise(problem.space, slot_factors(problem.space, p.slots), p.join)[1] for p in prices]
    return np.stack([*own, *found])


def _violation(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of the relative excesses, shape (N,)."""
    excess: NDArray[np.float64] = np.maximum(shares - 1, 0).sum(axis=1)
    return excess


def _least_violation(problem: Problem, limits: Limits, tried: Genomes, rng: np.random.Generator) -> Genomes:
    """Evolve towards the least violation; best first."""
    space = problem.space
    population = np.concatenate([tried, extremes(space), sample(space, _VIOLATION_POPULATION, rng)])
    least, stale = np.inf, 0
    for _ in range(_VIOLATION_STEPS):
        population = np.unique(population, axis=0)
        violation = _violation(limits.shares(population))
        population = population[np.argsort(violation, kind="stable")[:_VIOLATION_POPULATION]]
        stale = stale + 1 if violation.min() >= least else 0
        least = float(violation.min())
        if least <= 0 or stale == _PATIENCE:
            break
        pairs = rng.integers(0, len(population), (2, _VIOLATION_POPULATION))
        mixed = crossover(space, population[pairs[0]], population[pairs[1]], rng)
        moved = mutate(space, population[pairs[1]], 2 / population.shape[1], rng)
        population = np.concatenate([population, mixed, moved])
    return population[np.argsort(_violation(limits.shares(population)), kind="stable")]


def infeasible_document(error: BudgetInfeasible) -> dict[str, Any]:
    """What every door tells of limits that nothing meets: a problem document (RFC 9457)."""
    return {
        "type": "https://bespoke.dev/problems/budget-infeasible",
        "title": "No architecture meets these limits",
        "status": 422,
        "detail": str(error),
        "limits": error.limits,
        "feasible": {name: list(ends) for name, ends in error.feasible.items()},
        "nearest": error.nearest,
        "relax": error.relax,
        "conflicts": error.conflicts,
    }


def _descended(problem: Problem, limits: Limits, genome: Genomes) -> Genomes:
    """Where no change of one gene violates the limits less, (G,)."""
    violation = _violation(limits.shares(genome[None]))[0]
    while True:
        around, _, _ = neighbours(problem.space, genome)
        rest = _violation(limits.shares(around))
        if not len(rest) or rest.min() >= violation:
            return genome
        genome, violation = around[rest.argmin()], rest.min()


def conflicts(problem: Problem, limits: Limits, met: Genomes) -> list[list[str]]:
    """Which limits exclude each other, though any fewer of them do not, as far as is proved.

    A set is told where it is proved that nothing meets it; none of its subsets is. Latencies that
    are no sums count as their slots say, but for one alone, which is held against its range.

    Args:
        problem: Whose limits nothing meets.
        limits: Its limits.
        met: Genomes that show which sets can be met, (N, G).

    Returns:
        Sets of up to ``_LARGEST_CONFLICT`` names, smallest first; all names where none was proved.
    """
    names = [price.metric for price in limits.prices]
    holds = limits.hold(met)
    found: list[tuple[int, ...]] = []
    proofs = 0
    sizes = range(1, min(len(names), _LARGEST_CONFLICT) + 1)
    for some in itertools.chain.from_iterable(itertools.combinations(range(len(names)), n) for n in sizes):
        known = any(set(fewer) <= set(some) for fewer in found) or holds[:, some].all(axis=1).any()
        if known or proofs == _PROOFS:
            continue
        proofs += 1
        genomes, excluded = _excluded(problem, limits.only(some))
        holds = np.concatenate([holds, limits.hold(genomes)])
        if excluded:
            found.append(some)
    return [[names[i] for i in some] for some in found] or [names]


def _excluded(problem: Problem, limits: Limits) -> tuple[Genomes, bool]:
    """The genomes that were met, and whether nothing meets these limits."""
    if len(limits.prices) == 1 and limits.prices[0].exact:
        genomes = cheapest(problem.space, limits.prices[0])[None]
        return genomes, not limits.meets(genomes)[0]
    genomes, open_question = _settled(problem, limits)
    return genomes, not open_question and not limits.meets(genomes[-1:])[0]


def limits_told(
    problem: Problem, limits: Limits, genome: Genomes
) -> tuple[dict[str, float], dict[str, float], dict[str, tuple[float, float]]]:
    """What was asked, what an architecture has, and what the space has, by the names of the limits.

    Where the upper end of an interval is limited, these are upper ends.
    """
    ranges = ranges_of(problem)
    values, feasible = {}, {}
    for price, constraint in zip(limits.prices, limits.constraints, strict=True):
        pricer = problem.pricer(constraint)
        known = (float(price.of(genome[None])[0]), *ranges[price.metric])
        values[price.metric], low, high = (limited_value(constraint, v, pricer) for v in known)
        feasible[price.metric] = (low, high)
    return {c.name: float(c.limit) for c in limits.constraints}, values, feasible


def _infeasible(
    problem: Problem, limits: Limits, nearest: Genomes, excluded: list[list[str]]
) -> BudgetInfeasible:
    asked, values, feasible = limits_told(problem, limits, nearest)
    space, places = of_base(problem.space, nearest[None])
    return BudgetInfeasible(
        limits=asked,
        feasible=feasible,
        nearest={"architecture": decode(space, places[0]).to_json(), "metrics": values},
        relax={name: value for name, value in values.items() if value > asked[name]},
        conflicts=excluded,
    )
