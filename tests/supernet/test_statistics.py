from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bespoke.supernet import zoo
from bespoke.supernet.architecture import read_architecture
from bespoke.supernet.errors import FileInvalid, NotFound, StatisticsMissing
from bespoke.supernet.genomes import largest, random_architecture, smallest
from bespoke.supernet.networks.chain import ChainSupernet
from bespoke.supernet.onnx import read_metadata
from bespoke.supernet.spaces import space
from bespoke.supernet.statistics import StatisticsTable, recalibrate, table_layout
from bespoke.supernet.subnet import load_supernet, materialise

TINY = space("ofa-mobilenetv3-w1.0", (32, 48), 4)


@pytest.fixture(scope="module")
def network() -> ChainSupernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ChainSupernet(TINY)


def test_rows_depend_on_the_local_choices_and_on_the_depth_of_the_stage_before() -> None:
    layout = table_layout(TINY)
    assert layout["first_conv.bn"].sizes == (2,)
    assert layout["blocks.2.expansion_bn"].sizes == (2,)
    assert layout["blocks.2.depthwise_bn"].sizes == (3, 2)
    assert layout["blocks.2.projection_bn"].sizes == (3, 3, 2)
    assert layout["blocks.5.projection_bn"].sizes == (3, 3, 3, 2)
    assert layout["final_expand_layer.bn"].sizes == (3, 2)


def test_an_entry_that_was_never_seen_is_an_error_and_not_a_guess(network: ChainSupernet) -> None:
    table = StatisticsTable(TINY)
    table.update(smallest(TINY), recalibrate(network, smallest(TINY), [torch.randn(4, 3, 32, 32)]), 0.1)
    assert table.unseen(smallest(TINY)) == 0
    with pytest.raises(StatisticsMissing, match="no entry for"):
        table.lookup(largest(TINY))


def test_first_values_average_and_later_ones_decay() -> None:
    table = StatisticsTable(TINY)
    architecture = smallest(TINY)
    for value in (1.0, 3.0):
        table.update(architecture, {"first_conv.bn": (torch.full((16,), value), torch.ones(16))}, 0.1)
    assert table.means["first_conv.bn"][0, 0].item() == pytest.approx(2.0)
    for _ in range(50):
        table.update(architecture, {"first_conv.bn": (torch.full((16,), 5.0), torch.ones(16))}, 0.5)
    assert table.means["first_conv.bn"][0, 0].item() == pytest.approx(5.0, abs=1e-3)


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
    assert table.coverage() == 1
    assert network.space == entry.space


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
