"""Snapshots of a shard in a compacted topic: chunks, then a manifest; the highest valid offset is the one to trust."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import zstandard

from streams import shard_state
from streams.shard_state import ShardState, StateError

FORMAT: Final = 1
CHUNK_BYTES: Final = 700_000
KEPT: Final = 2
"""Snapshots of a shard that stay in the topic."""
LARGEST_BYTES: Final = 4 << 30
"""A state larger than this, decompressed, is refused: the bytes are not ours."""
MOST_CHUNKS: Final = LARGEST_BYTES // CHUNK_BYTES
_LEVEL: Final = 3
_KEY: Final = re.compile(rb"(?:chunk/\d{20}/[\da-zA-Z-]{1,64}/\d{6}|manifest/\d{20}/[\da-zA-Z-]{1,64})")


class SnapshotError(ValueError):
    """A snapshot that is not whole; the message says what is wrong with it."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Says that a snapshot is complete: the input offset it stands for, its chunks and their checksums."""

    format: int = FORMAT
    shard: int
    offset: int
    generation: str
    chunks: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of the snapshots topic; a value of None removes its key."""

    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Found:
    """A snapshot that is whole."""

    offset: int
    state: ShardState


class Snapshots:
    """The snapshots of one shard: finding the newest, taking the next, removing the oldest."""

    def __init__(self, shard: int, records: Mapping[bytes, bytes], generation: str) -> None:
        self.taken_ms = 0
        self.problems: list[str] = []
        self._shard = shard
        # What is not named as ours are is another's: it is neither read nor removed.
        self._records = {key: value for key, value in records.items() if _KEY.fullmatch(key)}
        self._keys = set(self._records)
        self._offset = -1
        self._generation = generation

    def newest(self) -> Found | None:
        """The whole snapshot with the highest offset, or None; `problems` names those that were passed over."""
        for key in sorted((key for key in self._records if _is_manifest(key)), key=_offset, reverse=True):
            try:
                manifest = msgspec.json.decode(self._records[key], type=Manifest)
                state = shard_state.decode(_packed(self._records, manifest, self._shard))
            except (msgspec.MsgspecError, zstandard.ZstdError, SnapshotError, StateError) as error:
                self.problems.append(f"{key.decode(errors='replace')}: {error}")
                continue
            self._records.clear()
            self._offset = manifest.offset
            return Found(manifest.offset, state)
        self._records.clear()
        return None

    def is_due(self, offset: int, wall_ms: int, every_ms: int) -> bool:
        """Whether there is something new, and the last snapshot is old enough."""
        return offset > self._offset and wall_ms - self.taken_ms >= every_ms

    def take(self, state: bytes, offset: int, wall_ms: int) -> tuple[list[Entry], list[Entry], list[Entry]]:
        """What to publish for a snapshot, each list acknowledged before the next: chunks, manifest, removals."""
        chunks = chunk_entries(state, offset, self._generation)
        manifest = manifest_entry(chunks, self._shard, offset, self._generation)
        self._keys |= {each.key for each in (*chunks, manifest)}
        removed = list(outdated(self._keys))
        self._keys -= {each.key for each in removed}
        self._offset, self.taken_ms = offset, wall_ms
        return chunks, [manifest], removed


def chunk_entries(state: bytes, offset: int, generation: str) -> list[Entry]:
    """The chunks of a state; they must be acknowledged before the manifest is published."""
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(state)
    pieces = [packed[at : at + CHUNK_BYTES] for at in range(0, len(packed), CHUNK_BYTES)]
    return [Entry(_chunk_key(offset, generation, number), piece) for number, piece in enumerate(pieces)]


def manifest_entry(chunks: Sequence[Entry], shard: int, offset: int, generation: str) -> Entry:
    """The manifest of chunks that have been acknowledged."""
    packed = b"".join(each.value or b"" for each in chunks)
    manifest = Manifest(
        shard=shard,
        offset=offset,
        generation=generation,
        chunks=len(chunks),
        size=len(packed),
        sha256=hashlib.sha256(packed).hexdigest(),
    )
    return Entry(_manifest_key(offset, generation), msgspec.json.encode(manifest))


def outdated(keys: Iterable[bytes], keep: int = KEPT) -> Iterator[Entry]:
    """Removals of everything but the newest `keep` snapshots that have a manifest, and of chunks older than those."""
    known = sorted(keys)
    manifests = sorted((_offset(key), key) for key in known if _is_manifest(key))
    if len(manifests) <= keep:
        return
    oldest = manifests[-keep][0]
    for key in known:
        if _offset(key) < oldest:
            yield Entry(key, None)


def _packed(records: Mapping[bytes, bytes], manifest: Manifest, shard: int) -> bytes:
    """The state of a manifest whose chunks are all there and add up. Raises SnapshotError, zstandard.ZstdError."""
    if manifest.format != FORMAT:
        raise SnapshotError(f"format {manifest.format} is not known here, only {FORMAT}")
    if not 0 <= manifest.chunks <= MOST_CHUNKS:
        raise SnapshotError(f"{manifest.chunks} chunks are more than a state can have ({MOST_CHUNKS:,})")
    if manifest.shard != shard:
        raise SnapshotError(f"it is of shard {manifest.shard}")
    pieces = [
        records.get(_chunk_key(manifest.offset, manifest.generation, i)) for i in range(manifest.chunks)
    ]
    if missing := sum(piece is None for piece in pieces):
        raise SnapshotError(f"{missing} of {manifest.chunks} chunks are missing")
    packed = b"".join(piece for piece in pieces if piece is not None)
    if len(packed) != manifest.size or hashlib.sha256(packed).hexdigest() != manifest.sha256:
        raise SnapshotError("its checksum does not match")
    # The whole size stands at the beginning, and is allocated at once.
    if not 0 <= (size := zstandard.frame_content_size(packed)) <= LARGEST_BYTES:
        raise SnapshotError(f"it does not say how large it is, or is larger than {LARGEST_BYTES:,} bytes")
    return zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)


def _is_manifest(key: bytes) -> bool:
    return key.startswith(b"manifest/")


def _chunk_key(offset: int, generation: str, number: int) -> bytes:
    return f"chunk/{offset:020d}/{generation}/{number:06d}".encode()


def _manifest_key(offset: int, generation: str) -> bytes:
    return f"manifest/{offset:020d}/{generation}".encode()


def _offset(key: bytes) -> int:
    return int(key.split(b"/")[1])
