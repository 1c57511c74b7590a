"""Calls as columns: one batch decoded once, its dimensions as codes and its quantities as stored integers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from rules.labels import LABEL_PREFIX, NONE, Matcher
from rules.view import Selection
from streams.columns import attribute, known_sum, stored
from streams.dictionary import SPELLINGS, Dictionary, label_text
from streams.event import NO_CONTENT, NO_TOKENS, CallError, decoder
from streams.histogram import bucket_index
from streams.needs import Needs
from streams.records import Records, Rejected
from streams.times import UNKNOWN, parse_times

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Bools = NDArray[np.bool_]

ID_CHARACTERS: Final = 200
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, TypeError)
_DAY_MS: Final = 86_400_000
_AT_A_TIME: Final = 256
"""Records decoded, and then looked at once more, while a processor's cache still has them."""
_SCORE_SCALE: Final = 1_000_000
_RATE_SCALE: Final = 1_000
_HIGHEST_RATE: Final = 1e12
"""Stored: a billion tokens per second, beyond which a sum of rates would not fit."""


class Pricing(Protocol):
    """Prices a batch: nano-dollars of each call, int64[n], UNKNOWN where it is unpriced."""

    def __call__(self, batch: Batch) -> Ints:
        """Price a batch."""


@dataclass
class Reader:
    """Decodes records of one source for a fixed set of needs. Its dictionaries are the only state.

    `extras`: attribute of a decoded call by the top-level name that it holds, for names that the event does not know.
    """

    needs: Needs
    price: Pricing
    dictionaries: dict[str, Dictionary] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.extras = {name: f"extra_{i}" for i, name in enumerate(sorted(self.needs.labels))}
        self._decode = decoder(self.needs.fields, self.needs.labels).decode

    def read(self, records: Records) -> tuple[Batch, list[Rejected]]:
        """The calls of the records, and those that are none with the reason why.

        Times are resolved here: `at`, or `started_at` + latency, or the record's time.
        """
        calls: list[Any] = []
        reasons: dict[int, str] = {}
        values = records.values
        for first in range(0, len(values), _AT_A_TIME):
            some = values[first : first + _AT_A_TIME]
            iterator = map(self._decode, some)  # type: ignore[arg-type]  # None raises, and is rejected like other faults
            while True:
                try:
                    calls.extend(iterator)
                    break
                except _UNREADABLE as error:
                    reasons[len(calls)] = _reason(values[len(calls)], error)
                    calls.append(_PLACEHOLDER)
            for index in _not_utf8(some):
                reasons.setdefault(first + index, "not a call event: not UTF-8")
        at, latency, faults = _times(calls, records.times_ms)
        reasons = faults | reasons
        batch = Batch(self, calls, list(values), records.offsets, at, latency, records.times_ms)
        if not reasons:
            return batch, []
        rejected = [
            Rejected(records.source, int(records.offsets[index]), reason, values[index])
            for index, reason in sorted(reasons.items())
        ]
        kept = np.ones(len(calls), bool)
        kept[list(reasons)] = False
        return batch.take(np.flatnonzero(kept)), rejected


class _Placeholder:
    """Stands for a record that could not be decoded until it is taken out."""

    def __getattr__(self, name: str) -> None:
        return None


_PLACEHOLDER: Final = _Placeholder()


def _reason(value: bytes | None, error: Exception) -> str:
    if value is None:
        return "null value"
    return f"not a call event: {error}"[:500] or type(error).__name__


