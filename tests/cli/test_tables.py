"""``bespoke tables``: from lines and files to tables, and back."""

import json
from pathlib import Path

import numpy as np
import pytest

from bespoke.latency_tables import DeviceProfile, LatencyStat, LatencyTable
from bespoke.supernet.agreement import spearman
from bespoke.supernet.architecture import decode
from bespoke.supernet.cost import op_macs
from bespoke.supernet.genomes import sample
from bespoke.supernet.spaces import space as make_space
from tests.cli.test_offline import bespoke, rows

NAME = "ofa-mobilenetv3-w1.0"
SPACE = make_space(NAME, (96, 128, 160), 10)
COMMON = ("--space", NAME, "--classes", 10)


@pytest.fixture(scope="module")
def reference() -> LatencyTable:
    ops = {op.key: op for slot in SPACE.slots for op in slot.ops if op}
    ms = {key: 0.02 + op_macs(op) / 1e8 for key, op in ops.items()}
    profile = DeviceProfile("board", "onnxruntime", "1.20", "cpu", 1, "fp32", 1, {})
    return LatencyTable(profile, {key: LatencyStat(m, m, m, 9, 0) for key, m in ms.items()})


@pytest.fixture(scope="module")
def file(reference: LatencyTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "board.json"
    reference.save(path)
    return path


def log(reference: LatencyTable, count: int, factor: float = 1.0, sides: tuple[int, ...] = (0, 1, 2)) -> str:
    rng = np.random.default_rng(0)
    genomes = sample(SPACE, count, rng)
    genomes[:, -1] = rng.choice(sides, count)
    latency = factor * reference.pricer(SPACE).latency_ms(genomes) * (1 + 0.02 * rng.standard_normal(count))
    return "".join(
        json.dumps(decode(SPACE, g).to_json() | {"latency_ms": float(ms)}) + "\n"
        for g, ms in zip(genomes, latency, strict=True)
    )


def unseen(count: int = 40) -> str:
    genomes = sample(SPACE, count, np.random.default_rng(7))
    return "".join(json.dumps(decode(SPACE, g).to_json()) + "\n" for g in genomes)


def latencies(table: Path) -> list[float]:
    found = rows(bespoke("latency", *COMMON, "--table", table, stdin=unseen()))
    return [row["latency_ms"] for row in found]


def test_a_log_becomes_a_table_that_prices_resolutions_it_never_saw(
    reference: LatencyTable, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "fitted.json"
    asked = ("--resolutions", "96,128,160", "--device", "phone")
    (answer,) = rows(
        bespoke(
            "tables", "fit", *COMMON, *asked, "--out", out, "--json", stdin=log(reference, 80, sides=(0, 2))
        )
    )
    assert (answer["device"], answer["source"], answer["provisional"]) == ("phone", "networks", False)
    assert answer["resolutions"] == [96, 128, 160]
    assert answer["quality"]["subnets"] == 80
    assert answer["quality"]["repeat_mape"] is None
    assert 0 < answer["interval"] < 0.2
    assert np.abs(np.array(latencies(out)) / latencies(file) - 1).mean() < 0.03


def test_by_default_a_fitted_table_covers_the_published_resolutions_and_those_of_the_log(
    reference: LatencyTable, tmp_path: Path
) -> None:
    out = tmp_path / "fitted.json"
    done = bespoke("tables", "fit", *COMMON, "--out", out, stdin=log(reference, 20))
    assert done.returncode == 0, done.stderr
    (answer,) = rows(bespoke("tables", "show", out, "--json"))
    assert answer["resolutions"] == [96, *range(128, 225, 4)]
    assert "repeat_mape" in done.stdout
    assert "unknown" in done.stdout


def test_ten_networks_and_a_reference_make_a_provisional_table(
    reference: LatencyTable, file: Path, tmp_path: Path
) -> None:
    asked = (*COMMON, "--resolutions", "96,128,160")
    chosen = rows(bespoke("tables", "choose", *asked, "--reference", file))
    assert len(chosen) == 10
    priced = rows(
        bespoke("latency", *COMMON, "--table", file, stdin="".join(json.dumps(a) + "\n" for a in chosen))
    )
    lines = [
        json.dumps(a | {"latency_ms": 2.5 * p["latency_ms"]}) + "\n"
        for a, p in zip(chosen, priced, strict=True)
    ]
    out = tmp_path / "new.json"
    (answer,) = rows(
        bespoke(
            "tables", "few-shot", *asked, "--reference", file, "--out", out, "--json", stdin="".join(lines)
        )
    )
    assert (answer["source"], answer["provisional"]) == ("few-shot", True)
    assert np.abs(np.array(latencies(out)) / latencies(file) / 2.5 - 1).mean() < 0.02
    again = (*asked, "--reference", file, file, "--out", tmp_path / "none.json", "--json")
    (answer,) = rows(bespoke("tables", "few-shot", *again, stdin=""))
    assert answer["quality"] is None
    assert spearman(latencies(tmp_path / "none.json"), latencies(file)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda lines: [*lines[:4], '{"kernel": [3]}\n'], "line 5"),
        (lambda lines: [*lines[:4], "nonsense\n"], "line 5"),
        (
            lambda lines: [lines[0], lines[1].replace('"latency_ms": ', '"latency_ms": -')],
            "line 2: latency_ms",
        ),
        (lambda lines: lines[:5], "got 5 different networks, expected at least 10"),
        (lambda lines: [], "got 0 different networks"),
    ],
)
def test_a_wrong_log_ends_with_exit_code_2_and_writes_nothing(
    reference: LatencyTable, tmp_path: Path, change: object, complaint: str
) -> None:
    out = tmp_path / "fitted.json"
    lines = change(log(reference, 12).splitlines(keepends=True))  # type: ignore[operator]
    done = bespoke("tables", "fit", *COMMON, "--out", out, stdin="".join(lines))
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_tables_go_out_and_come_back(file: Path, tmp_path: Path) -> None:
    csv, back = tmp_path / "t.csv", tmp_path / "back.json"
    assert bespoke("tables", "export", file, "--out", csv).stdout == f"{csv}\n"
    (answer,) = rows(bespoke("tables", "import", csv, "--out", back, "--device", "renamed", "--json"))
    assert answer["device"] == "renamed"
    assert LatencyTable.load(back).stats == LatencyTable.load(file).stats
    folder = tmp_path / "ofa"
    (answer,) = rows(bespoke("tables", "export", file, *COMMON, "--format", "ofa", "--out", folder, "--json"))
    assert len(answer["files"]) == 3
    assert latencies(folder) == pytest.approx(latencies(file))
    for wrong in (("--format", "xml"), ("--format", "ofa")):
        assert bespoke("tables", "export", file, *wrong, "--out", tmp_path / "x").returncode == 2


def test_a_table_is_shown_with_its_picture(reference: LatencyTable, file: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "fitted.json", tmp_path / "quality.png"
    asked = (*COMMON, "--resolutions", "96,128,160", "--out", out)
    assert bespoke("tables", "fit", *asked, stdin=log(reference, 20)).returncode == 0
    shown = bespoke("tables", "show", out, "--plot", picture)
    assert "quality.mape" in shown.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    without = bespoke("tables", "show", file, "--plot", tmp_path / "none.png")
    assert (without.returncode, (tmp_path / "none.png").exists()) == (2, False)
