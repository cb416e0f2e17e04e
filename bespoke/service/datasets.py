"""Data sets: subnets measured on held-out training images, for the accuracy predictor to be fitted on.

A data set is a job that draws, waits and fits; what it waits for are its *shards*, jobs of their own
that any worker takes. A shard measures one subnet after another and keeps each in the store, so that
whoever goes on with it, after whatever crash, goes on behind the last one.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from bespoke.predictors import AccuracyDataset
from bespoke.predictors.dataset import images_key, subnets_seed
from bespoke.service.archiving import build_missing
from bespoke.service.children import Child, Stopped
from bespoke.service.engines.protocol import JobEngine, Json, Run
from bespoke.service.orm import Dataset
from bespoke.service.verification import data_folder
from bespoke.service.workplace import Workplace
from bespoke.supernet.architecture import read_architecture
from bespoke.supernet.errors import Conflict, NotFound, TaskFailed
from bespoke.supernet.training.sides import side_of
from bespoke.supernet.zoo import ZooEntry

__all__ = [
    "cancel",
    "collect_dataset",
    "images_folder",
    "measure_shard",
    "measured_so_far",
    "named",
    "start",
    "supernet_of",
]

POLL_S = 0.5
TRAINING, VALIDATION = ("train", "."), ("val", "valid", "validation")


def start(place: Workplace, engine: JobEngine, supernet: str, request: Json) -> Dataset:
    """Have a data set measured, or what is missing of one that measures the same.

    Args:
        place: The workplace.
        engine: Runs the job.
        supernet: The supernet.
        request: ``schemas.DatasetRequest`` as JSON. What it leaves open is as in the supernet's training.

    Raises:
        NotFound: There is no such supernet.
        StatisticsMissing: Its subnets cannot be cut out, and so not be measured.
        Conflict: No training images with the supernet's classes are registered; or a predictor is to be
            fitted, and the zoo is the bundled one.
    """
    entry = place.catalogue.entry(supernet)
    entry.check_measurable()
    if request["fit"] and place.settings.zoo is None:
        raise Conflict(
            "the bundled zoo is not written to: copy it into a folder of yours, name that by BESPOKE_ZOO and "
            "ask again; or ask with fit: false, which leaves the predictor as it is"
        )
    if images_folder(place, entry) is None:
        raise Conflict(
            f"no training images with the classes of supernet {supernet!r} are registered: put the image "
            "folder that it was trained on (ROOT/train/<class>/*.jpg) into the folder that BESPOKE_DATA names"
        )
    # The card tells the side of the training; what was asked for counts where it tells none.
    side = request["side"] if request["side"] and "side" not in entry.card else side_of(entry)
    seed = subnets_seed(entry.card) if request["seed"] is None else request["seed"]
    row, job = place.store.start_dataset(supernet, entry.digest, request | {"seed": seed, "side": side})
    if job is not None:
        engine.submit(job)
    return row


def cancel(place: Workplace, engine: JobEngine, dataset: Dataset) -> None:
    """Stop a data set; what was measured is kept. A second time changes nothing."""
    place.store.cancel_job(dataset.job_id)
    engine.cancel(dataset.job_id)
    _cancel_shards(place, engine, dataset.id)


def named(place: Workplace, supernet: str, dataset_id: str) -> Dataset:
    """A data set of a supernet.

    Raises:
        NotFound: There is no such supernet, or it has no such data set.
    """
    place.catalogue.entry(supernet)
    row = place.store.dataset(dataset_id)
    if row.supernet != supernet:
        raise NotFound("data set", dataset_id)
    return row


def images_folder(place: Workplace, entry: ZooEntry) -> Path | None:
    """The registered image folder with training images of a supernet's classes; None where there is none."""
    found = data_folder(place, entry, TRAINING)
    return None if found is None or found.name in VALIDATION else found


def supernet_of(place: Workplace, dataset: Dataset) -> ZooEntry:
    """The very supernet that a data set was started for; see ``Catalogue.unchanged``."""
    since = f"data set {dataset.id!r} was started: start another"
    return place.catalogue.unchanged(dataset.supernet, dataset.supernet_digest, since)


