"""From settings to what the engine runs with: rules, runbooks, prices, receivers; every problem said at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from notifiers.delivery import Receiver
from notifiers.links import TraceLink, compile_trace_link, safe_url
from notifiers.message import Message, build_message
from notifiers.notification import Notification
from notifiers.receivers import ReceiverError, build_receivers, build_routes
from notifiers.routing import Route
from notifiers.runbook import Runbook, RunbookError, runbook_url
from notifiers.runbook_files import load_runbooks
from rules.files import RuleFile, read_what_can_be
from rules.loader import parse_rule_files
from rules.problem import InvalidFilesError, Problem
from rules.rule import RuleSet
from streams.call import Pricing
from streams.frontier import Lateness
from streams.ingest import IngestConfig
from streams.price_file import parse_price_file, read_price_bytes
from streams.pricing import PriceBook, Pricer
from streams.settings import Settings
from streams.spend import BatchPricer


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that files and the environment say, read and checked."""

    settings: Settings
    files: Sequence[RuleFile]
    rules: RuleSet
    runbooks: Mapping[str, Runbook]
    prices: PriceBook
    receivers: Mapping[str, Receiver]
    routes: Sequence[Route]
    trace_link: TraceLink | None
    heartbeat_url: str | None = field(default=None, repr=False)
    """Of the outside monitor: a secret."""
    price_file: bytes = field(default=b"", repr=False)
    """The bytes of the price file, empty where there is none."""

    @property
    def ingest(self) -> IngestConfig:
        """Ingest's configuration."""
        return IngestConfig(Lateness(self.settings.calls.lateness, self.settings.calls.skew))

    @property
    def price(self) -> Callable[[], Pricing]:
        """A fresh pricer, for times of which the rules log does not say the prices."""
        return lambda: BatchPricer(Pricer(self.prices))

    def message(self, notification: Notification) -> Message:
        """The message of a notification."""
        transition = notification.transition
        location = self.settings.runbooks
        return build_message(
            transition,
            self.runbooks.get(transition.runbook),
            None if location is None else runbook_url(location, transition.runbook),
            self.trace_link,
            notification.id,
            notification.reason,
        )


def read_setup(
    settings: Settings, environ: Mapping[str, str], console: TextIO, *, with_receivers: bool = True
) -> Setup:
    """Read every file that the settings name; receivers, and so their secrets, only where they are wanted.

    Raises:
        InvalidFilesError: all problems of all files.
    """
    receivers: Mapping[str, Receiver] = {}
    routes: Sequence[Route] = ()
    files, rules, runbooks, problems = _read_rules(settings.rules, settings.base, runbook_folder(settings))
    prices, price_file = _read_prices(settings, problems)
    try:
        receivers = build_receivers(settings.receivers, environ, console) if with_receivers else {}
        routes = build_routes(settings.routes, settings.receivers)
    except ReceiverError as error:
        problems += [Problem("settings", 0, 0, problem) for problem in error.problems]
    if settings.runbooks is not None:
        try:
            runbook_url(settings.runbooks, "name")
        except ValueError as error:
            problems.append(Problem("settings", 0, 0, f"runbooks: {error}"))
    url = _heartbeat_url(settings, environ, problems)
    if problems:
        raise InvalidFilesError(problems)
    link = None if settings.traces is None else compile_trace_link(settings.traces)
    return Setup(settings, files, rules, runbooks, prices, receivers, routes, link, url, price_file)


def read_again(setup: Setup) -> Setup:
    """The same setup with rule files and prices as they are on disk now; all else stays as it was read at the start.

    Raises:
        InvalidFilesError: all problems of all files.
    """
    settings = setup.settings
    files, rules, _, problems = _read_rules(settings.rules, settings.base, runbook_folder(settings))
    prices, price_file = _read_prices(settings, problems)
    if problems:
        raise InvalidFilesError(problems)
    return replace(setup, files=files, rules=rules, prices=prices, price_file=price_file)


def check_rules(paths: Sequence[str], runbooks: Path | None) -> tuple[int, int]:
    """Read rule files and runbook pages from the present folder; how many files and rules there are.

    Raises:
        InvalidFilesError: all problems of all files.
    """
    files, rules, _, problems = _read_rules(paths, Path.cwd(), runbooks)
    if problems:
        raise InvalidFilesError(problems)
    return len(files), len(rules.rules)


def describe(setup: Setup, config: Path | None) -> Iterator[str]:
    """What a worker starts with, a line each, without secrets: for its log."""
    settings = setup.settings
    yield f"tocsin {version('tocsin')}, settings from {config or 'defaults and the environment'}"
    yield f"broker {', '.join(settings.kafka.brokers)}, calls from {', '.join(settings.calls.topics)}"
    names = ", ".join(file.name for file in setup.files)
    number = len(setup.rules.rules)
    yield f"{number:,} rule{'' if number == 1 else 's'} (rule set {setup.rules.hash}) from {names}"
    kinds = (f"{name} ({type(receiver).__name__})" for name, receiver in setup.receivers.items())
    yield f"receivers: {', '.join(kinds)}"


def _read_rules(
    paths: Sequence[str], base: Path, folder: Path | None
) -> tuple[Sequence[RuleFile], RuleSet, Mapping[str, Runbook], list[Problem]]:
    problems: list[Problem] = []
    runbooks: Mapping[str, Runbook] | None = None
    files: Sequence[RuleFile] = ()
    rules = RuleSet(())
    try:
        runbooks = load_runbooks(folder)
    except RunbookError as error:
        for place, _, cause in (finding.partition(": ") for finding in error.problems):
            problems.append(Problem(place, 0, 0, cause))
    files, unread = read_what_can_be(paths, base)
    problems += unread
    try:
        rules = parse_rule_files(files, None if runbooks is None else runbooks.keys())
    except InvalidFilesError as error:
        problems += error.problems
    return files, rules, runbooks or {}, problems


def _read_prices(settings: Settings, problems: list[Problem]) -> tuple[PriceBook, bytes]:
    """The price book, and the bytes of the user's file."""
    if settings.prices is None:
        return PriceBook(), b""
    path = settings.path(settings.prices)
    try:
        content = read_price_bytes(path)
        return PriceBook(parse_price_file(str(path), content)), content
    except InvalidFilesError as error:
        problems += error.problems
        return PriceBook(), b""


def _heartbeat_url(settings: Settings, environ: Mapping[str, str], problems: list[Problem]) -> str | None:
    name = settings.heartbeat.url_env
    if name is None:
        return None
    url = environ.get(name, "").strip()
    if safe_url(url) is None:
        cause = "is not set" if not url else "holds no http or https URL"
        problems.append(
            Problem("settings", 0, 0, f"heartbeat.url_env: the environment variable {name} {cause}")
        )
    return url


def runbook_folder(settings: Settings) -> Path | None:
    """The folder of the user's own pages; None where there is none, or where `runbooks` is a URL."""
    location = settings.runbooks
    return None if location is None or "{name}" in location else settings.path(location)


def wall_ms() -> int:
    """The clock: milliseconds since the epoch."""
    return time.time_ns() // 1_000_000  # noqa: TID251 - the edge's own
