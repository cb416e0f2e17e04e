"""What a request can ask: devices, restrictions, fronts, fleets, precision, replays."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from starlette.testclient import TestClient

from bespoke.service.app import create_app
from bespoke.service.auth import create_key
from bespoke.service.settings import Settings
from bespoke.supernet import zoo
from bespoke.supernet.architecture import SearchSpace, read_architecture
from bespoke.supernet.cost import cost
from bespoke.supernet.errors import ApiError
from bespoke.supernet.onnx import read_metadata
from tests.conftest import random_predictor
from tests.service.agents import op_ms
from tests.service.api import Api, problem_of
from tests.service.tables import arithmetic_table, profile_of, profiled

QUICK = {"population": 8, "generations": 3}
PATIENCE_S = 240


@contextmanager
def service(var: Path, url: str, bundled: Path) -> Iterator[Api]:
    """A service with a zoo of its own, which a test may change."""
    shutil.copytree(bundled, var / "zoo")
    settings = Settings(
        var=var,
        database_url=url,
        zoo=var / "zoo",
        data=var / "images",
        archives=False,
        model_wait_s=PATIENCE_S,
    )
    app = create_app(settings)
    with TestClient(app) as http:
        key = create_key(app.state.service.place.store, ["search", "device:admin"]).text
        yield Api(http, {"all": key}, var / "zoo")
    shutil.rmtree(var)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, random_zoo: Path) -> Iterator[Api]:
    with service(tmp_path_factory.mktemp("var"), "", random_zoo) as running:
        yield running


@pytest.fixture(scope="module")
def on_postgresql(
    tmp_path_factory: pytest.TempPathFactory, postgresql: Callable[[], str], random_zoo: Path
) -> Iterator[Api]:
    with service(tmp_path_factory.mktemp("var"), postgresql(), random_zoo) as running:
        yield running


@pytest.fixture(params=["api", "on_postgresql"])
def either(request: pytest.FixtureRequest) -> Api:
    """What is stored and read again is tested on both databases."""
    return cast(Api, request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def space(api: Api) -> SearchSpace:
    return zoo.entry("tiny", api.zoo).space


@pytest.fixture(scope="module")
def board(api: Api, space: SearchSpace) -> str:
    return str(profiled(api.client, "board", space)["id"])


@pytest.fixture(scope="module")
def phone(api: Api, space: SearchSpace) -> str:
    """A device on which each op costs more, whatever it does."""
    return str(profiled(api.client, "phone", space, slower=0.5, per_op_ms=0.1)["id"])


def ask(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.request("POST", "/v1/searches", json={"supernet": "tiny", "effort": QUICK, **body})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    assert api.client.search_result(found["id"]) == found
    return found


def refused(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.request("POST", "/v1/searches", json={"supernet": "tiny", "effort": QUICK, **body})
    return problem_of(answer, 422, "request-invalid")


def true_ms(space: SearchSpace, subnet: dict[str, Any]) -> float:
    plan = space.plan(read_architecture(space, subnet["architecture"]))
    return sum(op_ms(op) for op in plan.ops)


# Limits


def test_one_subnet_holds_on_several_devices_each_with_its_limit(
    api: Api, space: SearchSpace, board: str, phone: str
) -> None:
    found = ask(
        api,
        device=board,
        constraints={"latency_ms": {"limit": 6, "confidence": 0.9}, "params": 5e6},
        devices={phone: {"latency_ms": 4.8}},
    )
    predicted = found["subnet"]["predicted"]
    assert predicted["latency_ms"] == pytest.approx(true_ms(space, found["subnet"]))
    assert predicted["latency_interval_ms"][1] <= 6
    on_phone = predicted["devices"][phone]
    assert on_phone["latency_ms"] <= 4.8
    low, high = on_phone["latency_interval_ms"]
    assert low < on_phone["latency_ms"] < high
    revisions = found["subnet"]["revisions"]
    assert revisions["table"] == api.client.device(board)["profiled"]["tiny"]
    assert revisions["tables"] == {phone: api.client.device(phone)["profiled"]["tiny"]}
    limits = {limit["metric"]: limit for limit in found["limits"]}
    assert set(limits) == {"latency_ms", "params", f"latency_ms:{phone}"}
    assert limits["latency_ms"]["used"] == pytest.approx(predicted["latency_interval_ms"][1])
    assert limits["latency_ms"]["confidence"] == 0.9
    assert limits[f"latency_ms:{phone}"]["used"] == on_phone["latency_ms"]
    assert any(limit["binds"] for limit in found["limits"])


def test_a_limit_binds_where_more_of_it_would_be_better(api: Api) -> None:
    found = ask(api, constraints={"macs": 8e6, "params": 1e9}, effort={})
    assert {limit["metric"]: limit["binds"] for limit in found["limits"]} == {"macs": True, "params": False}
    more = ask(api, constraints={"macs": 9e6}, effort={})
    assert more["subnet"]["predicted"]["top1"] > found["subnet"]["predicted"]["top1"]


def test_a_device_can_be_told_only_to_know_its_latency(api: Api, board: str, phone: str) -> None:
    found = ask(api, devices={board: {}, phone: {}}, constraints={"macs": 9e6})
    assert set(found["subnet"]["predicted"]["devices"]) == {board, phone}
    assert found["subnet"]["predicted"]["latency_ms"] is None


def test_dimensions_can_be_fixed_and_choices_excluded(api: Api) -> None:
    found = ask(api, constraints={"macs": 9e6}, restrict={"resolution": 32, "kernel": [3, 5]}, alternatives=2)
    for subnet in (found["subnet"], *found["alternatives"]):
        assert subnet["architecture"]["resolution"] == 32
        assert set(subnet["architecture"]["kernel"]) <= {3, 5}
    answer = api.request("POST", "/v1/searches", json={"supernet": "tiny", "restrict": {"kernel": [4]}})
    assert problem_of(answer, 422, "architecture-invalid")["field"] == "kernel"
    answer = api.request("POST", "/v1/searches", json={"supernet": "tiny", "restrict": {"se": False}})
    assert "kernel" in problem_of(answer, 422, "architecture-invalid")["allowed"]


def test_the_latency_can_be_made_small_instead(api: Api, board: str) -> None:
    best = ask(api, device=board, constraints={"latency_ms": 20})["subnet"]["predicted"]
    least = best["top1"] - 0.01
    found = ask(api, device=board, min_top1=least)
    predicted = found["subnet"]["predicted"]
    assert predicted["top1"] >= least
    assert predicted["latency_ms"] < best["latency_ms"]
    assert found["request"]["minimise"] == "latency_ms"
    (limit,) = found["limits"]
    assert (limit["metric"], limit["binds"]) == ("top1", True)
    smaller = ask(api, device=board, min_top1=least, minimise="params")["subnet"]["predicted"]
    assert smaller["params"] < predicted["params"]
    body = {"supernet": "tiny", "device": board, "min_top1": 0.999, "constraints": {"latency_ms": 4.1}}
    problem = problem_of(api.request("POST", "/v1/searches", json=body), 422, "budget-infeasible")
    assert problem["limits"]["top1"] == 0.999
    assert 0 < problem["feasible"]["top1"][1] < 0.999


def test_without_a_device_a_least_top1_is_asked_of_the_fewest_macs(api: Api) -> None:
    found = ask(api, min_top1=0.6)
    assert found["request"]["minimise"] == "macs"
    assert found["subnet"]["predicted"]["top1"] >= 0.6
    assert found["subnet"]["predicted"]["macs"] < ask(api)["subnet"]["predicted"]["macs"]


def test_a_request_that_contradicts_itself_is_named(api: Api, board: str, phone: str) -> None:
    assert refused(api, minimise="macs")["field"] == "minimise"
    assert refused(api, min_top1=0.5, minimise="latency_ms")["field"] == "minimise"
    assert refused(api, device=board, devices={board: {}})["field"] == "devices"
    assert refused(api, constraints={"latency_ms": 3})["field"] == "latency_ms"
    assert "latency" in refused(api, pareto={"metrics": ["top1", "latency_ms"]})["detail"]
    assert refused(api, device=board, min_top1=0.5, pareto=True)["field"] == "pareto"
    fields = {error["field"] for error in refused(api, pareto={"metrics": ["top1", "top1"]})["errors"]}
    assert fields == {"pareto"}
    confident = {"latency_ms": {"limit": 3, "confidence": 1.5}}
    fields = {error["field"] for error in refused(api, device=board, constraints=confident)["errors"]}
    assert fields == {"constraints.latency_ms.confidence"}


def test_more_effort_than_a_request_can_wait_for_is_refused(api: Api, board: str) -> None:
    told = refused(api, effort={"population": 4096, "generations": 25})
    assert (told["field"], "100,000" in told["detail"]) == ("effort", True)
    told = refused(api, effort={"generations": 160}, pareto=True)
    assert (told["field"], "64 x 160" in told["detail"], "10,000" in told["detail"]) == ("effort", True, True)
    body = {"supernet": "tiny", "members": [{"device": board}], "subnets": 1, "effort": {"generations": 160}}
    assert (
        problem_of(api.request("POST", "/v1/fleets", json=body), 422, "request-invalid")["field"] == "effort"
    )


def test_limits_that_conflict_are_named_with_the_smallest_relaxation(
    api: Api, board: str, phone: str
) -> None:
    body = {
        "supernet": "tiny",
        "device": board,
        "constraints": {"latency_ms": 0.5, "params": 1e9},
        "devices": {phone: {"latency_ms": 50}},
    }
    problem = problem_of(api.request("POST", "/v1/searches", json=body), 422, "budget-infeasible")
    assert problem["conflicts"] == [["latency_ms"]]
    assert set(problem["relax"]) == {"latency_ms"}
    assert set(problem["feasible"]) == {"latency_ms", "params", f"latency_ms:{phone}"}
    relaxed = body | {"constraints": {"params": 1e9, **problem["relax"]}}
    assert api.request("POST", "/v1/searches", json=relaxed).status_code == 201


# More than one answer


def test_alternatives_are_subnets_of_their_own(api: Api, board: str) -> None:
    found = ask(api, device=board, constraints={"latency_ms": 12}, alternatives=3)
    others = found["alternatives"]
    assert len(others) == 3
    assert len({found["subnet"]["id"], *(one["id"] for one in others)}) == 4
    for one in others:
        assert one["predicted"]["latency_ms"] <= 12
        assert one["predicted"]["top1"] <= found["subnet"]["predicted"]["top1"]
        assert api.client.subnet(one["id"]) == one
    model = api.client.model(others[-1]["id"])
    assert json.loads(read_metadata(model)["architecture"]) == others[-1]["architecture"]


def test_a_whole_front_has_no_member_that_another_beats_and_tells_its_prices(api: Api, board: str) -> None:
    found = ask(api, device=board, constraints={"latency_ms": 15}, pareto=True)
    front = found["front"]
    assert front["metrics"] == found["request"]["pareto"]["metrics"] == ["top1", "latency_ms"]
    points = [(m["predicted"]["latency_ms"], m["predicted"]["top1"]) for m in front["members"]]
    assert len(points) > 5
    assert points == sorted(points)
    assert all(a[1] < b[1] for a, b in itertools.pairwise(points))
    assert points[-1][0] <= 15
    (price, *_) = front["marginal_prices"]
    assert (price["from"], price["to"]) == pytest.approx((points[0][0], points[1][0]))
    assert price["points"] == pytest.approx(100 * (points[1][1] - points[0][1]), rel=1e-3)
    assert len(front["marginal_prices"]) == len(points) - 1
    middle = front["members"][len(points) // 2]
    assert api.client.subnet(middle["subnet_id"])["predicted"] == middle["predicted"]


def test_a_front_can_trade_three_metrics_and_none_of_them_latency(api: Api) -> None:
    found = ask(api, pareto={"metrics": ["top1", "macs", "params"]}, constraints={"macs": 2e7})
    values = np.array(
        [
            [-m["predicted"]["top1"], m["predicted"]["macs"], m["predicted"]["params"]]
            for m in found["front"]["members"]
        ]
    )
    beats = (values[:, None] <= values[None]).all(2) & (values[:, None] < values[None]).any(2)
    assert not beats.any()


# Precision


def test_an_int8_device_gets_an_int8_model(api: Api, space: SearchSpace) -> None:
    device = profiled(api.client, "int8 board", space, precision="int8")["id"]
    subnet = ask(api, device=device, constraints={"latency_ms": 12})["subnet"]
    assert subnet["precision"] == "int8"
    model, manifest = api.client.model(subnet["id"]), api.client.manifest(subnet["id"])
    assert (manifest["precision"], manifest["activation_ranges"]) == ("int8", "expected")
    metadata = read_metadata(model)
    assert (metadata["precision"], metadata["activation_ranges"]) == ("int8", "expected")
    kinds = {node.op_type for node in onnx.load_from_string(model).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    told = subnet["predicted"]
    price = cost(space.plan(read_architecture(space, subnet["architecture"])), "int8")
    assert told["peak_memory_bytes"] == price.peak_memory_bytes
    assert told["model_size_bytes"] == price.model_size_bytes < len(model)
    supernet = api.client.supernet("tiny")
    sizes = supernet["feasible"][device]["model_size_bytes"], supernet["ranges"]["model_size_bytes"]
    assert sizes[0][0] <= told["model_size_bytes"] <= sizes[0][1] < sizes[1][1]
    session = onnxruntime.InferenceSession(model)
    image = np.zeros(manifest["input"]["shape"], np.float32)
    (logits,) = session.run([manifest["output"]], {manifest["input"]["name"]: image})
    assert np.isfinite(logits).all()


def test_int8_ranges_are_seen_on_a_registered_data_set(api: Api, space: SearchSpace) -> None:
    classes, rng = ["a", "b", "c", "d"], np.random.default_rng(0)
    for name in classes:
        folder = api.zoo.parent / "images" / "train" / name
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (60, 70, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    shutil.copytree(api.zoo / "tiny", api.zoo / "seen")
    (api.zoo / "seen" / "card.json").write_text(json.dumps({"summary": "known", "classes": classes}))
    device = profiled(api.client, "seeing", space, supernet="seen", precision="int8")["id"]
    subnet = ask(api, supernet="seen", device=device, constraints={"latency_ms": 12})["subnet"]
    assert api.client.manifest(subnet["id"])["activation_ranges"] == "observed"


def test_a_fleet_of_two_precisions_limits_and_tells_bytes_of_each_in_its_own(
    api: Api, space: SearchSpace, board: str
) -> None:
    small = profiled(api.client, "int8 board", space, precision="int8")["id"]
    ranges = api.client.supernet("tiny")["feasible"]
    limits = {device: sum(ranges[device]["model_size_bytes"]) / 2 for device in (board, small)}
    members = [{"device": d, "constraints": {"model_size_bytes": limit}} for d, limit in limits.items()]
    served = api.client.fleet("tiny", members, 1, effort=QUICK)["members"]
    for one, precision in zip(served, ("fp32", "int8"), strict=True):
        subnet = one["subnet"]
        price = cost(space.plan(read_architecture(space, subnet["architecture"])), precision)
        assert subnet["precision"] == precision
        assert subnet["predicted"]["model_size_bytes"] == price.model_size_bytes <= limits[one["device"]]
        assert subnet["predicted"]["peak_memory_bytes"] == price.peak_memory_bytes


def test_one_subnet_cannot_have_two_precisions(api: Api, space: SearchSpace, board: str) -> None:
    device = profiled(api.client, "int8 board", space, precision="int8")["id"]
    problem = refused(api, device=board, devices={device: {}})
    assert (problem["field"], problem["got"]) == ("devices", ["fp32", "int8"])


# Fleets


def test_a_fleet_is_served_by_one_or_a_few_architectures(either: Api, space: SearchSpace) -> None:
    api, board = either, profiled(either.client, "board", space)["id"]
    phone = profiled(either.client, "phone", space, slower=0.5, per_op_ms=0.1)["id"]
    members = [
        {"device": board, "constraints": {"latency_ms": 8}},
        {"device": board, "constraints": {"latency_ms": 16}},
        {"device": phone, "constraints": {"latency_ms": 8}},
    ]
    found = {k: api.client.fleet("tiny", members, k, effort=QUICK) for k in (1, 2, 3)}
    for k, fleet in found.items():
        assert len(fleet["architectures"]) <= k
        assert sorted(i for one in fleet["architectures"] for i in one["members"]) == [0, 1, 2]
        for asked, served in zip(members, fleet["members"], strict=True):
            subnet = served["subnet"]
            assert subnet["device_id"] == served["device"] == asked["device"]
            assert subnet["predicted"]["latency_ms"] <= asked["constraints"]["latency_ms"]
            assert subnet["architecture"] == fleet["architectures"][served["architecture"]]["architecture"]
            assert served["cost_top1"] == pytest.approx(served["alone_top1"] - subnet["predicted"]["top1"])
            assert served["cost_top1"] >= 0
        assert [one["subnets"] for one in fleet["by_subnets"]] == [1, 2, 3]
        assert api.client.fleet_result(fleet["id"]) == fleet
    means = [one["mean_top1"] for one in found[1]["by_subnets"]]
    assert means == sorted(means)
    assert [found[k]["mean_top1"] for k in (1, 2, 3)] == pytest.approx(means)
    assert found[1]["by_subnets"][2]["cost_top1"] == 0
    again = api.request("POST", "/v1/fleets", json=found[2]["request"]).json()
    assert again["members"] == found[2]["members"]


def test_a_fleet_that_no_architecture_serves_says_which_device_stands_in_the_way(
    api: Api, board: str, phone: str
) -> None:
    members = [{"device": board}, {"device": phone, "constraints": {"latency_ms": 0.01}}]
    with pytest.raises(ApiError) as caught:
        api.client.fleet("tiny", members, 2, effort=QUICK)
    assert caught.value.slug == "budget-infeasible"
    assert list(caught.value.problem["relax"]) == [f"latency_ms:{phone}"]


# Replays


def replay(api: Api, search_id: str) -> Any:
    return api.request("POST", f"/v1/searches/{search_id}/replay")


def test_a_replay_gives_the_same_bytes_also_when_the_table_is_no_longer_served(
    either: Api, space: SearchSpace
) -> None:
    api, phone = either, profiled(either.client, "phone", space, slower=0.5, per_op_ms=0.1)["id"]
    device = profiled(api.client, "replayed", space)["id"]
    bodies = [
        {"device": device, "constraints": {"latency_ms": 12}, "alternatives": 2, "seed": 7},
        {"device": device, "devices": {phone: {"latency_ms": 9}}, "restrict": {"kernel": [3, 5]}},
        {"constraints": {"macs": 9e6}, "pareto": {"metrics": ["top1", "macs"]}},
        {"device": device, "min_top1": 0.7},
    ]
    answers = [
        api.request("POST", "/v1/searches", json={"supernet": "tiny", "effort": QUICK, **body})
        for body in bodies
    ]
    table = arithmetic_table(space, profile_of(), slower=1.3)
    api.client.import_latency_table(device, "tiny", table.to_json())
    for answer in answers:
        again = replay(api, answer.json()["id"])
        assert (again.status_code, again.content) == (200, answer.content)
    now = api.request("POST", "/v1/searches", json=answers[0].json()["request"]).json()
    revisions = [one["subnet"]["revisions"]["table"] for one in (now, answers[0].json())]
    assert revisions[0] == table.revision != revisions[1]
    problem_of(replay(api, "srch_0000000000000000"), 404, "not-found")


def test_a_replay_names_what_has_changed(either: Api, space: SearchSpace) -> None:
    api = either
    found = ask(api, constraints={"macs": 8e6}, seed=11)
    folder = api.zoo / "tiny"
    kept = {path: path.read_bytes() for path in folder.glob("predictor.*")}
    random_predictor(space, seed=5).save(folder / "predictor.json")
    try:
        problem = problem_of(replay(api, found["id"]), 409, "replay-differs")
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    (change,) = problem["changed"]
    assert (change["what"], change["was"]) == ("predictor", found["subnet"]["revisions"]["predictor"])
    assert change["now"] == random_predictor(space, seed=5).revision
    assert replay(api, found["id"]).json() == found

    weights = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(weights + b"\0")
    try:
        problem = problem_of(replay(api, found["id"]), 409, "replay-differs")
    finally:
        (folder / "weights.safetensors").write_bytes(weights)
    assert [change["what"] for change in problem["changed"]] == ["supernet"]
    assert replay(api, found["id"]).json() == found
    (folder / "predictor.json").rename(folder / "hidden")
    try:
        (change,) = problem_of(replay(api, found["id"]), 409, "replay-differs")["changed"]
    finally:
        (folder / "hidden").rename(folder / "predictor.json")
    assert (change["what"], change["now"]) == ("predictor", None)


def test_a_subnet_of_what_the_supernet_was_before_has_only_the_model_that_was_made(api: Api) -> None:
    subnet, app = ask(api, constraints={"macs": 8e6}, seed=12)["subnet"], cast(Any, api.http.app)
    link, place = subnet["links"]["model"], app.state.service.place
    file = place.artifacts.put(b"a model")
    place.store.add_model(subnet["id"], False, file.sha256, file.size, "application/onnx")
    made, path = api.request("GET", link), api.zoo / "tiny" / "weights.safetensors"
    weights = path.read_bytes()
    path.write_bytes(weights + b"\0")
    try:
        assert api.request("GET", link).content == made.content
        refused = problem_of(api.request("GET", f"{link}?dynamic_batch=true"), 409, "conflict")
    finally:
        path.write_bytes(weights)
    assert "search again" in refused["detail"]


# Without statistics


def test_a_supernet_without_statistics_is_searched_and_says_why_it_cannot_deliver(api: Api) -> None:
    shutil.copytree(api.zoo / "tiny", api.zoo / "bare", ignore=shutil.ignore_patterns("statistics.*"))
    found = ask(api, supernet="bare", constraints={"macs": 8e6})
    for link in found["subnet"]["links"].values():
        assert "calibrate" in problem_of(api.request("GET", link), 409, "statistics-missing")["detail"]


# Tables


def test_what_a_few_shot_table_cannot_know_is_null(api: Api, space: SearchSpace, board: str) -> None:
    device = api.client.create_device("new", profile_of().to_json() | {"threads": 2})
    samples = [
        one | {"latency_ms": 0.7 * true_ms(space, {"architecture": one})}
        for one in api.client.few_shot_choice(device["id"], "tiny", 10)
    ]
    kept = api.client.few_shot(device["id"], "tiny", samples)
    (listed,) = api.client.latency_tables(device["id"])
    for card in (kept["quality"], listed["quality"]):
        assert (card["repeat_mape"], card["duration_s"], card["drift"]) == (None, None, None)
        assert card["mape"] >= 0
    assert api.client.latency_table(device["id"], "tiny")["quality"]["repeat_mape"] == 0
