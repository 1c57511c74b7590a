"""The command line: `tocsin ...`. Commands import what they need, so that each starts quickly."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, NoReturn

import click

INVALID: Final = 1
"""Exit code for files that are not valid."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tocsin", message="tocsin %(version)s")
def main() -> None:
    """The alarm bell for LLM applications: rolling windows over calls in Kafka, rules in YAML, messages in Slack."""
    from streams.logs import configure_logging

    configure_logging("warning")


@main.command()
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (tocsin.yaml)."
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Least severity that is logged.",
)
@click.option(
    "--accept-loss", is_flag=True, help="Go on although calls were deleted before they were counted."
)
def worker(config: Path | None, log_level: str, *, accept_loss: bool) -> None:
    """Run the engine until SIGINT or SIGTERM.

    Ingest, evaluate and notify, in one process. What is wrong with the settings, and with what they name, is told at
    once; a broker that is away is waited for.
    """
    import logging

    from streams.health_server import ListenError
    from streams.kafka_security import KafkaSecurityError
    from streams.logs import configure_logging
    from streams.records import LossError
    from streams.setup import describe, read_setup
    from streams.topics import TopicError
    from streams.watchdog import StuckError

    told = (TopicError, LossError, KafkaSecurityError, StuckError, ListenError)
    configure_logging(log_level, told=told)
    settings = _settings(config)
    setup = _checked(lambda: read_setup(settings, os.environ, sys.stdout))
    for line in describe(setup, config):
        logging.getLogger("streams.worker").info("%s", line)

    from streams.collector import collect_rarely
    from streams.worker import run_worker

    collect_rarely()
    try:
        _run(run_worker(setup, accept_loss=accept_loss))
    except told as error:
        _fail(str(error))
    except Exception as error:  # noqa: BLE001 - it has been logged with its traceback; the exit code is for the supervisor
        _fail(f"the worker ended: {type(error).__name__}: {error}")


@main.command()
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (tocsin.yaml)."
)
@click.option(
    "--ready", is_flag=True, help="Ask whether it is ready to alert, and not only whether it goes on."
)
def health(config: Path | None, *, ready: bool) -> None:
    """Ask a worker whether it is well.

    Exit 0 when it is, 1 when not. The worker is the one that listens at web.listen on this machine. Its answer is
    printed as JSON.
    """
    from streams.health_server import ask_health

    address = _settings(config).web.address
    if address is None:
        _fail("web.listen is off: nothing to ask")
    host, port = address
    is_well, answer = _run(ask_health(host, port, "/readyz" if ready else "/healthz"))
    click.echo(answer, err=not answer.startswith("{"))
    sys.exit(0 if is_well else INVALID)


@main.command()
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--runbooks", type=click.Path(file_okay=False, path_type=Path), help="Folder of your runbook pages."
)
def check(paths: tuple[str, ...], runbooks: Path | None) -> None:
    """Check rule files: exit 0 when all are valid, 1 when one is not.

    PATHS are files, folders, globs, or library:NAME for what is shipped with Tocsin.
    """
    from streams.setup import check_rules

    files, rules = _checked(lambda: check_rules(paths, runbooks))
    click.echo(f"{_counted(rules, 'rule')} in {_counted(files, 'file')}, no problems")


@main.command()
@click.option(
    "--rules", "rule_paths", multiple=True, required=True, help="Rule files, as for check. Repeatable."
)
@click.option("--calls", required=True, help="Calls as JSON lines (plain, gzip, zstd); - for standard input.")
@click.option("--until", help="RFC 3339 time at which the clock stands at the end; default: the last call's.")
@click.option("--lateness", default="10s", show_default=True, help="Disorder allowed.")
@click.option(
    "--prices", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Your price file."
)
@click.option(
    "--runbooks", type=click.Path(file_okay=False, path_type=Path), help="Folder of your runbook pages."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per transition.")
def replay(
    rule_paths: tuple[str, ...],
    calls: str,
    until: str | None,
    lateness: str,
    prices: Path | None,
    runbooks: Path | None,
    as_json: bool,
) -> None:
    """Run rules over recorded calls, without Kafka.

    Prints the transitions that the engine would have made: as the messages that would have been sent, or as JSON.
    """
    from streams.replay import run_replay

    _checked(lambda: run_replay(rule_paths, calls, until, lateness, prices, runbooks, as_json=as_json))


@main.command()
@click.option("--by", default="", help="Dimensions, separated by commas; none: all calls together.")
@click.option("--calls", required=True, help="Calls as JSON lines (plain, gzip, zstd); - for standard input.")
@click.option("--window", help="Measure by tumbling window, such as 5m; default: the whole input.")
@click.option("--where", multiple=True, help="Only calls with NAME=VALUE (several values: A,B). Repeatable.")
@click.option(
    "--prices", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Your price file."
)
@click.option("--json", "as_json", is_flag=True, help="A JSON list with every measure.")
def measure(
    by: str, calls: str, window: str | None, where: tuple[str, ...], prices: Path | None, as_json: bool
) -> None:
    """Measure recorded calls.

    Prints counts, percentiles, tokens and spend of each series, over the whole input or by window.
    """
    from streams.measure import run_measure

    _checked(lambda: run_measure(by, calls, window, where, prices, as_json=as_json))


@main.command()
@click.argument("calls", default="-")
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (tocsin.yaml)."
)
@click.option("--topic", help="Topic; default: the first under calls.topics.")
def publish(calls: str, config: Path | None, topic: str | None) -> None:
    """Publish calls to the calls topic.

    CALLS is a file of JSON lines (plain, gzip, zstd), or - for standard input. The key is the trace or else the id of
    the call. A line that is no call is named and left out, and the exit code is then 1.
    """
    from streams.publish import run_publish

    settings = _settings(config)
    code = _checked(lambda: _run(run_publish(settings, calls, topic or settings.calls.topics[0])))
    sys.exit(code)


