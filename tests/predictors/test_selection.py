import numpy as np
import pytest

from bespoke.predictors.selection import selection_error
from bespoke.supernet.errors import InvalidInput


def made(noise: float, count: int = 5000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prices, predictions and measurements; predictions err by so much, at random."""
    rng = np.random.default_rng(0)
    prices, top1 = rng.uniform(1, 2, count), 0.75 + rng.normal(0, 0.01, count)
    return prices, top1 + rng.normal(0, noise, count), top1


def test_a_predictor_that_never_errs_has_none() -> None:
    prices, _, top1 = made(0)
    assert selection_error(prices, top1, top1) == 0


def test_of_one_candidate_there_is_no_choice_and_so_no_error() -> None:
    assert selection_error(*made(0.01), candidates=1) == pytest.approx(0, abs=0.001)


def test_the_winner_of_many_is_predicted_too_high_by_what_theory_says() -> None:
    # The highest of 25 normal numbers is expected 1.965 standard deviations above their mean; a share of
    # noise variance over all variance of that height is error.
    expected = 1.965 * 0.01**2 / np.sqrt(0.01**2 + 0.01**2)
    assert selection_error(*made(0.01), candidates=25) == pytest.approx(expected, rel=0.05)


def test_candidates_are_chosen_among_those_of_about_one_price() -> None:
    # The dearest fifth is far better than all others: chosen among all, it alone would win.
    prices, predicted, top1 = made(0.01)
    more = np.where(prices > np.quantile(prices, 0.8), 0.1, 0.0)
    plain = selection_error(prices, predicted, top1, candidates=25)
    assert selection_error(prices, predicted + more, top1 + more, candidates=25) == pytest.approx(
        plain, rel=0.01
    )


def test_more_candidates_and_larger_errors_make_it_worse() -> None:
    few, many = (selection_error(*made(0.01), candidates=n) for n in (3, 100))
    assert few < many
    assert selection_error(*made(0.005), candidates=25) < selection_error(*made(0.01), candidates=25)


def test_the_same_seed_gives_the_same_number() -> None:
    assert selection_error(*made(0.01, 500), 3) == selection_error(*made(0.01, 500), 3)


def test_too_few_or_unequal_numbers_are_refused() -> None:
    prices, predicted, top1 = made(0.01, 9)
    with pytest.raises(InvalidInput, match="10 at least"):
        selection_error(prices, predicted, top1)
    with pytest.raises(InvalidInput, match="as many of each"):
        selection_error(*made(0.01, 20)[:2], top1)
