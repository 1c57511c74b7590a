"""Logging of the process: to standard error, one line an event, libraries only when something is wrong."""

from __future__ import annotations

import logging
import sys
import time


def configure_logging(level: str, told: tuple[type[Exception], ...] = ()) -> None:
    """Set the root logger up. Times are UTC.

    `told`: errors whose message the user is given at the end, so that no record with their traceback is wanted.
    """
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
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
