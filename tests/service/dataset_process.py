"""A worker process that knows data sets and archives alone: ``python -m tests.service.dataset_process``."""

from __future__ import annotations

import json
import sys

from bespoke.service.datasets import collect_dataset, measure_shard
from bespoke.service.engines.embedded import EmbeddedEngine
from bespoke.service.settings import Settings
from bespoke.service.workflows import grow_archive
from bespoke.service.workplace import open_workplace

if __name__ == "__main__":
    place = open_workplace(Settings(**json.loads(sys.argv[1])))
    engine = EmbeddedEngine(
        place.settings,
        place.store,
        {
            "collect-dataset": lambda run: collect_dataset(place, run),
            "measure-shard": lambda run: measure_shard(place, run),
            "grow-archive": lambda run: grow_archive(place, run),
        },
    )
    engine.start()
    print("ready", flush=True)
    sys.stdin.read()  # until the test closes it
    engine.stop()
