"""Positioned YAML: one document in plain dicts, lists and source text, every part with its line and column."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from rules.problem import Problem

LARGEST_FILE: Final = 1024 * 1024
"""Bytes; a larger file is refused unread."""
DEEPEST_NESTING: Final = 32

Path = tuple[str | int, ...]
"""Keys and indices from the top of a document."""
Place = tuple[int, int]
"""Line and column, both from 1."""
Data = dict[str, Any] | list[Any] | str | None

_LOADER: Final[type] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BRACES: Final = re.compile(r"[:\[,-]\s+(\{[{%])")


@dataclass(frozen=True)
class Node:
    """A document: `data` in plain dicts, lists, texts and None, and where each part of it stands.

    `faulty` are the paths whose value could not be taken as written; what is said about them has been said.
    """

    data: Data
    values: Mapping[Path, Place]
    keys: Mapping[Path, Place]
    faulty: frozenset[Path] = frozenset()

    def position(self, path: Path) -> Place:
        """Where the value at `path` starts; for a path that is not there, the nearest value around it."""
        while path not in self.values:
            path = path[:-1]
        return self.values[path]

    def key_position(self, path: Path) -> Place:
        """Where the key that ends `path` stands; for an item of a list, the item."""
        return self.keys.get(path) or self.position(path)

    def at(self, path: Path) -> Data:
        """The value at `path`, which must exist."""
        data: Any = self.data
        for part in path:
            data = data[part]
        return data  # type: ignore[no-any-return]

    def empty_values(self) -> Iterator[Path]:
        """Paths of values that are null: `key:` with nothing after it, `~`, `null`."""
        return (path for path in self.values if path not in self.faulty and self.at(path) is None)


def read_yaml(name: str, text: str) -> tuple[Node | None, list[Problem]]:
    """Read one YAML document from the text of the file `name`.

    Scalars stay what was written (`on`, `1.10`, `017`); an unquoted null is None. Refused: duplicate keys, anchors,
    aliases, merge keys, tags, keys that are no text, several documents, nesting beyond 32, files beyond 1 MiB.

    Returns:
        The document and the problems. The document is None when the file is empty (no problem) or cannot be parsed
        (one problem); with other problems it is there, so that what else is wrong can be found in the same run.
    """
    if len(text.encode("utf-8", "replace")) > LARGEST_FILE:
        return None, [Problem(name, 0, 0, "the file is larger than 1 MiB: split it")]
    text = text.removeprefix("\ufeff")
    if found := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        cause = f"control character {found[0]!r}: remove it, or write it as an escape in double quotes"
        return None, [Problem(name, line, column, cause)]
    builder = _Builder(name)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except _TooDeepError as error:
        return None, [*builder.problems, error.problem]
    except yaml.MarkedYAMLError as error:
        return None, [*builder.problems, _syntax_problem(name, text, error)]
    return builder.node(), builder.problems


class _TooDeepError(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class _Open:
    """A mapping or list whose end has not come yet; `key` waits for its value."""

    data: dict[str, Any] | list[Any]
    path: Path
    flow: bool
    ignored: bool
    key: str | None = None
    waits: bool = False


@dataclass
class _Builder:
    """Builds a document from parse events with a stack of its own: depth is checked before anything recurses."""

    name: str
    problems: list[Problem] = field(default_factory=list)
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    faulty: set[Path] = field(default_factory=set)
    data: Data = None
    stack: list[_Open] = field(default_factory=list)
    documents: int = 0

    def node(self) -> Node | None:
        """The document; None when there was none."""
        if self.values.get(()) is None or (self.data is None and () not in self.faulty):
            return None
        return Node(self.data, self.values, self.keys, frozenset(self.faulty))

    def take(self, event: yaml.Event) -> None:
        """Apply the next event."""
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents == 2:
                    self._refuse(event, "a second document starts here: put it into a file of its own")
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                if self.documents == 1:
                    self.stack.pop()
            case yaml.NodeEvent() if self.documents == 1:
                self._node(event)
            case _:
                pass

    def _node(self, event: yaml.NodeEvent) -> None:
        parent = self.stack[-1] if self.stack else None
        if parent is not None and isinstance(parent.data, dict) and not parent.waits:
            self._key(parent, event)
        else:
            self._value(parent, event)

    def _key(self, parent: _Open, event: yaml.NodeEvent) -> None:
        parent.waits, parent.key = True, None
        if isinstance(event, yaml.CollectionStartEvent):
            # `{{ x }}` reads as a mapping whose key is a mapping.
            cause = 'a value cannot start with "{{": quote the value' if parent.flow else "a key must be text"
            self._refuse(event, cause, parent.ignored, self.values.get(parent.path) if parent.flow else None)
            if not parent.ignored:
                self.faulty.add(parent.path)
            self.stack.append(_Open([], (), True, ignored=True))
        elif not isinstance(event, yaml.ScalarEvent):
            self._refuse(
                event, f'aliases are not supported: quote the key, "*{event.anchor}"', parent.ignored
            )
        elif event.value == "<<" and event.implicit[0]:
            self._refuse(event, 'merge keys ("<<") are not supported: write the keys out', parent.ignored)
        elif self._is_null(event):
            self._refuse(event, f'a key must be text: quote it, "{event.value}"', parent.ignored)
        elif event.value in parent.data:
            if not parent.ignored:
                line = self.keys[(*parent.path, event.value)][0]
                self._refuse(event, f'duplicate key "{event.value}": it already stands in line {line}')
        else:
            parent.key = event.value
            if not parent.ignored:
                self.keys[(*parent.path, event.value)] = _place(event.start_mark)

    def _value(self, parent: _Open | None, event: yaml.NodeEvent) -> None:
        path: Path = ()
        ignored = False
        if parent is not None:
            ignored = parent.ignored
            if isinstance(parent.data, list):
                path = (*parent.path, len(parent.data))
            elif parent.key is None:
                ignored = True
            else:
                path = (*parent.path, parent.key)
        data, sound = self._content(parent, event, ignored)
        if not ignored:
            self.values[path] = _place(event.start_mark)
            if not sound:
                self.faulty.add(path)
        if parent is None:
            self.data = data
        elif isinstance(parent.data, list):
            parent.data.append(data)
        else:
            if parent.key is not None:
                parent.data[parent.key] = data
            parent.waits = False
        if isinstance(data, dict | list):
            if len(self.stack) >= DEEPEST_NESTING:
                cause = f"nested deeper than {DEEPEST_NESTING} levels"
                raise _TooDeepError(Problem(self.name, *_place(event.start_mark), cause))
            flow = bool(getattr(event, "flow_style", False))
            self.stack.append(_Open(data, path, flow, ignored))

    def _content(self, parent: _Open | None, event: yaml.NodeEvent, ignored: bool) -> tuple[Data, bool]:
        """The value that starts with this event, and whether it can be taken as written."""
        sound = True
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, f'aliases are not supported: quote the value, "*{event.anchor}"', ignored)
            return None, False
        if event.anchor is not None:
            self._refuse(event, f'anchors are not supported: quote the value, "&{event.anchor} ..."', ignored)
            sound = False
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(event, f'tags are not supported: quote the value, "{shown} ..."', ignored)
            sound = False
        if isinstance(event, yaml.MappingStartEvent):
            return {}, sound
        if isinstance(event, yaml.SequenceStartEvent):
            return [], sound
        assert isinstance(event, yaml.ScalarEvent)
        if not self._is_null(event):
            return event.value, sound
        if event.value == "" and parent is not None and parent.flow and parent.key is not None:
            cause = (
                f'"{parent.key}" has no value; where a comma belongs to a value, quote the value: "$1,000"'
            )
            self._refuse(event, cause, ignored, self.keys.get((*parent.path, parent.key)))
            sound = False
        return None, sound

    @staticmethod
    def _is_null(event: yaml.ScalarEvent) -> bool:
        return event.style in (None, "") and event.value in _NULLS

    def _refuse(
        self, event: yaml.Event, cause: str, ignored: bool = False, place: Place | None = None
    ) -> None:
        if not ignored:
            self.problems.append(Problem(self.name, *(place or _place(event.start_mark)), cause))


def _place(mark: Any) -> Place:
    return mark.line + 1, mark.column + 1


_QUOTE: Final = 'a value cannot start with "{first}": quote the value'
_UNCLOSED: Final = (
    'the "{first}" that opens here is not closed, or a value in it with , : {{ }} [ ] lacks quotes'
)
_COMPLAINTS: Final = (
    ("increasing", f"nested deeper than {DEEPEST_NESTING} levels"),
    ("cannot start any token", _QUOTE),
    ("block scalar", _QUOTE),
    ("scanning an", _QUOTE),
    ("tag", _QUOTE),
    ("mapping values are not allowed", '":" is not expected here: quote the value, or check the indentation'),
    ("escape", "unknown escape: use single quotes, or write the backslash twice"),
    ("quoted scalar", "the quote that opens here is not closed"),
    ("flow", _UNCLOSED),
    ("simple key", 'this line has no ":": write "key: value", or quote the text'),
)
"""What the parser complains about, by a part of its words, and what that means to the writer of the file."""
_AT_THE_COMPLAINT: Final = ("mapping values are not allowed", "escape")


def _syntax_problem(name: str, text: str, error: yaml.MarkedYAMLError) -> Problem:
    line, column = _place(error.problem_mark)
    lines = [*text.splitlines(), ""]
    shown = lines[min(line, len(lines)) - 1]
    if shown[column - 1 : column] == "\t":
        return Problem(name, line, column, "a tab: YAML is indented with spaces, replace it")
    if braces := _BRACES.search(shown):
        return Problem(name, line, braces.start(1) + 1, _QUOTE.format(first=braces[1]))
    words = f"{error.context} {error.problem}"
    for part, cause in _COMPLAINTS:
        if part in words:
            if error.context_mark is not None and part not in _AT_THE_COMPLAINT:
                line, column = _place(error.context_mark)
            first = lines[min(line, len(lines)) - 1][column - 1 : column]
            return Problem(name, line, column, cause.format(first=first))
    return Problem(
        name, line, column, "this does not fit what stands above: check the indentation and the quotes"
    )
