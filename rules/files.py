"""Rule files on disk and in the package: from the patterns of a configuration to names and texts."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from rules.document import LARGEST_FILE
from rules.problem import InvalidFilesError, Problem

LIBRARY_PREFIX: Final = "library:"
MOST_FILES: Final = 1_000
LARGEST_SET: Final = 800_000
"""Bytes of all files together: they travel as one record of the rules topic."""


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A rule file: the name that messages give it, and its text."""

    name: str
    text: str


def read_rule_files(
    patterns: Sequence[str | Path], base: Path, library: Traversable | None = None
) -> list[RuleFile]:
    """The files that the patterns name, each once, in order of name.

    A pattern is a file, a glob or a directory, relative to `base`, or `library:NAME` for a shipped file
    (`library:latency`, `library:*`). A directory means its `*.yaml`; tests of rules (`*.test.yaml`) are only read when
    named in full.

    Args:
        library: where shipped files lie; None is the library of this package.

    Raises:
        InvalidFilesError: a pattern that matches nothing, a file that cannot be read.
    """
    files, problems = read_what_can_be(patterns, base, library)
    if problems:
        raise InvalidFilesError(problems)
    return files


def read_what_can_be(
    patterns: Sequence[str | Path], base: Path, library: Traversable | None = None
) -> tuple[list[RuleFile], list[Problem]]:
    """As `read_rule_files`, with the problems beside the files that could be read."""
    shipped = library or resources.files("rules") / "library"
    found: dict[str, Traversable] = {}
    problems = []
    for pattern in map(str, patterns):
        if pattern.startswith(LIBRARY_PREFIX):
            matches = dict(_in_library(shipped, pattern.removeprefix(LIBRARY_PREFIX)))
            known = ", ".join(name for name, _ in _in_library(shipped, "*"))
            cause = f"there is no such shipped file; there are {known or 'none'}"
        else:
            matches = {_display(path, base): path for path in _on_disk(base, pattern)}
            cause = f"matches no rule file in {base}"
        found |= matches
        if not matches:
            problems.append(Problem(pattern, 0, 0, cause))
    files: list[RuleFile] = []
    if len(found) > MOST_FILES:
        cause = f"{len(found):,} rule files: at most {MOST_FILES:,} are read"
        return files, [*problems, Problem("rules", 0, 0, cause)]
    for name in sorted(found):
        try:
            with found[name].open("rb") as stream:
                files.append(RuleFile(name, stream.read(LARGEST_FILE + 1).decode()))
        except UnicodeDecodeError:
            problems.append(Problem(name, 0, 0, "the file is not UTF-8 text: save it as UTF-8"))
        except OSError as error:
            problems.append(Problem(name, 0, 0, f"cannot be read: {error.strerror}"))
    size = sum(len(file.text.encode()) for file in files)
    if size > LARGEST_SET:
        cause = f"{size:,} bytes of rule files: {LARGEST_SET:,} fit into one rule set; split them by `group`"
        problems.append(Problem("rules", 0, 0, cause))
    return files, problems


def _in_library(library: Traversable, pattern: str) -> Iterator[tuple[str, Traversable]]:
    if library.is_dir():
        for file in sorted(library.iterdir(), key=lambda file: file.name):
            if _is_rule_file(file.name) and fnmatch.fnmatchcase(file.name.removesuffix(".yaml"), pattern):
                yield f"library/{file.name}", file


def _on_disk(base: Path, pattern: str) -> Iterator[Path]:
    path = base.resolve() / pattern
    if path.is_dir():
        yield from (file for file in path.iterdir() if _is_rule_file(file.name))
    elif path.exists():
        yield path
    else:
        root = Path(path.anchor)
        matches = root.glob(str(path.relative_to(root)))
        yield from (file for file in matches if file.is_file() and not file.name.endswith(".test.yaml"))


def _is_rule_file(name: str) -> bool:
    return name.endswith(".yaml") and not name.endswith(".test.yaml")


def _display(path: Path, base: Path) -> str:
    """One name for one file, whatever the pattern that found it."""
    whole, root = path.resolve(), base.resolve()
    return str(whole.relative_to(root)) if whole.is_relative_to(root) else str(whole)
