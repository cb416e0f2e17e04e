"""Prices of ops out of sums of ops: a prior, times one plus a Gaussian process over the ops.

    latency_n = sum_u counts_nu * prior_u * (1 + deviation_u),    deviation ~ N(0, sum_c scale_c^2 B_c B_c')

``B_c`` is a likeness (see ``shapes``): ops that share its traits deviate together, and with no
evidence a deviation is 0, so that the prior stands. Errors are relative, as noise of clocks is. The
scales are the most probable ones under a broad prior (type II maximum a posteriori).

Whoever measures whole networks sometimes measures something else instead. Networks whose error,
each predicted without itself, is beyond ``OUTLIER_SIGMAS`` are rejected, and the rest fitted again.

Source: Rasmussen and Williams, Gaussian processes for machine learning (2006), sections 2.2
(posterior), 5.4.1 (scales) and 5.4.2 (leave-one-out without fitting again).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bespoke.latency_tables.quality import Floats
from bespoke.supernet.errors import Unavailable

QUANTITY = "quantity"
"""Name of the likeness whose traits are the prior's own quantities."""
NOISE = "noise"
LEAST_SHARE = 0.05
"""No op is priced below this share of its prior: a price is positive."""
UNEXPLAINED_SHARE = 0.02
"""What a quantity is worth at least, as a share of a mean network: evidence may then raise what the
non-negative fit has set to 0, because another quantity went with it in all that was seen."""
OUTLIER_SIGMAS = 5.0
LEAST_SIGMA = 0.005
GROSS_SIGMAS, LEAST_GROSS_SIGMA = 8.0, 0.1
"""As above for the first look, when a device may still be unlike its prior."""
SIGMA_PER_MAD = 1.4826
ROUNDS = 3
HUBER_SIGMAS = 2.0
MOST_FOR_SCALES = 400
"""A dozen scales need no more networks than this; their cost grows with the cube of the number."""
LOG_SPREAD = 1.5
"""Standard deviation of the log of a scale around its expected value, a priori."""
SCALE_LIMITS = (float(np.log(1e-4)), float(np.log(3.0)))

EXPECTED_SCALES: Mapping[str, float] = {
    QUANTITY: 0.15,
    "group": 0.08,
    "group_side": 0.03,
    "kernel": 0.05,
    "kernel_side": 0.03,
    "width": 0.03,
    "group_kernel": 0.03,
    "group_width": 0.03,
    "choice_side": 0.015,
    "choice": 0.015,
    "map": 0.015,
    "op": 0.015,
    NOISE: 0.03,
}
"""Standard deviation that each likeness is expected to have on a device that nothing is known of."""


@dataclass(frozen=True)
class PriceFit:
    """Fitted prices.

    Attributes:
        prices_ms: (U,) of every op, positive.
        scales: Standard deviation of each likeness, and of the noise.
        kept: (N,) which networks were fitted on; the others were rejected as outliers.
    """

    prices_ms: Floats
    scales: Mapping[str, float]
    kept: NDArray[np.bool_]


def shape_weights(quantities: Floats, latency_ms: Floats) -> Floats:
    """Non-negative worth of each quantity in ms, shape (Q,): robust least relative squares.

    Args:
        quantities: (N, Q) of each network, or of each op.
        latency_ms: (N,) positive.

    Raises:
        Unavailable: SciPy is not installed.
    """
    _require_scipy()
    from scipy.optimize import nnls

    means = np.maximum(quantities.mean(axis=0), np.finfo(np.float64).tiny)
    shares = quantities / means
    # Errors are relative to what is predicted: relative to what came, a wrong small number would weigh most.
    crude = crude_ms(quantities, latency_ms)
    predicted, trust = crude, np.ones(len(latency_ms))
    for _ in range(2 * ROUNDS):
        scale = trust / predicted
        worth, _ = nnls(shares * scale[:, None], latency_ms * scale)
        errors = np.abs(latency_ms - shares @ worth) / predicted
        sigma = max(SIGMA_PER_MAD * float(np.median(errors)), LEAST_SIGMA)
        trust = 1 / np.sqrt(np.maximum(1, errors / (HUBER_SIGMAS * sigma)))
        predicted = np.maximum(shares @ worth, crude / 10)
    return np.asarray(worth / means)


