"""Calls from files: JSON lines, plain, gzip or zstd, read in batches as the records of a source."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Final, cast

import numpy as np
import zstandard

from streams.records import Records, Source

BATCH: Final = 5_000
BATCH_BYTES: Final = 64 << 20
"""A batch ends after this many bytes, however few its lines."""
LINE_BYTES: Final = 4 << 20
"""A longer line is cut there, and so rejected as no call: it bounds what one line can take."""
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


class CallFileError(Exception):
    """A file of calls that cannot be read; the message says which and why."""


def _some(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The next lines, up to both bounds of a batch."""
    taken = size = 0
    for number, line in lines:
        yield number, line
        taken, size = taken + 1, size + len(line)
        if taken == BATCH or size >= BATCH_BYTES:
            return


class CallFile:
    """A file of calls, or standard input for `-`. Lines are numbered from 1: they are the records' offsets."""

    def __init__(self, name: str, *, default_ms: int = 0) -> None:
        self.name = name
        self._default_ms = default_ms
        try:
            opened = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115 (see close)
            self._raw = cast("BufferedReader", opened)
        except OSError as error:
            raise CallFileError(f"{name} cannot be read: {error.strerror}") from error

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self.name != "-":
            self._raw.close()

    @property
    def size(self) -> int | None:
        """Bytes of the file, None where unknown (standard input)."""
        return None if self.name == "-" else Path(self.name).stat().st_size

    @property
    def position(self) -> int:
        """Bytes of the file read so far; all of them once it is closed."""
        if self._raw.closed:
            return self.size or 0
        return 0 if self.name == "-" else self._raw.tell()

    def batches(self) -> Iterator[Records]:
        """The calls, some thousands at a time; empty lines are passed over. At the end the file is closed.

        Raises:
            CallFileError: the file cannot be read to its end.
        """
        try:
            yield from self._batches()
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise CallFileError(f"{self.name} cannot be read to its end: {error}") from error
        finally:
            self.close()

    def _batches(self) -> Iterator[Records]:
        source = Source("standard input" if self.name == "-" else self.name, 0)
        lines = self._lines(self._opened())
        while batch := list(_some(lines)):
            yield Records(
                source,
                [line for _, line in batch],
                np.array([number for number, _ in batch], np.int64),
                np.full(len(batch), self._default_ms, np.int64),
            )

    def _opened(self) -> IO[bytes]:
        magic = self._raw.peek(4)[:4]
        if magic.startswith(_GZIP):
            return cast("IO[bytes]", gzip.GzipFile(fileobj=self._raw))
        if magic == _ZSTD:
            reader = zstandard.ZstdDecompressor().stream_reader(
                self._raw, read_across_frames=True, closefd=False
            )
            return BufferedReader(cast("IO[bytes]", reader))  # type: ignore[type-var]
        return self._raw

    @staticmethod
    def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        number, begins = 0, True
        while line := stream.readline(LINE_BYTES):
            number += begins
            if begins and (stripped := line.strip()):
                yield number, stripped
            begins = line.endswith(b"\n")
