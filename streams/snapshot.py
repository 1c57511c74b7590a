"""Snapshots of a shard in a compacted topic: chunks, then a manifest; the highest valid offset is the one to trust."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import zstandard

FORMAT: Final = 1
CHUNK_BYTES: Final = 700_000
KEPT: Final = 2
"""Snapshots of a shard that stay in the topic."""
LARGEST_BYTES: Final = 4 << 30
"""A state larger than this, decompressed, is refused: the bytes are not ours."""
_LEVEL: Final = 3


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
    """The newest snapshot that is whole, and what was wrong with newer ones."""

    offset: int
    state: bytes
    generation: str
    problems: tuple[str, ...] = ()


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
    manifests = sorted((_offset(key), key) for key in known if key.startswith(b"manifest/"))
    if len(manifests) <= keep:
        return
    oldest = manifests[-keep][0]
    for key in known:
        if _offset(key) < oldest:
            yield Entry(key, None)


def newest(records: Mapping[bytes, bytes], shard: int) -> Found | None:
    """The whole snapshot with the highest offset among the topic's live records, or None.

    A manifest without its chunks, or with chunks that do not add up, is passed over and named.
    """
    problems: list[str] = []
    for key in sorted((key for key in records if key.startswith(b"manifest/")), key=_offset, reverse=True):
        try:
            manifest = msgspec.json.decode(records[key], type=Manifest)
        except msgspec.MsgspecError as error:
            problems.append(f"manifest {key.decode(errors='replace')} cannot be read: {error}")
            continue
        cause, state = _state(records, manifest, shard)
        if state is not None:
            return Found(manifest.offset, state, manifest.generation, tuple(problems))
        problems.append(f"snapshot at offset {manifest.offset} ({manifest.generation}): {cause}")
    return Found(-1, b"", "", tuple(problems)) if problems else None


def _state(records: Mapping[bytes, bytes], manifest: Manifest, shard: int) -> tuple[str, bytes | None]:
    if manifest.format != FORMAT:
        return f"format {manifest.format} is not known here, only {FORMAT}", None
    if manifest.shard != shard:
        return f"it is of shard {manifest.shard}", None
    pieces = [records.get(_chunk_key(manifest.offset, manifest.generation, i)) for i in range(manifest.chunks)]
    if missing := sum(piece is None for piece in pieces):
        return f"{missing} of {manifest.chunks} chunks are missing", None
    packed = b"".join(piece for piece in pieces if piece is not None)
    if len(packed) != manifest.size or hashlib.sha256(packed).hexdigest() != manifest.sha256:
        return "its checksum does not match", None
    try:
        return "", zstandard.ZstdDecompressor().decompress(packed, max_output_size=LARGEST_BYTES)
    except zstandard.ZstdError as error:
        return f"it cannot be decompressed: {error}", None


def _chunk_key(offset: int, generation: str, number: int) -> bytes:
    return f"chunk/{offset:020d}/{generation}/{number:06d}".encode()


def _manifest_key(offset: int, generation: str) -> bytes:
    return f"manifest/{offset:020d}/{generation}".encode()


def _offset(key: bytes) -> int:
    return int(key.split(b"/")[1])
