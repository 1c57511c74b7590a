"""A set of texts that remembers only the last ones: ids seen before, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MOST: Final = 500_000
"""Ids remembered: at 100 bytes each, some 75 MB."""


class Recent:
    """The texts added or asked for last, at most `most` of them."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, text: object) -> bool:
        """Whether a text is known; one that is asked for stays longest."""
        if text not in self._known:
            return False
        self._known.move_to_end(text)  # type: ignore[arg-type]  # what is in there is a text
        return True

    def add(self, text: str) -> None:
        """Remember a text, and forget the one that was used longest ago if there are too many."""
        self._known[text] = None
        self._known.move_to_end(text)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