def measured_so_far(place: Workplace, dataset: Dataset) -> AccuracyDataset:
    """What was measured of a data set, in the order in which it was chosen."""
    entry = supernet_of(place, dataset)
    rows = [row for row in place.store.dataset_subnets(dataset.id) if row.top1 is not None]
    return AccuracyDataset(
        architectures=tuple(read_architecture(entry.space, row.architecture) for row in rows),
        top1=tuple(row.top1 or 0.0 for row in rows),
        images=tuple(row.images or 0 for row in rows),
        rounds=tuple(row.round for row in rows),
        smooth=tuple(row.smooth for row in rows),
        supernets=(dataset.supernet_digest,) * len(rows),
        held_out=(_images(entry, dataset.request["side"]),) * len(rows),
    )


def _images(entry: ZooEntry, side: int) -> str:
    """Names what subnets were measured on; empty where the card does not tell what was held out."""
    told = entry.card.get("held_out")
    return images_key(told, side) if isinstance(told, str) else ""


def collect_dataset(place: Workplace, run: Run) -> Json:
    """Workflow: round by round, choose subnets and have them measured; then fit the predictor."""
    dataset_id: str = run.arguments["dataset_id"]
    request = place.store.dataset(dataset_id).request
    rounds = request["active"]["rounds"] if request["active"] else 0
    for number in range(1 + rounds):
        run.step(f"draw {number}", partial(_in_child, place, run, "draw-round", {"round": number}))
        run.step(f"open {number}", partial(_open, place, run, number))
        run.step(f"measure {number}", partial(_wait, place, run, number))
    if not request["fit"]:
        return {"dataset_id": dataset_id}
    fitted = run.step("fit", partial(_in_child, place, run, "fit-dataset", {}))
    run.step("archives", partial(_rebuild, place, run))
    return {"dataset_id": dataset_id, **fitted}


def measure_shard(place: Workplace, run: Run) -> Json:
    """Workflow: measure what is left of a shard."""
    return run.step("measure", partial(_in_child, place, run, "measure-shard", run.arguments))


def _in_child(place: Workplace, run: Run, task: str, arguments: Json) -> Json:
    with Child(place.settings) as child:
        told = {**arguments, "dataset_id": run.arguments["dataset_id"]}
        return child.call(task, told, run.stopped)


def _open(place: Workplace, run: Run, number: int) -> Json:
    jobs = place.store.open_shards(run.arguments["dataset_id"], number, run.job_id)
    for job in jobs:
        run.engine.submit(job)
    return {"shards": len(jobs)}


def _wait(place: Workplace, run: Run, number: int) -> Json:
    """Wait until the shards of a round are measured.

    Raises:
        TaskFailed: One of them was not; the others are stopped.
    """
    dataset_id: str = run.arguments["dataset_id"]
    subnets: int = place.store.dataset(dataset_id).request["subnets"]
    while True:
        if run.stopped():
            raise Stopped
        shards = place.store.shards(dataset_id)
        own = [shard for shard in shards if shard.round == number]
        for shard in own:
            if shard.over and shard.done < shard.total:
                _cancel_shards(place, run.engine, dataset_id)
                reason = (shard.job.error or {}).get("detail", shard.job.state)
                raise TaskFailed("collect-dataset", f"shard {shard.number} of round {number}: {reason}")
        run.progress(sum(shard.done for shard in shards) / subnets)
        if all(shard.over for shard in own):
            return {"shards": len(own)}
        time.sleep(POLL_S)


def _cancel_shards(place: Workplace, engine: JobEngine, dataset_id: str) -> None:
    for shard in place.store.shards(dataset_id):
        if not shard.over:
            place.store.cancel_job(shard.job.id)
            engine.cancel(shard.job.id)


def _rebuild(place: Workplace, run: Run) -> Json:
    """Have the archives of the new predictor built now, not when a worker next looks for missing ones."""
    build_missing(place, run.engine)
    return {}
