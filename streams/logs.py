"""Logging of the process: to standard error, one line an event, libraries only when something is wrong."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Final

from rules.visible import visible

LONGEST_TRACE_LINE: Final = 400
LONGEST_MESSAGE_LINES: Final = 100


class OneLine(logging.Formatter):
    """One record, one line: what others wrote cannot start a record of its own, nor move a terminal's cursor.

    A message is cut at 2,000 characters. The lines of a traceback are indented and cut at 400.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """The line of a record."""
        # Messages of ours may have several lines: a problem each.
        lines = record.message.split("\n", LONGEST_MESSAGE_LINES)
        record.message = "\n  ".join(visible(line) for line in lines)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the library's name
        """The traceback of a record."""
        return "\n".join(
            f"  {visible(line, LONGEST_TRACE_LINE)}" for line in super().formatException(ei).split("\n")
        )


def configure_logging(level: str, told: tuple[type[Exception], ...] = ()) -> None:
    """Set the root logger up. Times are UTC.

    `told`: errors whose message the user is given at the end, so that no record with their traceback is wanted.
    """
    formatter = OneLine("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    # mode announces each step of each service; what a service does is said by itself.
    handler.addFilter(lambda record: record.levelno > logging.INFO or not str(record.msg).startswith("[^"))
    handler.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], told)))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for library in ("faust", "mode", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # Every failed connect is an error of aiokafka's; that a broker is away is said once by us, with what happens next.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
