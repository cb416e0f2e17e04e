"""The pre-flight: what refuses, what degrades, and the words for it."""

import itertools
from pathlib import Path

import pytest

from bespoke.agent import Conditions, Preflight, judge_here, preflight, read_conditions
from bespoke.agent.preflight import clock_step_ns

QUIET = Conditions(frequency_mhz=2000, temperature_c=45, load=0.2, free_memory_mib=4000, on_battery=False)


def judged(**changes: object) -> Preflight:
    facts = {name: value for name, value in changes.items() if hasattr(QUIET, name)}
    others = {name: value for name, value in changes.items() if name not in facts}
    conditions = Conditions(**{**vars(QUIET), **facts})  # type: ignore[arg-type]
    return preflight(conditions, **{"threads": 1, "cores": 4, **others})  # type: ignore[arg-type]


def test_a_quiet_machine_is_fit() -> None:
    assert judged() == Preflight((), ())


def test_what_cannot_be_read_is_not_held_against_a_machine() -> None:
    assert preflight(Conditions(), threads=1, cores=1) == Preflight((), ())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"free_memory_mib": 150}, "memory: 150 MiB"),
        ({"temperature_c": 97.0}, "temperature: 97"),
        ({"clock_step_ns": 15_600_000}, "clock: steps of 15600"),
    ],
)
def test_what_makes_measuring_senseless_refuses(changes: dict[str, object], word: str) -> None:
    found = judged(**changes)
    assert len(found.refused) == 1 and word in found.refused[0] and found.degraded == ()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"free_memory_mib": 300}, "memory: 300 MiB"),
        ({"temperature_c": 85.0}, "temperature: 85"),
        ({"clock_step_ns": 2_000}, "clock: steps of 2"),
        ({"load": 3.9}, "load: other work keeps 3.9 of 4 cores busy"),
        ({"governor": "powersave", "driver": "acpi-cpufreq"}, "governor: powersave"),
        ({"on_battery": True}, "power: on battery"),
    ],
)
def test_what_makes_measuring_worse_degrades(changes: dict[str, object], word: str) -> None:
    found = judged(**changes)
    assert found.refused == () and len(found.degraded) == 1 and word in found.degraded[0]
    assert found.reasons == found.degraded


def test_load_that_leaves_the_threads_a_core_is_no_harm() -> None:
    assert judged(load=2.9).degraded == ()
    assert judged(load=3.9, measuring=True).degraded == ()


def test_load_is_spread_over_all_cores_of_which_this_process_may_use_some() -> None:
    assert judged(load=20.0, cores=64, usable_cores=2) == Preflight((), ())
    assert "2 asked for, this process may use 1 cores" in judged(threads=2, usable_cores=1).refused[0]


def test_a_governor_that_rises_by_itself_is_no_harm() -> None:
    assert judged(governor="powersave", driver="intel_pstate").degraded == ()


def test_the_clocks_step_is_seen() -> None:
    ticks = itertools.chain.from_iterable((t, t, t) for t in itertools.count(0, 1_000_000))
    assert clock_step_ns(lambda: next(ticks)) == 1_000_000
    assert 0 < clock_step_ns() < 1_000_000


def test_the_frequency_is_that_of_the_cores_that_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for core, khz in enumerate((1_000_000, 1_000_000, 2_400_000, 2_400_000)):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")
    monkeypatch.setattr("bespoke.agent.conditions._CPUS", tmp_path)
    assert read_conditions((3,)).frequency_mhz == 2400.0
    assert read_conditions((1, 2)).frequency_mhz == 1700.0


def test_a_frequency_that_the_kernel_does_not_know_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(percpu: bool) -> list[float]:
        return [int("<unknown>")]

    monkeypatch.setattr("psutil.cpu_freq", unknown)
    assert read_conditions().frequency_mhz is None


def test_this_machine_can_be_judged() -> None:
    conditions = read_conditions()
    assert conditions.free_memory_mib is None or conditions.free_memory_mib > 0
    assert conditions.frequency_mhz is None or 10 < conditions.frequency_mhz < 20_000
    assert isinstance(judge_here(1), Preflight)
