"""CSV and published YAML: what goes out comes back."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bespoke.latency_tables import (
    AdditivityAudit,
    Correction,
    LatencyTable,
    NetworkModel,
    QualityCard,
    csv_text,
    read_csv,
    read_table,
    write_csv,
    write_official,
)
from bespoke.latency_tables.official import key_of, op_of
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import FileInvalid, InvalidInput, TableIncomplete
from bespoke.supernet.genomes import sample
from bespoke.supernet.ops import Op
from bespoke.supernet.spaces import space

Fill = Callable[[SearchSpace], LatencyTable]
CARD = QualityCard(
    0.02, 0.05, 0.06, 0.9, 1.0, 0.99, 0.95, 0.01, 2, 99, 3, 12.5, 0.04, ((1.0, 1.1), (2.0, 2.1))
)
MODEL = NetworkModel((0.0,) * 6, (1.0,) * 6, (2.0,) * 6, ((0.5,) * 6,), (0.1,), 0.2)
MIX = Op("conv", (1, 1, 960), 1280, activation="hswish", norm=False).key


def full(table: LatencyTable) -> LatencyTable:
    """The table with every field that one can have."""
    return dataclasses.replace(
        table,
        correction=Correction(0.25, 1.2, 0.03, -0.0004),
        quality=CARD,
        interval=0.05,
        statistic="low",
        by_resolution={128: {MIX: dataclasses.replace(table.stats[MIX], low_ms=0.02)}},
        source="few-shot",
        provisional=True,
        networks=MODEL,
        audit=AdditivityAudit(12, 1.1, 0.3, 0.1, 0.05),
    )


def test_csv_brings_back_every_field_and_the_revision(
    small: SearchSpace, filled: Fill, tmp_path: Path
) -> None:
    whole = dataclasses.replace(filled(small).stats[MIX], median_ms=1)
    for table in (
        filled(small),
        full(filled(small)),
        dataclasses.replace(filled(small), stats=filled(small).stats | {MIX: whole}),
    ):
        write_csv(table, tmp_path / "t.csv")
        again = read_table([tmp_path / "t.csv"])
        assert again == table
        assert again.revision == table.revision
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


def test_a_csv_that_somebody_typed_needs_ops_and_medians_only(tmp_path: Path) -> None:
    path = tmp_path / "phone.csv"
    # The mark in front is a spreadsheet's: it says that the text is UTF-8.
    path.write_text(
        "\ufeffmedian_ms, op\r\n0.5,v1:pool:in3x3x960:out960\r\n\r\n1e-2,v1:linear:in1x1x1280:out10\r\n"
    )
    table = read_csv(path)
    assert table.op_ms(Op("linear", (1, 1, 1280), 10)) == 0.01
    assert (table.profile.device, table.profile.runtime, table.profile.threads) == ("phone", "unknown", 0)
    assert (table.source, table.statistic, table.quality) == ("published", "median", None)
    assert {stat.low_ms for stat in table.stats.values()} == {0.5, 0.01}


HEAD = "op,median_ms\n"
POOL = "v1:pool:in3x3x960:out960"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: got the columns"),
        ("op,ms\n", r"line 1: got the columns \['op', 'ms'\]"),
        ("op,op,median_ms\n", "each once"),
        (HEAD, "op keys with their latencies"),
        (f"{HEAD}{POOL},0.5\n{POOL},0.6\n", f"line 3: a second row of op '{POOL}'"),
        (f"{HEAD}{POOL}\n", "line 2: got 1 values, expected 2"),
        (f"{HEAD}{POOL},fast\n", "line 2: got median_ms 'fast'"),
        (f"{HEAD}{POOL},\n", "line 2: got no median_ms"),
        (f"{HEAD}{POOL},nan\n", "line 2: got median_ms 'nan'"),
        (f"{HEAD}{POOL},0\n", "median_ms: got 0,"),
        (f"{HEAD}{POOL},-1\n", "median_ms: got -1.0"),
        (f"{HEAD}{POOL},1e400\n", "median_ms: got inf"),
        (f"{HEAD}{POOL},1e9\n", "median_ms: got 1000000000.0"),
        (f"{HEAD}v1:conv,1\n", "v1:conv"),
        (f"op,median_ms,samples\n{POOL},1,-3\n", "line 2: got samples '-3', expected a count"),
        (f"op,median_ms,resolution\n{POOL},1,128\n", "stats: got {}"),
        (f"op,median_ms,resolution\n{POOL},1,\n{POOL},1,big\n", "by_resolution: got 'big'"),
        (f"# []\n{HEAD}{POOL},1\n", "line 1: got '# .."),
        (f"# {{\n{HEAD}{POOL},1\n", "expected JSON"),
        (f'# {{"a": 1, "a": 2}}\n{HEAD}{POOL},1\n', "'a' stands 2 times"),
        (f'# {{"rows": 1}}\n{HEAD}{POOL},1\n', "format None"),
        (f'# {{"rows": 2}}\n{HEAD}{POOL},1\n', "got 1 rows.*tells of 2"),
        (f"# {{}}\n{HEAD}{POOL},1\n", "got 1 rows.*tells of None"),
        (f'{HEAD}"{POOL},1\n', "CSV"),
    ],
)
def test_a_wrong_csv_says_what_is_wrong_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(FileInvalid, match=message):
        read_table([path])


def test_ours_in_both_formats_merge(filled: Fill, tmp_path: Path) -> None:
    filled(space("ofa-mobilenetv3-w1.0", (96,), 10)).save(tmp_path / "96.json")
    write_csv(filled(space("ofa-mobilenetv3-w1.0", (128,), 10)), tmp_path / "128.csv")
    both = read_table([tmp_path])
    assert both.covered_resolutions(space("ofa-mobilenetv3-w1.0", (96, 112, 128), 10)) == (96, 128)


def test_tables_made_in_two_ways_do_not_merge(filled: Fill, tmp_path: Path) -> None:
    for resolution, source in ((96, "ops"), (128, "networks")):
        table = filled(space("ofa-mobilenetv3-w1.0", (resolution,), 10))
        dataclasses.replace(table, source=source).save(tmp_path / f"{resolution}.json")
    with pytest.raises(FileInvalid, match="made in another way"):
        read_table([tmp_path])


def test_every_op_of_the_space_has_a_published_key(small: SearchSpace) -> None:
    ops = [op for slot in small.slots for op in slot.ops if op]
    for op in ops:
        known = op_of(key_of(op))
        assert known is not None
        assert known.key == op.key


def test_a_written_published_table_prices_the_same(small: SearchSpace, filled: Fill, tmp_path: Path) -> None:
    """The reader knows nothing of corrections, so the entries themselves must sum to the prediction."""
    table = dataclasses.replace(full(filled(small)), networks=None, source="ops", provisional=False)
    files = write_official(table, small, tmp_path / "ofa")
    assert [file.name for file in files] == ["96_lookup_table.yaml", "128_lookup_table.yaml"]
    assert sorted(files) == sorted((tmp_path / "ofa").iterdir())
    again = read_table([tmp_path / "ofa"])
    genomes = sample(small, 50, np.random.default_rng(0))
    np.testing.assert_allclose(
        again.pricer(small).latency_ms(genomes), table.pricer(small).latency_ms(genomes), rtol=1e-9
    )
    assert again.source == "published"


def test_only_covered_resolutions_are_written(filled: Fill, small: SearchSpace, tmp_path: Path) -> None:
    table = filled(space("ofa-mobilenetv3-w1.0", (96,), 10))
    assert [file.name for file in write_official(table, small, tmp_path)] == ["96_lookup_table.yaml"]
    with pytest.raises(TableIncomplete):
        write_official(table, space("ofa-mobilenetv3-w1.2", (96,), 10), tmp_path)


def test_what_published_tables_cannot_say_is_refused_and_nothing_is_written(
    small: SearchSpace, filled: Fill, tmp_path: Path
) -> None:
    table, folder = filled(small), tmp_path / "ofa"
    with pytest.raises(InvalidInput, match="a model of whole networks prices"):
        write_official(full(table), small, folder)
    with pytest.raises(InvalidInput, match="takes positive ms only"):
        write_official(dataclasses.replace(table, correction=Correction(ms_per_op=-1.0)), small, folder)
    with pytest.raises(InvalidInput, match="has no key in published tables"):
        key_of(Op("mbconv", (8, 8, 16), 16, kernel=3, mid_channels=64, activation="relu6"))
    assert not folder.exists()


def test_csv_text_is_what_is_written(small: SearchSpace, filled: Fill, tmp_path: Path) -> None:
    write_csv(filled(small), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == csv_text(filled(small))
    assert len(csv_text(filled(small)).splitlines()) == 2 + len(filled(small).stats)


def test_files_that_do_not_tell_their_device_must_not_contradict_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{HEAD}{POOL},0.5\n")
    (tmp_path / "b.csv").write_text(f"{HEAD}v1:linear:in1x1x1280:out10,0.01\n")
    assert len(read_table([tmp_path]).stats) == 2
    (tmp_path / "c.csv").write_text(f"{HEAD}{POOL},0.9\n")
    with pytest.raises(FileInvalid, match=r"c\.csv: has op .* at 0\.9 ms, and .*a\.csv at 0\.5 ms"):
        read_table([tmp_path])


def test_of_two_files_of_one_named_device_the_op_with_more_samples_counts(
    filled: Fill, small: SearchSpace, tmp_path: Path
) -> None:
    table = filled(small)
    named = dataclasses.replace(table.profile, fingerprint={"name": "board", "source": "networks"})
    for file, factor, samples in (("few.json", 2.0, 3), ("many.json", 1.0, 300)):
        stats = {
            key: dataclasses.replace(stat, median_ms=factor * stat.median_ms, samples=samples)
            for key, stat in table.stats.items()
        }
        dataclasses.replace(table, profile=named, stats=stats, by_resolution={96: stats}).save(
            tmp_path / file
        )
    merged = read_table([tmp_path / "many.json", tmp_path / "few.json"])
    for stats in (merged.stats, merged.by_resolution[96]):
        assert {stat.samples for stat in stats.values()} == {300}


def test_files_in_different_units_do_not_merge(filled: Fill, tmp_path: Path) -> None:
    for resolution, factor in ((96, 1.0), (128, 1000.0)):
        table = filled(space("ofa-mobilenetv3-w1.0", (resolution,), 10))
        stats = {
            key: dataclasses.replace(stat, median_ms=factor * stat.median_ms)
            for key, stat in table.stats.items()
            if "in1x1x" not in key  # the other file has these too
        }
        dataclasses.replace(table, stats=stats).save(tmp_path / f"{resolution}.json")
        assert read_table([tmp_path / f"{resolution}.json"]).stats == stats
    with pytest.raises(FileInvalid, match=r"96\.json.* another unit"):
        read_table([tmp_path / "128.json", tmp_path / "96.json"])
