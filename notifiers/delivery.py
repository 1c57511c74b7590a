"""Delivery: a queue per receiver, in order, at the receiver's pace, with retries until it is delivered or given up.

The promise is "at least once": an answer that was lost (`Ambiguous`) is followed by another attempt under the same
notification id, and the result says that the message may be there twice. Nothing is attempted before it is announced,
and nothing without a valid lease: so the next one who notifies knows of everything that may have arrived.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol, assert_never

from notifiers.message import Message
from notifiers.notification import Notification
from rules.quantities import MINUTE, SECOND

GIVE_UP_AFTER_MS: Final = 10 * MINUTE
FIRST_DELAY_MS: Final = SECOND
LONGEST_DELAY_MS: Final = MINUTE
CAPACITY: Final = 1_000
"""Messages that wait for one receiver; whoever hands in more waits too."""
LEASE_RETRY_SECONDS: Final = 0.5

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it. `receipt` is its own name for the message (Slack: `channel/ts`), possibly empty."""

    receipt: str
    possibly_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The receiver will never take it as it is: a wrong channel, a dead token, an invalid message.

    `possibly_delivered` if the answer to an earlier attempt was lost.
    """

    reason: str
    possibly_delivered: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """Not taken, but may be later; `after_ms` is the wait that the receiver asked for."""

    reason: str
    after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """It may or may not have been taken: the connection was lost, or no answer came in time."""

    reason: str


@dataclass(frozen=True, slots=True)
class GaveUp:
    """No attempt succeeded within the time allowed; `possibly_delivered` if an answer was lost on the way."""

    reason: str
    attempts: int
    possibly_delivered: bool


Outcome = Delivered | Refused | Retry | Ambiguous
"""What one attempt gave."""

Result = Delivered | Refused | GaveUp
"""How the delivery of a notification ended."""

Announce = Callable[[Notification], Awaitable[None]]
OnDone = Callable[[Notification, Result], Awaitable[None]]


class Receiver(Protocol):
    """Somewhere to send messages to. `deliver` answers with an outcome instead of raising."""

    @property
    def name(self) -> str:
        """The receiver's name in the configuration."""
        ...

    @property
    def interval_ms(self) -> int:
        """The least time between two attempts."""
        ...

    async def deliver(self, notification: Notification, message: Message) -> Outcome:
        """One attempt, without retries and without waiting for its turn."""
        ...


class Delivery(Protocol):
    """What takes the notifications of a notifier's steps."""

    async def put(self, notification: Notification) -> None:
        """Take one; waits where too many wait already."""
        ...

    async def let_go(self) -> None:
        """Another one notifies now: drop what was taken."""
        ...


class Lease(Protocol):
    """Whether this process is surely the one that notifies, so that no other does."""

    def is_valid(self) -> bool:
        """Whether it still holds. Asked right before each attempt."""
        ...

    async def renew(self) -> bool:
        """Ask for it anew; False where it is not to be had now."""
        ...


class Alone:
    """The lease of a process that has no peers."""

    def is_valid(self) -> bool:
        """Always."""
        return True

    async def renew(self) -> bool:
        """Nothing to ask."""
        return True


async def announce_nothing(_: Notification) -> None:
    """Where nobody has to know of attempts."""


def retry_delay(attempt: int, outcome: Retry | Ambiguous, seed: str) -> int:
    """Milliseconds to wait after attempt number `attempt` (from 1).

    What the receiver asked for, or else 1 s doubled with each attempt up to a minute; spread over a tenth of it by a
    hash of `seed`, so that many workers do not come back in the same moment and a test is repeatable.
    """
    asked = outcome.after_ms if isinstance(outcome, Retry) else None
    delay = asked or min(FIRST_DELAY_MS << min(attempt - 1, 16), LONGEST_DELAY_MS)
    digest = hashlib.blake2b(f"{seed}:{attempt}".encode(), digest_size=4).digest()
    return delay + delay * int.from_bytes(digest) // (10 << 32)


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


@dataclass(slots=True)
class _Line:
    """The queue of one receiver. `is_at_receiver`: an attempt is under way, or its end is being reported."""

    receiver: Receiver
    queue: asyncio.Queue[tuple[int, Notification, Message]]
    last_attempt_ms: int | None = None
    sending: asyncio.Task[None] | None = None
    is_at_receiver: bool = False


