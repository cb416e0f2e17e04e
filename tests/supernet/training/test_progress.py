import pytest

from bespoke.supernet.training.phase import Phase
from bespoke.supernet.training.progress import progress_bar

PHASES = [Phase(name, 1, 1e-3, (32,)) for name in ("largest", "sandwich", "full size")]


def test_a_run_that_goes_on_shows_what_was_done_before(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(PHASES, (10, 20, 30), shown=True, finished=1) as advance:
        advance(1, 5, 1.25)
    shown = [line.split() for line in capsys.readouterr().err.splitlines() if line.strip()]
    told = {" ".join(line): line for line in shown}
    assert any("largest" in line and "10/10" in line for line in told)
    assert any("sandwich" in line and "5/20" in line and "loss 1.250" in line for line in told)
    assert any("full size" in line and "0/30" in line and "loss" not in line for line in told)


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(PHASES, (10, 20, 30), shown=False) as advance:
        advance(0, 5, 1.25)
    assert capsys.readouterr().err == ""
