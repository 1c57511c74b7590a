import io

import pytest
from transitions import notification, runbook, transition

from notifiers.console import Console
from notifiers.delivery import Delivered, Refused
from notifiers.message import build_message
from notifiers.receivers import ReceiverConfig, build_receivers


def message():
    return build_message(transition(), runbook(), None, None, notification().id)


async def test_the_message_is_written_as_slack_would_show_it_with_an_empty_line_after():
    stream = io.StringIO()
    assert await Console("here", stream, width=80).deliver(notification(), message()) == Delivered("")
    assert stream.getvalue().startswith("┃ 🚨 Critical, firing: AnswersSlowly\n┃\n┃ P95 of chat")
    assert stream.getvalue().endswith("\n\n")


async def test_a_stream_without_the_signs_of_the_message_gets_question_marks():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    assert await Console("here", stream).deliver(notification(), message()) == Delivered("")
    assert b"? ? Critical, firing: AnswersSlowly" in raw.getvalue()


async def test_a_closed_stream_refuses_instead_of_raising():
    stream = io.StringIO()
    stream.close()
    assert isinstance(await Console("here", stream).deliver(notification(), message()), Refused)


@pytest.mark.parametrize(
    ("terminal", "no_colour", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
async def test_colour_is_for_terminals_whose_owner_did_not_say_no(terminal, no_colour, coloured):
    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    stream = Stream()
    config = {"here": ReceiverConfig.model_validate({"console": {}})}
    await build_receivers(config, {"NO_COLOR": no_colour}, stream)["here"].deliver(notification(), message())
    assert ("\x1b[" in stream.getvalue()) is coloured
