"""Text that others wrote, made safe for Slack: on one line, escaped, within a limit, unable to format or mention.

Sizes are in UTF-16 units, which are never fewer than characters, whichever of the two Slack counts.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

ELLIPSIS: Final = "…"
JOINER: Final = "\u2060"
"""Word joiner: no width, and it keeps `:name:`, `@here` and `://` from being read as emoji, mention and link."""

_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# An escaped value cannot be shorter than the raw one, so nothing beyond this many characters is ever shown.
_LONGEST_READ: Final = 16_000
# Signs that turn the direction of text around would make a message read differently from what it says.
_DIRECTION: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
)
_LOOK_ALIKES: Final = str.maketrans({"*": "∗", "~": "∼", "`": "ˋ"})
_EDGE_UNDERSCORE: Final = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_EMOJI: Final = re.compile(r":(?=[\w+'-]+:)")
_MENTION: Final = re.compile(r"@(?=\w)")
_SCHEME: Final = re.compile(r":(?=//)")


def size(text: str) -> int:
    """Length in UTF-16 units."""
    return len(text) + sum(character > "\uffff" for character in text)


def clean(text: str) -> str:
    """One line without control characters, direction signs or half characters; white space runs become one space."""
    kept = []
    for character in text[:_LONGEST_READ]:
        category = unicodedata.category(character)
        if category in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        elif category == "Cs":
            kept.append("\ufffd")
        elif character not in _DIRECTION:
            kept.append(character)
    return " ".join("".join(kept).split())


def escape(text: str, limit: int) -> str:
    """`&`, `<` and `>` as entities, cut to `limit` after escaping with an ellipsis, never inside an entity."""
    pieces = [_ESCAPES.get(character, character) for character in text[: limit + 1]]
    if sum(map(size, pieces)) <= limit:
        return "".join(pieces)
    room, kept = limit - size(ELLIPSIS), 0
    for piece in pieces:
        if size(piece) > room:
            break
        room -= size(piece)
        kept += 1
    # A joiner and an accent belong to the character before them.
    while 0 < kept < len(text) and (unicodedata.combining(text[kept]) or text[kept - 1] == "\u200d"):
        kept -= 1
    return "".join(pieces[:kept]) + ELLIPSIS


def literal(text: str, limit: int) -> str:
    """For a `plain_text` object, in which nothing but an emoji name means anything."""
    return escape(_EMOJI.sub(":" + JOINER, clean(text)), limit)


def code(text: str, limit: int) -> str:
    """A code span, in which Slack formats nothing; a backtick becomes an apostrophe, nothing becomes `(empty)`."""
    inner = clean(text).replace("`", "'")
    return f"`{escape(inner or '(empty)', limit - 2)}`"


def plain(text: str, limit: int) -> str:
    """For mrkdwn outside a code span: formatting signs become look-alikes, names of emoji and mentions are broken."""
    inner = _EDGE_UNDERSCORE.sub("ˍ", clean(text).translate(_LOOK_ALIKES))
    for pattern in (_SCHEME, _EMOJI, _MENTION):
        inner = pattern.sub(lambda match: match[0] + JOINER, inner)
    return escape(inner, limit)


def prose(text: str, limit: int) -> str:
    """A line of a runbook: its code spans stay code spans, the rest is plain. Cut to `limit`."""
    parts = clean(text).split("`")
    if len(parts) % 2 == 0:
        return plain(text, limit)
    shown: list[str] = []
    for index, part in enumerate(parts):
        room = limit - size("".join(shown))
        if not part:
            continue
        if room < len("`&amp;`") + 1:
            shown.append(ELLIPSIS if room >= 1 else "")
            break
        spaces = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
        shown.append(code(part, room) if index % 2 else _spaced(part, spaces, room))
    return "".join(shown)


def _spaced(part: str, spaces: tuple[str, str], room: int) -> str:
    # `clean` strips, but the spaces beside a code span must stay.
    before, after = spaces if part.strip() else (spaces[0], "")
    return before + plain(part, room - len(before) - len(after)) + after