def crude_ms(quantities: Floats, latency_ms: Floats) -> Floats:
    """Latencies in ms, (N,), if every quantity had the same part in a mean network: robust, and no more."""
    means = quantities.mean(axis=0)
    sizes = (quantities[:, means > 0] / means[means > 0]).mean(axis=1)
    return np.asarray(sizes * np.median(latency_ms / sizes))


def shape_prior(quantities: Floats, counts: Floats, latency_ms: Floats) -> tuple[Floats, Floats]:
    """A prior from shapes, and the likeness of its quantities.

    Args:
        quantities: (U, Q) of each op.
        counts: (N, U) of each network.
        latency_ms: (N,) positive.

    Returns:
        (U,) prices in ms, and (U, Q) what each quantity is worth in each op's price, relative to it.
    """
    totals = counts @ quantities
    mean = totals.mean(axis=0)
    seen = mean > 0
    least = np.zeros(quantities.shape[1])
    least[seen] = UNEXPLAINED_SHARE * float(np.median(latency_ms)) / mean[seen]
    worth = shape_weights(totals, latency_ms)
    prior = np.maximum(quantities @ worth, UNEXPLAINED_SHARE * (quantities @ least))
    return prior, quantities * np.maximum(worth, least) / prior[:, None]


def fit_prices(
    prior_ms: Floats,
    likenesses: Mapping[str, Floats],
    counts: Floats,
    latency_ms: Floats,
    *,
    scales: Mapping[str, float] | None = None,
    expected: Mapping[str, float] = EXPECTED_SCALES,
    reject: bool = True,
    least_sigma: float = LEAST_SIGMA,
) -> PriceFit:
    """Fit the price of every op.

    Args:
        prior_ms: (U,) what is expected of each op, positive.
        likenesses: By name, (U, K) traits; each name stands in ``expected``.
        counts: (N, U) how often each op stands in each network, N >= 1.
        latency_ms: (N,) positive.
        scales: Fitted ones, of an earlier fit; estimated where None.
        expected: What the scales are expected to be.
        reject: Whether outliers are.
        least_sigma: Networks are never known better than to this share, where outliers are looked for.

    Raises:
        Unavailable: SciPy is not installed.
    """
    _require_scipy()
    from scipy.sparse import csr_array

    names = [*likenesses, NOISE]
    logs = np.log([(scales or expected)[name] for name in names])
    sums = counts @ prior_ms
    target = latency_ms / sums - 1
    kept = near(sums, latency_ms) if reject else np.ones(len(latency_ms), np.bool_)
    shares = csr_array(counts * (prior_ms / sums[:, None]))
    loadings = [shares @ traits for traits in likenesses.values()]
    for _ in range(ROUNDS if reject else 0):
        if scales is None:
            logs = _most_probable(loadings, target, kept, logs, np.log([expected[name] for name in names]))
        _, errors = _posterior(loadings, target, kept, np.exp(logs))
        sigma = max(SIGMA_PER_MAD * float(np.median(np.abs(errors[kept]))), least_sigma)
        again = np.abs(errors) <= OUTLIER_SIGMAS * sigma
        if (again == kept).all():
            break
        kept = again
    if scales is None:
        logs = _most_probable(loadings, target, kept, logs, np.log([expected[name] for name in names]))
    evidence, _ = _posterior(loadings, target, kept, np.exp(logs))
    deviations = np.zeros(len(prior_ms))
    for traits, scale in zip(likenesses.values(), np.exp(logs), strict=False):
        own, evidence = evidence[: traits.shape[1]], evidence[traits.shape[1] :]
        deviations += scale * (traits @ own)
    prices = prior_ms * np.maximum(1 + deviations, LEAST_SHARE)
    if (deviations < LEAST_SHARE - 1).any():
        prices *= float(np.median(latency_ms[kept] / (counts[kept] @ prices)))
    return PriceFit(prices, dict(zip(names, np.exp(logs).tolist(), strict=True)), kept)


