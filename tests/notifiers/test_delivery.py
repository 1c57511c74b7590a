import asyncio
import heapq
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from fake_slack import TOKEN, DropAfter, FakeSlack, Status
from transitions import notification

from notifiers.delivery import Ambiguous, Delivered, GaveUp, Outbox, Refused, Retry, retry_delay
from notifiers.message import Message
from notifiers.slack import SlackBot

MESSAGE = Message("text", ({"type": "section", "text": {"type": "mrkdwn", "text": "text"}},), "#000000")


class Clock:
    """Time that passes only when everybody sleeps."""

    def __init__(self):
        self.now = 0
        self.slept = []
        self._sleepers = []

    def now_ms(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(round(seconds * 1_000))
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + round(seconds * 1_000), len(self.slept), woken))
        asyncio.get_running_loop().call_soon(self._advance)
        await woken

    def _advance(self):
        at, _, woken = heapq.heappop(self._sleepers)
        self.now = max(self.now, at)
        if not woken.done():
            woken.set_result(None)


class Scripted:
    """A receiver that answers as it is told, then delivers."""

    def __init__(self, *outcomes, name="oncall", interval_ms=0, clock=None):
        self.name = name
        self.interval_ms = interval_ms
        self._outcomes = list(outcomes)
        self._clock = clock
        self.seen = []
        self.marked = []
        self.times = []

    async def deliver(self, notification, _message):
        self.seen.append(notification.id)
        self.marked.append(notification.possibly_repeated)
        if self._clock is not None:
            self.times.append(self._clock.now)
        outcome = self._outcomes.pop(0) if self._outcomes else Delivered("receipt")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@asynccontextmanager
async def running(*receivers, clock=None, **options):
    clock = clock or Clock()
    done = []

    async def on_done(notification, result):
        done.append((notification.id, result))

    outbox = Outbox(receivers, on_done, now_ms=clock.now_ms, sleep=clock.sleep, **options)
    task = asyncio.create_task(outbox.run())
    try:
        yield outbox, done
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_notifications_of_a_receiver_are_delivered_in_order_and_reported():
    receiver = Scripted()
    async with running(receiver) as (outbox, done):
        for number in range(5):
            assert await outbox.put(notification(number), MESSAGE)
        await outbox.join()
    assert receiver.seen == [notification(number).id for number in range(5)]
    assert done == [(one, Delivered("receipt")) for one in receiver.seen]


async def test_b33_three_times_429_with_retry_after_two_delivers_once_and_in_order(monkeypatch):
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    clock = Clock()
    async with FakeSlack() as slack:
        slack.script.extend([Status(429, "2")] * 3)
        receiver = SlackBot("oncall", channel="#llm-oncall", token=TOKEN, api_url=slack.api_url)
        async with running(receiver, clock=clock) as (outbox, done):
            await outbox.put(notification(1), MESSAGE)
            await outbox.put(notification(2), MESSAGE)
            await outbox.join()
        assert [one.notification for one in slack.inbox] == [notification(1).id, notification(2).id]
        assert len(slack.attempts) == 5
    assert [type(result) for _, result in done] == [Delivered, Delivered]
    assert all(2_000 <= slept <= 2_200 for slept in clock.slept[:3])


async def test_b53_a_lost_answer_is_sent_again_with_the_same_id_and_marked(monkeypatch, caplog):
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    async with FakeSlack() as slack:
        slack.script.append(DropAfter())
        receiver = SlackBot("oncall", channel="#llm-oncall", token=TOKEN, api_url=slack.api_url)
        with caplog.at_level(logging.WARNING):
            async with running(receiver) as (outbox, done):
                await outbox.put(notification(), MESSAGE)
                await outbox.join()
        assert [one.notification for one in slack.inbox] == [notification().id] * 2
    assert done == [(notification().id, Delivered("C0ONCALL/1700000000.000001", possibly_repeated=True))]
    assert (
        f"notification {notification().id}, attempt 1, lost answer (the connection was lost)" in caplog.text
    )


async def test_what_is_refused_is_not_tried_again_and_does_not_hold_up_the_next():
    receiver = Scripted(Refused("channel_not_found"))
    async with running(receiver) as (outbox, done):
        await outbox.put(notification(1), MESSAGE)
        await outbox.put(notification(2), MESSAGE)
        await outbox.join()
    assert [result for _, result in done] == [Refused("channel_not_found"), Delivered("receipt")]
    assert len(receiver.seen) == 2


