"""What every test may use: small supernets with random weights, and the published OFA files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bespoke.predictors.accuracy import Layer, MlpPredictor, default_encoding
from bespoke.supernet.architecture import SearchSpace

REPOSITORY = Path(__file__).parents[1]

# Archives are built in the background: only where a test is about them, so that all others answer alike
# however long they take.
os.environ.setdefault("BESPOKE_ARCHIVES", "false")


@pytest.fixture(scope="session")
def official() -> Path:
    """The folder of published OFA artefacts; the test is skipped where there is none."""
    folder = Path(os.environ.get("BESPOKE_OFFICIAL", REPOSITORY.parent / "shared" / "official"))
    if not (folder / "reference_values.json").is_file():
        pytest.skip(f"no published OFA files in {folder}; set BESPOKE_OFFICIAL to their folder")
    return folder


def random_predictor(space: SearchSpace, seed: int = 0) -> MlpPredictor:
    """A small predictor with random weights: every architecture has another top-1, about 0.5 to 0.9."""
    encoding = default_encoding(space)
    _, features = encoding.features(space)
    rng = np.random.default_rng(seed)
    first = Layer(rng.normal(0, 0.3, (features, 16)).astype(np.float32), np.zeros(16, np.float32))
    last = Layer(rng.normal(0, 0.01, (16, 1)).astype(np.float32), np.full(1, 0.7, np.float32))
    return MlpPredictor(space, encoding, ((first, last),), half_width=0.02)


@pytest.fixture(scope="session")
def random_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with one supernet, ``tiny``: two small resolutions, four classes, random weights."""
    import torch

    from bespoke.supernet.checkpoints import save_statistics, save_weights
    from bespoke.supernet.networks.chain import ChainSupernet
    from bespoke.supernet.spaces import space
    from bespoke.supernet.statistics import StatisticsTable, table_layout

    root = tmp_path_factory.mktemp("zoo")
    folder = root / "tiny"
    folder.mkdir()
    tiny = space("ofa-mobilenetv3-w1.0", (32, 48), 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ChainSupernet(tiny)
        layout = table_layout(tiny).items()
        means = {site: torch.randn(at.rows, at.channels) * 0.05 for site, at in layout}
        log_variances = {site: torch.randn(at.rows, at.channels) * 0.05 for site, at in layout}
    table = StatisticsTable(tiny, means, log_variances)
    save_weights(network, folder / "weights.safetensors")
    save_statistics(table, folder / "statistics.safetensors")
    random_predictor(tiny).save(folder / "predictor.json")
    (folder / "space.json").write_text(json.dumps(tiny.to_json()))
    (folder / "card.json").write_text(json.dumps({"summary": "random weights, for tests"}))
    return root
