"""The command line as a person meets it: help, checks, exit codes, and errors without tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import pytest
from click.testing import CliRunner, Result

from streams.cli import main

RULE = """\
version: 1
groups:
  - name: g
    rules:
      - {alert: Slow, by: [feature], measure: latency.p95, window: 5m, above: 2s, runbook: latency-high, summary: s}
"""
WRONG = """\
version: 1
groups:
  - name: g
    rules:
      - {alert: A, by: [feature], measure: latencyy.p95, window: 5m, abov: 2s, runbook: latency-high, summary: s}
      - {alert: B, by: [feature], measure: latency.p95, window: 5m, above: $2, runbook: latency-hig, summary: s}
"""


def run(*arguments: object, stdin: str = "") -> Result:
    """The command in this process, as if it were called from the shell."""
    return CliRunner().invoke(main, [str(each) for each in arguments], input=stdin, catch_exceptions=False)


def shell(*arguments: object, stdin: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The command as a process."""
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
        env=os.environ | variables,
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(path, each, id=" ".join(path)) for path, each in commands(main)]
)
def test_every_command_and_option_has_help(path: tuple[str, ...], command: click.Command) -> None:
    shown = run(*path, "--help")
    assert shown.exit_code == 0
    assert command.help, path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, (path, parameter.name)


def test_summaries_of_commands_are_whole_sentences() -> None:
    for line in run("--help").output.partition("Commands:")[2].splitlines():
        assert not line.endswith("..."), line


def test_version_is_that_of_the_package() -> None:
    assert run("--version").output.startswith("tocsin 0.")


def test_unknown_command_and_option_are_exit_2() -> None:
    assert run("wrker").exit_code == 2
    assert run("measure", "--cals", "x").exit_code == 2


def test_check_passes_valid_rules_and_says_how_many(folder: Path) -> None:
    (folder / "alerts.yaml").write_text(RULE)
    result = run("check", "alerts.yaml")
    assert (result.exit_code, result.output) == (0, "1 rule in 1 file, no problems\n")


def test_check_passes_what_is_shipped() -> None:
    result = run("check", "library:*")
    assert result.exit_code == 0
    assert "no problems" in result.output


def test_check_tells_all_problems_of_all_files_at_once_with_places(folder: Path) -> None:
    (folder / "one.yaml").write_text(WRONG)
    (folder / "two.yaml").write_text("groups: [\n")
    result = run("check", "one.yaml", "two.yaml", "three.yaml")
    assert result.exit_code == 1
    assert result.stdout == ""
    for said in (
        'one.yaml:5:44: group g, rule A: unknown measure "latencyy.p95" (did you mean "latency.p95"?)',
        'one.yaml:5:70: group g, rule A: unknown key "abov" (did you mean "above"?)',
        'there is no runbook "latency-hig" (did you mean "latency-high"?)',
        "one.yaml:6:",
        "two.yaml:",
        "three.yaml: matches no rule file",
    ):
        assert said in result.stderr, said


def test_check_tells_problems_of_runbooks_and_rules_together(folder: Path) -> None:
    (folder / "alerts.yaml").write_text(WRONG)
    (folder / "pages").mkdir()
    (folder / "pages" / "mine.md").write_text("no front matter\n")
    result = run("check", "alerts.yaml", "--runbooks", "pages")
    assert result.exit_code == 1
    assert "pages/mine.md:1: front matter is missing" in result.stderr
    assert 'unknown measure "latencyy.p95"' in result.stderr


def test_check_needs_a_path() -> None:
    assert run("check").exit_code == 2


def test_worker_tells_all_problems_of_settings_at_once_and_starts_nothing(folder: Path) -> None:
    (folder / "tocsin.yaml").write_text("kafka: {broker: [a:1]}\nrulez: []\n")
    result = shell("worker", "--config", "tocsin.yaml", TOCSIN_FLUSHH="1s")
    assert result.returncode == 1
    said = result.stderr.decode()
    assert 'tocsin.yaml:1:9: unknown key "broker" (did you mean "brokers"?)' in said
    assert 'tocsin.yaml:2:1: unknown key "rulez" (did you mean "rules"?)' in said
    assert 'TOCSIN_FLUSHH is no setting (did you mean "TOCSIN_FLUSH"?)' in said
    assert "Traceback" not in said


