"""Models of whole networks: fits, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from bespoke.latency_tables import NetworkModel
from bespoke.latency_tables.networks import (
    FEATURES,
    FeatureTable,
    fit_network_model,
    network_features,
    network_model_error,
)
from bespoke.supernet.architecture import decode
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import sample
from bespoke.supernet.spaces import space

SPACE = space("ofa-mobilenetv3-w1.0", (96, 128), 10)


def networks(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and a latency that is a power of two of them."""
    genomes = sample(SPACE, count, np.random.default_rng(seed))
    features = FeatureTable(SPACE).features(genomes, np.full(count, 10.0))
    return features, 3e-6 * features[:, 2] ** 0.8 * features[:, 3] ** 0.3


def test_features_of_populations_are_those_of_each_plan() -> None:
    genomes = sample(SPACE, 20, np.random.default_rng(0))
    sums_ms = np.linspace(1, 2, 20)
    each = []
    for genome, sum_ms in zip(genomes, sums_ms, strict=True):
        architecture = decode(SPACE, genome)
        each.append(network_features(SPACE.plan(architecture).ops, sum_ms, architecture.resolution))
    together = FeatureTable(SPACE).features(genomes, sums_ms)
    np.testing.assert_allclose(together, each, rtol=1e-12)
    assert together.shape == (20, len(FEATURES))


def test_a_model_tells_networks_that_it_never_saw() -> None:
    model = fit_network_model(*networks(24, 0))
    features, latency = networks(200, 1)
    assert np.abs(model.latency_ms(features) / latency - 1).mean() < 0.03


def test_a_network_has_one_latency_in_whatever_batch_it_comes() -> None:
    features, latencies = networks(60, 0)
    model = fit_network_model(features, latencies)
    asked, _ = networks(203, 1)
    together = model.latency_ms(asked)
    for size in (1, 2, 3, 33):
        parts = [model.latency_ms(asked[i : i + size]) for i in range(0, len(asked), size)]
        assert (np.concatenate(parts) == together).all()


def test_the_leave_one_out_error_foretells_the_error_on_others() -> None:
    features, latency = networks(16, 0)
    noisy = latency * np.exp(np.random.default_rng(0).normal(0, 0.1, 16))
    assert network_model_error(features, latency) < 0.05 < network_model_error(features, noisy)


def test_the_kernel_is_scikit_learns() -> None:
    features, latency = networks(12, 0)
    model = fit_network_model(features, latency)
    kernel = ConstantKernel(1.0) * RBF(model.lengths)
    anchors, weights = np.array(model.anchors), np.array(model.weights)
    others, _ = networks(30, 1)
    scaled = (np.log(others) - model.centre) / model.spread
    similar = kernel(scaled, anchors)
    expected = others[:, 0] * np.exp(model.offset + similar @ weights)
    np.testing.assert_allclose(model.latency_ms(others), expected, rtol=1e-9)


def test_equal_networks_give_their_factor() -> None:
    features = np.repeat(networks(1, 0)[0], 4, axis=0)
    model = fit_network_model(features, np.full(4, 12.0))
    np.testing.assert_allclose(model.latency_ms(features), 12.0, rtol=1e-9)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(InvalidInput, match="got 5 networks and 4 latencies"):
        fit_network_model(networks(5, 0)[0], np.ones(4))


MODEL = NetworkModel((0.0,) * 6, (1.0,) * 6, (2.0,) * 6, ((0.5,) * 6,), (0.1,), 0.2)


def test_a_model_round_trips_as_json() -> None:
    assert NetworkModel.from_json(json.loads(json.dumps(MODEL.to_json()))) == MODEL
    none = dataclasses.replace(MODEL, anchors=(), weights=())
    np.testing.assert_allclose(
        NetworkModel.from_json(none.to_json()).latency_ms(np.ones((2, 6))), np.exp(0.2)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [({"spread": [1.0] * 5 + [0.0]}, r"spread\[5\]: got 0.0, expected a positive"),
     ({"centre": [float("nan")] + [0.0] * 5}, r"centre\[0\]: got nan"),
     ({"lengths": [1.0]}, "lengths: got 1 values"),
     ({"anchors": [[0.0]]}, r"anchors\[0\]"), ({"weights": []}, "weights: got 0 values, expected 1"),
     ({"features": ["macs"]}, "features"), ({"offset": None}, "offset"), ({"anchors": {}}, "anchors"),
     ({"offset": 10**400}, "offset.*a huge number"), ({"bias": 1}, "bias")],
)  # fmt: skip
def test_a_wrong_model_names_what_is_wrong(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        NetworkModel.from_json(MODEL.to_json() | change)
