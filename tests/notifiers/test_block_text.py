import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from transitions import exemplar, runbook, transition

from notifiers.block_text import render
from notifiers.message import build_message

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def mrkdwn(text):
    return [{"type": "section", "text": {"type": "mrkdwn", "text": text}}]


def plain(text, **options):
    return [{"type": "section", "text": {"type": "plain_text", "text": text, **options}}]


def columns(line):
    return sum(
        0
        if unicodedata.combining(c) or unicodedata.category(c) in {"Cf", "Mn", "Me"}
        else 2
        if unicodedata.east_asian_width(c) in {"W", "F"}
        else 1
        for c in line
    )


def test_entities_are_shown_as_their_signs_once():
    assert render(mrkdwn("a &lt;b&gt; &amp;amp; c")) == "a <b> &amp; c"
    assert render(plain("a &lt;b&gt;")) == "a <b>"


def test_formatting_signs_become_styles_in_colour_and_vanish_without():
    assert render(mrkdwn("*bold*, _it_ ~no~")) == "bold, it no"
    assert render(mrkdwn("*bold* x"), colour=True) == "\x1b[1mbold\x1b[0m x"


def test_in_plain_text_formatting_signs_mean_nothing():
    assert render(plain("*a* `b` <http://x|y>")) == "*a* `b` <http://x|y>"


def test_code_keeps_its_backticks_without_colour_and_is_coloured_with():
    assert render(mrkdwn("`a *b* :fire:`")) == "`a *b* :fire:`"
    assert render(mrkdwn("`a b`"), colour=True) == "\x1b[36ma b\x1b[0m"


def test_a_link_is_shown_as_text_and_address_or_as_the_address_that_contains_the_text():
    assert render(mrkdwn("<https://x/1?a&amp;b|open>")) == "open (https://x/1?a&b)"
    assert render(mrkdwn("<https://x/trace/77|77>")) == "https://x/trace/77"
    assert render(mrkdwn("<https://x/1>")) == "https://x/1"


def test_emoji_names_become_emoji_where_slack_would_show_them():
    assert render(plain(":warning: :unknown:", emoji=True)) == "⚠️ :unknown:"
    assert render(plain(":warning:", emoji=False)) == ":warning:"


def test_buttons_stand_one_below_the_other_with_their_address():
    button = {"type": "button", "text": {"type": "plain_text", "text": "Runbook"}, "url": "https://x/r"}
    assert render([{"type": "actions", "elements": [button, button]}]) == (
        "[ Runbook ] https://x/r\n[ Runbook ] https://x/r"
    )


def test_context_is_dim_and_close_to_what_it_belongs_to():
    blocks = [*plain("above"), {"type": "context", "elements": [{"type": "mrkdwn", "text": "rule x"}]}]
    assert render(blocks) == "above\nrule x"
    assert "\x1b[2mrule x\x1b[0m" in render(blocks, colour=True)


def test_fields_stand_in_two_columns_where_there_is_room():
    fields = [
        {"type": "mrkdwn", "text": f"*{name}*\n{name.lower()} value"} for name in ("One", "Two", "Three")
    ]
    wide = render([{"type": "section", "fields": fields}], width=80).splitlines()
    assert wide[0].split() == ["One", "Two"]
    assert wide[1].index("two value") == wide[0].index("Two")
    assert wide[3:] == ["Three", "three value"]
    narrow = render([{"type": "section", "fields": fields}], width=40).splitlines()
    assert narrow == ["One", "one value", "", "Two", "two value", "", "Three", "three value"]


def test_numbered_items_are_indented_below_their_text():
    assert render(mrkdwn("1. aaaa bbbb cccc dddd eeee"), width=20) == "1. aaaa bbbb cccc\n   dddd eeee"


def test_a_word_longer_than_the_width_is_broken():
    assert render(plain("a" * 45), width=20) == "\n".join(["a" * 20, "a" * 20, "a" * 5])


def test_a_divider_fills_the_width_and_unknown_blocks_are_named():
    assert render([{"type": "divider"}], width=20) == "─" * 20
    assert render([{"type": "video"}]) == "(video block)"


def test_the_bar_stands_before_every_line():
    text = render([*plain("a"), *plain("b")], bar="#c62828")
    assert text == "┃ a\n┃\n┃ b"
    assert render(plain("a"), bar="#c62828", colour=True) == "\x1b[38;5;167m┃ \x1b[0ma"


def test_a_terminal_is_sent_no_control_characters_of_others():
    for blocks in (plain("a\x1b[2Jb\x07"), mrkdwn("a\x1b[2Jb\x07"), mrkdwn("`a\x1b[2Jb\x07`")):
        assert "\x1b" not in render(blocks)
        assert "\x07" not in render(blocks)


@given(st.text(max_size=300), st.integers(20, 120), st.booleans())
def test_no_line_is_wider_than_the_width_and_nothing_is_lost(text, width, emoji):
    shown = render(plain(text, emoji=emoji), width=width)
    assert all(columns(line) <= width for line in shown.split("\n"))
    if "&" not in text and ":" not in text:
        kept = "".join(c for c in text if unicodedata.category(c) != "Cc")
        assert "".join(shown.split()) == "".join(kept.split())


def test_a_whole_message_in_colour_reads_the_same_as_without_but_for_backticks():
    sent = build_message(
        transition(exemplars=(exemplar(),)), runbook(), "https://wiki.example.com/r", None, "0123456789abcdef"
    )
    coloured = ANSI.sub("", render(sent.blocks, width=1_000, colour=True, bar=sent.colour))
    assert [line.split() for line in coloured.splitlines()] == [
        line.replace("`", "").split()
        for line in render(sent.blocks, width=1_000, bar=sent.colour).splitlines()
    ]