def test_worker_tells_all_problems_of_what_the_settings_name_at_once(folder: Path) -> None:
    (folder / "alerts.yaml").write_text(WRONG)
    (folder / "tocsin.yaml").write_text(
        """\
rules: [alerts.yaml, none.yaml]
prices: none-prices.yaml
runbooks: pages
receivers: {team: {slack: {webhook_env: NOT_SET}}}
routes: [{to: [tem]}]
"""
    )
    result = shell("worker", "--config", "tocsin.yaml")
    assert result.returncode == 1
    said = result.stderr.decode()
    for part in (
        'unknown measure "latencyy.p95"',
        "none.yaml: matches no rule file",
        "none-prices.yaml",
        "pages: no such directory",
        "the environment variable NOT_SET is not set",
    ):
        assert part in said, said
    assert "Traceback" not in said


def test_worker_names_a_route_without_its_receiver(folder: Path) -> None:
    (folder / "tocsin.yaml").write_text("routes: [{to: [her]}]\n")
    result = shell("worker", "--config", "tocsin.yaml")
    assert result.returncode == 1
    assert 'routes[0].to: no receiver is called "her" (did you mean "here"?)' in result.stderr.decode()


def test_worker_refuses_a_log_level_that_is_none() -> None:
    assert run("worker", "--log-level", "loud").exit_code == 2


@pytest.mark.parametrize("command", ["worker", "publish", "export --from 1h", "topics list", "topics create"])
def test_a_settings_file_that_is_not_there_is_named(command: str) -> None:
    result = run(*command.split(), "--config", "none.yaml")
    assert result.exit_code == 1
    assert "none.yaml: cannot be read: No such file" in result.stderr


@pytest.mark.parametrize("command", ["publish", "export --from 1h"])
def test_a_broker_that_is_away_is_named_with_the_setting(command: str, folder: Path) -> None:
    (folder / "tocsin.yaml").write_text("kafka: {brokers: ['127.0.0.1:1']}\n")
    result = shell(*command.split(), "--config", "tocsin.yaml")
    said = result.stderr.decode()
    assert result.returncode == 1
    assert "no broker answers at 127.0.0.1:1" in said
    assert "kafka.brokers" in said
    assert "Traceback" not in said
    assert said.count("\n") == 1, said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "yesterday"), '--from: "yesterday" is no RFC 3339 time'),
        (("--from", "1h", "--to", "soon"), '--to: "soon" is no RFC 3339 time'),
    ],
)
def test_export_refuses_a_time_that_is_none(arguments: tuple[str, ...], said: str) -> None:
    result = run("export", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr


def test_schema_of_the_event_is_valid_and_takes_the_documented_example() -> None:
    result = run("schema", "event")
    assert result.exit_code == 0
    schema = json.loads(result.output)
    jsonschema.Draft202012Validator.check_schema(schema)
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    example = json.loads(page.partition("```json\n")[2].partition("```")[0])
    jsonschema.Draft202012Validator(schema).validate(example)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({"latency_ms": 1})


@pytest.mark.parametrize("port", ["0", "65536", "abc"])
def test_broker_refuses_a_port_that_is_none(port: str) -> None:
    assert run("broker", "--port", port).exit_code == 2


def test_reader_that_goes_away_ends_a_command_quietly(folder: Path) -> None:
    calls = folder / "calls.jsonl"
    calls.write_text('{"model": "m", "at": 1767607200000, "latency_ms": 9000, "feature": "f"}\n' * 3)
    command = f"{sys.executable} -m streams.cli measure --calls {calls} --json | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
    assert b"Traceback" not in result.stderr
