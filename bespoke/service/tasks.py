"""The heavy work, done in child processes (see ``children.py``): the only place that imports torch.

Run as a program it reads one JSON line that sets it up, then one line per task, and answers each
with ``{"result": ...}`` or ``{"error": text}``. Every task is idempotent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bespoke.latency_tables import (
    DeviceProfile,
    LatencyTable,
    ProfilingEntry,
    ProfilingPlan,
    Report,
    build_table,
    entry_onnx,
)
from bespoke.latency_tables.learning import scaled_to, with_networks
from bespoke.service.archiving import grow_archive
from bespoke.service.artifacts import Artifact
from bespoke.service.collecting import draw_round, fit_dataset, measure_shard
from bespoke.service.models import MEDIA_TYPE, metadata
from bespoke.service.orm import Campaign, StoredSubnet
from bespoke.service.revisions import to_keep
from bespoke.service.settings import Settings
from bespoke.service.workplace import Workplace, open_workplace
from bespoke.supernet.architecture import read_architecture
from bespoke.supernet.child_processes import answer, meet_parent
from bespoke.supernet.errors import BespokeError
from bespoke.supernet.zoo import ZooEntry

__all__ = ["TASKS", "main"]

MOST_IMAGES = 2000

logger = logging.getLogger(__name__)


def write_entries(place: Workplace, arguments: dict[str, Any]) -> dict[str, Any]:
    """Write the ONNX files of some entries of a campaign into the artifact store."""
    campaign = place.store.campaign(arguments["campaign_id"])
    space = place.catalogue.entry(campaign.supernet).space
    precision = DeviceProfile.from_json(place.store.device(campaign.device_id).profile).model_precision
    written = []
    for data in arguments["entries"]:
        entry = ProfilingEntry.from_json(data)
        artifact = _keep(place, entry_onnx(entry, space, precision))
        written.append({"entry_id": entry.id, "kind": entry.kind, "sha256": artifact.sha256})
    return {"entries": written}


def fit_table(place: Workplace, arguments: dict[str, Any]) -> dict[str, Any]:
    """Make a campaign's latency table of all that was reported, and serve it."""
    campaign = place.store.campaign(arguments["campaign_id"])
    table = _built(place, campaign, *_measured(place, campaign))
    space = place.catalogue.entry(campaign.supernet).space
    table.pricer(space)  # a table that cannot price the space must fail here, not in a search
    place.store.finish_campaign(campaign.id, to_keep(table))
    return {"table_revision": table.revision}


def _measured(place: Workplace, campaign: Campaign) -> tuple[ProfilingPlan, list[Report]]:
    """What was asked for in a campaign, and what came."""
    came = place.store.reports(campaign.id)
    reports = [Report(m.entry_id, m.round, m.samples_ms, m.cold_ms, m.error) for m in came]
    return ProfilingPlan.from_json(campaign.plan or {}), reports


def _built(place: Workplace, campaign: Campaign, plan: ProfilingPlan, reports: list[Report]) -> LatencyTable:
    """The table of a campaign of purpose ``table``."""
    base = place.store.table_by_id(campaign.base_table) if campaign.base_table else None
    return build_table(
        DeviceProfile.from_json(place.store.device(campaign.device_id).profile),
        plan,
        reports,
        place.catalogue.entry(campaign.supernet).space,
        base=place.catalogue.read(base) if base else None,
        duration_s=place.store.active_s(campaign.id),
    )


def materialise(place: Workplace, arguments: dict[str, Any]) -> dict[str, Any]:
    """Cut a subnet out of its supernet, and write it as ONNX into the artifact store."""
    from bespoke.supernet import subnet as weights

    row = place.store.subnet(arguments["subnet_id"])
    dynamic_batch = bool(arguments["dynamic_batch"])
    entry = _supernet_of(place, row)
    architecture = read_architecture(entry.space, row.architecture)
    model = weights.materialise(
        entry,
        architecture,
        metadata(row),
        dynamic_batch=dynamic_batch,
        precision=row.precision,
        images=_images(place, entry, architecture.resolution) if row.precision == "int8" else (),
    )
    artifact = _keep(place, model)
    place.store.add_model(row.id, dynamic_batch, artifact.sha256, artifact.size, MEDIA_TYPE)
    return {"sha256": artifact.sha256, "size": artifact.size}


def _supernet_of(place: Workplace, row: StoredSubnet) -> ZooEntry:
    """The very supernet that a subnet was found in; see ``Catalogue.unchanged``."""
    since = f"subnet {row.id!r} was found: search again"
    return place.catalogue.unchanged(row.supernet, row.supernet_digest, since)


