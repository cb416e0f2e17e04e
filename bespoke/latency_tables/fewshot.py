"""A provisional latency table of a new device, from a few of its networks and other devices' tables.

The reference tables' mean, brought to the new device's level, is the prior of every op. What the
few networks took more or less than that is told apart by the regression that also fits tables to
logs (see ``regression``), with likenesses that say in what ways devices differ: in their level, in
being like one reference rather than another, in what MACs, activations or calls are worth, and by
place, kernel and size of the map. How unlike the references a device may be is itself chosen by what
the networks say (``UNLIKENESS``). With no network at all the references' mean stands, of which only
the ranking can be trusted.

Source of the choice of networks: Krause, Singh and Guestrin, Near-optimal sensor placements in
Gaussian processes (JMLR 2008), with the mean posterior variance as the criterion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bespoke.latency_tables.fitting import Log, NetworkSample, price_stats
from bespoke.latency_tables.profile import DeviceProfile
from bespoke.latency_tables.quality import Floats, quality_card
from bespoke.latency_tables.regression import (
    EXPECTED_SCALES,
    NOISE,
    QUANTITY,
    PriceFit,
    fit_prices,
    log_evidence,
    near,
    relative_features,
    shape_prior,
)
from bespoke.latency_tables.shapes import OpArrays, SpaceOps
from bespoke.latency_tables.table import LatencyTable, checked
from bespoke.supernet.agreement import conformal_half_width
from bespoke.supernet.architecture import Architecture, SearchSpace, decode, encode
from bespoke.supernet.errors import InvalidInput, TableIncomplete
from bespoke.supernet.genomes import sample, stratified
from bespoke.supernet.ops import parse_key

UNKNOWN_LEVEL = 9.0
"""Relative half width of the interval while nothing was measured: devices differ by up to ten times."""
FEWEST_KNOWN = 20
"""A reference needs so many ops for those that it lacks to be priced by shape."""
CANDIDATES = 400
"""Random networks that are chosen from, and the like of which are to be predicted well."""
SIGMAS_90 = 1.645
"""Half width of the 90% interval of a normal distribution, in standard deviations."""
FEWEST_FOR_SCALES = 30
"""With fewer networks the expected scales stand: so few say little of a dozen variances."""
LEAST_SIGMA = 0.04
"""A few networks do not tell an outlier from a device that is unlike its references, unless it is gross."""
MOST_LEFT_OUT = 20

REFERENCE, LEVEL, MIX = "reference", "level", "mix"
DEVICE_SCALES: Mapping[str, float] = {
    LEVEL: 0.3,
    REFERENCE: 0.3,
    MIX: 0.1,
    QUANTITY: 0.3,
    "group": 0.08,
    "group_side": 0.04,
    "kernel": 0.1,
    "kernel_side": 0.04,
    "width": 0.05,
    "group_kernel": 0.03,
    "group_width": 0.03,
    "choice_side": 0.01,
    "choice": 0.01,
    "map": 0.03,
    "op": 0.01,
    NOISE: 0.03,
}
"""How far devices are expected to differ in each way, as a standard deviation of an op's price."""
UNLIKENESS = (0.01, 0.1, 0.3)
"""Scales of ``MIX``, what a whole network of nothing but one quantity would cost: from a device on
which quantities have about the references' worths to one on which they have wholly other ones."""