class Outbox:
    """Delivers notifications, each receiver on its own, and reports each end to `on_done`.

    `announce` is awaited before the first attempt at each notification, and `lease` is asked before every attempt.
    `now_ms` is a monotonic clock in milliseconds and `sleep` takes seconds. Cancelling `run` ends it at once: what was
    not reported to `on_done` counts as not settled, and is sent again after the next start under the same id.
    """

    def __init__(
        self,
        receivers: Iterable[Receiver],
        on_done: OnDone,
        *,
        announce: Announce = announce_nothing,
        lease: Lease | None = None,
        give_up_after_ms: int = GIVE_UP_AFTER_MS,
        capacity: int = CAPACITY,
        now_ms: Callable[[], int] = _monotonic_ms,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lines = {
            receiver.name: _Line(receiver, asyncio.Queue(maxsize=max(capacity, 1))) for receiver in receivers
        }
        self._on_done = on_done
        self._announce = announce
        self._lease = Alone() if lease is None else lease
        self._give_up_after_ms = give_up_after_ms
        self._now_ms = now_ms
        self._sleep = sleep
        self._waiting: dict[str, tuple[str, int]] = {}
        self._term = 0

    async def put(self, notification: Notification, message: Message) -> bool:
        """Hand in a notification for its receiver; waits while that receiver's queue is full.

        Returns False, and does nothing, where the same id is already under way.

        Raises:
            KeyError: no such receiver.
        """
        line = self._lines[notification.receiver]
        if notification.id in self._waiting:
            return False
        self._waiting[notification.id] = notification.receiver, self._now_ms()
        try:
            await line.queue.put((self._term, notification, message))
        except asyncio.CancelledError:
            self._waiting.pop(notification.id, None)
            raise
        return True

    def ages(self) -> dict[str, int]:
        """By receiver the age of the notification that has waited longest, in ms; receivers without any are absent."""
        now_ms = self._now_ms()
        ages: dict[str, int] = {}
        for receiver, since_ms in self._waiting.values():
            ages[receiver] = max(ages.get(receiver, 0), now_ms - since_ms)
        return ages

    async def join(self) -> None:
        """Wait until everything handed in has been reported to `on_done`, or dropped."""
        for line in self._lines.values():
            await line.queue.join()

    async def let_go(self, within_s: float) -> None:
        """Another one notifies from now on: drop what was handed in.

        An attempt that is under way has `within_s` seconds to end and to be reported; then it is dropped too.
        """
        self._term += 1
        self._waiting.clear()
        under_way = set()
        for line in self._lines.values():
            while not line.queue.empty():
                line.queue.get_nowait()
                line.queue.task_done()
            if line.sending is not None:
                under_way.add(line.sending)
                if not line.is_at_receiver:
                    line.sending.cancel()
        if not under_way:
            return
        _, late = await asyncio.wait(under_way, timeout=within_s)
        for task in late:
            task.cancel()
        if late:
            _log.warning("%d notifications are handed on while nobody knows whether they arrived", len(late))
            await asyncio.wait(late)

    async def run(self) -> None:
        """Deliver until cancelled. An error in `on_done` ends it: what cannot be logged must not go on."""
        async with asyncio.TaskGroup() as group:
            for line in self._lines.values():
                group.create_task(self._drain(line), name=f"outbox {line.receiver.name}")

    async def _drain(self, line: _Line) -> None:
        while True:
            term, notification, message = await line.queue.get()
            try:
                # Of an earlier term is what its owner was still waiting to hand in when it was let go.
                if term == self._term:
                    await self._send(line, notification, message)
            finally:
                line.queue.task_done()

    async def _send(self, line: _Line, notification: Notification, message: Message) -> None:
        """Deliver one and report it, as a task of its own, which can be dropped while the line goes on."""
        line.sending = task = asyncio.create_task(self._settle(line, notification, message))
        try:
            await asyncio.wait({task})
        finally:
            line.sending = None
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def _settle(self, line: _Line, notification: Notification, message: Message) -> None:
        term = self._term
        try:
            result = await self._deliver(line, notification, message)
            if result is not None:
                await self._on_done(notification, result)
        finally:
            line.is_at_receiver = False
        if term == self._term:
            self._waiting.pop(notification.id, None)

    async def _deliver(self, line: _Line, notification: Notification, message: Message) -> Result | None:
        """The end of it; None where it was let go before one."""
        term = self._term
        await self._wait_for_turn(line)
        await self._hold_lease()
        await self._announce(notification)
        deadline_ms = self._now_ms() + self._give_up_after_ms
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._attempt(line, notification, message)
            lost_answer = notification.possibly_repeated
            match outcome:
                case Delivered():
                    return replace(outcome, possibly_repeated=lost_answer)
                case Refused():
                    _log.error(
                        "%s refused notification %s: %s", line.receiver.name, notification.id, outcome.reason
                    )
                    return replace(outcome, possibly_delivered=lost_answer)
                case Retry():
                    pass
                case Ambiguous():
                    lost_answer = True
                    notification = replace(notification, possibly_repeated=True)
                case _:
                    assert_never(outcome)
            left_ms = deadline_ms - self._now_ms()
            what = "lost answer" if isinstance(outcome, Ambiguous) else "failed"
            place = (line.receiver.name, notification.id, attempt)
            if left_ms <= 0:
                _log.error("%s: notification %s given up after attempt %d: %s", *place, outcome.reason)
                return GaveUp(outcome.reason, attempt, lost_answer)
            if term != self._term:
                return None
            line.is_at_receiver = False
            # A wait beyond the deadline is cut to it: one last attempt is better than a message lost.
            delay_ms = min(retry_delay(attempt, outcome, notification.id), left_ms)
            _log.warning(
                "%s: notification %s, attempt %d, %s (%s), again in %d ms",
                *place,
                what,
                outcome.reason,
                delay_ms,
            )
            await self._sleep(delay_ms / SECOND)
            await self._wait_for_turn(line)

    async def _wait_for_turn(self, line: _Line) -> None:
        if line.last_attempt_ms is not None:
            early_ms = line.last_attempt_ms + line.receiver.interval_ms - self._now_ms()
            if early_ms > 0:
                await self._sleep(early_ms / SECOND)

    async def _hold_lease(self) -> None:
        """Return once the lease is valid, and at once: whoever awaits this goes on before anything else happens."""
        while not self._lease.is_valid():
            if not await self._lease.renew():
                await self._sleep(LEASE_RETRY_SECONDS)

    async def _attempt(self, line: _Line, notification: Notification, message: Message) -> Outcome:
        # Asked last, after everything that takes time: a process that was stopped meanwhile must not go on.
        await self._hold_lease()
        line.last_attempt_ms = self._now_ms()
        line.is_at_receiver = True
        try:
            return await line.receiver.deliver(notification, message)
        except Exception as error:  # noqa: BLE001 - a fault of one receiver must not stop the others
            # Its text is left out: errors of HTTP clients quote URLs, and a webhook's URL is a secret.
            return Ambiguous(f"unexpected {type(error).__name__}")
