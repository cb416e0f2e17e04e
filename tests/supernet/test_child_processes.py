import json
import os
import subprocess
import sys

_ECHO = """
import sys
from bespoke.supernet.child_processes import answer, meet_parent
met = meet_parent()
if met is not None:
    set_up, answers = met
    print("a library's chatter")
    for line in sys.stdin:
        answer(answers, {"said": line.strip(), "set_up": set_up["word"]})
"""


def echo(lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _ECHO], input=lines, capture_output=True, text=True, check=False
    )


def test_a_child_answers_line_by_line_and_what_else_is_printed_goes_elsewhere() -> None:
    done = echo(json.dumps({"parent": os.getpid(), "word": "yes"}) + "\nhello\nthere\n")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"said": "hello", "set_up": "yes"},
        {"said": "there", "set_up": "yes"},
    ]
    assert "a library's chatter" in done.stderr


def test_a_child_whose_parent_is_gone_or_says_nothing_ends() -> None:
    assert (echo("").returncode, echo("").stdout) == (0, "")
    orphan = echo(json.dumps({"parent": os.getpid() + 10**7, "word": "yes"}) + "\nhello\n")
    assert (orphan.returncode, orphan.stdout) == (1, "")
    assert "the parent process has ended already" in orphan.stderr