async def test_attempts_end_when_the_time_allowed_is_over_with_one_last_try_at_the_end():
    clock = Clock()
    receiver = Scripted(*[Retry("status 500")] * 100, clock=clock)
    async with running(receiver, clock=clock, give_up_after_ms=600_000) as (outbox, done):
        await outbox.put(notification(), MESSAGE)
        await outbox.join()
    [(_, result)] = done
    assert result == GaveUp("status 500", len(receiver.seen), possibly_delivered=False)
    assert receiver.times[-1] == 600_000
    assert len(receiver.seen) <= 20


async def test_a_wait_beyond_the_time_allowed_is_cut_to_it():
    clock = Clock()
    receiver = Scripted(Retry("status 429", 3_600_000), clock=clock)
    async with running(receiver, clock=clock, give_up_after_ms=10_000) as (outbox, done):
        await outbox.put(notification(), MESSAGE)
        await outbox.join()
    assert receiver.times == [0, 10_000]
    assert done[0][1] == Delivered("receipt")


async def test_giving_up_after_a_lost_answer_says_that_it_may_be_there():
    receiver = Scripted(Ambiguous("lost"), *[Retry("status 500")] * 100)
    async with running(receiver, give_up_after_ms=5_000) as (outbox, done):
        await outbox.put(notification(), MESSAGE)
        await outbox.join()
    assert done[0][1].possibly_delivered


async def test_attempts_keep_the_interval_of_the_receiver():
    clock = Clock()
    receiver = Scripted(interval_ms=1_000, clock=clock)
    async with running(receiver, clock=clock) as (outbox, _):
        for number in range(4):
            await outbox.put(notification(number), MESSAGE)
        await outbox.join()
    assert receiver.times == [0, 1_000, 2_000, 3_000]


async def test_a_receiver_that_fails_does_not_hold_up_another():
    stuck, free = Scripted(*[Retry("status 500")] * 50, name="stuck"), Scripted(name="free")
    async with running(stuck, free) as (outbox, done):
        await outbox.put(notification(1, "stuck"), MESSAGE)
        await outbox.put(notification(2, "free"), MESSAGE)
        await outbox.join()
    assert done[0] == (notification(2, "free").id, Delivered("receipt"))


async def test_an_exception_of_a_receiver_is_a_lost_answer_whose_text_is_not_repeated(caplog):
    receiver = Scripted(ValueError("https://hooks.example.com/secret"))
    async with running(receiver) as (outbox, done):
        await outbox.put(notification(), MESSAGE)
        await outbox.join()
    assert done[0][1] == Delivered("receipt", possibly_repeated=True)
    assert "unexpected ValueError" in caplog.text
    assert "secret" not in caplog.text


async def test_the_same_id_is_taken_once_while_it_is_under_way_and_again_afterwards():
    receiver = Scripted()
    async with running(receiver) as (outbox, _):
        assert await outbox.put(notification(), MESSAGE)
        assert not await outbox.put(notification(), MESSAGE)
        await outbox.join()
        assert await outbox.put(notification(), MESSAGE)
        await outbox.join()
    assert len(receiver.seen) == 2


async def test_whoever_hands_in_more_than_fits_waits():
    outbox = Outbox([Scripted()], None, capacity=2)
    assert await outbox.put(notification(1), MESSAGE)
    assert await outbox.put(notification(2), MESSAGE)
    third = asyncio.create_task(outbox.put(notification(3), MESSAGE))
    await asyncio.sleep(0)
    assert not third.done()
    third.cancel()
    with suppress(asyncio.CancelledError):
        await third
    assert third.cancelled()


async def test_a_cancelled_outbox_reports_nothing_for_what_was_under_way():
    class Waiting(Scripted):
        async def deliver(self, notification, _message):
            self.seen.append(notification.id)
            await asyncio.Event().wait()

    receiver = Waiting()
    async with running(receiver) as (outbox, done):
        await outbox.put(notification(), MESSAGE)
        while not receiver.seen:
            await asyncio.sleep(0)
    assert done == []


