"""A latency table from whole networks alone: architectures and milliseconds, such as a user's own log.

No op was measured. Every op of the space is priced by its shape, and then by what the networks
that hold it, or ops like it, took more or less than that (see ``shapes`` and ``regression``). The
sum of a network's prices is its latency, what it costs to start a network included: there is no
overhead beside. Prices of single ops are as good as the log can tell them apart.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.latency_tables.files import parse_json
from bespoke.latency_tables.plausibility import SHORTEST_MS, latency_problem, short
from bespoke.latency_tables.profile import DeviceProfile
from bespoke.latency_tables.quality import Floats, quality_card
from bespoke.latency_tables.regression import (
    QUANTITY,
    PriceFit,
    crude_ms,
    fit_prices,
    shape_prior,
    shape_weights,
)
from bespoke.latency_tables.shapes import SpaceOps
from bespoke.latency_tables.table import LatencyStat, LatencyTable, checked
from bespoke.supernet.agreement import conformal_half_width
from bespoke.supernet.architecture import Architecture, SearchSpace, encode, own_fields, read_architecture
from bespoke.supernet.errors import ArchitectureInvalid, InvalidInput
from bespoke.supernet.ops import OpKey

LATENCY = "latency_ms"
FEWEST_NETWORKS = 10
"""With fewer, shapes alone say little: a reference table of another device (few-shot) says more."""
MOST_LINES = 10_000
FOLDS = 5
ELSEWHERE_PER_OCTAVE = 0.4
"""By how much prices are further off at other resolutions than the only one of a log, for each octave
between the sides: nine of ten networks were within this on two real devices and an invented one."""
UNIT = 1000.0
"""Between seconds, milliseconds and microseconds."""
UNIT_SLACK = 2.0
"""A latency that is ``UNIT`` times off what shapes say, by up to this factor, is in another unit;
one that is off by less or more is an outlier."""
CRUDE_SLACK = 6.0
"""How far the crude guess, which tells the units apart at first, may itself be off."""
FEWEST_FOR_UNITS = 5


@dataclass(frozen=True)
class NetworkSample:
    """One measured network.

    Attributes:
        architecture: Which.
        latency_ms: What it took, positive.
    """

    architecture: Architecture
    latency_ms: float


def read_samples(lines: Iterable[str], space: SearchSpace) -> list[NetworkSample]:
    """Read measured networks, one a line; empty lines are passed over.

    Args:
        lines: An architecture's JSON each, with ``latency_ms`` beside its other fields.
        space: The space of the architectures, with all their resolutions.

    Raises:
        InvalidInput: Names the line, what came and what was expected; also where a few lines are
            in another unit than the others, or there are more than ``MOST_LINES``.
    """
    numbers: list[int] = []
    samples: list[NetworkSample] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(samples) == MOST_LINES:
            raise InvalidInput(f"line {number}: more than {MOST_LINES} networks; give a random part of them")
        samples.append(_read_sample(number, line, space))
        numbers.append(number)
    if len(samples) >= FEWEST_FOR_UNITS:
        _check_units(numbers, samples, space)
    return samples


def fit_table(
    space: SearchSpace, samples: Sequence[NetworkSample], profile: DeviceProfile, seed: int = 0
) -> LatencyTable:
    """Fit a table to whole networks.

    Networks that came several times count once, with their median. Networks that fit to nothing
    else are rejected (``regression.OUTLIER_SIGMAS``), and their number is kept. The quality card is
    of ``FOLDS``-fold cross-validation: each network is predicted by a fit without its fold (the
    dozen scales of the regression are of all networks). Its ``repeat_mape`` is over networks that
    came several times, and 0 where none did: unknown. The interval is the larger of those that hold
    for networks left out at random and, where the space has resolutions that the log lacks, for
    whole resolutions left out. A log of one resolution can leave none out: its interval is wider by
    ``ELSEWHERE_PER_OCTAVE`` for each octave to the furthest side of the space.

    Args:
        space: Whose ops are priced, all of them, at all its resolutions.
        samples: At least ``FEWEST_NETWORKS`` different networks of this space.
        profile: The device that they were measured on.
        seed: Of the folds.

    Raises:
        InvalidInput: There are too few networks, a latency is not positive, or they are not in one unit.
        Unavailable: SciPy is not installed.
    """
    log = Log.of(space, samples)
    if len(log.latency_ms) < FEWEST_NETWORKS:
        raise InvalidInput(
            f"got {len(log.latency_ms)} different networks, expected at least {FEWEST_NETWORKS}: "
            "measure more, or start from another device's table (few-shot)"
        )
    ops = SpaceOps(space)
    counts = ops.counts(encode(space, log.architectures))
    fit = _fit(ops, counts, log.latency_ms)
    folds = np.random.default_rng(seed).permutation(len(counts)) % FOLDS
    predicted = _left_out(ops, counts, log, fit, folds)
    seen = log.latency_ms[fit.kept]
    interval = conformal_half_width((seen - predicted) / predicted)
    sides, known = space.dimensions[-1].choices, sorted(set(log.resolutions))
    if set(sides) > set(known) and len(known) > 1:
        elsewhere = _left_out(ops, counts, log, fit, log.resolution_folds())
        interval = max(interval, conformal_half_width((seen - elsewhere) / elsewhere))
    elif len(known) == 1:
        interval += ELSEWHERE_PER_OCTAVE * max(abs(math.log2(side / known[0])) for side in sides)
    card = quality_card(
        predicted,
        seen,
        repeat_mape=log.repeat_mape,
        samples=len(samples),
        rejected=int((~fit.kept).sum()),
        duration_s=0.0,
        drift=0.0,
    )
    return checked(
        LatencyTable(
            profile,
            price_stats(ops, fit.prices_ms, counts[fit.kept]),
            quality=card,
            interval=interval,
            source="networks",
        )
    )


def price_stats(ops: SpaceOps, prices_ms: Floats, counts: Floats) -> dict[OpKey, LatencyStat]:
    """The prices, (U,), as a table's stats; ``samples`` is the number of networks, (N, U), with the op."""
    networks = (counts > 0).sum(axis=0)
    return {
        key: LatencyStat(ms, ms, ms, count, 0)
        for key, ms, count in zip(
            ops.keys, np.maximum(prices_ms, SHORTEST_MS).tolist(), networks.tolist(), strict=True
        )
    }


