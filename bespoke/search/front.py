"""The front of two or three metrics: architectures of which none is better in all of them.

A population is kept as NSGA-II keeps it: by fronts, and within a front by crowding. Its children
are no random changes. Each member reads off its neighbours how steep the front is where it stands,
and slides to the point of its linear model that is as steep (see ``slides``), with a random part of
its genes free; now and then all changes of one gene and the promising pairs of changes are ranked
by how far the model says that they lie beyond the front, and the first of them are evaluated. The
exact ends of every metric, by variable elimination, are members from the start.

A front is a sequence of such climbs, each larger than the one before and with starts of its own, that
the effort only cuts off; what any of them met counts. So more effort knows all that less effort knows.

Source: Deb et al., NSGA-II (2002), for the survivors; the moves are those of ``slides`` and
``moves``. Metrics are exact; only the top-1 is predicted, and no architecture twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.blas import one_thread
from bespoke.search.evaluator import Limits, Price, candidates, cheapest, prices_of, ranges_of
from bespoke.search.feasibility import feasible_genome
from bespoke.search.known import Known
from bespoke.search.lineages import leaning
from bespoke.search.linear import Linear, worth
from bespoke.search.loosening import Draws, loosened
from bespoke.search.moves import pairs
from bespoke.search.pareto import advance, nearest, non_dominated, select, thin
from bespoke.search.problem import (
    METRICS,
    Candidate,
    Constraint,
    Effort,
    LatencyPricer,
    Problem,
    latency_of,
)
from bespoke.search.slides import Slides
from bespoke.supernet.architecture import Genomes, cardinalities
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import extremes, neighbours

TOP1 = "top1"

MEMBERS = 100
"""How many members a front has at most, where nothing else is asked for."""


@dataclass(frozen=True)
class Size:
    """How large a climb is.

    Attributes:
        population: Half of how many members have children, as an effort counts: a front is many answers
            at once.
        steps: How often they have children.
    """

    population: int
    steps: int


_FIRST_CLIMBS = (Size(8, 6), Size(16, 12), Size(48, 30))
"""The climbs that every front begins with."""

_WIDER, _LONGER = 2.3, 1.5
"""How much larger each further one is: the population counts for more than the steps."""

_BREADTH = 2
"""Members for each one that a size says."""

_STARTS = 2
"""Genomes drawn per member of the population, of all sizes."""

_START_PRICES = (1e-3, 1.0)
"""Top-1 per share of a limit, between which the first slides' prices are drawn."""

_CHILDREN = 2
"""Slides per member and step."""

_NEAR = 6
"""Neighbours on the front that say how steep it is, and that a member is crossed with."""

_SPREAD = 0.5
"""Spread, in logarithms, of the prices around what the front says."""

_STEEPEST = 100.0
"""Prices stay within this factor of the steepness from end to end."""

_FREE_SHARE = (0.05, 0.9)
"""Share of the private genes that may move in one slide, in logarithms: where the front is flat the
linear model holds for small moves only."""

_CROSSED = 0.5
"""Share of the slides that start from a parent mixed with a neighbour."""

_LOCAL_EVERY = 3
"""Each so many steps the surroundings of all members are ranked, and the first are evaluated."""

_LOCAL_SHARE = 3
"""How many of them, per member of the population."""

_PAIRS = 30
"""Pairs of changes that are ranked per member."""

_LAST = 6
"""Rankings at the end, of the surroundings of the front itself; fewer where none helps."""

_SLACK = 1.25
"""Metrics are told as shares of a bound this far above anything in the space."""

_UNITS = {
    TOP1: ("points", 0.01),
    "latency_ms": ("ms", 1.0),
    "macs": ("million_macs", 1e6),
    "flops": ("million_flops", 1e6),
    "params": ("million_params", 1e6),
    "peak_memory_bytes": ("memory_mb", 1e6),
    "model_size_bytes": ("model_mb", 1e6),
}
"""In what marginal prices are told, and how much of the metric it is. MB are 10^6 bytes."""