class Lent:
    """A lease that is valid for some questions, and is renewed as it is told."""

    def __init__(self, valid=0, renewals=()):
        self.valid = valid
        self.renewals = list(renewals)
        self.renewed = 0

    def is_valid(self):
        self.valid -= 1
        return self.valid >= 0

    async def renew(self):
        self.renewed += 1
        if not self.renewals:
            await asyncio.Event().wait()
        self.valid = self.renewals.pop(0)
        return self.valid > 0


class Held(Scripted):
    """A receiver whose answer comes when `answer` is set."""

    def __init__(self, *outcomes, **options):
        super().__init__(*outcomes, **options)
        self.answer = asyncio.Event()

    async def deliver(self, notification, message):
        outcome = await super().deliver(notification, message)
        await self.answer.wait()
        return outcome


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


async def test_each_notification_is_announced_once_and_before_its_first_attempt():
    receiver = Scripted(Retry("status 500"), Ambiguous("lost"))
    order = []

    async def announce(notification):
        order.append(("announced", notification.id, len(receiver.seen)))

    async with running(receiver, announce=announce) as (outbox, _):
        await outbox.put(notification(1), MESSAGE)
        await outbox.put(notification(2), MESSAGE)
        await outbox.join()
    assert order == [("announced", notification(1).id, 0), ("announced", notification(2).id, 3)]


async def test_every_attempt_waits_for_a_valid_lease():
    clock = Clock()
    lease = Lent(renewals=[0, 0, 2, 1])
    receiver = Scripted(Retry("status 500"), clock=clock)
    async with running(receiver, clock=clock, lease=lease) as (outbox, done):
        await outbox.put(notification(), MESSAGE)
        await outbox.join()
    assert lease.renewed == 4, "three times before it was announced, and before the second attempt"
    assert receiver.times[0] == 1_000, "two refusals, half a second apart"
    assert [type(result) for _, result in done] == [Delivered]


async def test_a_lease_that_ran_out_while_it_was_announced_stops_the_attempt():
    lease = Lent(valid=9)

    async def announce(_):
        lease.valid = 0

    receiver = Scripted()
    async with running(receiver, lease=lease, announce=announce) as (outbox, _):
        await outbox.put(notification(), MESSAGE)
        await until(lambda: lease.renewed)
        assert receiver.seen == []


async def test_the_time_allowed_begins_with_the_first_attempt():
    clock = Clock()
    receiver = Scripted(Retry("status 500"), clock=clock)
    lease = Lent(renewals=[0] * 60 + [9])
    async with running(receiver, clock=clock, lease=lease, give_up_after_ms=10_000) as (outbox, done):
        await outbox.put(notification(), MESSAGE)
        await outbox.join()
    assert receiver.times[0] == 30_000
    assert done[0][1] == Delivered("receipt")


async def test_what_waits_is_dropped_when_another_one_notifies():
    receiver = Held()
    async with running(receiver) as (outbox, done):
        for number in range(3):
            await outbox.put(notification(number), MESSAGE)
        await until(lambda: receiver.seen)
        letting_go = asyncio.create_task(outbox.let_go(60))
        await asyncio.sleep(0)
        receiver.answer.set()
        await letting_go
        await outbox.join()
        assert [one for one, _ in done] == [notification(0).id], (
            "the attempt under way has ended, and is reported"
        )
        assert receiver.seen == [notification(0).id]
        assert outbox.ages() == {}
        assert await outbox.put(notification(1), MESSAGE)
        await outbox.join()
    assert receiver.seen == [notification(0).id, notification(1).id]


async def test_an_attempt_whose_answer_does_not_come_is_dropped_with_the_rest():
    receiver = Held()
    async with running(receiver) as (outbox, done):
        await outbox.put(notification(1), MESSAGE)
        await until(lambda: receiver.seen)
        await outbox.let_go(0)
        receiver.answer.set()
        await outbox.put(notification(2), MESSAGE)
        await outbox.join()
    assert [one for one, _ in done] == [notification(2).id]


async def test_an_attempt_that_fails_after_another_one_notifies_is_not_repeated():
    receiver = Held(Retry("status 500"))
    async with running(receiver) as (outbox, done):
        await outbox.put(notification(), MESSAGE)
        await until(lambda: receiver.seen)
        letting_go = asyncio.create_task(outbox.let_go(60))
        await asyncio.sleep(0)
        receiver.answer.set()
        await letting_go
        await outbox.join()
    assert done == []
    assert len(receiver.seen) == 1


