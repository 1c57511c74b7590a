"""One thing wrong in a file that a user wrote, and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rules.visible import visible

MOST_PROBLEMS: Final = 1_000


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """A fault in a user's file: `file:line:column: context: cause`. Lines and columns count from 1; 0 is "the file"."""

    file: str
    line: int
    column: int
    cause: str
    context: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        # Names and values of the file are quoted in it: on a terminal, or in a log of CI, they must stay text.
        return visible(f"{place}: {self.context}: {self.cause}" if self.context else f"{place}: {self.cause}")


class InvalidFilesError(Exception):
    """Raised by loaders: carries every problem of every file, in order of place; beyond 1,000 only their number."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = tuple(sorted(set(problems)))
        if (more := len(found) - MOST_PROBLEMS) > 0:
            rest = Problem("...", 0, 0, f"{more:,} more problems are not shown: mend these first")
            found = (*found[:MOST_PROBLEMS], rest)
        self.problems: tuple[Problem, ...] = found
        super().__init__("\n".join(str(problem) for problem in self.problems))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean "x"?)` for the closest known word, or nothing when none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""
