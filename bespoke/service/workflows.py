"""The jobs, as durable workflows (see ``engines/protocol.py``). Heavy steps run in children."""

from __future__ import annotations

from functools import partial
from typing import Any

from bespoke.latency_tables import ProfilingPlan
from bespoke.predictors.accuracy import AccuracyPredictor
from bespoke.search.probes import table_plan
from bespoke.service.checking import check_plan, judge
from bespoke.service.children import Child
from bespoke.service.datasets import collect_dataset, measure_shard
from bespoke.service.engines.protocol import Json, Run, Workflows
from bespoke.service.models import ModelMaker, awaited
from bespoke.service.orm import Campaign, StoredTable
from bespoke.service.store import EntryModel
from bespoke.service.verification import verify_search
from bespoke.service.workplace import Workplace
from bespoke.supernet.errors import Unavailable

__all__ = ["workflows"]


def workflows(place: Workplace, models: ModelMaker) -> Workflows:
    """All kinds of job, bound to where they work."""
    return {
        "prepare-campaign": partial(prepare_campaign, place),
        "fit-campaign": partial(fit_campaign, place),
        "judge-check": partial(judge_check, place),
        "materialise": partial(materialise, models),
        "grow-archive": partial(grow_archive, place),
        "verify-search": partial(verify_search, place, models),
        "collect-dataset": partial(collect_dataset, place),
        "measure-shard": partial(measure_shard, place),
    }


def prepare_campaign(place: Workplace, run: Run) -> Json:
    """Plan what to measure, write the models, then open the campaign to agents."""
    campaign_id: str = run.arguments["campaign_id"]
    run.step("plan", lambda: _plan(place, campaign_id))
    plan = place.store.campaign(campaign_id).plan or {}
    entries, size = plan["entries"], place.settings.entries_per_step
    with Child(place.settings) as child:
        for start in range(0, len(entries), size):
            write = partial(_write_entries, place, child, run, entries[start : start + size])
            run.step(f"entries {start}", write)
            run.progress(min(1.0, (start + size) / len(entries)))
    return run.step("open", lambda: _open(place, run, campaign_id))


def fit_campaign(place: Workplace, run: Run) -> Json:
    """Make a latency table of what the agents measured."""
    arguments = {"campaign_id": run.arguments["campaign_id"]}

    def fit() -> Json:
        with Child(place.settings) as child:
            return child.call("fit-table", arguments, run.stopped)

    return run.step("fit", fit)


def judge_check(place: Workplace, run: Run) -> Json:
    """Say whether a device has drifted, of the sentinels that the agents measured."""
    campaign_id: str = run.arguments["campaign_id"]
    return run.step("judge", lambda: judge(place, campaign_id))


def grow_archive(place: Workplace, run: Run) -> Json:
    """Add a generation to an archive."""

    def grow() -> Json:
        with Child(place.settings) as child:
            return child.call("grow-archive", run.arguments, run.stopped)

    return run.step("grow", grow)


def materialise(models: ModelMaker, run: Run) -> Json:
    """Make the ONNX file of a subnet in the worker's warm child."""
    subnet_id, dynamic_batch = run.arguments["subnet_id"], run.arguments["dynamic_batch"]

    def make() -> Json:
        made = awaited(models, subnet_id, dynamic_batch, run.stopped)
        return {"sha256": made.sha256, "size": made.size}

    return run.step("materialise", make)


def _plan(place: Workplace, campaign_id: str) -> Json:
    campaign = place.store.campaign(campaign_id)
    if campaign.plan is not None:  # it is resumed, or this step ran before
        return {"entries": len(campaign.plan["entries"])}
    base: StoredTable | None
    if campaign.purpose == "check":
        base = place.store.table_by_id(campaign.base_table or "")
        made = place.store.campaign(base.campaign_id or "").plan or {}
        plan = check_plan(ProfilingPlan.from_json(made))
    else:
        base = _base(place, campaign)
        known = place.catalogue.read(base).stats if base else ()
        space = place.catalogue.entry(campaign.supernet).space
        plan = table_plan(space, _predictor(place, campaign.supernet), campaign.effort, known)
    place.store.set_plan(campaign_id, plan.to_json(), base.id if base else None)
    return {"entries": len(plan.entries)}


def _predictor(place: Workplace, supernet: str) -> AccuracyPredictor | None:
    try:
        return place.catalogue.predictor(supernet)
    except Unavailable:
        return None


def _base(place: Workplace, campaign: Campaign) -> StoredTable | None:
    """The table whose ops are known: the serving one, if its ops were measured and still hold."""
    if not campaign.use_base:
        return None
    row = place.store.latest_table(campaign.device_id, campaign.supernet)
    usable = row is not None and row.source == "ops" and not row.provisional and row.stale is None
    return row if usable else None


def _write_entries(place: Workplace, child: Child, run: Run, entries: list[Any]) -> Json:
    campaign_id = run.arguments["campaign_id"]
    missing = place.store.unwritten(campaign_id, [entry["id"] for entry in entries])
    entries = [entry for entry in entries if entry["id"] in missing]
    if not entries:
        return {"entries": 0}
    written = child.call("write-entries", {"campaign_id": campaign_id, "entries": entries}, run.stopped)
    place.store.add_entries(campaign_id, [EntryModel(**entry) for entry in written["entries"]])
    return {"entries": len(entries)}


def _open(place: Workplace, run: Run, campaign_id: str) -> Json:
    plan = ProfilingPlan.from_json(place.store.campaign(campaign_id).plan or {})
    order = [(entry.id, number) for number in range(plan.rounds) for entry in plan.order(number)]
    job = place.store.start_measuring(campaign_id, order)
    if job is not None:
        run.engine.submit(job)
    return {"campaign_id": campaign_id, "measurements": len(order)}
