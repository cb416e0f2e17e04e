"""A fleet: several devices, each with limits of its own, served by few architectures.

An architecture serves a group of members if it meets the limits of all of them at once, each on its
own device. A group is worth the top-1 of the best such architecture, so a part of a group is never
worth less than the group: an answer for a group also answers every part of it, and no group is worth
more than the least of its parts; and whatever was found for one group may happen to serve another. By
these bounds most groups are never searched: the best partition is found as if every group were worth
its bound, its groups are searched, and so on until the best partition holds only groups whose worth
is known. For up to ``EXACT`` members partitions are found exactly, by
dynamic programming over all subsets; for more, groups are merged pair by pair, the cheapest first.

Exact means: of all partitions, given what the searches found. The searches themselves are as good as
``search`` is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bespoke.search.evaluator import limited_value
from bespoke.search.evolution import search
from bespoke.search.problem import BYTES, Candidate, Constraint, HeadStart, LatencyPricer, Problem, latency_of
from bespoke.supernet.cost import cost
from bespoke.supernet.errors import BudgetInfeasible, InvalidInput

EXACT = 8
"""Fleets of at most so many members are partitioned exactly."""


@dataclass(frozen=True)
class FleetMember:
    """One device with its limits, and who serves it.

    Attributes:
        name: Its name in the fleet.
        subnet: Index of the architecture that serves it.
        top1: Predicted, of that architecture.
        alone_top1: What an architecture of its own would have.
        latency_ms: Predicted on this device; None where it has no latency table.
        latency_interval_ms: The 90% interval of this device's table.
    """

    name: str
    subnet: int
    top1: float
    alone_top1: float
    latency_ms: float | None
    latency_interval_ms: tuple[float, float] | None


@dataclass(frozen=True)
class FleetResult:
    """The architectures that cover a fleet.

    Attributes:
        subnets: At most as many as were asked for. ``metrics`` tells ``latency_ms:NAME`` of every
            member that has a latency table, also of those that another one serves.
        members: In the fleet's order.
        mean_top1: Weighted mean over the members of what serves them.
        by_subnets: The best such mean with at most 1, 2, ... architectures, up to one for each member;
            None where so few cannot meet all limits.
        exact: Whether all partitions were weighed; else groups were merged greedily.
        searches: How many groups were searched.
        evaluations: How many predictions of the accuracy that took.
        seed: Of the searches.
    """

    subnets: tuple[Candidate, ...]
    members: tuple[FleetMember, ...]
    mean_top1: float
    by_subnets: tuple[float | None, ...]
    exact: bool
    searches: int
    evaluations: int
    seed: int

    @property
    def costs(self) -> tuple[float | None, ...]:
        """What each simplification costs: mean top-1 that is lost by 1, 2, ... architectures."""
        best = self.by_subnets[-1]
        return tuple(None if mean is None or best is None else best - mean for mean in self.by_subnets)


def fleet(
    problems: Mapping[str, Problem], subnets: int, weights: Mapping[str, float] | None = None
) -> FleetResult:
    """Find the architectures that together serve a fleet best.

    Args:
        problems: By member; of one space and predictor, each with its own pricer and limits. Seed and
            effort are those of the first. Each limits bytes in its own precision; the answer tells
            them in the first one's.
        subnets: How many architectures at most; 1 is one for all.
        weights: How much each member counts; all alike where none are given.

    Returns:
        Who is served by which architecture, and what fewer would cost.

    Raises:
        InvalidInput: The problems do not fit together, or a number is out of range.
        BudgetInfeasible: A member's limits cannot be met, or not by so few architectures; the limits
            are told as ``latency_ms:NAME``.
    """
    _check(problems, subnets, weights)
    groups = _Groups(problems, weights or {})
    everyone = groups.everyone
    for single in _singles(everyone):
        groups.solve(single)
        if single in groups.refused:
            raise groups.refused[single]
    exact = len(problems) <= EXACT
    plans = _exact(groups) if exact else _merged(groups)
    chosen = plans[min(subnets, len(problems)) - 1]
    if chosen is None:
        raise groups.conflict()
    return _told(groups, plans, chosen, exact)


class _Groups:
    """What groups of members are worth. A group is a bit mask over the members.

    Attributes:
        names: Of the members.
        weights: How much each counts; they sum to 1.
        refused: Why nothing serves a group.
        searches: How many groups were searched.
        evaluations: How many predictions that took.
        seed: Of all searches.
        precision: In which bytes are counted; other members' limits are told as ``METRIC:PRECISION``.
    """

    def __init__(self, problems: Mapping[str, Problem], weights: Mapping[str, float]) -> None:
        self.names = tuple(problems)
        self._problems = tuple(problems.values())
        raw = [float(weights.get(name, 1.0)) for name in self.names]
        self.weights = tuple(weight / math.fsum(raw) for weight in raw)
        self._labels = _labels(problems)
        self.seed = self._problems[0].seed
        self.precision = self._problems[0].precision
        self._tops: dict[int, float] = {}
        self._found: list[tuple[Candidate, int]] = []
        self.refused: dict[int, BudgetInfeasible] = {}
        self.searches, self.evaluations = 0, 0

    @property
    def everyone(self) -> int:
        """The group of all members."""
        return (1 << len(self.names)) - 1

    def weight(self, group: int) -> float:
        """How much a group counts."""
        return math.fsum(self.weights[i] for i in _members(group))

    def solved(self, group: int) -> bool:
        """Whether it is known what a group is worth: nothing, or what something known is worth."""
        bound, best = self.bound(group), self.best(group)
        return bound == -math.inf or (best is not None and best.top1 >= bound)

    def solve(self, group: int) -> None:
        """Search a group, once."""
        if self.solved(group):
            return
        self.searches += 1
        try:
            found = search(self._joint(group))
        except BudgetInfeasible as error:
            self.refused[group] = error
            return
        self.evaluations += found.evaluations
        self._found.append((found.best, self._served(found.best) | group))
        # What was found now may be the better answer to groups that were searched before.
        searched = {**dict.fromkeys(self._tops), group: None}
        self._tops = {part: best.top1 for part in searched if (best := self.best(part))}

    def best(self, group: int) -> Candidate | None:
        """The best architecture that is known to serve a group."""
        rivals = [candidate for candidate, served in self._found if served & group == group]
        return max(rivals, key=lambda candidate: candidate.top1, default=None)

    def bound(self, group: int) -> float:
        """What a group is worth at most; exactly that where it was searched."""
        if any(part & group == part for part in self.refused):
            return -math.inf
        return min((top1 for part, top1 in self._tops.items() if part & group == part), default=1.0)

    def conflict(self) -> BudgetInfeasible:
        """The refusal of the smallest group that nothing serves."""
        return self.refused[min(self.refused, key=lambda group: (group.bit_count(), group))]

    def numbers(self, member: int, candidate: Candidate) -> tuple[float | None, tuple[float, float] | None]:
        """A candidate's latency on a member's device, and its interval."""
        label = self._labels.get((member, None))
        if label is None:
            return None, None
        return candidate.metrics[latency_of(label)], candidate.latency_intervals_ms[label]

    def _served(self, candidate: Candidate) -> int:
        """The group of all members whose limits a candidate meets."""
        return sum(1 << i for i in range(len(self.names)) if self._serves(i, candidate))

    def _serves(self, member: int, candidate: Candidate) -> bool:
        problem = self._problems[member]
        for c in problem.constraints:
            value = self._value(member, c, candidate)
            if limited_value(c, value, problem.pricer(c)) > c.limit:
                return False
        return True

    def _value(self, member: int, c: Constraint, candidate: Candidate) -> float:
        """What a candidate has of that which a member's constraint limits."""
        problem = self._problems[member]
        if c.metric == "latency_ms":
            return candidate.metrics[latency_of(self._labels[member, c.device])]
        precision = c.precision or problem.precision
        if c.metric not in BYTES or precision == self.precision:
            return candidate.metrics[c.metric]
        return float(getattr(cost(problem.space.plan(candidate.architecture), precision), c.metric))

    def _joint(self, group: int) -> Problem:
        """All limits of a group at once, and the pricers of the whole fleet."""
        limits: dict[tuple[str, float | None, str | None, str | None], float] = {}
        for i in _members(group):
            for c in self._problems[i].constraints:
                label = self._labels[i, c.device] if c.metric == "latency_ms" else None
                precision = (c.precision or self._problems[i].precision) if c.metric in BYTES else None
                key = (c.metric, c.confidence, label, None if precision == self.precision else precision)
                limits[key] = min(limits.get(key, math.inf), float(c.limit))
        devices: dict[str, LatencyPricer] = {}
        for (i, device), label in self._labels.items():
            pricer = self._problems[i].latency if device is None else self._problems[i].devices[device]
            if pricer is not None:
                devices[label] = pricer
        constraints = tuple(
            Constraint(metric, limit, share, label, precision)
            for (metric, share, label, precision), limit in limits.items()
        )
        return replace(
            self._problems[0],
            constraints=constraints,
            latency=None,
            devices=devices,
            alternatives=0,
            head_start=HeadStart.together(self._problems[i].head_start for i in _members(group)),
        )


