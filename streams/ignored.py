"""Fields of events that nobody knows, counted in a sample: what a misspelt name looks like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from rules.visible import visible
from streams.event import describe
from streams.records import Records, Source

EVERY: Final = 256
"""Of the calls of a source the first so many are looked at whole, and then each whose offset is a multiple of it."""
NAMES: Final = 100
"""Names that are counted each; what comes later is counted as `<other>`."""
OTHER: Final = "<other>"
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


@dataclass(slots=True)
class Ignored:
    """How many of the calls looked at had a field that is neither of the event nor a label, by its name."""

    looked_at: int = 0
    names: dict[str, int] = field(default_factory=dict)
    _left: dict[Source, int] = field(default_factory=dict)

    def look(self, records: Records) -> list[str]:
        """Look at a sample of the records; the names that were not seen before."""
        left = self._left.get(records.source, EVERY)
        self._left[records.source] = max(0, left - len(records))
        chosen = np.flatnonzero(records.offsets % EVERY == 0)
        new: list[str] = []
        for index in sorted({*range(min(left, len(records))), *chosen.tolist()}):
            value = records.values[index]
            if value is None:
                continue
            try:
                _, names = describe(value)
            except _UNREADABLE:
                continue  # rejected
            self.looked_at += 1
            for name in dict.fromkeys(names):
                known = name if name in self.names or len(self.names) < NAMES else OTHER
                if known not in self.names:
                    self.names[known] = 0
                    new.append(known)
                self.names[known] += 1
        return new

    def text(self) -> str | None:
        """The names by how often they were seen, for a summary; None where there are none."""
        if not self.names:
            return None
        often = sorted(self.names.items(), key=lambda each: (-each[1], each[0]))
        shown = ", ".join(f"{visible(name)} ({count:,})" for name, count in often[:5])
        more = f" and {len(often) - 5} more" if len(often) > 5 else ""
        calls = "call" if self.looked_at == 1 else "calls"
        return f"unknown fields, ignored: {shown}{more}, in {self.looked_at:,} {calls} looked at"