def _posterior(
    loadings: Sequence[Floats], target: Floats, kept: NDArray[np.bool_], scales: Floats
) -> tuple[Floats, Floats]:
    """Mean of each trait's standardised weight, (K,), and the error of each network, (N,).

    The error of a network that was fitted on is the one that it has when it is left out. Solved
    over networks or over traits, whichever are fewer.
    """
    features = np.concatenate([s * loading for s, loading in zip(scales, loadings, strict=False)], axis=1)
    inside, noise = features[kept], float(scales[-1]) ** 2
    count, size = inside.shape
    if count <= size:
        inverse = np.linalg.inv(inside @ inside.T + noise * np.eye(count))
        dual = inverse @ target[kept]
        weights, left_out = inside.T @ dual, dual / np.diag(inverse)
    else:
        inverse = np.linalg.inv(inside.T @ inside + noise * np.eye(size))
        weights = inverse @ (inside.T @ target[kept])
        leverage = np.einsum("nk,nk->n", inside @ inverse, inside)
        left_out = (target[kept] - inside @ weights) / np.maximum(1 - leverage, np.finfo(np.float64).eps)
    errors = target - features @ weights
    errors[kept] = left_out
    return weights, errors


def _most_probable(
    loadings: Sequence[Floats], target: Floats, kept: NDArray[np.bool_], start: Floats, expected: Floats
) -> Floats:
    """Logs of the most probable scales, noise last; see 5.4.1 of the source."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    some = np.flatnonzero(kept)
    some = some[np.linspace(0, len(some) - 1, min(len(some), MOST_FOR_SCALES)).astype(np.int64)]
    seen, identity = target[some], np.eye(len(some))
    kernels = [loading[some] @ loading[some].T for loading in loadings] + [identity]

    def loss(logs: Floats) -> tuple[float, Floats]:
        squares = np.exp(2 * logs)
        kernel = sum(square * part for square, part in zip(squares, kernels, strict=True))
        factor = cho_factor(kernel, lower=True)
        inverse = cho_solve(factor, identity)
        dual = inverse @ seen
        surprise = seen @ dual / 2 + np.log(np.diag(factor[0])).sum()
        slopes = inverse - np.outer(dual, dual)
        towards = np.array([np.vdot(slopes, part) for part in kernels]) * squares
        away = (logs - expected) / LOG_SPREAD
        return float(surprise + away @ away / 2), towards + away / LOG_SPREAD

    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[SCALE_LIMITS] * len(start), options={"maxiter": 30}
    )
    return np.asarray(found.x, np.float64)


def near(sums_ms: Floats, latency_ms: Floats) -> NDArray[np.bool_]:
    """Which networks are not grossly off their prior, (N,): a start, before anything is fitted."""
    ratios = latency_ms / sums_ms
    offs = np.abs(ratios - np.median(ratios))
    sigma = max(SIGMA_PER_MAD * float(np.median(offs)), LEAST_GROSS_SIGMA * float(np.median(ratios)))
    return np.asarray(offs <= GROSS_SIGMAS * sigma)


def log_evidence(
    prior_ms: Floats,
    likenesses: Mapping[str, Floats],
    counts: Floats,
    latency_ms: Floats,
    scales: Mapping[str, float],
) -> float:
    """How probable the networks are under these scales: log density, but for a constant (2.30)."""
    features, target = (
        relative_features(prior_ms, likenesses, counts, scales),
        latency_ms / (counts @ prior_ms) - 1,
    )
    kernel = features @ features.T + scales[NOISE] ** 2 * np.eye(len(target))
    return float(-(target @ np.linalg.solve(kernel, target) + np.linalg.slogdet(kernel)[1]) / 2)


def relative_features(
    prior_ms: Floats, likenesses: Mapping[str, Floats], counts: Floats, scales: Mapping[str, float]
) -> Floats:
    """Features of networks, (N, K), whose products are the covariances of their relative deviations."""
    shares = counts * (prior_ms / (counts @ prior_ms)[:, None])
    return np.concatenate([scales[name] * (shares @ traits) for name, traits in likenesses.items()], axis=1)


def _require_scipy() -> None:
    try:
        import scipy  # noqa: F401
    except ImportError as error:
        raise Unavailable("fitting a table takes SciPy: pip install 'bespoke-search[tables]'") from error
