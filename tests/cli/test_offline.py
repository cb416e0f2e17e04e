import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from bespoke.cli import main
from bespoke.latency_tables import Correction, DeviceProfile, LatencyStat, LatencyTable
from bespoke.search import feasible_ranges
from bespoke.supernet.architecture import read_architecture
from bespoke.supernet.cost import cost, op_macs
from bespoke.supernet.genomes import largest, smallest
from bespoke.supernet.ops import parse_key
from bespoke.supernet.spaces import space as make_space
from tests.conftest import random_predictor

NAME = "ofa-mobilenetv3-w1.0"
SPACE = make_space(NAME, (96, 128), 10)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def bespoke(*arguments: object, stdin: str | bytes = "") -> Done:
    """Run the command line as its entry point does, in this process."""
    out, err = io.StringIO(), io.StringIO()
    given = stdin.encode() if isinstance(stdin, str) else stdin
    with (
        mock.patch.object(sys, "argv", ["bespoke", *map(str, arguments)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stopped,
    ):
        main()
        sys.exit(0)
    return Done(int(stopped.value.code or 0), out.getvalue(), err.getvalue())


def rows(done: Done) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, LatencyTable]:
    """A predictor, and a table in which 100 million MACs take 1 ms."""
    folder = tmp_path_factory.mktemp("offline")
    random_predictor(SPACE).save(folder / "predictor.json")
    keys = {op.key for slot in SPACE.slots for op in slot.ops if op is not None}
    ms = {key: op_macs(parse_key(key)) / 1e8 + 0.01 for key in keys}
    table = LatencyTable(
        profile=DeviceProfile("board", "onnxruntime", "1.20", "cpu", 1, "fp32", 1, {}),
        stats={key: LatencyStat(t, t, t, 10, 0) for key, t in ms.items()},
        correction=Correction(overhead_ms=0.1),
        interval=0.05,
    )
    table.save(folder / "table.json")
    return folder / "predictor.json", folder / "table.json", table


def architectures() -> list[Any]:
    return [largest(SPACE, 128), smallest(SPACE, 96), largest(SPACE, 96)]


def lines() -> str:
    return "".join(json.dumps(a.to_json()) + "\n" for a in architectures())


def test_cost_prices_each_line_in_order_at_any_resolution() -> None:
    other = json.dumps(smallest(make_space(NAME, (8,), 10), 8).to_json())
    found = rows(bespoke("cost", "--space", NAME, "--classes", 10, stdin=lines() + "\n" + other + "\n"))
    for row, architecture in zip(found, architectures(), strict=False):
        price = cost(SPACE.plan(architecture))
        assert row == {
            "macs": price.macs,
            "params": price.params,
            "peak_memory_bytes": price.peak_memory_bytes,
            "model_size_bytes": price.model_size_bytes,
        }
    assert len(found) == 4
    thousand = rows(bespoke("cost", "--space", NAME, stdin=lines()))
    assert thousand[0]["params"] - found[0]["params"] == 990 * 1281


def test_latency_and_accuracy_price_each_line(files: tuple[Path, Path, LatencyTable]) -> None:
    predictor, table_file, table = files
    found = rows(bespoke("latency", "--space", NAME, "--classes", 10, "--table", table_file, stdin=lines()))
    for row, architecture in zip(found, architectures(), strict=True):
        assert row == {"latency_ms": pytest.approx(table.predict(SPACE.plan(architecture)))}
    found = rows(
        bespoke("accuracy", "--space", NAME, "--classes", 10, "--predictor", predictor, stdin=lines())
    )
    assert [set(row) for row in found] == [{"top1"}] * 3
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"kernel": [3]}', "line 2: architecture field 'resolution': got None, allowed: 8 to 2048"),
        (
            '{"kernel": [3], "resolution": 128}',
            "line 2: architecture field 'kernel': got [3], allowed: a list",
        ),
        ('{"resolution": 4}', "line 2: architecture field 'resolution': got 4, allowed: 8 to 2048"),
        ("[1, 2]", "line 2: got [1, 2], expected an architecture"),
        ("not json", "line 2: expected an architecture as JSON"),
        ("[" * 100_000, "line 2: expected an architecture as JSON"),
    ],
)
def test_a_wrong_line_is_named_with_exit_code_2(line: str, complaint: str) -> None:
    done = bespoke("cost", "--space", NAME, stdin=json.dumps(architectures()[0].to_json()) + f"\n{line}\n")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_unknown_names_and_absent_files_end_with_exit_code_2(files: tuple[Path, Path, LatencyTable]) -> None:
    done = bespoke("cost", "--space", "resnet", stdin=lines())
    assert (done.returncode, NAME in done.stderr) == (2, True)
    done = bespoke("accuracy", "--space", NAME, "--classes", 10, "--predictor", "absent.json", stdin=lines())
    assert (done.returncode, "absent.json" in done.stderr) == (2, True)
    done = bespoke("latency", "--space", NAME, "--classes", 10, "--table", "absent", stdin=lines())
    assert (done.returncode, "absent" in done.stderr) == (2, True)
    _, table, _ = files
    done = bespoke("latency", "--space", NAME, "--table", table, stdin=lines())
    assert done.returncode == 2
    assert "lacks" in done.stderr


