"""Dictionaries: codes of a dimension's values, and how each dimension spells them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules.labels import NONE, Matcher
from streams.distinct import sketch_keys
from streams.event import finish_reason

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


DIMENSION_CHARACTERS: Final = 200
"""Longer dimension values are cut: they come from outside, and end up in series, records and messages."""


_ABSENT: Final = Matcher("", (NONE,))


_OPERATIONS: Final = {"generate_content": "chat", "text_completion": "completion", "embedding": "embeddings"}


SPELLINGS: Final[Mapping[str, Callable[[Any], str]]] = {
    "operation": lambda value: _OPERATIONS.get(value, value) or "chat",
    "finish_reason": finish_reason,
    "error.code": str,
    "streaming": lambda value: "true" if value else "false",
}


def label_text(value: object) -> str:
    """A label's value as text: `true` and `false` as in JSON, numbers as Python writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Dictionary(dict[Any, int]):
    """Codes of a dimension's values, in order of first sight. Reads like a dict; a new value gets the next code."""

    def __init__(self, spelling: Callable[[Any], str] | None = None, absent: str = NONE) -> None:
        super().__init__()
        self._absent = absent
        self.values_by_code: list[str] = []
        self._by_text: dict[str, int] = {}
        self._spelling = spelling
        self._sketch: Ints = np.zeros(0, np.int64)
        self._passing: dict[Matcher, Bools] = {}

    def sketch_keys(self) -> Ints:
        """int64 by code: the distinct-count key of each value."""
        have = len(self._sketch)
        if have < len(self.values_by_code):
            self._sketch = np.concatenate((self._sketch, sketch_keys(self.values_by_code[have:])))
        return self._sketch

    def passing(self, matcher: Matcher) -> Bools:
        """Which values pass a matcher: bool by code."""
        found = self._passing.get(matcher)
        have = 0 if found is None else len(found)
        if found is None or have < len(self.values_by_code):
            more = np.array([matcher.matches(text) for text in self.values_by_code[have:]], bool)
            found = self._passing[matcher] = more if found is None else np.concatenate((found, more))
        return found

    def present(self) -> Bools:
        """Every value but `<none>`: bool by code."""
        return ~self.passing(_ABSENT)

    def __missing__(self, value: Any) -> int:
        text = (
            self._absent
            if value is None
            else (self._spelling(value) if self._spelling else value)[:DIMENSION_CHARACTERS]
        )
        code = self._by_text.get(text)
        if code is None:
            code = self._by_text[text] = len(self.values_by_code)
            self.values_by_code.append(text)
        # A long value is looked up again each time: as a key it would be kept whole, and it may be a megabyte.
        if not isinstance(value, str) or len(value) <= DIMENSION_CHARACTERS:
            self[value] = code
        return code
