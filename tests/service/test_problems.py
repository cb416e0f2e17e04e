"""Every error of the tree has a kind of problem of its own family, and a stable type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from bespoke.service.problems import KINDS, install, problem
from bespoke.service.schemas import SearchRequest
from bespoke.supernet.errors import (
    BespokeError,
    BudgetInfeasible,
    ReplayDiffers,
    StatisticsMissing,
    TaskFailed,
)


def tree(kind: type[BespokeError]) -> Iterator[type[BespokeError]]:
    for child in kind.__subclasses__():
        # A test may have made errors of its own.
        if child.__module__.startswith("bespoke."):
            yield child
            yield from tree(child)


def test_every_error_has_a_kind() -> None:
    kinds = list(tree(BespokeError))
    assert len(kinds) > 15
    # Limits that nothing meets have a document of their own.
    without = [
        kind
        for kind in kinds
        if kind is not BudgetInfeasible
        and next(known for known in KINDS if issubclass(kind, known)) is BespokeError
    ]
    assert without == []


def test_no_kind_is_hidden_behind_a_wider_one() -> None:
    seen: list[type[BespokeError]] = []
    for kind in KINDS:
        assert not [wider for wider in seen if issubclass(kind, wider)], kind
        seen.append(kind)


def test_a_body_that_is_no_json_is_a_bad_request_and_one_that_lacks_a_field_is_not() -> None:
    app = FastAPI()
    install(app)

    @app.post("/searches")
    def search(body: SearchRequest) -> None: ...

    with TestClient(app) as http:
        headers = {"Content-Type": "application/json"}
        cut, empty = (http.post("/searches", content=text, headers=headers) for text in ('{"a": ', "{}"))
    assert (cut.status_code, empty.status_code) == (400, 422)
    assert cut.json()["detail"] == "body: expected JSON: Expecting value, at character 6"
    assert [one["field"] for one in cut.json()["errors"] + empty.json()["errors"]] == ["body", "supernet"]


def test_a_problem_tells_what_its_error_knows() -> None:
    changed: list[dict[str, Any]] = [{"what": "supernet", "was": "a", "now": None}]
    about = problem(ReplayDiffers("srch_1", changed)).model_dump()
    assert (about["status"], about["changed"], about["search_id"]) == (409, changed, "srch_1")
    assert problem(StatisticsMissing("none")).status == 409
    assert problem(TaskFailed("materialise", "it broke")).type.endswith("/task-failed")
