"""`tocsin replay`: rules over recorded calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from notifiers.block_text import render
from notifiers.message import build_message
from notifiers.notification import decide, notification_id
from notifiers.runbook_files import load_runbooks
from rules.loader import load_rules
from rules.problem import InvalidFilesError, Problem
from rules.transition import Transition
from streams.alert_record import rfc3339, to_json
from streams.call_files import CallFile
from streams.durations import milliseconds_of
from streams.frontier import Lateness
from streams.ingest import IngestConfig
from streams.position import Counts
from streams.price_file import read_price_book
from streams.pricing import PriceBook, Pricer
from streams.progress import with_progress
from streams.records import Rejected
from streams.replaying import Replay
from streams.rule_log import Epoch, RuleLog
from streams.spend import BatchPricer
from streams.times import TimeError, parse_time

_SHOWN_REJECTED = 5


def run_replay(
    rule_paths: Sequence[str],
    calls: str,
    until: str | None,
    lateness: str,
    prices: Path | None,
    runbook_folder: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print the transitions, as JSON lines or as the messages that would have been sent.

    Raises:
        InvalidFilesError, RunbookError, CallFileError: what cannot be read.
    """
    runbooks = load_runbooks(runbook_folder)
    rules = load_rules(list(rule_paths), Path.cwd(), runbooks.keys())
    book = PriceBook() if prices is None else read_price_book(prices)
    until_ms = None if until is None else _until(until)
    config = IngestConfig(Lateness(milliseconds_of(lateness, "--lateness")))
    file = CallFile(calls)
    replay: Replay | None = None
    count = sent = 0

    def show(transition: Transition) -> None:
        nonlocal count, sent
        count += 1
        if as_json:
            sys.stdout.write(msgspec.json.encode(to_json(transition)).decode() + "\n")
            return
        reason = decide(transition)
        if reason.notifies:
            sent += 1
            message = build_message(
                transition,
                runbooks.get(transition.runbook),
                None,
                None,
                notification_id(transition.id, "replay"),
            )
            colour = sys.stdout.isatty()
            click.echo(
                render(message.blocks, width=100, colour=colour, bar=message.colour) + "\n", color=colour
            )
        else:
            of = ", ".join(f"{name}={value}" for name, value in transition.series)
            click.echo(
                f"{rfc3339(transition.at_ms)} {transition.alert} ({of}): {transition.from_state} to "
                f"{transition.to_state}, {reason}\n"
            )

    shown_rejected = 0
    for batch in with_progress(file, file.batches()):
        if replay is None:
            log = RuleLog([Epoch(0, rules)])
            replay = Replay(config, log, lambda: BatchPricer(Pricer(book)), batch.source)
        transitions, rejected = replay.feed(batch)
        for transition in transitions:
            if until_ms is None or transition.at_ms <= until_ms:
                show(transition)
        shown_rejected = report_rejected(rejected, shown_rejected)
    if replay is None:
        click.echo("no calls in the input", err=True)
        return
    for transition in replay.finish(until_ms):
        if until_ms is None or transition.at_ms <= until_ms:
            show(transition)
    click.echo(_summary(replay.counts, count, sent, as_json=as_json), err=True)
    if (ignored := replay.ignored.text()) is not None:
        click.echo(ignored, err=True)
    if replay.summary_errors:
        failed = replay.summary_errors
        click.echo(
            f"the summary template failed for {counted(failed, 'transition')}: a default text stands in",
            err=True,
        )


def report_rejected(rejected: Sequence[Rejected], shown: int) -> int:
    """Say on standard error what was rejected and why, the first few; returns how many were said."""
    for each in rejected[: max(0, _SHOWN_REJECTED - shown)]:
        click.echo(f"{each.source.topic}:{each.offset}: rejected: {each.reason}", err=True)
    return shown + len(rejected)


def counted(number: int, what: str) -> str:
    """`1 call`, `2,845 calls`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _summary(counts: Counts, transitions: int, sent: int, *, as_json: bool) -> str:
    parts = [counted(counts.accepted, "call"), counted(transitions, "transition")]
    if not as_json:
        parts.append(f"{sent:,} would have been sent")
    parts += [
        f"{number:,} {name}"
        for number, name in (
            (counts.rejected, "rejected"),
            (counts.late, "late"),
            (counts.duplicates, "duplicates"),
        )
        if number
    ]
    return ", ".join(parts)


def _until(text: str) -> int:
    try:
        return parse_time(text)
    except TimeError as error:
        raise InvalidFilesError([Problem("--until", 0, 0, str(error))]) from error