def _images(place: Workplace, entry: ZooEntry, resolution: int) -> Sequence[Any]:
    """Images to see the ranges of INT8 activations on; none where no data set is registered."""
    from bespoke.service.verification import data_folder
    from bespoke.supernet.training.calibration_images import calibration_images

    folder = data_folder(place, entry)
    return calibration_images(folder, resolution) if folder else ()


def learn_table(place: Workplace, arguments: dict[str, Any]) -> dict[str, Any]:
    """Make a table learn of the networks of a campaign that verified, and serve it."""
    campaign = place.store.campaign(arguments["campaign_id"])
    space = place.catalogue.entry(campaign.supernet).space
    row = place.store.table_by_id(campaign.base_table or "")
    later, origin = [_measured(place, campaign)], None
    while row.campaign_id is not None:
        made = place.store.campaign(row.campaign_id)
        if made.purpose == "table":
            origin = made
            break
        later.insert(0, _measured(place, made))
        row = place.store.table_by_id(made.base_table or "")
    if origin is None:
        base = place.catalogue.read(place.store.table_by_id(campaign.base_table or ""))
        table = scaled_to(base, space, *later[-1])
    else:
        plan, reports = with_networks(*_measured(place, origin), later)
        table = _built(place, origin, plan, reports)
    table.pricer(space)
    kept = place.store.keep_learned(campaign.id, to_keep(table))
    return {"table_revision": table.revision if kept else None}


def measure_top1(place: Workplace, arguments: dict[str, Any]) -> dict[str, Any]:
    """Measure the top-1 of subnets of one supernet on its data set's validation images."""
    import numpy as np

    from bespoke.service.verification import data_folder
    from bespoke.supernet.subnet import load_supernet
    from bespoke.supernet.training.data import read_split
    from bespoke.supernet.training.evaluation import LabelledImages, subnet_top1
    from bespoke.supernet.training.sides import side_of

    rows = [place.store.subnet(subnet_id) for subnet_id in arguments["subnet_ids"]]
    entry, *_ = [_supernet_of(place, row) for row in rows]
    folder = data_folder(place, entry)
    if folder is None:
        raise BespokeError(f"the data set of supernet {entry.name!r} is gone: look at BESPOKE_DATA")
    network, statistics = load_supernet(entry)
    # Decoded once for all verifications, and mapped: a large set may not fit into the memory.
    every = read_split(folder, "val", side_of(entry), place.settings.var / "images")
    # A random part of a large set: to tell the last few apart, 2,000 images are enough.
    some = np.sort(np.random.default_rng(0).permutation(len(every))[:MOST_IMAGES])
    images = LabelledImages(every.subset(some))
    found = {
        row.id: subnet_top1(
            network,
            read_architecture(entry.space, row.architecture),
            statistics,
            images,
            place.settings.child_threads,
        )
        for row in rows
    }
    return {"top1": found, "images": len(images)}


def _keep(place: Workplace, model: bytes) -> Artifact:
    """Put a model into the artifact store; its row goes first (see ``store.artifacts``)."""
    place.store.add_artifact(hashlib.sha256(model).hexdigest(), len(model), MEDIA_TYPE)
    return place.artifacts.put(model)


def warm_up(place: Workplace, arguments: dict[str, Any]) -> dict[str, Any]:
    """Load a supernet's weights, so that the first subnet does not wait for them."""
    from bespoke.supernet import subnet as weights
    from bespoke.supernet.genomes import smallest

    entry = place.catalogue.entry(arguments["supernet"])
    weights.materialise(entry, smallest(entry.space), {})
    return {}


TASKS: Mapping[str, Callable[[Workplace, dict[str, Any]], dict[str, Any]]] = {
    "write-entries": write_entries,
    "fit-table": fit_table,
    "materialise": materialise,
    "warm-up": warm_up,
    "grow-archive": grow_archive,
    "learn-table": learn_table,
    "measure-top1": measure_top1,
    "draw-round": draw_round,
    "measure-shard": measure_shard,
    "fit-dataset": fit_dataset,
}


def main() -> None:
    """Serve one parent until it closes the pipe or ends."""
    met = meet_parent()
    if met is None:
        return
    set_up, answers = met
    place = open_workplace(Settings(**set_up["settings"]))
    for line in sys.stdin:
        request = json.loads(line)
        answer(answers, _do(place, request["task"], request["arguments"]))


def _do(place: Workplace, task: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": TASKS[task](place, arguments)}
    except BespokeError as error:
        return {"error": str(error)}
    except Exception as error:
        logger.exception("task %s failed", task)
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