def _labels(problems: Mapping[str, Problem]) -> dict[tuple[int, str | None], str]:
    """What each pricer of each member is called: the member's name, or ``NAME/DEVICE`` of a further one."""
    found: dict[tuple[int, str | None], str] = {}
    for i, (name, problem) in enumerate(problems.items()):
        if problem.latency is not None:
            found[i, None] = name
        for device in problem.devices:
            found[i, device] = f"{name}/{device}"
    return found


def _members(group: int) -> Iterator[int]:
    return (i for i in range(group.bit_length()) if group >> i & 1)


def _singles(group: int) -> Iterator[int]:
    return (1 << i for i in _members(group))


Plan = tuple[int, ...]
"""Groups that part a fleet."""


def _worth(groups: _Groups, plan: Plan) -> float:
    # Member by member: a plan that serves none worse is then worth no less, to the last bit.
    bounds = {i: groups.bound(group) for group in plan for i in _members(group)}
    if -math.inf in bounds.values():  # nothing serves it, however little a member counts
        return -math.inf
    return math.fsum(groups.weights[i] * bounds[i] for i in bounds)


def _exact(groups: _Groups) -> list[Plan | None]:
    """The best plans of at most 1, 2, ... groups; what these are worth is known."""
    while True:
        plans = _best_plans(groups)
        unknown = [group for plan in plans if plan for group in plan if not groups.solved(group)]
        if not unknown:
            return plans
        for group in dict.fromkeys(unknown):
            groups.solve(group)