@dataclass(frozen=True)
class Log:
    """Measured networks, each once.

    Attributes:
        architectures: N of them, in the order in which they came first.
        latency_ms: (N,) the median of each.
        repeat_mape: Mean distance of repeated measurements from their mean, relative to it; 0 where
            no network came twice.
    """

    architectures: tuple[Architecture, ...]
    latency_ms: Floats
    repeat_mape: float

    @staticmethod
    def of(space: SearchSpace, samples: Sequence[NetworkSample]) -> Log:
        """Bring repeated networks together.

        Raises:
            InvalidInput: A latency is absurd.
        """
        found: dict[Architecture, list[float]] = defaultdict(list)
        for number, sample in enumerate(samples, 1):
            problem = latency_problem(sample.latency_ms)
            if problem:
                raise InvalidInput(f"network {number}: {problem}")
            found[sample.architecture].append(sample.latency_ms)
        repeated = [np.array(times) for times in found.values() if len(times) > 1]
        errors = [np.abs(times - times.mean()) / times.mean() for times in repeated]
        return Log(
            tuple(found),
            np.array([float(np.median(times)) for times in found.values()]),
            float(np.mean(np.concatenate(errors))) if errors else 0.0,
        )

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sides of the input of each network, in pixels."""
        return tuple(architecture.resolution for architecture in self.architectures)

    def resolution_folds(self) -> NDArray[np.int64]:
        """Folds of whole resolutions, (N,)."""
        order = {side: i % FOLDS for i, side in enumerate(sorted(set(self.resolutions)))}
        return np.array([order[side] for side in self.resolutions], np.int64)


def _fit(ops: SpaceOps, counts: Floats, latency_ms: Floats, like: PriceFit | None = None) -> PriceFit:
    """Fit the prices; with the scales of another fit, and none rejected, where one is given."""
    prior_ms, quantity = shape_prior(ops.quantities, counts, latency_ms)
    likenesses = {QUANTITY: quantity, **ops.likenesses}
    return fit_prices(
        prior_ms,
        likenesses,
        counts,
        latency_ms,
        scales=like.scales if like else None,
        reject=like is None,
    )


def _left_out(
    ops: SpaceOps, counts: Floats, log: Log, fit: PriceFit, folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """What fits without their fold predict of the networks that were not rejected, in ms."""
    predicted = np.zeros(len(counts))
    for fold in np.unique(folds):
        out = folds == fold
        inside = fit.kept & ~out
        if not inside.any():
            inside = fit.kept
        without = _fit(ops, counts[inside], log.latency_ms[inside], like=fit)
        predicted[out] = counts[out] @ without.prices_ms
    return predicted[fit.kept]


# Lines


def _read_sample(number: int, line: str, space: SearchSpace) -> NetworkSample:
    try:
        data = parse_json(line)
    except InvalidInput as error:
        raise InvalidInput(f"line {number}: expected an architecture as JSON; {error}") from error
    if not isinstance(data, dict):
        raise InvalidInput(f"line {number}: got {short(data)}, expected an architecture as a JSON object")
    if LATENCY not in data:
        raise InvalidInput(f"line {number}: expected the field {LATENCY!r} beside the architecture's")
    try:
        architecture = read_architecture(space, own_fields(space, data))
    except ArchitectureInvalid as error:
        raise InvalidInput(f"line {number}: {error}") from error
    return NetworkSample(architecture, _milliseconds(number, data[LATENCY]))


def _milliseconds(number: int, value: Any) -> float:
    problem = latency_problem(value)
    if problem:
        raise InvalidInput(f"line {number}: {LATENCY}: {problem}")
    return float(value)


def _check_units(numbers: Sequence[int], samples: Sequence[NetworkSample], space: SearchSpace) -> None:
    """Refuse lines that are ``UNIT`` times off what the other lines say of like networks."""
    ops = SpaceOps(space)
    totals = ops.counts(encode(space, [sample.architecture for sample in samples])) @ ops.quantities
    latency_ms = np.array([sample.latency_ms for sample in samples])
    off = np.abs(np.log(latency_ms / crude_ms(totals, latency_ms))) > math.log(UNIT / CRUDE_SLACK)
    if not off.any():
        return
    expected_ms = totals @ shape_weights(totals[~off], latency_ms[~off])
    with np.errstate(divide="ignore"):
        factors = np.log(latency_ms / expected_ms)
    for wrong, how in (
        (off & (np.abs(factors + math.log(UNIT)) < math.log(UNIT_SLACK)), "smaller"),
        (off & (np.abs(factors - math.log(UNIT)) < math.log(UNIT_SLACK)), "larger"),
    ):
        lines = [number for number, bad in zip(numbers, wrong, strict=True) if bad]
        if lines:
            some = ", ".join(map(str, lines[:10])) + (", ..." if len(lines) > 10 else "")
            raise InvalidInput(
                f"line {lines[0]}: {LATENCY} is about {UNIT:g} times {how} than the other lines say of like "
                f"networks, as if in another unit ({len(lines)} such lines: {some}); give all in milliseconds"
            )
