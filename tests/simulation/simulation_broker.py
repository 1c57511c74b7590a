"""A broker in memory: partitions, compacted reads, and groups with generations. It knows no clock but its own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from streams.loop import Committed

Place = tuple[str, int]
"""A topic and the number of a partition."""
Record = tuple[bytes | None, bytes | None, int]
"""Key, value and log-append time."""


@dataclass
class Group:
    """A consumer group: its members, who has which partitions, and what was committed."""

    name: str
    places: tuple[Place, ...]
    generation: int = 0
    members: set[int] = field(default_factory=set)
    assignment: dict[int, frozenset[Place]] = field(default_factory=dict)
    committed: dict[Place, Committed] = field(default_factory=dict)
    commits_refused: int = 0

    def deal(self, rng: random.Random) -> None:
        """A new generation: every partition goes to one of the members."""
        self.generation += 1
        members = sorted(self.members)
        dealt: dict[int, set[Place]] = {member: set() for member in members}
        order = list(self.places)
        rng.shuffle(order)
        turn = rng.randrange(len(members)) if members else 0
        for number, place in enumerate(order if members else ()):
            dealt[members[(turn + number) % len(members)]].add(place)
        self.assignment = {member: frozenset(places) for member, places in dealt.items()}

    def commit(self, member: int, generation: int, offsets: Mapping[Place, Committed]) -> bool:
        """Take a commit, unless it is of a generation that is over."""
        if member not in self.members or generation != self.generation:
            self.commits_refused += 1
            return False
        self.committed.update(offsets)
        return True


class Broker:
    """Logs of partitions; `now_ms` is the time that appended records carry."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.down_until_ms = 0
        self.logs: dict[Place, list[Record]] = {}
        self.groups: dict[str, Group] = {}

    def log(self, place: Place) -> list[Record]:
        found = self.logs.get(place)
        if found is None:
            found = self.logs[place] = []
        return found

    def append(self, place: Place, key: bytes | None, value: bytes | None) -> int:
        """Append a record; its offset."""
        log = self.log(place)
        log.append((key, value, self.now_ms))
        return len(log) - 1

    def end(self, place: Place) -> int:
        return len(self.log(place))

    def values(self, place: Place) -> Sequence[bytes | None]:
        """Every value of a partition."""
        return [value for _, value, _ in self.log(place)]

    def compacted(self, place: Place, rng: random.Random) -> Sequence[bytes | None]:
        """Values of a compacted partition, of which the cleaner has come as far as it happens to."""
        log = self.log(place)
        cleaned = rng.choice((0, len(log) // 2, len(log)))
        newest = {key: offset for offset, (key, _, _) in enumerate(log[:cleaned])}
        return [
            value for offset, (key, value, _) in enumerate(log) if offset >= cleaned or newest[key] == offset
        ]

    def live(self, place: Place) -> dict[bytes, bytes]:
        """The newest value of each key, as a compacted topic has it; removed ones are left out."""
        live: dict[bytes, bytes] = {}
        for key, value, _ in self.log(place):
            if value is None:
                live.pop(key or b"", None)
            else:
                live[key or b""] = value
        return live

    def topic(self, name: str) -> Iterator[tuple[Place, list[Record]]]:
        """The partitions of a topic that hold anything, in order."""
        return iter(sorted((place, log) for place, log in self.logs.items() if place[0] == name))
