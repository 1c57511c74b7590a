"""Reads a user's price file (YAML) into price entries, with all its errors at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Final, TypeVar

import yaml
import zstandard

from rules.problem import InvalidFilesError, Problem, did_you_mean
from streams.price_book import PriceBook, PriceEntry, Rates, provider_id

_LARGEST_FILE: Final = 4_000_000  # bytes; some 20,000 entries
_LARGEST_PRICE: Final = 100_000  # dollars per million tokens, or per request: more is a slip of the unit
_LONGEST_NAME: Final = 256  # characters
_LONGEST_SHOWN: Final = 40
_TOP: Final = ("version", "prices")
_KEYS: Final = ("model", "provider", "from", "input", "cached_input", "cache_write", "output", "per_request")
_REQUIRED: Final = ("model", "input", "output")
_MONEY: Final = re.compile(r"\$?(\d{1,12}(?:\.(\d{1,30}))?)")
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_PER_MILLION_PLACES: Final = 6  # a pico-dollar per token
_PER_REQUEST_PLACES: Final = 12  # a pico-dollar
_PACKING_LEVEL: Final = 12
_PACKED: Final = "the price file in the rules topic"

_Value = TypeVar("_Value")


def read_price_book(path: Path) -> PriceBook:
    """The library's prices with those of the file before them.

    Raises:
        InvalidFilesError: the file cannot be read or says something that is not a price; it carries every
        problem.
    """
    return PriceBook(read_price_file(path))


def read_price_file(path: Path) -> tuple[PriceEntry, ...]:
    """The entries of a price file, in its order. Amounts are read from their source text, never through a
    float.

    Raises:
        InvalidFilesError: the file cannot be read or says something that is not a price; it carries every
        problem.
    """
    return parse_price_file(str(path), read_price_bytes(path))


def read_price_bytes(path: Path) -> bytes:
    """The bytes of a price file, 4,000,000 at most.

    Raises:
        InvalidFilesError: the file cannot be read or is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        cause = f"cannot be read: {error.strerror or type(error).__name__}"
        raise InvalidFilesError([Problem(str(path), 0, 0, cause)]) from error
    if len(content) > _LARGEST_FILE:
        raise InvalidFilesError([Problem(str(path), 0, 0, f"larger than {_LARGEST_FILE:,} bytes")])
    return content


def parse_price_file(name: str, content: bytes) -> tuple[PriceEntry, ...]:
    """The entries of a price file's bytes; `name` stands in problems.

    Raises:
        InvalidFilesError: it says something that is not a price; it carries every problem.
    """
    return _Reader(name, content).read()


def pack_price_file(content: bytes) -> bytes:
    """The bytes of a price file as the rules topic keeps them: zstd, empty for none."""
    return zstandard.ZstdCompressor(level=_PACKING_LEVEL).compress(content) if content else b""


def unpack_price_file(packed: bytes) -> bytes:
    """What was packed.

    Raises:
        InvalidFilesError: it was not, or is larger than a price file may be.
    """
    if not packed:
        return b""
    try:
        # The whole size stands at the beginning, and is allocated at once.
        if not 0 <= (size := zstandard.frame_content_size(packed)) <= _LARGEST_FILE:
            raise InvalidFilesError([Problem(_PACKED, 0, 0, f"larger than {_LARGEST_FILE:,} bytes")])
        return zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
    except zstandard.ZstdError as error:
        raise InvalidFilesError([Problem(_PACKED, 0, 0, f"cannot be unpacked: {error}")]) from error