def _not_utf8(values: Sequence[bytes | None]) -> list[int]:
    """Indices of the values that are no UTF-8, also where only a field that nobody reads is not."""
    if all(map(bytes.isascii, filter(None, values))):
        return []
    return [index for index, value in enumerate(values) if value is not None and not _is_utf8(value)]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _times(calls: list[Any], record_ms: Ints) -> tuple[Ints, Ints, dict[int, str]]:
    """Event times, latencies in microseconds, and reasons for calls whose times cannot be used."""
    at, faults = parse_times(attribute(calls, "at"))
    latency = stored(attribute(calls, "latency_ms"), 1_000)
    started_values = attribute(calls, "started_at")
    missing = at == UNKNOWN
    if started_values.count(None) != len(calls):
        started, more = parse_times(started_values)
        faults = more | faults
        known = started != UNKNOWN
        at = np.where(missing & known & (latency != UNKNOWN), started + latency // 1000, at)
        fill = known & (latency == UNKNOWN) & (at != UNKNOWN)
        took = np.where(fill, at - started, 0)
        faults |= {int(i): "ended before it started" for i in np.flatnonzero(took < 0)}
        faults |= {int(i): "lasted longer than a day" for i in np.flatnonzero(took > _DAY_MS)}
        latency = np.where(fill, took * 1000, latency)
        missing = at == UNKNOWN
    if missing.any():
        at = np.where(missing, record_ms, at)
        for i in np.flatnonzero(at <= 0):
            faults.setdefault(int(i), "no time: neither `at` nor a record's time is there")
    return at, latency, faults


class Batch:
    """Calls of one source in order of offset. Columns are computed when first asked for, for all calls at once."""

    def __init__(
        self,
        reader: Reader,
        calls: list[Any],
        raw: list[bytes | None],
        offsets: Ints,
        at_ms: Ints,
        latency_us: Ints,
        broker_ms: Ints,
    ) -> None:
        self.reader = reader
        self.calls = calls
        self.raw = raw
        self.offsets = offsets
        self.at_ms = at_ms
        self.latency_us = latency_us
        self.broker_ms = broker_ms
        self._attributes: dict[str, list[Any]] = {}
        self._codes: dict[str, Codes] = {}
        self._columns: dict[str, Ints] = {}
        self._selections: dict[Selection, Bools] = {}
        self._chosen: dict[tuple[str, Selection], tuple[Ints | None, Ints]] = {}
        self._buckets: dict[tuple[str, Selection], tuple[Ints | None, Ints]] = {}

    def __len__(self) -> int:
        return len(self.calls)

    def take(self, rows: Ints) -> Batch:
        """The calls at these rows, in this order."""
        at = rows.tolist()
        return Batch(
            self.reader,
            [self.calls[i] for i in at],
            [self.raw[i] for i in at],
            self.offsets[rows],
            self.at_ms[rows],
            self.latency_us[rows],
            self.broker_ms[rows],
        )

    def attributes(self, name: str) -> list[Any]:
        """A field of each call, as it was decoded; None where the call does not have it."""
        found = self._attributes.get(name)
        if found is None:
            found = self._attributes[name] = attribute(self.calls, name)
        return found

    def ids(self) -> list[str | None]:
        """The calls' own ids; for one longer than 200 characters its hash, since they are remembered."""
        ids = attribute(self.calls, "id")
        if max(map(len, filter(None, ids)), default=0) > ID_CHARACTERS:
            return [one if one is None or len(one) <= ID_CHARACTERS else _hashed(one) for one in ids]
        return ids

    def dictionary(self, dimension: str) -> Dictionary:
        """The codes of a dimension's values."""
        found = self.reader.dictionaries.get(dimension)
        if found is None:
            absent = "chat" if dimension == "operation" else NONE
            found = self.reader.dictionaries[dimension] = Dictionary(SPELLINGS.get(dimension), absent)
        return found

    def codes(self, dimension: str) -> Codes:
        """int32[n]: the code of each call's value of a dimension."""
        found = self._codes.get(dimension)
        if found is None:
            look_up = self.dictionary(dimension).__getitem__
            found = np.fromiter(map(look_up, self._values(dimension)), np.int32, len(self.calls))
            self._codes[dimension] = found
        return found

    def column(self, name: str) -> Ints:
        """int64[n]: a column's stored integers, UNKNOWN where the call does not say."""
        found = self._columns.get(name)
        if found is None:
            found = self._columns[name] = self._column(name)
        return found

    def selection(self, name: Selection) -> Bools:
        """bool[n]: the calls in a selection."""
        found = self._selections.get(name)
        if found is None:
            found = self._selections[name] = self._select(name)
        return found

    def chosen(self, column: str, selection: Selection) -> tuple[Ints | None, Ints]:
        """Rows of the calls in the selection whose column is known (None: all calls), and their values."""
        key = (column, selection)
        found = self._chosen.get(key)
        if found is None:
            values = self.column(column)
            mask = values != UNKNOWN
            if selection is not Selection.ANY:
                mask &= self.selection(selection)
            rows = None if mask.all() else np.flatnonzero(mask)
            found = self._chosen[key] = (rows, values if rows is None else values[rows])
        return found

    def buckets(self, column: str, selection: Selection) -> tuple[Ints | None, Ints]:
        """Like `chosen`, with the histogram bucket of each value."""
        key = (column, selection)
        found = self._buckets.get(key)
        if found is None:
            rows, values = self.chosen(column, selection)
            found = self._buckets[key] = (rows, bucket_index(values))
        return found

    def sketch(self, dimension: str, selection: Selection) -> tuple[Ints | None, Ints]:
        """Rows of the calls in the selection that carry the dimension, and the distinct-count key of its value."""
        codes = self.codes(dimension)
        known = self.dictionary(dimension)
        keys = known.sketch_keys()
        carries = known.present()[codes] & self.selection(selection)
        rows = np.flatnonzero(carries)
        return rows, keys[codes[rows]]

    def passing(self, matcher: Matcher) -> Bools:
        """Which values of the matcher's dimension pass: bool by code."""
        self.codes(matcher.dimension)  # makes every value of this batch known
        return self.dictionary(matcher.dimension).passing(matcher)

    def _values(self, dimension: str) -> Iterable[object]:
        if dimension.startswith(LABEL_PREFIX):
            return self._labels(dimension.removeprefix(LABEL_PREFIX))
        if dimension.startswith("error."):
            return attribute(self._nested("error", _NO_ERROR), dimension.removeprefix("error."))
        if dimension == "status":
            return ("ok" if ok else "error" for ok in self.selection(Selection.OK).tolist())
        return attribute(self.calls, dimension)

    def _labels(self, name: str) -> Iterable[str | None]:
        """Texts of one label: of `labels`, else the scalar under that top-level name.

        As text, because 1, 1.0 and true are one key of a dictionary and three values of a label.
        """
        extra = self.reader.extras.get(name)
        for call in self.calls:
            labels = call.labels
            value = labels.get(name) if labels is not None else None
            if value is None and extra is not None and (raw := bytes(getattr(call, extra))):
                value = _readable_label(raw)
            yield label_text(value) if isinstance(value, str | int | float | bool) else None

    def _nested(self, name: str, absent: object) -> list[Any]:
        nested = self.attributes(name)
        if None in nested:
            nested = self._attributes[name] = [absent if item is None else item for item in nested]
        return nested

    def _column(self, name: str) -> Ints:
        if name == "one":
            return np.ones(len(self.calls), np.int64)
        if name == "latency":
            return self.latency_us
        if name == "ttft":
            return stored(attribute(self.calls, "ttft_ms"), 1_000)
        if name == "spend":
            return self.reader.price(self)
        if name == "tokens.total":
            return known_sum(self.column("tokens.input"), self.column("tokens.output"))
        if name == "output_tokens_per_second":
            return self._output_rate()
        family, _, part = name.partition(".")
        match family:
            case "tokens":
                return stored(attribute(self._nested("tokens", NO_TOKENS), part))
            case "content":
                return stored(attribute(self._nested("content", NO_CONTENT), part))
            case "score":
                scores = self.attributes("scores")
                return stored([None if item is None else item.get(part) for item in scores], _SCORE_SCALE)
            case _:
                return self._stage(part)

    def _stage(self, name: str) -> Ints:
        stages = self.attributes("stages_ms")
        if name != "unaccounted":
            return stored([None if item is None else item.get(name) for item in stages], 1_000)
        spent = stored([sum(filter(None, item.values())) if item else None for item in stages], 1_000)
        known = (spent != UNKNOWN) & (self.latency_us != UNKNOWN)
        return np.where(known, np.maximum(self.latency_us - spent, 0), UNKNOWN)

    def _output_rate(self) -> Ints:
        """Output tokens over the time after the first token (over the whole latency where that is unknown)."""
        tokens, latency, first = self.column("tokens.output"), self.latency_us, self.column("ttft")
        took = np.where((first != UNKNOWN) & (first < latency), latency - first, latency)
        known = (tokens != UNKNOWN) & (latency != UNKNOWN) & (took > 0)
        rate = np.divide(tokens * (1_000_000.0 * _RATE_SCALE), took, out=np.zeros(len(took)), where=known)
        return np.where(known, np.rint(np.minimum(rate, _HIGHEST_RATE)).astype(np.int64), UNKNOWN)

    def _select(self, name: Selection) -> Bools:
        match name:
            case Selection.ANY:
                return np.ones(len(self.calls), bool)
            case Selection.OK:
                return ~self.selection(Selection.ERROR)
            case Selection.ERROR:
                return self._failed()
            case Selection.PRICEABLE:
                tokens = (self.column("tokens.input") != UNKNOWN) | (self.column("tokens.output") != UNKNOWN)
                return np.asarray(self.selection(Selection.OK) | tokens)
            case Selection.UNPRICED:
                return np.asarray(self.selection(Selection.PRICEABLE) & (self.column("spend") == UNKNOWN))
            case Selection.CACHE_KNOWN:
                known = self.column("tokens.input") != UNKNOWN
                return np.asarray(known & (self.column("tokens.cached_input") != UNKNOWN))
            case _:
                return self.selection(Selection.OK) & self._finished_by(_FINISHED_BY[name])

    def _failed(self) -> Bools:
        statuses = attribute(self.calls, "status")
        if statuses.count("ok") == len(statuses):
            return np.zeros(len(statuses), bool)
        failed = np.array([status == "error" for status in statuses], bool)
        if None in statuses:
            errors = attribute(self.calls, "error")
            for row, status in enumerate(statuses):
                if status is None and errors[row] is not None:
                    failed[row] = True
        return failed

    def _finished_by(self, reasons: tuple[str, ...] | None) -> Bools:
        codes = self.codes("finish_reason")
        texts = self.dictionary("finish_reason").values_by_code
        passes = np.array([text != NONE and (reasons is None or text in reasons) for text in texts], bool)
        return np.asarray(passes[codes])


def _hashed(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_NO_ERROR: Final = CallError()
_FINISHED_BY: Final[dict[Selection, tuple[str, ...] | None]] = {
    Selection.FINISHED: None,
    Selection.TRUNCATED: ("length", "context_exceeded"),
    Selection.REFUSED: ("refusal", "content_filter"),
}


def _readable_label(raw: bytes) -> object:
    """The value under a top-level name that no field of the event has; None where it cannot be read."""
    try:
        return cast("object", msgspec.json.decode(raw))
    except _UNREADABLE:
        return None