def search(files: tuple[Path, Path, LatencyTable], *more: object) -> Done:
    predictor, table, _ = files
    common = ("--space", NAME, "--classes", 10, "--predictor", predictor, "--table", table)
    return bespoke("search", *common, "--population", 16, "--generations", 6, *more)


def test_search_answers_within_its_limits_and_says_so_again(files: tuple[Path, Path, LatencyTable]) -> None:
    limits = ("--latency-ms", 1.2, "--params", 5e6)
    done = search(files, *limits, "--seed", 1, "--json")
    (answer,) = rows(done)
    assert answer["latency_ms"] <= 1.2
    assert answer["params"] <= 5e6
    assert answer["seed"] == 1
    assert answer["flops"] == 2 * answer["macs"]
    assert answer["architecture"]["resolution"] in (96, 128)
    assert search(files, *limits, "--seed", 1, "--json").stdout == done.stdout
    shown = search(files, *limits, "--seed", 1).stdout
    assert all(name in shown for name in answer)
    line = json.dumps(answer["architecture"]) + "\n"
    (price,) = rows(bespoke("cost", "--space", NAME, "--classes", 10, stdin=line))
    assert price == {name: answer[name] for name in price}


def test_search_keeps_to_the_resolutions_that_are_asked_for(files: tuple[Path, Path, LatencyTable]) -> None:
    (answer,) = rows(search(files, "--latency-ms", 3, "--resolutions", "96", "--json"))
    assert answer["architecture"]["resolution"] == 96
    assert search(files, "--latency-ms", 3, "--resolutions", "96,x").returncode == 2


def test_search_limits_an_intervals_end_and_keeps_to_what_is_fixed_or_left(
    files: tuple[Path, Path, LatencyTable], tmp_path: Path
) -> None:
    fixed = ("--fix", "resolution=96", "--exclude", "kernel=7", "--exclude", "kernel=5", "--fix", "expand=4")
    (answer,) = rows(search(files, "--latency-ms", 1.2, "--confidence", 0.9, *fixed, "--json"))
    assert answer["latency_interval_ms"][1] <= 1.2
    found = answer["architecture"]
    assert (found["resolution"], set(found["kernel"])) == (96, {3})
    assert set(found["expand"]) <= {3, 4}  # a block that is left out has the first choice
    replace(files[2], interval=0.0).save(tmp_path / "uncertain.json")
    uncertain = (files[0], tmp_path / "uncertain.json", files[2])
    (answer,) = rows(search(uncertain, "--latency-ms", 1.2, "--json"))
    assert answer["latency_interval_ms"] is None
    done = search(uncertain, "--latency-ms", 1.2, "--confidence", 0.9)
    assert (done.returncode, "whose error on whole networks was measured" in done.stderr) == (2, True)
    for wrong, complaint in (
        (("--fix", "resolution"), "resolution=128"),
        (("--exclude", "kernel=4"), "one of the choices"),
        (("--fix", "colour=3"), "one of the choices"),
        (("--macs", 1e9, "--confidence", 0.9), "--latency-ms"),
    ):
        done = search(files, *wrong)
        assert done.returncode == 2
        assert complaint in done.stderr


def test_search_minimises_at_a_least_accuracy_and_gives_alternatives(
    files: tuple[Path, Path, LatencyTable],
) -> None:
    (fast,) = rows(search(files, "--min-top1", 0.75, "--json"))
    (small,) = rows(search(files, "--min-top1", 0.75, "--minimise", "params", "--alternatives", 2, "--json"))
    assert min(fast["top1"], small["top1"]) >= 0.75
    assert fast["latency_ms"] <= small["latency_ms"]
    assert small["params"] <= fast["params"]
    assert len(small["alternatives"]) == 2
    assert all(other["top1"] >= 0.75 for other in small["alternatives"])
    assert len({json.dumps(one["architecture"]) for one in (small, *small["alternatives"])}) == 3
    done = search(files, "--min-top1", 0.999, "--latency-ms", 3, "--json")
    assert done.returncode == 3
    problem = json.loads(done.stdout)
    assert problem["limits"] == {"latency_ms": 3, "top1": 0.999}
    assert problem["conflicts"] == [["top1"]]
    assert search(files, "--minimise", "params").returncode == 2


