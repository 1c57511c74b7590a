"""The console receiver: writes each message to a text stream as Slack would show it."""

from __future__ import annotations

from typing import TextIO

from notifiers.block_text import render
from notifiers.delivery import Delivered, Outcome, Refused
from notifiers.message import Message
from notifiers.notification import Notification


class Console:
    """Writes to `stream`, `width` columns wide, with ANSI styles if `colour`."""

    def __init__(self, name: str, stream: TextIO, *, width: int = 100, colour: bool = False) -> None:
        self.name = name
        self.interval_ms = 0
        self._stream = stream
        self._width = width
        self._colour = colour

    async def deliver(self, notification: Notification, message: Message) -> Outcome:
        """Write the message and an empty line; a stream that is closed refuses it."""
        del notification  # nothing to tell repeats apart by is shown beyond what the message says
        text = render(message.blocks, width=self._width, colour=self._colour, bar=message.colour)
        # A terminal in another encoding shows a question mark for what it does not have.
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = f"{text}\n\n".encode(encoding, errors="replace").decode(encoding)
        try:
            self._stream.write(shown)
            self._stream.flush()
        except (OSError, ValueError) as error:
            return Refused(f"the console cannot be written to ({type(error).__name__})")
        return Delivered("")
