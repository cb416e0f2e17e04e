from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bespoke.supernet import zoo
from bespoke.supernet.architecture import Architecture, encode, read_architecture
from bespoke.supernet.errors import FileInvalid, NotFound, StatisticsMissing
from bespoke.supernet.genomes import random_architecture, smallest
from bespoke.supernet.networks.chain import ChainSupernet, norm_sites
from bespoke.supernet.onnx import read_metadata
from bespoke.supernet.spaces import space
from bespoke.supernet.statistics import (
    Statistics,
    fit_table,
    indicators,
    recalibrate,
    table_layout,
)
from bespoke.supernet.subnet import load_supernet, materialise

TINY = space("ofa-mobilenetv3-w1.0", (32, 48), 4)


@pytest.fixture(scope="module")
def network() -> ChainSupernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ChainSupernet(TINY)


def random_samples(count: int, network: ChainSupernet) -> list[tuple[Architecture, Statistics]]:
    """Recorded statistics of random architectures, on noise."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    samples = []
    for _ in range(count):
        architecture = random_architecture(TINY, rng)
        side = architecture.resolution
        images = torch.randn(4, 3, side, side, generator=generator)
        samples.append((architecture, recalibrate(network, architecture, [images])))
    return samples


def additive_samples(
    architectures: list[Architecture], noise: float
) -> list[tuple[Architecture, Statistics]]:
    """Made-up statistics: additive in the choices before a layer, up to noise."""
    rng = np.random.default_rng(7)
    made = indicators(TINY, encode(TINY, architectures))
    samples: list[tuple[Architecture, Statistics]] = [(a, {}) for a in architectures]
    for site, layout in table_layout(TINY).items():
        effects = np.random.default_rng(len(site)).normal(0, 0.3, (len(layout.choices), layout.channels))
        values = made[:, list(layout.choices)] @ effects
        values = torch.from_numpy(values + rng.normal(0, noise, values.shape))
        for (architecture, statistics), value in zip(samples, values, strict=True):
            widths = dict(w for op in TINY.plan(architecture).ops for w in norm_sites(op))
            if site in widths:
                statistics[site] = (value[: widths[site]], value[: widths[site]].exp())
    return samples


def test_a_layer_depends_on_the_choices_before_it_and_on_its_own_but_not_on_later_ones() -> None:
    layout = table_layout(TINY)
    resolutions, block = 2, 3 + 3
    assert layout["first_conv.bn"].rows == 1 + resolutions
    assert layout["blocks.1.expansion_bn"].rows == 1 + resolutions
    assert layout["blocks.1.depthwise_bn"].rows == 1 + resolutions + 3
    assert layout["blocks.1.projection_bn"].rows == 1 + resolutions + block
    assert layout["blocks.3.expansion_bn"].rows == 1 + resolutions + 2 * block
    first_of_second_stage = layout["blocks.5.expansion_bn"].rows
    assert first_of_second_stage == 1 + resolutions + 4 * block + 3
    assert layout["final_expand_layer.bn"].rows == 1 + resolutions + 20 * block + 5 * 3


def test_a_table_averages_noise_away_for_architectures_it_never_saw() -> None:
    rng, noise = np.random.default_rng(1), 0.5
    seen, unseen = ([random_architecture(TINY, rng) for _ in range(count)] for count in (300, 3))
    table = fit_table(TINY, additive_samples(seen, noise))
    errors = [
        (found[part].log() - own[part].log() if part else found[part] - own[part]).abs().mean()
        for architecture, statistics in additive_samples(unseen, noise=0)
        for site, found in table.lookup(architecture).items()
        for own in [statistics[site]]
        for part in (0, 1)
    ]
    assert float(np.mean(errors)) < noise / 2


def test_architectures_that_do_not_cover_every_choice_are_an_error_and_not_a_guess(
    network: ChainSupernet,
) -> None:
    with pytest.raises(StatisticsMissing, match="3 architectures do not cover the choices before"):
        fit_table(TINY, random_samples(3, network))


def test_recalibration_without_images_is_an_error(network: ChainSupernet) -> None:
    with pytest.raises(StatisticsMissing, match="no images"):
        recalibrate(network, smallest(TINY), [])


def test_a_zoo_entry_round_trips_and_gives_the_same_bytes_twice(random_zoo: Path) -> None:
    entry = zoo.entry("tiny", random_zoo)
    network, table = load_supernet(entry)
    rng = np.random.default_rng(0)
    architecture = random_architecture(entry.space, rng)
    first = materialise(entry, architecture, {"who": "test"})
    assert first == materialise(entry, architecture, {"who": "test"})
    assert read_metadata(first)["who"] == "test"
    assert table.space == network.space == entry.space


def test_a_missing_or_foreign_file_is_named(random_zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="tiny"):
        zoo.entry("no-such-net", random_zoo)
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("space.json", "statistics.safetensors"):
        (folder / name).write_bytes((random_zoo / "tiny" / name).read_bytes())
    with pytest.raises(FileInvalid, match=r"weights\.safetensors"):
        zoo.entry("broken", tmp_path)
    (folder / "weights.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(FileInvalid, match="no readable safetensors"):
        load_supernet(zoo.entry("broken", tmp_path))


def test_weights_of_another_space_are_refused_by_name_and_shape(random_zoo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for name in ("weights.safetensors", "statistics.safetensors"):
        (folder / name).write_bytes((random_zoo / "tiny" / name).read_bytes())
    text = (random_zoo / "tiny" / "space.json").read_text().replace('"classes": 4', '"classes": 5')
    (folder / "space.json").write_text(text)
    with pytest.raises(FileInvalid, match=r"classifier\.linear\.bias"):
        load_supernet(zoo.entry("other", tmp_path))


def test_skipped_blocks_do_not_change_the_model(random_zoo: Path) -> None:
    entry = zoo.entry("tiny", random_zoo)
    base = {"kernel": [3] * 20, "expand": [3] * 20, "depth": [2] * 5, "resolution": 32}
    changed = base | {"kernel": [3, 3, 7, 5] * 5, "expand": [3, 3, 6, 4] * 5}
    first, second = (read_architecture(entry.space, json) for json in (base, changed))
    assert materialise(entry, first) == materialise(entry, second)