async def test_a_wait_for_the_next_attempt_ends_when_another_one_notifies():
    class Stopped(Clock):
        async def sleep(self, seconds):
            self.slept.append(seconds)
            await asyncio.Event().wait()

    clock = Stopped()
    receiver = Scripted(Retry("status 500"))
    async with running(receiver, clock=clock) as (outbox, done):
        await outbox.put(notification(1), MESSAGE)
        await until(lambda: clock.slept)
        await outbox.let_go(60)
        await outbox.put(notification(2), MESSAGE)
        await outbox.join()
    assert [one for one, _ in done] == [notification(2).id]


async def test_what_was_being_handed_in_while_another_one_took_over_is_dropped():
    receiver = Held()
    async with running(receiver, capacity=1) as (outbox, _):
        await outbox.put(notification(1), MESSAGE)
        await until(lambda: receiver.seen)
        await outbox.put(notification(2), MESSAGE)
        third = asyncio.create_task(outbox.put(notification(3), MESSAGE))
        await asyncio.sleep(0)
        receiver.answer.set()
        await outbox.let_go(60)
        await third
        await outbox.join()
    assert receiver.seen == [notification(1).id]


async def test_attempts_after_a_lost_answer_are_marked():
    receiver = Scripted(Ambiguous("lost"), Retry("status 500"))
    async with running(receiver) as (outbox, _):
        await outbox.put(notification(1), MESSAGE)
        await outbox.put(notification(2), MESSAGE)
        await outbox.join()
    assert receiver.marked == [False, True, True, False]


@pytest.mark.parametrize(
    ("outcomes", "result"),
    [
        ([], Delivered("receipt", possibly_repeated=True)),
        ([Refused("is_archived")], Refused("is_archived", possibly_delivered=True)),
        ([Retry("status 500")] * 50, GaveUp("status 500", 1, possibly_delivered=True)),
    ],
)
async def test_what_may_have_arrived_by_another_hand_says_so_at_its_end(outcomes, result):
    async with running(Scripted(*outcomes), give_up_after_ms=0) as (outbox, done):
        await outbox.put(replace(notification(), possibly_repeated=True), MESSAGE)
        await outbox.join()
    assert done[0][1] == result


async def test_a_refusal_after_a_lost_answer_says_that_it_may_be_there():
    async with running(Scripted(Ambiguous("lost"), Refused("is_archived"))) as (outbox, done):
        await outbox.put(notification(), MESSAGE)
        await outbox.join()
    assert done[0][1] == Refused("is_archived", possibly_delivered=True)


async def test_an_unknown_receiver_is_an_error_of_the_caller():
    with pytest.raises(KeyError, match="nobody"):
        await Outbox([], None).put(notification(receiver="nobody"), MESSAGE)


async def test_an_error_in_the_log_ends_the_outbox():
    async def on_done(notification, result):
        raise RuntimeError("the log cannot be written")

    outbox = Outbox([Scripted()], on_done)
    await outbox.put(notification(), MESSAGE)
    with pytest.raises(ExceptionGroup) as caught:
        await outbox.run()
    assert caught.group_contains(RuntimeError, match="cannot be written")


def test_delays_double_up_to_a_minute_and_are_spread_by_at_most_a_tenth():
    delays = [retry_delay(attempt, Retry("status 500"), "seed") for attempt in range(1, 12)]
    for attempt, delay in enumerate(delays):
        plain = min(1_000 << attempt, 60_000)
        assert plain <= delay <= plain * 1.1
    assert retry_delay(10_000, Ambiguous("lost"), "seed") <= 66_000


def test_a_delay_depends_on_seed_and_attempt_only():
    assert retry_delay(3, Retry("x"), "a") == retry_delay(3, Ambiguous("y"), "a")
    assert len({retry_delay(3, Retry("x"), seed) for seed in "abcdefgh"}) > 1


def test_the_wait_that_was_asked_for_is_never_shortened():
    assert 90_000 <= retry_delay(1, Retry("status 429", 90_000), "seed") <= 99_000
    assert 1_000 <= retry_delay(1, Retry("status 429", 0), "seed") <= 1_100