@main.command()
@click.option("--from", "start", required=True, help="RFC 3339 time, or a duration ago such as 10m.")
@click.option("--to", "end", help="RFC 3339 time, or a duration ago; default: now.")
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (tocsin.yaml)."
)
def export(start: str, end: str | None, config: Path | None) -> None:
    """Print calls from the calls topics.

    One JSON line for each record that arrived in the time range, to pipe into measure or replay.
    """
    from streams.export import run_export

    settings = _settings(config)
    _checked(lambda: _run(run_export(settings, start, end)))


@main.group()
def topics() -> None:
    """The Kafka topics that Tocsin uses."""


@topics.command("create")
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (tocsin.yaml)."
)
def topics_create(config: Path | None) -> None:
    """Create missing topics, and check the others."""
    from streams.topics import TopicError, create_topics

    settings = _settings(config)
    try:
        created = _run(create_topics(settings))
    except TopicError as error:
        _fail(str(error))
    for name in created:
        click.echo(f"created {name}")
    if not created:
        click.echo("nothing to create: every topic is there")


@topics.command("list")
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (tocsin.yaml)."
)
def topics_list(config: Path | None) -> None:
    """Show each topic and whether it exists."""
    from streams.topics import existing_topics, planned_topics

    settings = _settings(config)
    present = _run(existing_topics(settings))
    for plan in planned_topics(settings):
        partitions = present.get(plan.name)
        state = "missing" if partitions is None else _counted(partitions, "partition")
        click.echo(f"{plan.name:24} {state:14} {plan.purpose}")


@main.group()
def rules() -> None:
    """The rule sets in Kafka that the workers go by."""


@rules.command("log")
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (tocsin.yaml)."
)
def rules_log(config: Path | None) -> None:
    """Show every rule set that was in force, and from when."""
    from streams.rules_command import print_rules_log

    settings = _settings(config)
    _run(print_rules_log(settings))


@rules.command("activate")
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (tocsin.yaml)."
)
def rules_activate(config: Path | None) -> None:
    """Put the rule files of the settings in force, even where later ones replaced them."""
    from streams.rules_command import activate_rules
    from streams.setup import read_setup

    settings = _settings(config)
    setup = _checked(lambda: read_setup(settings, {}, sys.stdout, with_receivers=False))
    _run(activate_rules(setup))


@main.group()
def schema() -> None:
    """Schemas of what users write and publish."""


@schema.command("event")
def schema_event() -> None:
    """JSON Schema of the call event."""
    import json

    from streams.event import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@main.command()
@click.option("--port", required=True, type=click.IntRange(1, 65_535), help="Port to listen on.")
def broker(port: int) -> None:
    """Run just the embedded broker.

    It listens on 127.0.0.1 until SIGINT or SIGTERM, and keeps everything in memory.
    """
    from streams.broker import EmbeddedBrokerError
    from streams.broker_command import run_broker

    try:
        _run(run_broker(port))
    except EmbeddedBrokerError as error:
        _fail(str(error))


@main.command()
@click.option("--for", "duration", help="Stop after this long, such as 60s; default: until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per transition, then a summary line.")
@click.option(
    "--rules", "rules_path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Your rules."
)
@click.option("--seed", default=1, show_default=True, type=int, help="Seed of the traffic.")
@click.option(
    "--rate", default=1.0, show_default=True, type=click.FloatRange(0.1, 50), help="Factor on the traffic."
)
def demo(duration: str | None, as_json: bool, rules_path: Path | None, seed: int, rate: float) -> None:
    """Watch it work, on simulated traffic.

    Starts an embedded broker, a worker, and traffic with incidents.
    """
    from streams.demo import DemoOptions, run_demo
    from streams.durations import seconds_of

    seconds = None if duration is None else _checked(lambda: seconds_of(duration))
    sys.exit(
        _run(run_demo(DemoOptions(seconds=seconds, as_json=as_json, rules=rules_path, seed=seed, rate=rate)))
    )


def _settings(config: Path | None) -> Any:
    from streams.settings import load_settings

    return _checked(lambda: load_settings(config))


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    from streams.kafka_security import KafkaSecurityError, NoBrokerError

    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        sys.exit(130)
    except (KafkaSecurityError, NoBrokerError) as error:
        _fail(str(error))


def _checked(work: Any) -> Any:
    """The result, or every problem on standard error and exit code 1."""
    from notifiers.runbook import RunbookError
    from rules.problem import InvalidFilesError
    from streams.call_files import CallFileError

    try:
        return work()
    except InvalidFilesError as error:
        _fail("\n".join(str(problem) for problem in error.problems))
    except (RunbookError, CallFileError) as error:
        _fail(str(error))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _fail(message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(INVALID)


if __name__ == "__main__":
    main()
