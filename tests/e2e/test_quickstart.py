from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bespoke.cli.local import BESPOKE


def test_the_quickstart_does_the_main_job_and_ends_with_three_curl_lines(
    random_zoo: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "BESPOKE_ZOO": str(random_zoo), "COLUMNS": "200"}
    environment.pop("BESPOKE_DATA", None)
    command = [*BESPOKE, "quickstart", "--supernet", "tiny", "--var", str(tmp_path / "var")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for row in ("latency", "top-1", "MACs", "parameters", "peak memory", "file size", "(checked)"):
        assert row in done.stdout
    curls = [line for line in done.stdout.splitlines() if line.startswith("curl ")]
    assert len(curls) == 3
    assert curls[2].endswith("/model.onnx")
    assert len(list((tmp_path / "var").glob("sub_*.onnx"))) == 1