def few_shot_table(
    space: SearchSpace,
    references: Sequence[LatencyTable],
    samples: Sequence[NetworkSample],
    profile: DeviceProfile,
) -> LatencyTable:
    """Make a provisional table of a new device.

    Args:
        space: Whose ops are priced, all of them; those that a reference lacks are priced by shape.
        references: Tables of other devices, at least one.
        samples: Measured networks of the new device, about ten; none will do.
        profile: The new device.

    Returns:
        A table with ``source="few-shot"``. Its quality card is leave-one-out: each network is
        predicted by a fit without it; with fewer than two networks there is none. The interval is
        the leave-one-out one, or what the regression itself expects where that is more.

    Raises:
        InvalidInput: There is no reference, a latency is not positive, or they are not in one unit.
        TableIncomplete: A reference has hardly an op that could be read.
        Unavailable: SciPy is not installed.
    """
    ops = SpaceOps(space)
    expected = _Expectation.of(ops, references)
    log = Log.of(space, samples)
    counts = ops.counts(encode(space, log.architectures))
    if not samples:
        stats = price_stats(ops, expected.prior_ms, counts)
        return LatencyTable(profile, stats, interval=UNKNOWN_LEVEL, source="few-shot", provisional=True)
    fit = expected.fit(counts, log.latency_ms)
    predicted = _left_out(expected, counts, log.latency_ms, fit)
    seen = log.latency_ms[fit.kept]
    card = None
    interval = SIGMAS_90 * _expected_error(expected, counts[fit.kept], fit)
    if len(predicted):
        card = quality_card(
            predicted,
            seen,
            repeat_mape=log.repeat_mape,
            samples=len(samples),
            rejected=int((~fit.kept).sum()),
            duration_s=0.0,
            drift=0.0,
        )
        interval = max(interval, conformal_half_width((seen - predicted) / predicted))
    return checked(
        LatencyTable(
            profile,
            price_stats(ops, fit.prices_ms, counts[fit.kept]),
            quality=card,
            interval=interval,
            source="few-shot",
            provisional=True,
        )
    )


def choose_networks(
    space: SearchSpace, references: Sequence[LatencyTable], count: int = 10, seed: int = 0
) -> list[Architecture]:
    """Choose the networks of a new device whose measurement tells most about all the others.

    One after another, the candidate is taken after whose measurement the mean variance of random
    networks is least; half of the candidates are random, half spread over all sizes.

    Args:
        space: Whose networks are wanted.
        references: Tables of other devices, at least one.
        count: How many.
        seed: Of the candidates.

    Returns:
        Different architectures, the most telling first.

    Raises:
        InvalidInput: There is no reference, or the count is not from 1 to ``CANDIDATES``.
        TableIncomplete: A reference has hardly an op that could be read.
        Unavailable: SciPy is not installed.
    """
    if not 1 <= count <= CANDIDATES:
        raise InvalidInput(f"count: got {count!r}, expected 1 to {CANDIDATES} networks")
    ops = SpaceOps(space)
    expected = _Expectation.of(ops, references)
    drawn = sample(space, CANDIDATES, np.random.default_rng(seed))
    random = [decode(space, genome) for genome in drawn]
    candidates = list(dict.fromkeys([*random, *stratified(space, CANDIDATES, seed)]))
    features = expected.features(ops.counts(encode(space, candidates)), DEVICE_SCALES)
    targets = len(set(random))
    covariance = features @ features.T
    noise = DEVICE_SCALES[NOISE] ** 2
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        gains = (covariance[:targets] ** 2).sum(axis=0) / (np.diag(covariance) + noise)
        gains[chosen] = -np.inf
        best = int(gains.argmax())
        chosen.append(best)
        told = covariance[:, best]
        covariance = covariance - np.outer(told, told) / (told[best] + noise)
    return [candidates[i] for i in chosen]


