"""Views: what rules need of the calls, as fields that panes accumulate; each view has a hash of its definition."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from rules.labels import Matcher, Series

SHARDS: Final = 16
"""Partitions of the panes topic. Fixed: a series' shard is where its state lives."""


class FieldKind(StrEnum):
    """How a field accumulates; all but peak and exemplar subtract or merge exactly."""

    COUNT = "count"
    """int64: calls in the selection for which the column is known."""
    SUM = "sum"
    """int64: sum of the column's stored integers."""
    PEAK = "peak"
    """int64: the largest stored integer."""
    HISTOGRAM = "histogram"
    """Sparse HDR histogram of the stored integers."""
    DISTINCT = "distinct"
    """Sparse HyperLogLog of the column's strings."""
    EXEMPLAR = "exemplar"
    """The call with the largest stored integer, first by offset among equals."""


class Selection(StrEnum):
    """Which calls a field counts."""

    ANY = "any"
    OK = "ok"
    ERROR = "error"
    FINISHED = "finished"
    """Successful calls with a finish reason."""
    TRUNCATED = "truncated"
    """Finished calls that ended by `length` or `context_exceeded`."""
    REFUSED = "refused"
    """Finished calls that ended by `refusal` or `content_filter`."""
    UNPRICED = "unpriced"
    """Calls that should have a cost and have none."""
    PRICEABLE = "priceable"
    """Calls that should have a cost: successful ones, and failed ones with known tokens."""
    CACHE_KNOWN = "cache_known"
    """Calls with known input and cached input tokens."""


@dataclass(frozen=True, slots=True, order=True)
class Field:
    """One accumulated quantity of a pane: `kind` of `column` over the calls in `selection`.

    Columns hold stored integers: microseconds for durations, whole tokens and characters, nano-dollars, thousandths of
    tokens per second, millionths of a score; the column `one` is 1 for every call.
    """

    kind: FieldKind
    column: str
    selection: Selection

    @property
    def name(self) -> str:
        """`kind:column:selection`, the field's name in pane records."""
        return f"{self.kind}:{self.column}:{self.selection}"


CALLS: Final = Field(FieldKind.COUNT, "one", Selection.ANY)

ENGINE_SOURCE: Final = "engine"
CALL_SOURCE: Final = "calls"


@dataclass(frozen=True)
class View:
    """Filter, dimensions and fields. Rules that need the same share one.

    `parent` are the dimensions whose values choose the shard: a group that must be seen whole lies on one. `source` is
    `calls`, or `engine` for the engine's own counters.
    """

    where: tuple[Matcher, ...]
    by: tuple[str, ...]
    fields: tuple[Field, ...]
    parent: tuple[str, ...] = ()
    source: str = CALL_SOURCE

    @cached_property
    def hash(self) -> str:
        """16 hex digits of BLAKE2b over the definition in canonical JSON; `where` and `fields` have no order."""
        definition = {
            "source": self.source,
            "where": sorted([matcher.dimension, *sorted(matcher.any_of)] for matcher in self.where),
            "by": list(self.by),
            "parent": list(self.parent),
            "fields": sorted(field.name for field in self.fields),
        }
        text = json.dumps(definition, separators=(",", ":"), ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def shard(self, series: Series) -> int:
        """The shard, in [0, SHARDS), of a series of this view."""
        key = [self.hash, *(series[self.by.index(name)] for name in self.parent)]
        digest = hashlib.blake2b("\x00".join(key).encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") % SHARDS