class _Reader:
    """Collects problems while it walks the nodes of one file."""

    def __init__(self, name: str, content: bytes) -> None:
        self._name_of_file = name
        self._content = content
        self._problems: list[Problem] = []

    def read(self) -> tuple[PriceEntry, ...]:
        entries = self._entries(self._compose())
        if self._problems:
            raise InvalidFilesError(self._problems)
        return entries

    def _problem(self, mark: yaml.Mark | None, cause: str) -> None:
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        self._problems.append(Problem(self._name_of_file, line, column, cause))

    def _compose(self) -> yaml.Node | None:
        content = self._content
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
            self._problems.append(Problem(self._name_of_file, line, column, "not UTF-8 text"))
            return None
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            self._problem(
                error.problem_mark or error.context_mark, f"not YAML: {error.problem or error.context}"
            )
        except yaml.YAMLError as error:
            self._problem(None, f"not YAML: {str(error).splitlines()[0]}")
        except RecursionError:
            self._problem(None, "not a price file: nested too deeply")
        else:
            if node is None:
                self._problem(None, "empty: write `version: 1` and a list of `prices`")
            return node
        return None

    def _entries(self, root: yaml.Node | None) -> tuple[PriceEntry, ...]:
        if root is None:
            return ()
        top = self._mapping(root, _TOP, "a price file")
        if top is None:
            return ()
        for key in _TOP:
            if key not in top:
                self._problem(
                    root.start_mark, f"`{key}` is missing: write `version: 1` and a list of `prices`"
                )
        if "version" in top and (text := self._text(top["version"], "version")) not in (None, "1"):
            cause = f'version "{_shown(text or "")}" is not known: write `version: 1`'
            self._problem(top["version"].start_mark, cause)
        prices = top.get("prices")
        if prices is None:
            return ()
        if not isinstance(prices, yaml.SequenceNode):
            self._problem(
                prices.start_mark, "`prices` is not a list: write entries that begin with `- model:`"
            )
            return ()
        entries: dict[tuple[str | None, str, date | None], tuple[PriceEntry, int]] = {}
        for node in prices.value:
            entry = self._entry(node)
            if entry is None:
                continue
            name = (entry.provider and provider_id(entry.provider), entry.model, entry.start)
            if name in entries:
                first, owner = entries[name][1], _shown(entry.provider or "any")
                self._problem(
                    node.start_mark,
                    f"a second price for model {_shown(entry.model)}, provider {owner}, "
                    f"from {entry.start or 'always'}: the first is on line {first}",
                )
            else:
                entries[name] = entry, node.start_mark.line + 1
        return tuple(entry for entry, _ in entries.values())

    def _entry(self, node: yaml.Node) -> PriceEntry | None:
        fields = self._mapping(node, _KEYS, "a price")
        if fields is None:
            return None
        for key in _REQUIRED:
            if key not in fields:
                hint = ": write `output: $0` for a model without a price of output" if key == "output" else ""
                self._problem(node.start_mark, f"`{key}` is missing{hint}")

        def field(key: str, read: Callable[[yaml.Node, str], _Value | None]) -> _Value | None:
            return read(fields[key], key) if key in fields else None

        known = len(self._problems)
        model, provider = field("model", self._name), field("provider", self._name)
        start = field("from", self._day)
        charge, output = field("input", self._per_token), field("output", self._per_token)
        cached, written = field("cached_input", self._per_token), field("cache_write", self._per_token)
        per_request = field("per_request", self._per_request)
        if model is None or charge is None or output is None or len(self._problems) > known:
            return None
        rates = Rates(
            input=charge,
            cached_input=charge if cached is None else cached,
            cache_write=charge if written is None else written,
            output=output,
        )
        return PriceEntry(model, provider, start, rates, per_request or 0)

    def _mapping(self, node: yaml.Node, known: tuple[str, ...], what: str) -> dict[str, yaml.Node] | None:
        if not isinstance(node, yaml.MappingNode):
            self._problem(node.start_mark, f"not {what}: expected keys such as `{known[0]}:`")
            return None
        found: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                self._problem(key_node.start_mark, "a key must be a word")
            elif key not in known:
                hint = did_you_mean(key, known) or f": the keys of {what} are {', '.join(known)}"
                self._problem(key_node.start_mark, f'unknown key "{_shown(key)}"{hint}')
            elif key in found:
                self._problem(key_node.start_mark, f'the key "{key}" is there twice')
            else:
                found[key] = value
        return found

    def _text(self, node: yaml.Node, key: str) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._problem(node.start_mark, f"`{key}` must be a single value")
            return None
        return str(node.value).strip()

    def _name(self, node: yaml.Node, key: str) -> str | None:
        text = self._text(node, key)
        if text is None or 0 < len(text) <= _LONGEST_NAME:
            return text
        self._problem(node.start_mark, f"`{key}` must have 1 to 256 characters")
        return None

    def _day(self, node: yaml.Node, key: str) -> date | None:
        text = self._text(node, key)
        if text is None:
            return None
        try:
            if _DAY.fullmatch(text):
                return date.fromisoformat(text)
        except ValueError:
            pass
        self._problem(node.start_mark, f'`{key}`: "{_shown(text)}" is not a day: write it as 2026-01-31')
        return None

    def _per_token(self, node: yaml.Node, key: str) -> int | None:
        return self._money(node, key, _PER_MILLION_PLACES)

    def _per_request(self, node: yaml.Node, key: str) -> int | None:
        return self._money(node, key, _PER_REQUEST_PLACES)

    def _money(self, node: yaml.Node, key: str, places: int) -> int | None:
        """Dollars as an integer number of units of 10^-places."""
        text = self._text(node, key)
        if text is None:
            return None
        match = _MONEY.fullmatch(text)
        if match is None or not text.isascii():
            cause = f'"{_shown(text)}" is not an amount: write dollars, such as $2.50'
        elif len((match[2] or "").rstrip("0")) > places:
            cause = f'"{_shown(text)}" has more than {places} decimal places'
        elif Decimal(match[1]) > _LARGEST_PRICE:
            cause = f'"{_shown(text)}" is more than ${_LARGEST_PRICE:,}: tokens are priced by the million'
        else:
            return int(Decimal(match[1]).scaleb(places))
        self._problem(node.start_mark, f"`{key}`: {cause}")
        return None


def _shown(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
