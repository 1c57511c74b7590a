"""Text that others wrote, made safe to print in a log or a terminal: one line, no control characters, bounded."""

from __future__ import annotations

from typing import Final

LONGEST_TEXT: Final = 2_000
"""Characters of a text that is shown; a longer one is cut and ends in an ellipsis."""


def visible(text: str, limit: int = LONGEST_TEXT) -> str:
    r"""The text with line breaks, escapes, direction signs and halves of characters written out, such as `\x1b`."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