@dataclass(frozen=True)
class Front:
    """Architectures of which none is better than another in every metric.

    Attributes:
        metrics: What was traded: ``top1`` is maximised, all others are minimised.
        members: The cheapest first, by the first metric that is not ``top1``, then by the others.
        evaluations: How many different architectures were evaluated.
        linearisations: At how many of them, once a climb, the predictor was also differentiated.
        generations: How many steps were taken, over all climbs.
        seed: The problem's.
    """

    metrics: tuple[str, ...]
    members: tuple[Candidate, ...]
    evaluations: int
    linearisations: int
    generations: int
    seed: int

    @property
    def values(self) -> NDArray[np.float64]:
        """The members' metrics, (N, M), smaller is better: the top-1 is negated."""
        return np.array([[_value(member, metric) for metric in self.metrics] for member in self.members])

    def marginal_prices(self) -> tuple[dict[str, str | float], ...]:
        """What a step along the front costs, and what it buys.

        Of each member and each metric that is paid in, the step to the next dearer member that is
        better in the first metric (the top-1 where it is traded) and no worse in any other. On a front
        of two metrics these are the steps between neighbours.

        Returns:
            In the order of the members, e.g. ``{"member": 40, "next": 41, "metric": "latency_ms",
            "from": 20.1, "to": 21.1, "ms": 1.0, "points": 0.4, "points_per_ms": 0.4}``: a millisecond
            more than 20.1 buys 0.4 points of top-1. ``member`` and ``next`` are places in ``members``.
        """
        values, lead = self.values, _lead(self.metrics)
        bought, per_bought = _unit(self.metrics[lead])
        found: list[dict[str, str | float]] = []
        for i, row in enumerate(values):
            for m, metric in enumerate(self.metrics):
                better = (np.delete(values, m, axis=1) <= np.delete(row, m)).all(axis=1)
                steps = np.flatnonzero(better & (values[:, m] > row[m]) & (values[:, lead] < row[lead]))
                if m == lead or not len(steps):
                    continue
                j = int(steps[values[steps, m].argmin()])
                after = values[j]
                paid, per_paid = _unit(metric)
                more, gain = (after[m] - row[m]) / per_paid, (row[lead] - after[lead]) / per_bought
                step = {"from": float(row[m]), "to": float(after[m]), paid: float(more), bought: float(gain)}
                places = {"member": i, "next": j}
                found.append({**places, "metric": metric, **step, f"{bought}_per_{paid}": float(gain / more)})
        return tuple(found)


def pareto_front(
    problem: Problem, metrics: Sequence[str] = (TOP1, "latency_ms"), members: int = MEMBERS
) -> Front:
    """Find the front of two or three metrics within the limits.

    Args:
        problem: Space, predictor, limits, seed and effort: ``population`` times ``generations`` says how
            many climbs there are, ever larger ones, as ``sizes`` lists them.
        metrics: Two or three different ones of ``top1``, ``METRICS`` and ``latency_ms:NAME`` of the
            problem's named devices.
        members: How many members the front has at most; of more, the least crowded ones stay.

    Returns:
        The front of everything that was evaluated.

    Raises:
        InvalidInput: The metrics are not two or three different known ones, or members less than 2.
        BudgetInfeasible: No architecture meets the limits.
    """
    _check(problem, metrics, members)
    with one_thread():
        everything = _nothing_yet(problem, metrics)
        climbs = [
            _Climb(problem, tuple(metrics), size, number, everything)
            for number, size in enumerate(sizes(problem.effort))
        ]
        for climb in climbs:
            climb.run()
        return _told(climbs, everything, members)


def sizes(effort: Effort) -> Iterator[Size]:
    """The climbs that an effort covers: the first, and those whose steps, summed over members, fit it."""
    left = effort.population * effort.generations
    for number, size in enumerate(itertools.chain(_FIRST_CLIMBS, _further())):
        left -= size.population * size.steps
        if number and left < 0:
            return
        yield size


def _further() -> Iterator[Size]:
    last = _FIRST_CLIMBS[-1]
    for i in itertools.count(1):
        yield Size(round(last.population * _WIDER**i), round(last.steps * _LONGER**i))


def front_genomes(
    problem: Problem, metrics: Sequence[str], members: int, stop: Callable[[], bool]
) -> Genomes | None:
    """Climb once, as large as the effort says, for those who need no more than a front's genomes.

    Args:
        problem: As in ``pareto_front``; twice its ``population`` have children in each of
            ``generations`` steps.
        metrics: As there.
        members: As there.
        stop: Asked before each step, and each ranking after the last one.

    Returns:
        (at most ``members``, G); None where ``stop`` said yes.

    Raises:
        InvalidInput: As there.
        BudgetInfeasible: As there.
    """
    _check(problem, metrics, members)
    with one_thread():
        size = Size(problem.effort.population, problem.effort.generations)
        climb = _Climb(problem, tuple(metrics), size, 0, _nothing_yet(problem, metrics))
        return climb.known.genomes[climb.front(members)] if climb.run(stop) else None