@dataclass(frozen=True, eq=False)
class _Expectation:
    """What references let expect of a new device.

    Attributes:
        ops: Of the space.
        prior_ms: (U,) geometric mean of the references' prices.
        likenesses: (U, K) each: in what ways the device may differ.
    """

    ops: SpaceOps
    prior_ms: Floats
    likenesses: Mapping[str, Floats]

    @staticmethod
    def of(ops: SpaceOps, references: Sequence[LatencyTable]) -> _Expectation:
        """Bring references together."""
        if not references:
            raise InvalidInput("got no reference table, expected at least one of another device")
        typical = ops.counts(sample(ops.space, CANDIDATES, np.random.default_rng(0)))
        known = np.stack([_prices(ops, reference, typical) for reference in references])
        prior = np.exp(np.log(known).mean(axis=0))
        level = float(np.median(typical @ prior))
        levels = np.median(typical @ known.T, axis=0)
        worth_more = (known / levels[:, None] * level / prior - 1).T
        totals = (typical @ ops.quantities).mean(axis=0)
        there = totals > 0
        alone = ops.quantities[:, there] * (level / totals[there]) / prior[:, None] - 1
        _, quantity = shape_prior(ops.quantities, np.eye(len(prior)), prior)
        likenesses = {LEVEL: np.ones((len(prior), 1)), MIX: alone, QUANTITY: quantity, **ops.likenesses}
        if len(known) > 1:
            likenesses[REFERENCE] = worth_more
        return _Expectation(ops, prior, likenesses)

    def fit(self, counts: Floats, latency_ms: Floats, like: PriceFit | None = None) -> PriceFit:
        """Fit prices to networks; with the scales of another fit, and none rejected, where one is given."""
        prior = self.prior_ms * float(np.median(latency_ms / (counts @ self.prior_ms)))
        if like:
            return fit_prices(prior, self.likenesses, counts, latency_ms, scales=like.scales, reject=False)
        some = near(counts @ prior, latency_ms)
        choices = [{**DEVICE_SCALES, MIX: unlikeness} for unlikeness in UNLIKENESS]
        scales = max(
            choices, key=lambda s: log_evidence(prior, self.likenesses, counts[some], latency_ms[some], s)
        )
        return fit_prices(
            prior,
            self.likenesses,
            counts,
            latency_ms,
            scales=scales if len(latency_ms) < FEWEST_FOR_SCALES else None,
            expected=scales,
            least_sigma=LEAST_SIGMA,
        )

    def features(self, counts: Floats, scales: Mapping[str, float]) -> Floats:
        """See ``regression.relative_features``."""
        return relative_features(self.prior_ms, self.likenesses, counts, scales)


def _prices(ops: SpaceOps, reference: LatencyTable, typical: Floats) -> Floats:
    """A reference's price of each op in ms, (U,), positive; by shape where it lacks one.

    What a network costs beside its ops is shared out over them, so that random networks have the
    latency that the reference gives them.
    """
    others = [parse_key(key) for key in sorted(set(reference.stats) - set(ops.keys))]
    everything = OpArrays([*ops.ops, *others])
    prices = np.array(
        [reference.op_ms(op) if op.key in reference.stats else 0.0 for op in everything.ops], np.float64
    )
    known = prices > 0
    if known.sum() < FEWEST_KNOWN:
        raise TableIncomplete([key for key in ops.keys if key not in reference.stats], reference.label)
    if not known[: len(ops.ops)].all():
        single = np.eye(len(prices))[known]
        prior, quantity = shape_prior(everything.quantities, single, prices[known])
        likenesses = {QUANTITY: quantity, **everything.likenesses}
        shaped = fit_prices(prior, likenesses, single, prices[known], expected=EXPECTED_SCALES, reject=False)
        prices = np.where(known, prices, shaped.prices_ms)
    found = prices[: len(ops.ops)]
    sums = typical @ found
    return np.asarray(
        found * np.median(np.maximum(sums + reference.correction.overhead_ms, sums / 10) / sums)
    )


def _left_out(expected: _Expectation, counts: Floats, latency_ms: Floats, fit: PriceFit) -> Floats:
    """What fits without it (or without its fold) predict of each network that was kept; none of one."""
    kept = np.flatnonzero(fit.kept)
    if len(kept) < 2:
        return np.zeros(0)
    predicted = np.zeros(len(counts))
    for out in np.array_split(np.random.default_rng(0).permutation(kept), min(len(kept), MOST_LEFT_OUT)):
        inside = np.setdiff1d(kept, out)
        predicted[out] = counts[out] @ expected.fit(counts[inside], latency_ms[inside], like=fit).prices_ms
    return predicted[kept]


def _expected_error(expected: _Expectation, counts: Floats, fit: PriceFit) -> float:
    """Standard deviation that the regression expects of a random network's relative error."""
    ops = expected.ops
    drawn = ops.counts(sample(ops.space, CANDIDATES, np.random.default_rng(1)))
    features = expected.features(np.concatenate([counts, drawn]), fit.scales)
    seen, unseen = features[: len(counts)], features[len(counts) :]
    noise = fit.scales[NOISE] ** 2
    told = np.linalg.solve(seen @ seen.T + noise * np.eye(len(seen)), seen @ unseen.T)
    variances = (unseen**2).sum(axis=1) - ((seen @ unseen.T) * told).sum(axis=0)
    return float(np.sqrt(np.median(np.maximum(variances, 0)) + noise))