def _best_plans(groups: _Groups) -> list[Plan | None]:
    """The best plans as if every group were worth its bound; by dynamic programming over subsets."""
    whole = groups.everyone
    worth = [0.0] + [groups.weight(group) * groups.bound(group) for group in range(1, whole + 1)]
    best = [0.0] + [-math.inf] * whole
    parts: list[Plan] = [()] * (whole + 1)
    plans: list[Plan | None] = []
    for _ in groups.names:
        # With one group more: the group of the lowest member, and the rest as well as it could be before.
        wider, wider_parts = best.copy(), parts.copy()
        for group in range(1, whole + 1):
            rest = group & (group - 1)
            lowest, others = group ^ rest, rest
            while True:
                mine = lowest | others
                value = worth[mine] + best[group ^ mine]
                if value > wider[group]:
                    wider[group], wider_parts[group] = value, (mine, *parts[group ^ mine])
                if not others:
                    break
                others = (others - 1) & rest
        best, parts = wider, wider_parts
        plans.append(parts[whole] if best[whole] > -math.inf else None)
    return plans


def _merged(groups: _Groups) -> list[Plan | None]:
    """Plans of 1, 2, ... groups, by merging those two that cost least, again and again."""
    plan: Plan = tuple(_singles(groups.everyone))
    plans: list[Plan | None] = [plan]
    while len(plan) > 1:
        pair = _cheapest_pair(groups, plan)
        if pair is None:
            break
        plan = (*(group for group in plan if not group & pair), pair)
        plans.append(plan)
    return [None] * (len(groups.names) - len(plans)) + plans[::-1]


def _cheapest_pair(groups: _Groups, plan: Plan) -> int | None:
    """The union of two groups whose merging costs least; None where no two can be merged."""
    while True:
        costs = {
            a | b: _worth(groups, (a, b)) - _worth(groups, (a | b,))
            for i, a in enumerate(plan)
            for b in plan[:i]
        }
        pair = min(costs, key=lambda union: (costs[union], union))
        if costs[pair] == math.inf:
            return None
        if groups.solved(pair):
            return pair
        groups.solve(pair)


def _told(groups: _Groups, plans: Sequence[Plan | None], chosen: Plan, exact: bool) -> FleetResult:
    order = sorted(chosen, key=lambda group: group & -group)
    served = {i: s for s, group in enumerate(order) for i in _members(group)}
    subnets = tuple(candidate for group in order if (candidate := groups.best(group)))
    members = []
    for i, name in enumerate(groups.names):
        candidate = subnets[served[i]]
        numbers = groups.numbers(i, candidate)
        members.append(FleetMember(name, served[i], candidate.top1, groups.bound(1 << i), *numbers))
    means = tuple(None if plan is None else _worth(groups, plan) for plan in plans)
    seed = groups.seed
    mean = _worth(groups, chosen)
    return FleetResult(subnets, tuple(members), mean, means, exact, groups.searches, groups.evaluations, seed)


def _check(problems: Mapping[str, Problem], subnets: int, weights: Mapping[str, float] | None) -> None:
    if not problems:
        raise InvalidInput("fleet: got no members, expected one or more")
    if isinstance(subnets, bool) or not isinstance(subnets, int) or subnets < 1:
        raise InvalidInput(f"fleet: got {subnets!r} subnets, expected 1 or more")
    first = next(iter(problems.values()))
    for name, problem in problems.items():
        if not name:
            raise InvalidInput("fleet: got a member without a name")
        if problem.space != first.space or problem.predictor.revision != first.predictor.revision:
            raise InvalidInput(f"fleet member {name!r}: got another space or predictor, expected one for all")
        if problem.minimise is not None:
            raise InvalidInput(
                f"fleet member {name!r}: got minimise {problem.minimise!r}, expected limits only: a fleet is "
                "served by the highest top-1"
            )
    for name, weight in (weights or {}).items():
        if name not in problems:
            raise InvalidInput(f"fleet: got a weight of {name!r}, expected members: {', '.join(problems)}")
        if not math.isfinite(weight) or weight <= 0:
            raise InvalidInput(f"weight of fleet member {name!r}: got {weight!r}, expected a positive number")
