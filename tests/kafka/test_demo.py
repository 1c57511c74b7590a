"""`tocsin demo` as a user runs it: a process of its own, its output, its end, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc"),
]

PATIENCE_SECONDS = 60.0
Process = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that is killed cannot remove its folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@contextmanager
def demo(*arguments: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "streams.cli", "demo", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def children(pid: int) -> set[int]:
    """Processes below one, by pid."""
    parent_of = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parent_of[int(folder.name)] = int(status[1])
    found, below = set(), {pid}
    while below:
        below = {child for child, parent in parent_of.items() if parent in below}
        found |= below
    return found


def named(pids: set[int], part: str) -> int | None:
    """The process whose command line contains `part`."""
    for pid in sorted(pids):
        try:
            if part in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_when_both_run(process: Process) -> set[int]:
    """The pids below the demo once the broker and the worker are there."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = children(process.pid)
        if named(found, "tansu") and named(found, "\0worker\0"):
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("the broker and the worker did not start")


def wait_until_dead(pids: set[int]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, f"left behind: {[pid for pid in pids if is_alive(pid)]}"
        time.sleep(0.05)


def test_unattended_demo_prints_transitions_and_a_summary_and_leaves_nothing_behind() -> None:
    with demo("--for", "45s", "--json") as process:
        below = children_when_both_run(process)
        output, errors = process.communicate(timeout=45 + PATIENCE_SECONDS)
    assert process.returncode == 0, errors
    *transitions, last = [json.loads(line) for line in output.splitlines()]
    fired = [each for each in transitions if each["to"] == "firing"]
    assert "ProviderOutage" in {each["alert"] for each in fired}
    assert all(each["exemplars"] for each in fired)
    assert len({each["id"] for each in transitions}) == len(transitions)
    summary = last["summary"]
    assert summary["transitions"] == len(transitions)
    assert summary["fired"] == len(fired)
    assert summary["calls"] > 1_000
    assert Path(summary["rules"]).name == "alerts.yaml"
    assert "Rules: " in errors
    wait_until_dead(below)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_demo_with_exit_code_0_and_leaves_nothing_behind(number: signal.Signals) -> None:
    with demo("--json") as process:
        below = children_when_both_run(process)
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, errors
    assert "summary" in json.loads(output.splitlines()[-1])
    wait_until_dead(below)


def test_demo_that_is_killed_takes_the_broker_and_the_worker_with_it() -> None:
    with demo("--json") as process:
        below = children_when_both_run(process)
        process.kill()
        wait_until_dead(below)


@pytest.mark.parametrize(
    ("victim", "said"), [("\0worker\0", "The worker ended"), ("tansu", "The embedded broker ended")]
)
def test_demo_whose_worker_or_broker_dies_says_so_and_fails(victim: str, said: str) -> None:
    with demo("--json") as process:
        below = children_when_both_run(process)
        pid = named(below, victim)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert said in errors
    wait_until_dead(below)


def test_rules_with_a_mistake_are_refused_before_anything_starts(tmp_path: Path) -> None:
    rules = tmp_path / "mine.yaml"
    rules.write_text(
        "version: 1\ngroups:\n  - name: mine\n    rules:\n      - alert: Fast\n        mesure: calls\n"
    )
    with demo("--json", "--rules", str(rules)) as process:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert output == ""
    assert 'mine.yaml:6:9: group mine, rule Fast: unknown key "mesure" (did you mean "measure"?)' in errors
