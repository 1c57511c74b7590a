"""The state of one shard of Evaluate as plain values, and its bytes: what a snapshot holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rules.alert import Alert, Spell
from rules.labels import Series
from rules.rule import Severity
from rules.transition import Exemplar, State
from rules.view import Field, FieldKind, Selection
from streams.chunk import Seal, WireLate
from streams.content import Content

Ints = NDArray[np.int64]

FORMAT: Final = 1


class StateError(ValueError):
    """Bytes that are no state of this format."""


class PaneState(msgspec.Struct, array_like=True):
    """One pane of a view: its start, its content, and (for versions of a source) the version of each row."""

    start_ms: int
    rows: bytes
    columns: dict[str, bytes]
    sparse: dict[str, tuple[bytes, bytes]]
    exemplars: list[tuple[int, str, list[tuple[int, str, int, int, dict[str, Any]]]]]
    versions: bytes = b""


class ViewState(msgspec.Struct, array_like=True):
    """One view: its series by row, the panes of each tier by width, and the end of each window by span."""

    view: str
    series: list[tuple[str, ...]]
    tiers: dict[int, list[PaneState]]
    ends: dict[int, int | None]


class SourceState(msgspec.Struct, array_like=True):
    """One source: its newest version and seal, its last late booking, and versions that can still change, by view."""

    topic: str
    partition: int
    topic_id: str
    version: int
    seal: Seal | None
    late_applied: int
    held: dict[str, list[PaneState]]
    late: list[WireLate] = []


class AlertState(msgspec.Struct, array_like=True):
    """One alert that is not inactive."""

    series: tuple[str, ...]
    state: State
    severity: Severity | None
    episode_ms: int | None
    warning: tuple[int | None, int | None, bool]
    critical: tuple[int | None, int | None, bool]


class RuleState(msgspec.Struct, array_like=True):
    """One rule: a hash of its meaning, its timers and its alerts."""

    name: str
    meaning: str
    next_ms: int | None
    empty_ms: int | None
    alerts: list[AlertState]


class ShardState(msgspec.Struct):
    """Everything that one shard of Evaluate remembers."""

    format: int
    shard: int
    watermark_ms: int
    epoch_ms: int
    sources: list[SourceState]
    views: list[ViewState]
    rules: list[RuleState]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(ShardState)


def encode(state: ShardState) -> bytes:
    """The state as MessagePack."""
    return _ENCODER.encode(state)


def decode(data: bytes) -> ShardState:
    """The state of some bytes.

    Raises:
        StateError: they are none, or of a format that this version does not know.
    """
    try:
        state = _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StateError(f"not a state: {error}") from error
    if state.format != FORMAT:
        raise StateError(f"format {state.format} of a state is not known here, only {FORMAT}")
    return state


def pane_state(start_ms: int, content: Content, versions: Ints | None = None) -> PaneState:
    """A content as plain values."""
    return PaneState(
        start_ms,
        _narrow(content.rows),
        {each.name: _wide(values) for each, values in content.columns.items()},
        {
            each.name: (_differences(keys), _wide_or_narrow(counts))
            for each, (keys, counts) in content.sparse.items()
        },
        [
            (
                row,
                each.name,
                [(one.at_ms, one.source, one.offset, one.value, dict(one.call)) for one in shown],
            )
            for (row, each), shown in content.exemplars.items()
        ],
        b"" if versions is None else _wide(versions),
    )


def content_of(state: PaneState) -> Content:
    """The content of plain values."""
    return Content(
        _from_narrow(state.rows),
        {_field(name): _from_wide(data) for name, data in state.columns.items()},
        {
            _field(name): (_from_differences(keys), _from_wide_or_narrow(counts))
            for name, (keys, counts) in state.sparse.items()
        },
        {
            (row, _field(name)): tuple(
                Exemplar(at, source, offset, value, call) for at, source, offset, value, call in shown
            )
            for row, name, shown in state.exemplars
        },
    )


def versions_of(state: PaneState) -> Ints:
    """The version of each row, int64[n]."""
    return _from_wide(state.versions)


def alert_state(series: Series, alert: Alert) -> AlertState:
    """An alert as plain values."""
    return AlertState(
        series,
        alert.state,
        alert.severity,
        alert.episode_ms,
        _spell_state(alert.warning),
        _spell_state(alert.critical),
    )


def alerts_of(states: Sequence[AlertState]) -> Mapping[Series, Alert]:
    """Alerts by series."""
    return {
        each.series: Alert(
            each.state, each.severity, each.episode_ms, Spell(*each.warning), Spell(*each.critical)
        )
        for each in states
    }


def _spell_state(spell: Spell) -> tuple[int | None, int | None, bool]:
    return spell.since_ms, spell.last_true_ms, spell.firing


def _field(name: str) -> Field:
    kind, column, selection = name.split(":")
    return Field(FieldKind(kind), column, Selection(selection))


def _narrow(values: Ints) -> bytes:
    return values.astype("<u4").tobytes()


def _from_narrow(data: bytes) -> Ints:
    return np.frombuffer(data, "<u4").astype(np.int64)


def _wide(values: Ints) -> bytes:
    return values.astype("<i8").tobytes()


def _from_wide(data: bytes) -> Ints:
    return np.frombuffer(data, "<i8").astype(np.int64)


def _differences(keys: Ints) -> bytes:
    """Ascending keys as their differences: small numbers, which compress well."""
    return _wide_or_narrow(np.diff(keys, prepend=0))


def _from_differences(data: bytes) -> Ints:
    return np.cumsum(_from_wide_or_narrow(data))


def _wide_or_narrow(values: Ints) -> bytes:
    """A byte that says the width, and the numbers in the narrowest of 1, 2, 4 and 8 bytes that holds them all."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    for width, limit in ((1, 1 << 8), (2, 1 << 16), (4, 1 << 32)):
        if low >= 0 and high < limit:
            return bytes([width]) + values.astype(f"<u{width}").tobytes()
    return bytes([8]) + _wide(values)


def _from_wide_or_narrow(data: bytes) -> Ints:
    kind = "<i8" if data[0] == 8 else f"<u{data[0]}"
    return np.frombuffer(data[1:], kind).astype(np.int64)