def _nothing_yet(problem: Problem, metrics: Sequence[str]) -> Known:
    """What will be evaluated: the metrics of genomes, (N, M), smaller is better."""
    priced = prices_of(problem)

    def values(genomes: Genomes) -> NDArray[np.float64]:
        columns = [
            # Predicted, as it is told: a share.
            -np.clip(problem.predictor.top1(genomes), 0, 1) if metric == TOP1 else priced[metric].of(genomes)
            for metric in metrics
        ]
        return np.stack(columns, axis=1)

    return Known(values, len(cardinalities(problem.space)), len(metrics))


class _Climb:
    """One climb: what is asked, and what is known so far."""

    def __init__(
        self, problem: Problem, metrics: tuple[str, ...], size: Size, number: int, everything: Known
    ) -> None:
        """Begin one.

        Args:
            problem: As of ``pareto_front``.
            metrics: As there.
            size: How large it is.
            number: Decides, with the problem's seed, what is random.
            everything: Evaluates architectures; what other climbs evaluated this one does not see before it
                comes there by itself.
        """
        self.problem, self.space, self.metrics = problem, problem.space, metrics
        self.population, self.steps = _BREADTH * size.population, size.steps
        self.rng = np.random.default_rng((problem.seed, number))
        self.limits = Limits(problem)
        self.anchor = feasible_genome(problem, self.limits, self.rng)
        priced = prices_of(problem)
        self.priced: tuple[Price | None, ...] = tuple(priced.get(metric) for metric in metrics)
        bounded = Limits(_bounded(problem, metrics))
        names = [constraint.name for constraint in bounded.constraints]
        self.slides = Slides(problem.space, bounded)
        self.place = [names.index(metric) if metric in names else -1 for metric in metrics]
        self.units = np.array([bounded.limits[place] if place >= 0 else 1.0 for place in self.place])
        self.lead = _lead(metrics)
        predictor = problem.predictor if TOP1 in metrics else None
        self.known = Known(everything.values_of, len(cardinalities(problem.space)), len(metrics))
        self.linear = Linear(problem.space, self.known, predictor, self.lead)

    def run(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Take all steps, and rank what surrounds their end; False where ``stop`` said yes before a step."""
        population = self._started()
        for step in range(self.steps):
            if stop():
                return False
            children = self._slid(population)
            if step % _LOCAL_EVERY == _LOCAL_EVERY - 1:
                children = np.concatenate([children, self._near(population)])
            population = self._survivors(np.concatenate([population, children]))
        if self.problem.head_start is not None:  # earlier, it would draw all others to where it is
            self._evaluated(self.problem.head_start.genomes)
        for _ in range(_LAST):
            if stop():
                return False
            before, best = len(self.known), self.front(2 * self.population)
            after = np.concatenate([best, self._near(best)])
            if len(self.known) == before or not self._improved(best, after):
                break
        return True

    def _started(self) -> NDArray[np.intp]:
        """The ends of every metric, genomes of all sizes, and where they slide to."""
        count = _STARTS * self.population
        drawn = leaning(self.space, count, self.rng)
        ends = [cheapest(self.space, price) for price in self.priced if price is not None]
        together = np.concatenate([self.anchor[None], np.stack(ends), extremes(self.space), drawn])
        first = self._evaluated(together)
        low, high = np.log(_START_PRICES)
        prices = np.exp(self.rng.uniform(low, high, (len(drawn), len(self.metrics))))
        bases = first[self.rng.integers(0, len(first), len(drawn))]
        # The model of some start is used at another one: both are far from where the slide ends.
        gains = self.linear.at(bases)
        second = self._slide(drawn, gains, np.ones(drawn.shape, np.bool_), prices, bases)
        return self._survivors(np.concatenate([first, second]))

    def _slid(self, population: NDArray[np.intp]) -> NDArray[np.intp]:
        """Rows of the children of all members."""
        near, steepness = self._steepness(population)
        parents = np.repeat(np.arange(len(population)), _CHILDREN)
        mates = near[parents, self.rng.integers(0, near.shape[1], len(parents))]
        genomes = self.known.genomes[population]
        bases, free = self._loosened(genomes[parents], genomes[mates])
        noise = np.exp(self.rng.normal(0, _SPREAD, (len(parents), len(self.metrics))))
        gains = self.linear.at(population)[parents]
        caps = np.where(self.rng.random(len(parents)) < 0.5, population[parents], population[mates])
        return self._slide(bases, gains, free, steepness[parents] * noise, caps)

    def _slide(
        self,
        bases: Genomes,
        gains: NDArray[np.float32],
        free: NDArray[np.bool_],
        prices: NDArray[np.float64],
        caps: NDArray[np.intp],
    ) -> NDArray[np.intp]:
        """Slide with a price for each traded metric, (N, M), and the maxima of these known rows as caps."""
        prices = np.where(np.arange(len(self.metrics)) == self.lead, 1.0, prices)
        column = {place: m for m, place in enumerate(self.place) if place >= 0}
        paid = np.zeros((len(self.slides.sums), len(bases)))
        capped = np.ones((len(self.slides.maxima), len(bases)))
        for s, place in enumerate(self.slides.sums):
            if place in column:
                paid[s] = prices[:, column[place]]
        for k, place in enumerate(self.slides.maxima):
            if place in column:
                m = column[place]
                # Rounded up: the cap itself must stay possible in float32.
                capped[k] = self.known.values[caps, m] / self.units[m] * (1 + 1e-6)
        found, _ = self.slides.slide(bases, gains, free, paid, capped, self.rng)
        return self._evaluated(found)

    def _loosened(self, parents: Genomes, mates: Genomes) -> tuple[Genomes, NDArray[np.bool_]]:
        count, genes = parents.shape
        taken, changed, freed = self.rng.random((3, count, genes), np.float32)
        choices = self.rng.integers(0, cardinalities(self.space), (count, genes))
        crossed = self.rng.random((count, 1)) < _CROSSED
        low, high = np.log(_FREE_SHARE)
        share = np.exp(self.rng.uniform(low, high, (count, 1)))
        draws = Draws(changed, choices, taken, crossed, freed, share)
        return loosened(self.space, self.slides.shared, parents, mates, draws)

    def _steepness(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The nearest members of each, (P, K), and how steep the front is there, (P, M).

        The steepness is what a whole unit of a metric is worth in the lead, by least squares over the
        nearest members.
        """
        scaled = self.known.values[rows] / self.units
        extent = np.ptp(scaled, axis=0)
        placed = scaled / np.where(extent > 0, extent, 1.0)
        # A member is its own neighbour too: the only one, where it stands alone.
        near = np.concatenate([np.arange(len(rows))[:, None], nearest(placed, _NEAR)], axis=1)
        around = scaled[near]
        around = around - around.mean(axis=1, keepdims=True)
        paid, bought = np.delete(around, self.lead, axis=2), -around[:, :, self.lead]
        squares = np.einsum("pki,pkj->pij", paid, paid) + 1e-12 * np.eye(paid.shape[2])
        products = np.einsum("pki,pk->pi", paid, bought)
        slopes = np.linalg.solve(squares, products[:, :, None])[:, :, 0]
        reach = max(float(extent[self.lead]), 1e-6) / np.maximum(np.delete(extent, self.lead), 1e-6)
        slopes = np.clip(slopes, reach / _STEEPEST, reach * _STEEPEST)
        return near, np.insert(slopes, self.lead, 1.0, axis=1)

    def _near(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Rows of the changes of one or two genes that seem to lie farthest beyond the front."""
        genomes, values = self.known.genomes[rows], self.known.values[rows]
        gains, (_, steepness) = self.linear.at(rows), self._steepness(rows)
        singles = [neighbours(self.space, genome) for genome in genomes]
        owners = np.repeat(np.arange(len(rows)), [len(single) for single, _, _ in singles])
        together = np.concatenate([single for single, _, _ in singles])
        guessed = self._guessed(together, genomes, values, gains, owners)
        gain = ((values[owners] - guessed) / self.units * steepness[owners]).sum(axis=1)
        shares, own = self.limits.shares(together), self.limits.shares(genomes)
        ends = np.cumsum([len(single) for single, _, _ in singles])
        found, whose = [together], [owners]
        for i, (single, genes, choices) in enumerate(singles):
            mine = slice(ends[i] - len(single), ends[i])
            used = np.concatenate([own[i : i + 1], shares[mine]])
            found.append(pairs(self.space, genomes[i], (genes, choices), gain[mine], used, _PAIRS))
            whose.append(np.full(len(found[-1]), i))
        around, owners = np.concatenate(found), np.concatenate(whose)
        fresh = self.known.unknown(around)
        fresh = fresh[self.limits.meets(around[fresh])]
        around, owners = around[fresh], owners[fresh]
        beyond = advance(self._guessed(around, genomes, values, gains, owners), values)
        count = _LOCAL_SHARE * self.population
        return self._evaluated(around[np.argsort(-beyond, kind="stable")[:count]])

    def _guessed(
        self,
        around: Genomes,
        genomes: Genomes,
        values: NDArray[np.float64],
        gains: NDArray[np.float32],
        owners: NDArray[np.intp],
    ) -> NDArray[np.float64]:
        """The metrics of genomes by their owners' linear models, (N, M); but for the top-1 they are exact."""
        places = np.arange(len(genomes))
        before = worth(self.space, genomes, gains, places)
        columns = [
            values[owners, m] + before[owners] - worth(self.space, around, gains, owners)
            if price is None
            else price.of(around)
            for m, price in enumerate(self.priced)
        ]
        return np.stack(columns, axis=1)

    def _evaluated(self, genomes: Genomes) -> NDArray[np.intp]:
        """Rows of those genomes that meet the limits."""
        return np.unique(self.known.rows_of(genomes[self.limits.meets(genomes)]))

    def _survivors(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        rows = np.unique(rows)
        return rows[select(self.known.values[rows], self.population)]

    def _improved(self, before: NDArray[np.intp], after: NDArray[np.intp]) -> bool:
        """Whether a row that came is not dominated."""
        rows = np.unique(after)
        first = rows[non_dominated(self.known.values[rows])]
        return not set(first.tolist()) <= set(before.tolist())

    def front(self, count: int) -> NDArray[np.intp]:
        """Rows of the front of everything that was seen, thinned to at most so many."""
        return _thinned(self.known.values, count)


def _thinned(values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Which of some points, (N, M), are their front, each different one once, thinned to at most so many."""
    first = np.sort(np.unique(values, axis=0, return_index=True)[1])
    rows = first[non_dominated(values[first])]
    return rows[thin(values[rows], count)]


def _told(climbs: Sequence[_Climb], everything: Known, count: int) -> Front:
    """The front of everything that was seen, at most so many members, and all that is known of them."""
    problem, metrics = climbs[0].problem, climbs[0].metrics
    rows = _thinned(everything.values, count)
    values = everything.values[rows]
    paid = [m for m, metric in enumerate(metrics) if metric != TOP1]
    rows = rows[np.lexsort(tuple(values[:, m] for m in reversed(paid)))]
    genomes = everything.genomes[rows]
    known = TOP1 in metrics
    top1 = -everything.values[rows, climbs[0].lead] if known else problem.predictor.top1(genomes)
    return Front(
        metrics,
        candidates(problem, genomes, top1),
        evaluations=len(everything),
        linearisations=sum(climb.linear.linearisations for climb in climbs),
        generations=sum(climb.steps for climb in climbs),
        seed=problem.seed,
    )


def _bounded(problem: Problem, metrics: Sequence[str]) -> Problem:
    """The problem with a limit on every traded metric, so far off where none is asked that all meet it."""
    ranges = ranges_of(problem)
    limited = {constraint.name for constraint in problem.constraints}
    further = []
    for metric in metrics:
        if metric != TOP1 and metric not in limited:
            name, _, device = metric.partition(":")
            further.append(Constraint(name, _SLACK * ranges[metric][1], device=device or None))
    return replace(problem, constraints=(*problem.constraints, *further))


def _check(problem: Problem, metrics: Sequence[str], members: int) -> None:
    named: dict[str, LatencyPricer] = {latency_of(name): pricer for name, pricer in problem.devices.items()}
    known = [TOP1, *(m for m in METRICS if m != "latency_ms" or problem.latency is not None), *named]
    if not 2 <= len(set(metrics)) == len(metrics) <= 3 or not set(metrics) <= set(known):
        raise InvalidInput(
            f"metrics of a front: got {', '.join(map(str, metrics)) or 'none'}, expected two or three "
            f"different ones of {', '.join(known)}"
            + ("" if problem.latency or "latency_ms" not in metrics else "; a latency needs a latency table")
        )
    if problem.minimise is not None:
        raise InvalidInput(
            f"front: got minimise {problem.minimise!r}, expected limits only: a front trades its metrics"
        )
    if members < 2:
        raise InvalidInput(f"members of a front: got {members}, expected 2 or more")


def _lead(metrics: Sequence[str]) -> int:
    """The metric that the others buy: the top-1, or else the first that is a sum over slots."""
    order = sorted(
        range(len(metrics)), key=lambda m: (metrics[m] != TOP1, metrics[m] == "peak_memory_bytes", m)
    )
    return order[0]


def _value(candidate: Candidate, metric: str) -> float:
    return -candidate.top1 if metric == TOP1 else candidate.metrics[metric]


def _unit(metric: str) -> tuple[str, float]:
    """The unit that a metric is told in, and how much of the metric it is."""
    name, _, device = metric.partition(":")
    unit, size = _UNITS[name]
    return (f"{unit}_on_{device}" if device else unit), size
