import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bespoke.latency_tables import LatencyTable
from bespoke.search import non_dominated
from tests.cli.test_offline import NAME, Done, bespoke, files, rows

__all__ = ["files"]

QUICK = ("--population", 12, "--generations", 5)
Files = tuple[Path, Path, LatencyTable]


def pareto(files: Files, *more: object) -> Done:
    predictor, table, _ = files
    common = ("--space", NAME, "--classes", 10, "--predictor", predictor, "--table", table)
    return bespoke("pareto", *common, *QUICK, *more)


def fleet(files: Files, members: list[dict[str, Any]], *more: object) -> Done:
    predictor, _, _ = files
    stdin = "".join(json.dumps(member) + "\n" for member in members)
    return bespoke(
        "fleet", "--space", NAME, "--classes", 10, "--predictor", predictor, *QUICK, *more, stdin=stdin
    )


def test_a_front_is_printed_a_member_a_line_with_what_the_next_step_buys(files: Files) -> None:
    done = pareto(files, "--limit", "latency_ms=1.5", "--limit", "params=5e6", "--members", 9)
    found = rows(done)
    assert 3 < len(found) <= 9
    values = np.array([[-row["top1"], row["latency_ms"]] for row in found])
    assert non_dominated(values).all()
    assert max(row["latency_ms"] for row in found) <= 1.5
    assert max(row["params"] for row in found) <= 5e6
    for row, after in itertools.pairwise(found):
        (step,) = row["marginal_prices"]
        assert step["ms"] == pytest.approx(after["latency_ms"] - row["latency_ms"])
        assert step["points"] == pytest.approx(100 * (after["top1"] - row["top1"]))
    assert found[-1]["marginal_prices"] == []
    lines = "".join(json.dumps(row["architecture"]) + "\n" for row in found)
    priced = rows(bespoke("cost", "--space", NAME, "--classes", 10, stdin=lines))
    assert [row["macs"] for row in priced] == [row["macs"] for row in found]
    assert pareto(files, "--limit", "latency_ms=1.5", "--limit", "params=5e6", "--members", 9) == done


def test_a_front_keeps_to_the_choices_that_are_left_and_to_a_limit_on_the_upper_end(files: Files) -> None:
    found = rows(
        pareto(files, "--limit", "latency_ms=1.5@0.9", "--fix", "resolution=96", "--exclude", "kernel=7")
    )
    assert len(found) > 3
    assert {row["architecture"]["resolution"] for row in found} == {96}
    assert 7 not in {kernel for row in found for kernel in row["architecture"]["kernel"]}
    assert max(row["latency_interval_ms"][1] for row in found) <= 1.5


def test_other_metrics_can_be_traded_without_a_table(files: Files) -> None:
    predictor, _, _ = files
    done = bespoke(
        *("pareto", "--space", NAME, "--classes", 10, "--predictor", predictor, "--resolutions", "96,128"),
        *("--metrics", "top1,macs,peak_memory_bytes", *QUICK),
    )
    assert len(rows(done)) > 5
    assert "latency_ms" not in rows(done)[0]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--metrics", "top1,watts"), "expected two or three different ones of top1, latency_ms"),
        (("--limit", "latency_ms"), "got 'latency_ms', expected a metric and a number"),
        (("--limit", "latency_ms=2@sure"), "got 'latency_ms=2@sure', expected a metric and a number"),
        (("--fix", "kernel=4"), "--fix: got 'kernel=4', expected one of the choices"),
        (("--limit", "watts=3"), "constraint 'watts'"),
        (("--members", 1), "members of a front: got 1"),
    ],
)
def test_a_wrong_question_ends_with_exit_code_2(
    files: Files, more: tuple[object, ...], complaint: str
) -> None:
    done = pareto(files, *more)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


def test_a_front_that_is_empty_ends_with_exit_code_3_and_its_problem(files: Files) -> None:
    done = pareto(files, "--limit", "latency_ms=0.1")
    assert done.returncode == 3
    assert json.loads(done.stdout)["relax"].keys() == {"latency_ms"}


def test_a_fleet_is_covered_by_as_few_as_are_asked_for(files: Files, tmp_path: Path) -> None:
    _, table, _ = files
    members: list[dict[str, Any]] = [
        {"name": "phone", "table": str(table), "latency_ms": 1.2},
        {"name": "watch", "table": [str(table)], "latency_ms": 0.9, "weight": 2},
        {"name": "cloud", "macs": 1.5e8},
    ]
    *subnets, summary = rows(fleet(files, members, "--subnets", 2))
    assert len(subnets) == 2
    assert sorted(name for row in subnets for name in row["serves"]) == ["cloud", "phone", "watch"]
    for row in subnets:
        for member in members:
            if member["name"] in row["serves"]:
                assert row.get(f"latency_ms:{member['name']}", 0) <= member.get("latency_ms", 1)
                assert row["macs"] <= member.get("macs", np.inf)
    assert set(subnets[0]["latency_intervals_ms"]) == {"phone", "watch"}
    top1 = {name: row["top1"] for row in subnets for name in row["serves"]}
    assert summary["mean_top1"] == pytest.approx((top1["phone"] + 2 * top1["watch"] + top1["cloud"]) / 4)
    assert summary["mean_top1"] == summary["by_subnets"][1]
    assert (np.diff(summary["by_subnets"]) >= 0).all()
    assert summary["costs"][2] == 0


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([], "got no members"),
        ([{"name": "a", "macs": 1e9}, {"name": "a", "macs": 2e9}], "2 members named 'a'"),
        ([{"macs": 1e9}], "line 1: got"),
        ([{"name": "a", "table": 3}], "line 1: table: got 3"),
        ([{"name": "a", "weight": "x"}], "line 1: weight"),
        ([{"name": "a", "watts": 3}], "constraint 'watts'"),
        ([{"name": "a", "latency_ms": 3}], "latency table"),
    ],
)
def test_a_wrong_member_ends_with_exit_code_2(
    files: Files, members: list[dict[str, Any]], complaint: str
) -> None:
    done = fleet(files, members, "--resolutions", "96,128")
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


def test_resolutions_that_are_empty_are_not_those_of_the_tables(files: Files) -> None:
    done = fleet(files, [{"name": "phone", "table": str(files[1]), "latency_ms": 1.2}], "--resolutions", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--resolutions: got ''" in done.stderr


def test_a_fleet_that_nothing_serves_ends_with_exit_code_3_and_names_the_member(files: Files) -> None:
    _, table, _ = files
    done = fleet(files, [{"name": "watch", "table": str(table), "latency_ms": 0.05}])
    assert done.returncode == 3
    assert json.loads(done.stdout)["relax"].keys() == {"latency_ms:watch"}
