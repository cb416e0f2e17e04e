"""``bespoke searches``: ask a running service for subnets, and fetch them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from bespoke.cli.asking import INFEASIBLE, check_seed, read_limit, read_number
from bespoke.cli.devices import DEFAULT_SUPERNET, SERVER, Key, Server, SupernetName, find_device
from bespoke.client import Client
from bespoke.supernet.errors import ApiError, InvalidInput

searches_app = typer.Typer(help="Ask a running service for subnets.", no_args_is_help=True)

T = TypeVar("T")

FLEET = "flt_"
"""What the ids of fleets begin with."""

MEMBERS = "DEVICE:METRIC=LIMIT[@CONFIDENCE][,METRIC=LIMIT...][,weight=WEIGHT]"

Json = Annotated[bool, typer.Option("--json", help="Print the whole answer as one JSON object.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same answer.", callback=check_seed)]
Population = Annotated[int | None, typer.Option(help="Effort: lineages that climb.")]
Generations = Annotated[int | None, typer.Option(help="Effort: steps that they climb.")]
Out = Annotated[Path | None, typer.Option(help="Write the model here, as ONNX.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(searches_app, name="searches")


@searches_app.command("ask")
def ask(
    key: Key,
    supernet: SupernetName = DEFAULT_SUPERNET,
    device: Annotated[str | None, typer.Option(help="Id or name of the main device.")] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="METRIC=LIMIT, e.g. latency_ms=20, or latency_ms=20@0.95; may be repeated."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="A further device, DEVICE or DEVICE=MS or DEVICE=MS@CONFIDENCE; may be repeated."),
    ] = None,
    restrict: Annotated[
        list[str] | None,
        typer.Option(help="Choices that are left, e.g. kernel=3,5 or resolution=160; may be repeated."),
    ] = None,
    min_top1: Annotated[float | None, typer.Option(help="Least predicted top-1, in [0, 1].")] = None,
    minimise: Annotated[
        str | None, typer.Option(help="Metric to make small with --min-top1; the latency unless given.")
    ] = None,
    alternatives: Annotated[int, typer.Option(help="How many other subnets near the optimum.")] = 0,
    pareto: Annotated[bool, typer.Option("--pareto", help="Also find the whole front.")] = False,
    metrics: Annotated[
        str | None, typer.Option(help="What the front trades, e.g. top1,latency_ms,params.")
    ] = None,
    verify: Annotated[
        str | None, typer.Option(help="measured or accuracy: measure the best few as well.")
    ] = None,
    seed: Seed = None,
    population: Population = None,
    generations: Generations = None,
    out: Out = None,
    server: Server = SERVER,
    as_json: Json = False,
) -> None:
    """Find the best subnet within limits; exit code 3 if none fits."""
    with Client(server, key) as client, _infeasible(as_json):
        further = [_also(text) for text in also or ()]
        found = client.search(
            supernet,
            _once("--limit", map(_limit, limit or ())),
            find_device(client, device) if device else None,
            devices=_once("--also", ((find_device(client, name), limits) for name, limits in further)),
            restrict=_once("--restrict", map(_choices, restrict or ())),
            min_top1=min_top1,
            minimise=minimise,
            alternatives=alternatives,
            pareto=_metrics(metrics) if metrics else pareto,
            verify=verify,
            seed=seed,
            effort=_given(population=population, generations=generations),
        )
        _print_search(found, as_json)
        _fetch(client, found, out, as_json)


@searches_app.command("show")
def show(
    key: Key,
    answer: Annotated[str, typer.Argument(help="Id of a search or of a fleet.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the model here, as ONNX; a fleet's into this folder.")
    ] = None,
    server: Server = SERVER,
    as_json: Json = False,
) -> None:
    """Show an earlier answer."""
    with Client(server, key) as client:
        if answer.startswith(FLEET):
            covered = client.fleet_result(answer)
            _print_fleet(covered, as_json)
            _fetch_fleet(client, covered, out)
        else:
            found = client.search_result(answer)
            _print_search(found, as_json)
            _fetch(client, found, out, as_json)


@searches_app.command("replay")
def replay(
    key: Key,
    search: Annotated[str, typer.Argument(help="Id of a search.")],
    server: Server = SERVER,
    as_json: Json = False,
) -> None:
    """Search again on the revisions of then; it is an error that names what changed if it differs."""
    with Client(server, key) as client:
        found = client.replay(search)
    _print_search(found, as_json)


@searches_app.command("fleet")
def fleet(
    key: Key,
    member: Annotated[list[str], typer.Option(help=f"{MEMBERS}; may be repeated.")],
    supernet: SupernetName = DEFAULT_SUPERNET,
    subnets: Annotated[int, typer.Option(help="How many different architectures at most.")] = 1,
    seed: Seed = None,
    population: Population = None,
    generations: Generations = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the members' models, as ONNX.")] = None,
    server: Server = SERVER,
    as_json: Json = False,
) -> None:
    """Cover several devices, each with its limits, with few architectures; exit code 3 if none fits."""
    with Client(server, key) as client, _infeasible(as_json):
        members = []
        for text in member:
            name, limits = _member(text)
            weight = limits.pop("weight", 1.0)
            members.append({"device": find_device(client, name), "constraints": limits, "weight": weight})
        found = client.fleet(
            supernet,
            members,
            subnets,
            seed=seed,
            effort=_given(population=population, generations=generations),
        )
        _print_fleet(found, as_json)
        _fetch_fleet(client, found, out)


@contextmanager
def _infeasible(as_json: bool) -> Iterator[None]:
    """End with the infeasible exit code where no architecture meets the limits."""
    try:
        yield
    except ApiError as error:
        if error.slug != "budget-infeasible":
            raise
        print(
            json.dumps(error.problem) if as_json else f"bespoke: {error}",
            file=None if as_json else sys.stderr,
        )
        raise typer.Exit(INFEASIBLE) from error


def _fetch(client: Client, found: dict[str, Any], out: Path | None, as_json: bool) -> None:
    """Write the model of a search, once its answer is told: what goes wrong here must not lose that."""
    if out is None:
        return
    digest = client.download_model(found["subnet"]["id"], out)
    if not as_json:
        print(f"{out}  sha256 {digest}")


def _fetch_fleet(client: Client, found: dict[str, Any], out: Path | None) -> None:
    """Write the models of a fleet into a folder, each once."""
    if out is None:
        return
    for subnet_id in {served["subnet"]["id"] for served in found["members"]}:
        client.download_model(subnet_id, out / f"{subnet_id}.onnx")


def _print_fleet(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    for served in found["members"]:
        predicted, subnet = served["subnet"]["predicted"], served["subnet"]["id"]
        told = f"top-1 {predicted['top1']:.4f} (alone {served['alone_top1']:.4f})"
        print(f"{served['device']}  {subnet}  {told}{_latency(predicted)}")
    for one in found["by_subnets"]:
        mean = "cannot meet all limits" if one["mean_top1"] is None else f"mean top-1 {one['mean_top1']:.4f}"
        cost = "" if one["cost_top1"] is None else f", costs {100 * one['cost_top1']:.2f} points"
        print(f"at most {one['subnets']} architectures: {mean}{cost}")
    print(f"fleet {found['id']}")


def _print_search(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    for name, subnet in [("subnet", found["subnet"]), *(("alternative", s) for s in found["alternatives"])]:
        predicted = subnet["predicted"]
        print(f"{name:12}{subnet['id']}  {_top1(predicted)}{_latency(predicted)}")
        print(f"{'':12}{json.dumps(subnet['architecture'])}")
    for limit in found["limits"]:
        state = "binds" if limit["binds"] else "has room"
        print(f"limit       {limit['metric']} {limit['used']:g} of {limit['limit']:g}: {state}")
    for member in found["front"]["members"] if found["front"] else ():
        predicted = member["predicted"]
        print(f"front       {member['subnet_id']}  top-1 {predicted['top1']:.4f}{_latency(predicted)}")
    for step in found["front"]["marginal_prices"] if found["front"] else ():
        print(f"step        {_step(step)}")
    for warning in found["warnings"]:
        print(f"warning     {warning['detail']}")
    if found["verified"]:
        _print_verified(found["verified"])
    if found["archive"] or found["head_start"]:
        print(f"archive     {'looked up in' if found['archive'] else 'begun with'} what it knows")
    if found["improved_by"]:
        print(f"since then  beaten by {found['improved_by']:g} points of top-1: ask again")
    print(f"search      {found['id']}")


def _print_verified(verified: dict[str, Any]) -> None:
    """How the measuring stands; who won, once it is over."""
    error = f": {verified['error']}" if verified["error"] else ""
    state = f"{verified['kind']}: {verified['state']}, {verified['progress']:.0%}{error}"
    print(f"verified    {state}{'; nothing was within the limit' if verified['met'] is False else ''}")
    if winner := verified["winner"]:
        top1, ms = winner["measured_top1"], winner["measured_ms"]
        measured = f"{ms:.3f} ms" if top1 is None else f"top-1 {top1:.4f}"
        print(f"winner      {winner['subnet_id']}  top-1 {winner['top1']:.4f}  measured {measured}")


def _top1(predicted: dict[str, Any]) -> str:
    """Predicted, with its interval, and less what choosing the best of many predictions adds to it."""
    low, high = predicted["top1_interval"]
    corrected = predicted["top1_corrected"]
    told = f"top-1 {predicted['top1']:.4f} ({low:.4f} to {high:.4f}"
    return f"{told})" if corrected is None else f"{told}; corrected {corrected:.4f})"


def _latency(predicted: dict[str, Any]) -> str:
    own = {"": predicted} if predicted["latency_ms"] is not None else {}
    others = {f" on {name}": one for name, one in predicted["devices"].items()}
    told = [f"  {_interval(one)}{where}" for where, one in {**own, **others}.items()]
    return "".join(told) or f"  {predicted['macs'] / 1e6:.1f} M MACs"


def _interval(one: dict[str, Any]) -> str:
    told = f"{one['latency_ms']:.3f} ms"
    if one["latency_interval_ms"] is None:
        return told
    low, high = one["latency_interval_ms"]
    return f"{told} ({low:.3f} to {high:.3f})"


def _step(step: dict[str, Any]) -> str:
    """What the step from a member to the next dearer one costs and buys."""
    (rate,) = (name for name in step if "_per_" in name)
    bought, paid = rate.split("_per_")
    amount = f"{step[paid]:.3g} {paid} more buy {step[bought]:.3g} {bought}"
    return f"{step['metric']} {step['from']:g} to {step['to']:g}: {amount} ({step[rate]:.3g} {rate})"


def _given(**options: Any) -> dict[str, Any] | None:
    return {name: value for name, value in options.items() if value is not None} or None


def _limit(text: str, option: str = "--limit") -> tuple[str, Any]:
    """``METRIC=LIMIT`` or ``METRIC=LIMIT@CONFIDENCE``."""
    metric, _, value = text.partition("=")
    return metric, _bound(value, option, text)


def _bound(value: str, option: str, whole: str) -> Any:
    expected = "a number, as in latency_ms=20 or latency_ms=20@0.95"
    limit, confidence = read_limit(option, whole, value, expected)
    return limit if confidence is None else {"limit": limit, "confidence": confidence}


def _also(text: str) -> tuple[str, dict[str, Any]]:
    device, equals, value = text.partition("=")
    return device, {"latency_ms": _bound(value, "--also", text)} if equals else {}


def _member(text: str) -> tuple[str, dict[str, Any]]:
    device, _, limits = text.partition(":")
    return device, _once("--member", (_limit(one, "--member") for one in limits.split(",") if one))


def _choices(text: str) -> tuple[str, list[float]]:
    dimension, _, values = text.partition("=")
    expected = "numbers, as in kernel=3,5"
    numbers = [read_number("--restrict", text, one, expected) for one in values.split(",")]
    return dimension, [int(one) if one.is_integer() else one for one in numbers]


def _metrics(text: str) -> list[str]:
    return [one.strip() for one in text.split(",")]


def _once(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """What was given for each name.

    Raises:
        InvalidInput: A name came twice: one of both would be lost.
    """
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidInput(f"{option}: got {name!r} twice, expected it once, with all that is meant")
        found[name] = value
    return found
