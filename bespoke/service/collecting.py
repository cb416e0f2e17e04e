"""The heavy work of a data set, done in child processes (see ``tasks.py``)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

from bespoke.predictors.dataset import drawn, set_aside
from bespoke.service.datasets import images_folder, measured_so_far, supernet_of
from bespoke.service.orm import DatasetSubnet
from bespoke.service.workplace import Workplace
from bespoke.supernet.architecture import read_architecture
from bespoke.supernet.errors import BespokeError, TaskFailed
from bespoke.supernet.zoo import ZooEntry

__all__ = ["draw_round", "fit_dataset", "measure_shard"]

NICENESS = 10
"""A shard takes hours: whoever waits for a model or an archive comes first."""

PAUSE_S = 1.0
"""How often a shard that gives way looks whether it may go on."""

BETWEEN_LEASES_S = 3.0
"""Time in which an agent that has handed in a lease takes the next one, if there is one."""

logger = logging.getLogger(__name__)


def draw_round(place: Workplace, arguments: dict[str, Any]) -> dict[str, Any]:
    """Choose the subnets of a round: by the seed first, then by what was measured (``active.py``)."""
    dataset, number = place.store.dataset(arguments["dataset_id"]), arguments["round"]
    request, space = dataset.request, supernet_of(place, dataset).space
    active = request["active"] or {"subnets": 0, "rounds": 0}
    first = request["subnets"] - active["subnets"]
    if number == 0:
        chosen = drawn(space, first, request["seed"])
    else:
        from bespoke.predictors.active import choose_round, round_sizes

        known = measured_so_far(place, dataset)
        size = round_sizes(active["subnets"], active["rounds"])[number - 1]
        aside = set_aside(first)
        seen, top1 = known.architectures[aside:], known.targets()[aside:]
        taken = frozenset(known.architectures)
        chosen = choose_round(space, seen, top1, size, [request["seed"], number], taken)
    told = [architecture.to_json() for architecture in chosen]
    place.store.add_round(dataset.id, number, request["shards"], told)
    return {"subnets": len(told)}


def measure_shard(place: Workplace, arguments: dict[str, Any]) -> dict[str, Any]:
    """Measure what is left of a shard, and keep each subnet as soon as it is measured.

    What another data set measured of them in the same way is taken from it. While a device is being
    measured nothing is begun: it may be this very machine.
    """
    from bespoke.predictors.card import top1_measure
    from bespoke.predictors.held_out import read_held_out
    from bespoke.supernet.training.evaluation import LabelledImages

    os.nice(NICENESS)
    dataset = place.store.dataset(arguments["dataset_id"])
    entry, request = supernet_of(place, dataset), dataset.request
    every = place.store.dataset_subnets(dataset.id)
    own = [row for row in every if (row.round, row.shard) == (arguments["round"], arguments["shard"])]
    left = [row for row in own if row.measured_at is None]
    if not left:
        return {"measured": 0}
    folder = images_folder(place, entry)
    if folder is None:
        raise BespokeError(f"the training images of supernet {entry.name!r} are gone: look at BESPOKE_DATA")
    _give_way(place)
    side, cache = int(entry.card.get("side", request["side"])), place.settings.var / "images"
    held_out = read_held_out(entry, folder, side, cache, request["seed"])
    images = LabelledImages(held_out, views=request["views"])
    elsewhere = {row.images for row in every if row.images} - {len(images)}
    if elsewhere:
        raise TaskFailed(
            "measure-shard",
            f"subnets of this data set were measured on {min(elsewhere)} images, and here are {len(images)}: "
            "all workers need the same image folder",
        )
    unknown = _take_over(place, entry, left, len(images))
    if not unknown:
        return {"measured": 0}
    measure = top1_measure(entry, images, threads=place.settings.child_threads)
    for row in unknown:
        _give_way(place)
        found = measure(read_architecture(entry.space, row.architecture))
        place.store.keep_measured(dataset.id, row.position, found.top1, found.smooth, len(images))
    return {"measured": len(unknown)}


def _take_over(
    place: Workplace, entry: ZooEntry, left: Sequence[DatasetSubnet], images: int
) -> list[DatasetSubnet]:
    """Keep of some subnets what other data sets measured in the same way; the others are returned."""
    alike = place.store.measured_alike(left[0].dataset_id, images)
    known = {read_architecture(entry.space, one.architecture): one for one in alike}
    unknown = []
    for row in left:
        same = known.get(read_architecture(entry.space, row.architecture))
        if same is None or same.top1 is None:
            unknown.append(row)
        else:
            place.store.keep_measured(row.dataset_id, row.position, same.top1, same.smooth, images)
    return unknown


def _give_way(place: Workplace) -> None:
    """Wait while a device is being measured, also between one lease and the next."""
    while place.store.measuring(BETWEEN_LEASES_S):
        time.sleep(PAUSE_S)


def fit_dataset(place: Workplace, arguments: dict[str, Any]) -> dict[str, Any]:
    """Fit the supernet's predictor on a data set and put it into the zoo, whence it is served."""
    from bespoke.predictors.card import fit_predictor, write_fit

    dataset = place.store.dataset(arguments["dataset_id"])
    entry, measured = supernet_of(place, dataset), measured_so_far(place, dataset)
    fields = fit_predictor(entry, measured, seed=dataset.request["seed"], report=logger.info)
    write_fit(entry, fields)
    result = {"predictor_revision": place.catalogue.predictor(entry.name).revision, **fields}
    place.store.finish_dataset(dataset.id, result)
    return result
