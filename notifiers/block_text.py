"""Block Kit as terminal text: what Slack would show, wrapped to a width, in colour or without."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

_EMOJI: Final = {"rotating_light": "🚨", "warning": "⚠️", "white_check_mark": "✅"}
_SHORTCODE: Final = re.compile(r":([a-z0-9_+-]+):")
_ENTITY: Final = re.compile(r"&(amp|lt|gt);")
_ENTITIES: Final = {"amp": "&", "lt": "<", "gt": ">"}
_MARKUP: Final = re.compile(
    r"`(?P<code>[^`\n]+)`"
    r"|<(?P<url>https?://[^>|\n]+)(?:\|(?P<label>[^>\n]*))?>"
    r"|(?<![\w*])\*(?P<bold>[^*\n]+)\*(?![\w*])"
    r"|(?<![\w_])_(?P<italic>[^_\n]+)_(?![\w_])"
    r"|(?<![\w~])~(?P<strike>[^~\n]+)~(?![\w~])"
)
_STYLES: Final = {
    "bold": "1",
    "dim": "2",
    "italic": "3",
    "link": "4",
    "strike": "9",
    "code": "36",
    "button": "7",
}
_NARROWEST: Final = 20
_TWO_COLUMNS: Final = 64
_GAP: Final = 3
_ITEM: Final = re.compile(r"(\d+\. |• )")
_BAR: Final = "┃ "


@dataclass(frozen=True, slots=True)
class _Span:
    text: str
    styles: tuple[str, ...] = ()


_Line = list[_Span]


def render(
    blocks: Sequence[dict[str, Any]], *, width: int = 80, colour: bool = False, bar: str | None = None
) -> str:
    """The blocks as lines of at most `width` columns, without a final newline.

    `colour` adds ANSI styles; without it, code spans keep their backticks. `bar` is a hex colour (`#c62828`): each
    line then starts with a bar, which shows where a message begins and ends. A word longer than the width is broken.
    Block types it does not know are named.
    """
    inner = max(width - (len(_BAR) if bar is not None else 0), _NARROWEST)
    lines: list[_Line] = []
    for block in blocks:
        if lines and block.get("type") != "context":
            lines.append([])
        lines += _block(block, inner, colour)
    prefix = "" if bar is None else _painted(_BAR, _colour_code(bar)) if colour else _BAR
    return "\n".join((prefix + _line(line, colour)).rstrip() for line in lines)


def _block(block: dict[str, Any], width: int, colour: bool) -> list[_Line]:
    match block.get("type"):
        case "header":
            return _wrap(_spans(block["text"], colour, ("bold",)), width)
        case "section":
            lines = _wrap(_spans(block["text"], colour), width) if "text" in block else []
            return lines + _fields([_spans(field, colour) for field in block.get("fields", ())], width)
        case "context":
            spans: list[_Span] = []
            for element in block["elements"]:
                spans += [*([_Span("  ")] if spans else []), *_spans(element, colour, ("dim",))]
            return _wrap(spans, width)
        case "actions":
            buttons: list[_Span] = []
            for button in block["elements"]:
                label = _Span(f"[ {_plain(button['text'])} ]", ("button",))
                link = [_Span(" "), _Span(_safe(button["url"]), ("link",))] if button.get("url") else []
                buttons += [*([_Span("\n")] if buttons else []), label, *link]
            return _wrap(buttons, width)
        case "divider":
            return [[_Span("─" * width, ("dim",))]]
        case other:
            return [[_Span(f"({_safe(str(other))} block)", ("dim",))]]


def _spans(text: dict[str, Any], colour: bool, styles: tuple[str, ...] = ()) -> list[_Span]:
    if text["type"] == "plain_text":
        return [_Span(_plain(text), styles)]
    return _mrkdwn(str(text["text"]), styles, colour)


def _plain(text: dict[str, Any]) -> str:
    raw = str(text["text"])
    return _safe(_unescape(_with_emoji(raw) if text.get("emoji") else raw))


def _mrkdwn(text: str, styles: tuple[str, ...], colour: bool) -> list[_Span]:
    spans: list[_Span] = []
    end = 0
    for match in _MARKUP.finditer(text):
        spans.append(_Span(_shown(text[end : match.start()]), styles))
        end = match.end()
        kind = match.lastgroup
        if match["url"]:
            url = _safe(_unescape(match["url"]))
            label = _shown(match["label"] or "")
            if not label or label in url:
                spans.append(_Span(url, (*styles, "link")))
            else:
                spans += [_Span(label, styles), _Span(" ("), _Span(url, (*styles, "link")), _Span(")")]
        elif kind == "code":
            inner = _safe(_unescape(match["code"]))
            spans.append(_Span(inner if colour else f"`{inner}`", (*styles, "code")))
        elif kind is not None:
            spans += _mrkdwn(match[kind], (*styles, kind), colour)
    spans.append(_Span(_shown(text[end:]), styles))
    return [span for span in spans if span.text]


def _shown(text: str) -> str:
    return _safe(_unescape(_with_emoji(text)))


def _with_emoji(text: str) -> str:
    return _SHORTCODE.sub(lambda match: _EMOJI.get(match[1], match[0]), text)


def _unescape(text: str) -> str:
    # One pass: `&amp;lt;` is the text `&lt;`.
    return _ENTITY.sub(lambda match: _ENTITIES[match[1]], text)


def _safe(text: str) -> str:
    """Without control characters: a terminal obeys them."""
    return "".join(
        character for character in text if character == "\n" or unicodedata.category(character) != "Cc"
    )


def _fields(fields: list[list[_Span]], width: int) -> list[_Line]:
    """Two columns, as Slack has them, where there is room."""
    if width < _TWO_COLUMNS:
        stacked: list[_Line] = []
        for field in fields:
            stacked += [[], *_wrap(field, width)] if stacked else _wrap(field, width)
        return stacked
    column = (width - _GAP) // 2
    lines: list[_Line] = []
    for index in range(0, len(fields), 2):
        left = _wrap(fields[index], column)
        if lines:
            lines.append([])
        right = _wrap(fields[index + 1], column) if index + 1 < len(fields) else []
        for row in range(max(len(left), len(right))):
            line: _Line = list(left[row]) if row < len(left) else []
            if row < len(right):
                line += [_Span(" " * (column - _columns(line) + _GAP)), *right[row]]
            lines.append(line)
    return lines


def _wrap(spans: Iterable[_Span], width: int) -> list[_Line]:
    """Break at spaces; the lines after the first of a numbered item are indented to its text."""
    lines: list[_Line] = []
    for paragraph in _paragraphs(spans):
        item = _ITEM.match("".join(span.text for span in paragraph))
        indent = min(len(item[0]), width // 2) if item else 0
        lines += _wrap_paragraph(paragraph, width, indent)
    return lines


def _paragraphs(spans: Iterable[_Span]) -> Iterable[_Line]:
    current: _Line = []
    for span in spans:
        first, *others = span.text.split("\n")
        current.append(_Span(first, span.styles))
        for other in others:
            yield current
            current = [_Span(other, span.styles)]
    yield current


def _wrap_paragraph(spans: _Line, width: int, indent: int) -> list[_Line]:
    lines: list[_Line] = [[]]
    used = start = 0
    for whole in _words(spans):
        word, length = whole, _columns(whole)
        blank = all(span.text.isspace() for span in word)
        if blank and (used + length > width or (used == start and len(lines) > 1)):
            continue  # no line but the first begins with spaces, and none ends with them for want of room
        if used + length > width and used > start:
            lines.append([_Span(" " * indent)])
            used = start = indent
        while used + length > width:
            head, word = _split(word, width - used)
            lines[-1] += head
            lines.append([_Span(" " * indent)])
            used = start = indent
            length = _columns(word)
        lines[-1] += word
        used += length
    return lines


def _words(spans: _Line) -> Iterable[_Line]:
    """Runs of spaces and runs of other characters, across spans: `*bold*,` is one word."""
    word: _Line = []
    for span in spans:
        for piece in re.findall(r" +|[^ ]+", span.text):
            if word and (piece.isspace() or word[-1].text.isspace()):
                yield word
                word = []
            word.append(_Span(piece, span.styles))
    if word:
        yield word


def _split(word: _Line, room: int) -> tuple[_Line, _Line]:
    head: _Line = []
    for index, span in enumerate(word):
        for position, character in enumerate(span.text):
            wide = _width(character)
            if wide > room and (head or position):
                cut = [_Span(span.text[:position], span.styles)] if position else []
                return head + cut, [_Span(span.text[position:], span.styles), *word[index + 1 :]]
            room -= wide
        head.append(span)
    return head, []


def _columns(line: _Line) -> int:
    return sum(_width(character) for span in line for character in span.text)


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _line(line: _Line, colour: bool) -> str:
    if not colour:
        return "".join(span.text for span in line)
    runs = groupby(line, key=lambda span: ";".join(_STYLES[style] for style in span.styles))
    return "".join(_painted("".join(span.text for span in run), codes) for codes, run in runs)


def _painted(text: str, codes: str) -> str:
    return f"\x1b[{codes}m{text}\x1b[0m" if codes and text.strip() else text


def _colour_code(hexadecimal: str) -> str:
    """The nearest colour of the 256 that every terminal has."""
    red, green, blue = (round(int(hexadecimal[at : at + 2], 16) / 51) for at in (1, 3, 5))
    return f"38;5;{16 + 36 * red + 6 * green + blue}"