def test_a_table_of_an_int8_device_has_bytes_counted_as_int8(
    files: tuple[Path, Path, LatencyTable], tmp_path: Path
) -> None:
    table = replace(files[2], profile=replace(files[2].profile, precision="int8"))
    table.save(tmp_path / "int8.json")
    (found,) = rows(search((files[0], tmp_path / "int8.json", table), "--latency-ms", 3, "--json"))
    price = cost(SPACE.plan(read_architecture(SPACE, found["architecture"])), "int8")
    assert (found["model_size_bytes"], found["peak_memory_bytes"]) == (
        price.model_size_bytes,
        price.peak_memory_bytes,
    )


def test_an_infeasible_search_ends_with_exit_code_3_and_its_problem(
    files: tuple[Path, Path, LatencyTable],
) -> None:
    done = search(files, "--latency-ms", 0.1, "--json")
    assert done.returncode == 3
    problem = json.loads(done.stdout)
    low, high = feasible_ranges(SPACE, files[2].pricer(SPACE))["latency_ms"]
    assert problem["type"].endswith("/budget-infeasible")
    assert problem["feasible"]["latency_ms"] == [low, high]
    assert problem["relax"] == {"latency_ms": low}
    assert set(problem["nearest"]["architecture"]) == {"kernel", "expand", "depth", "resolution"}
    done = search(files, "--latency-ms", 0.1)
    assert (done.returncode, done.stdout) == (3, "")
    assert "relax latency_ms" in done.stderr
    assert search(files, "--latency-ms", -5).returncode == 2


def test_help_needs_neither_torch_nor_fastapi_nor_onnx() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'fastapi', 'onnx', 'onnxruntime', 'sqlalchemy'): sys.modules[name] = None\n"
        "sys.argv = ['bespoke', '--help']\n"
        "from bespoke.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("search", "cost", "latency", "accuracy", "serve", "agent", "train", "extract"):
        assert command in done.stdout


def test_a_library_that_is_not_installed_is_one_line_that_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "sys.argv = ['bespoke', 'train', '--data', 'photos', '--out', 'mine']\n"
        "from bespoke.cli import main\n"
        "main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bespoke: this needs torch: pip install 'bespoke-search[train]'\n"


def test_published_files_give_the_published_values(official: Path) -> None:
    samples = json.loads((official / "reference_values.json").read_text())["samples"]
    tables = {file.name[:3]: file for file in (official / "note10").iterdir()}
    known = [sample for sample in samples if str(sample["arch"]["r"][0]) in tables]
    assert known
    stdin = "".join(
        json.dumps(
            {
                "kernel": s["arch"]["ks"],
                "expand": s["arch"]["e"],
                "depth": s["arch"]["d"],
                "resolution": s["arch"]["r"][0],
            }
        )
        + "\n"
        for s in known
    )
    space = ("--space", "ofa-mobilenetv3-w1.2")
    for given in ([official / "note10"], sorted(tables.values())):
        found = rows(bespoke("latency", *space, "--table", *given, stdin=stdin))
        for row, sample in zip(found, known, strict=True):
            assert row["latency_ms"] == pytest.approx(sample["note10_ms"], abs=1e-6)
    found = rows(bespoke("accuracy", *space, "--predictor", official / "acc_predictor.pth", stdin=stdin))
    for row, sample in zip(found, known, strict=True):
        assert row["top1"] == pytest.approx(sample["pred_acc"], abs=1e-6)


def test_what_else_a_line_tells_is_passed_over() -> None:
    line = smallest(SPACE).to_json() | {"latency_ms": 3.5, "host": "board-7"}
    plain, told = (
        rows(bespoke("cost", "--space", NAME, stdin=json.dumps(fields)))
        for fields in (smallest(SPACE).to_json(), line)
    )
    assert told == plain


@pytest.mark.parametrize(
    "command", [("cost",), ("fleet", "--predictor", "p"), ("tables", "fit", "--out", "t")]
)
def test_bytes_that_are_no_text_are_told_in_one_line(command: tuple[str, ...]) -> None:
    done = bespoke(*command, "--space", NAME, stdin=b"\x1f\x8b\x08")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no text, expected JSON lines in UTF-8" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        ("search", "--predictor", "p"),
        ("pareto", "--predictor", "p"),
        ("fleet", "--predictor", "p"),
        ("tables", "choose", "--reference", "t"),
        ("tables", "fit", "--out", "t"),
    ],
)
def test_a_seed_that_no_generator_takes_is_told(command: tuple[str, ...]) -> None:
    for seed in (-1, 2**63):
        done = bespoke(*command, "--space", NAME, f"--seed={seed}")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"--seed: got {seed}, expected 0 or more" in done.stderr


def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = bespoke("keys", "list", "--var", tmp_path / "file" / "var")
    assert (done.returncode, done.stdout) == (2, "")
    assert str(tmp_path / "file") in done.stderr
    assert len(done.stderr.splitlines()) == 1
