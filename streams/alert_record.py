"""Transitions as JSON: the record of the alerts topic, and what `tocsin replay --json` prints."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from rules.rule import Severity
from rules.transition import Exemplar, State, Transition
from streams.times import TimeError, parse_time

FORMAT: Final = 1


class AlertRecordError(ValueError):
    """Bytes that are no record of the alerts topic."""


class _Window(msgspec.Struct, frozen=True):
    start: str
    end: str


class _Exemplar(msgspec.Struct, frozen=True):
    at: str
    source: str
    offset: int
    call: dict[str, Any]


class _Record(msgspec.Struct, frozen=True, rename={"from_state": "from", "to_state": "to"}):
    format: int
    id: Annotated[str, msgspec.Meta(max_length=200)]
    at: str
    alert: str
    group: str
    severity: Severity
    series: dict[str, str]
    from_state: State
    to_state: State
    from_severity: Severity | None
    measure: str
    value: float
    unit: str
    threshold: float
    direction: str
    window: _Window
    calls: int
    since: str
    episode: str
    labels: dict[str, str]
    runbook: str
    summary: str
    reason: str
    exemplars: Annotated[list[_Exemplar], msgspec.Meta(max_length=100)]


_DECODER: Final = msgspec.json.Decoder(_Record)


def to_json(transition: Transition) -> dict[str, Any]:
    """One object for a transition. Times are RFC 3339 in UTC; values are numbers in the unit's base."""
    plain: dict[str, Any] = msgspec.to_builtins(_record(transition))
    return plain


def encode(transition: Transition) -> bytes:
    """The value of a record of the alerts topic."""
    return msgspec.json.encode(_record(transition))


def decode(value: bytes) -> Transition:
    """The transition of a record's value.

    Raises:
        AlertRecordError: the bytes are no such record, or of a format that this version does not know.
    """
    try:
        record = _DECODER.decode(value)
        if record.format != FORMAT:
            raise AlertRecordError(
                f"format {record.format} of an alerts record is not known here, only {FORMAT}"
            )
        return Transition(
            id=record.id,
            at_ms=parse_time(record.at),
            group=record.group,
            alert=record.alert,
            severity=record.severity,
            series=tuple(record.series.items()),
            from_state=record.from_state,
            to_state=record.to_state,
            from_severity=record.from_severity,
            measure=record.measure,
            value=record.value,
            unit=record.unit,
            threshold=record.threshold,
            direction=record.direction,
            window_start_ms=parse_time(record.window.start),
            window_end_ms=parse_time(record.window.end),
            calls=record.calls,
            since_ms=parse_time(record.since),
            episode_ms=parse_time(record.episode),
            labels=tuple(record.labels.items()),
            runbook=record.runbook,
            summary=record.summary,
            reason=record.reason,
            exemplars=tuple(
                Exemplar(parse_time(each.at), each.source, each.offset, 0, each.call)
                for each in record.exemplars
            ),
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, TimeError) as error:
        raise AlertRecordError(f"not a record of the alerts topic: {error}") from error


def rfc3339(ms: int) -> str:
    """`2026-01-05T00:00:10.000Z`."""
    whole, fraction = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:03d}Z"


def _record(transition: Transition) -> _Record:
    return _Record(
        format=FORMAT,
        id=transition.id,
        at=rfc3339(transition.at_ms),
        alert=transition.alert,
        group=transition.group,
        severity=transition.severity,
        series=dict(transition.series),
        from_state=transition.from_state,
        to_state=transition.to_state,
        from_severity=transition.from_severity,
        measure=transition.measure,
        value=transition.value,
        unit=transition.unit,
        threshold=transition.threshold,
        direction=transition.direction,
        window=_Window(rfc3339(transition.window_start_ms), rfc3339(transition.window_end_ms)),
        calls=transition.calls,
        since=rfc3339(transition.since_ms),
        episode=rfc3339(transition.episode_ms),
        labels=dict(transition.labels),
        runbook=transition.runbook,
        summary=transition.summary,
        reason=transition.reason,
        exemplars=[
            _Exemplar(rfc3339(each.at_ms), each.source, each.offset, dict(each.call))
            for each in transition.exemplars
        ],
    )
