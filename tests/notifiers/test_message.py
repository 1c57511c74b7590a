import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fake_slack import Received, all_texts, message_problems
from hypothesis import given
from hypothesis import strategies as st
from transitions import AT, MINUTE, exemplar, runbook, transition

from notifiers.block_text import render
from notifiers.links import LinkError, compile_trace_link, safe_url
from notifiers.message import build_message
from notifiers.mrkdwn import JOINER, code, escape, literal, plain, prose
from notifiers.notification import Reason
from rules.rule import Severity
from rules.transition import Exemplar, State

TRACES = compile_trace_link("https://traces.example.com/trace/{trace}?a=1&b=2")
RUNBOOK_URL = "https://wiki.example.com/runbooks/latency-high"
ID = "0123456789abcdef0123456789abcdef"


def message(change=None, **options):
    return build_message(
        change or transition(exemplars=(exemplar(),)),
        options.get("runbook", runbook()),
        options.get("url", RUNBOOK_URL),
        options.get("traces", TRACES),
        ID,
        options.get("reason"),
    )


def payload(sent):
    return {"text": sent.text, "blocks": list(sent.blocks)}


def problems(sent):
    return [*message_problems(payload(sent)), *message_problems(payload(sent), update=True)]


def seen(sent, width=1_000):
    return render(sent.blocks, width=width).replace("\u00a0", " ")


def buttons(sent):
    return [one for block in sent.blocks if block["type"] == "actions" for one in block["elements"]]


def test_a_firing_message_says_what_where_since_when_and_what_to_do():
    text = seen(message(transition(exemplars=(exemplar(), exemplar(2, error={"type": "timeout"})))))
    for expected in (
        "🚨 Critical, firing: AnswersSlowly",
        "P95 of chat is 6.14 s (budget 5 s)",
        "6.14 s, above 5 s",
        "1,234 in 5m",
        "12:03:00 UTC, for 2 m",
        "12:00:00 to 12:05:00 UTC",
        "`feature=chat`",
        "`team=growth`",
        "1. 12:04:51 · 12.4 s · user `ana` · trace https://traces.example.com/trace/4bf92f350001?a=1&b=2",
        "error `timeout`",
        "1. Look at the queue stage.",
        "2. Lower `max_tokens`.",
        "[ Runbook ] https://wiki.example.com/runbooks/latency-high",
        "rule `chat/AnswersSlowly` · 2026-10-01 12:05:00 UTC · notification `0123456789ab`",
    ):
        assert expected in text


def test_a_resolved_message_says_how_long_it_lasted_and_shows_no_steps_and_no_calls():
    change = transition(State.RESOLVED, at=AT + 30 * MINUTE, value=1_200.0, exemplars=(exemplar(),))
    text = seen(message(change))
    assert "✅ Resolved after 32 m: AnswersSlowly" in text
    assert "1.2 s, no longer above 5 s" in text
    assert "32 m, from 12:03:00 UTC" in text
    assert "First steps" not in text
    assert "Calls that show it" not in text
    assert [one["text"]["text"] for one in buttons(message(change))] == ["Runbook"]


@pytest.mark.parametrize(
    ("severity", "before", "title"),
    [
        (Severity.CRITICAL, Severity.WARNING, "🚨 Critical, raised from warning: AnswersSlowly"),
        (Severity.WARNING, Severity.CRITICAL, "⚠️ Warning, lowered from critical: AnswersSlowly"),
    ],
)
def test_a_change_of_severity_says_from_what(severity, before, title):
    change = transition(severity=severity, from_state=State.FIRING, from_severity=before)
    assert seen(message(change)).startswith(title)


def test_after_downtime_the_first_message_does_not_speak_of_an_escalation_nobody_was_told_of():
    change = transition(from_state=State.FIRING, from_severity=Severity.WARNING)
    assert "Critical, firing: AnswersSlowly" in seen(message(change, reason=Reason.FIRST))


def test_a_header_has_one_emoji_and_the_colour_follows_the_severity():
    assert message().blocks[0]["text"]["text"].count(":rotating_light:") == 1
    colours = {
        message(transition(severity=Severity.WARNING)).colour,
        message().colour,
        message(transition(State.RESOLVED)).colour,
    }
    assert len(colours) == 3


def test_runbook_is_the_first_button_and_trace_the_second():
    assert [(one["text"]["text"], one["url"]) for one in buttons(message())] == [
        ("Runbook", RUNBOOK_URL),
        ("Trace", "https://traces.example.com/trace/4bf92f350001?a=1&b=2"),
    ]


@pytest.mark.parametrize(
    "url", [None, "", "ftp://host/x", "javascript:alert(1)", "https://", "https://a b", "/runbooks"]
)
def test_a_runbook_address_that_is_not_a_web_link_gives_no_button(url):
    assert [one["text"]["text"] for one in buttons(message(url=url, traces=None))] == []


def test_what_the_series_says_is_not_repeated_for_each_call():
    change = transition(series=(("model", "gpt-4.1"),), exemplars=(exemplar(model="gpt-4.1"),))
    assert seen(message(change)).count("gpt-4.1") == 1


def test_calls_are_shown_with_tokens_and_cost():
    shown = exemplar(tokens={"input": 9_120, "output": 800}, cost_usd=0.0246)
    assert "tokens 9,120 input + 800 output · $0.025" in seen(message(transition(exemplars=(shown,))))


def test_a_call_without_ids_is_named_by_its_place_in_the_log():
    assert "`llm.calls/0 offset 7`" in seen(
        message(transition(exemplars=(Exemplar(AT, "llm.calls/0", 7, 1, {}),)))
    )


def test_more_calls_and_labels_than_fit_are_counted():
    labels = tuple((f"name{n}", "value") for n in range(14))
    text = seen(message(transition(labels=labels, exemplars=tuple(exemplar(n) for n in range(1, 8)))))
    assert "+2 more" in text
    assert "+4 more" in text
    assert "6. " not in text


def test_a_runbook_of_more_steps_shows_three():
    text = seen(message(runbook=runbook("one", "two", "three", "four")))
    assert "3. three" in text
    assert "four" not in text


def test_without_a_summary_the_headline_is_made_from_the_numbers():
    assert "latency.p95 is 6.14 s, above 5 s" in seen(message(transition(summary=" ")))


def test_times_of_another_day_carry_their_date():
    change = transition(since_ms=AT - 24 * 60 * MINUTE)
    assert "2026-09-30 12:05:00 UTC, for 1 d" in seen(message(change))


def test_the_fallback_text_says_state_alert_and_headline():
    assert message().text == "Critical, firing: AnswersSlowly. P95 of chat is 6.14 s (budget 5 s)"


def test_b35_the_limit_holds_after_escaping_and_no_entity_is_cut():
    ampersands = "&" * 3_000
    for limit in range(10, 60):
        cut = escape(ampersands, limit)
        assert len(cut) <= limit
        assert cut.removesuffix("…").replace("&amp;", "") == ""
    sent = message(
        transition(
            alert=ampersands,
            summary=ampersands,
            series=(("feature", ampersands),),
            labels=((ampersands, ampersands),),
            exemplars=(exemplar(user=ampersands, error={"type": ampersands}),),
        ),
        runbook=runbook(ampersands, ampersands),
    )
    assert problems(sent) == []


def test_b36_a_feature_with_signs_is_shown_as_it_is():
    feature = 'a<b & "c"'
    sent = message(transition(series=(("feature", feature),), summary=f"P95 of {feature} is high"))
    assert f"`feature={feature}`" in seen(sent)
    assert f"P95 of {feature} is high" in seen(sent)
    assert "a&lt;b &amp; " in sent.text
    assert problems(sent) == []


def test_b37_names_that_look_like_mentions_and_links_stay_literal_in_blocks_and_fallback_text():
    user, error = "<!channel>", "<https://x|ok>"
    change = transition(
        series=(("user", user),),
        summary=f"{user} caused {error} @here",
        exemplars=(exemplar(user=user, error={"type": error}),),
    )
    sent = message(change, traces=None)
    received = Received("C", payload(sent))
    assert received.mentions == []
    assert received.links == []
    assert "&lt;!channel&gt;" in sent.text
    assert "@here" not in sent.text
    assert f"{user} caused {error} @here" in seen(sent)
    assert f"error `{error}`" in seen(sent)


def test_c4_ten_kilobytes_of_error_text_and_200_series_with_signs_give_valid_blocks():
    text = "<>&` *_~\n" * 1_200
    change = transition(
        series=tuple((f"dimension{n}", text) for n in range(200)),
        labels=tuple((f"label{n}", text) for n in range(200)),
        alert=text,
        group=text,
        summary=text,
        exemplars=tuple(exemplar(n, error={"type": text}, user=text, model=text) for n in range(9)),
    )
    sent = message(change, runbook=runbook(text, text, text))
    assert problems(sent) == []
    assert "+190 more" in seen(sent) or "+192 more" in seen(sent)


@pytest.mark.parametrize("sign", ["漢", "👩", "é", "&", '"', "\\"])
def test_the_whole_message_stays_below_what_slack_takes_however_wide_its_characters_are(sign):
    text, url = sign * 5_000, "https://x.example/" + "a" * 2_900
    change = transition(
        series=tuple((text, text) for _ in range(30)),
        labels=tuple((text, text) for _ in range(30)),
        **dict.fromkeys(("alert", "group", "measure", "unit", "direction", "summary"), text),
        exemplars=tuple(exemplar(n, error={"type": text}, user=text, model=text) for n in range(9)),
    )
    traces = compile_trace_link("https://y.example/" + "b" * 2_900 + "/{trace}")
    sent = message(change, runbook=replace(runbook(text, text, text), title=text), url=url, traces=traces)
    assert problems(sent) == []
    assert len(json.dumps(sent.blocks)) < 13_000


def test_less_detail_is_shown_only_where_the_message_would_be_too_long():
    change = transition(labels=tuple((f"n{n}", "漢" * 90) for n in range(20)), exemplars=(exemplar(),) * 3)
    assert "+12 more" in seen(message(replace(change, series=change.labels)))
    assert "+10 more" in seen(message(change))
    assert "3. " in seen(message(replace(change, series=change.labels)))


def test_a_value_cannot_leave_its_code_span():
    assert code("a`b*c\nd", 40) == "`a'b*c d`"
    assert code("", 40) == "`(empty)`"
    assert code("x" * 100, 12) == "`xxxxxxxxx…`"


def test_outside_a_code_span_formatting_signs_become_look_alikes():
    assert plain("*bold* _it_ snake_case ~no~ `x`", 80) == "∗bold∗ ˍitˍ snake_case ∼no∼ ˋxˋ"
    assert plain(":fire: https://x @all", 80) == f":{JOINER}fire: https:{JOINER}//x @{JOINER}all"


def test_in_plain_text_only_an_emoji_name_is_broken():
    assert literal("*a* :fire: 12:00:01", 80) == f"*a* :{JOINER}fire: 12:{JOINER}00:01"


def test_control_characters_half_characters_and_direction_signs_do_not_get_through():
    assert plain("a\x1b[31mb\u202ec\ud800d\u2028e", 80) == "a [31mbc\ufffdd e"


def test_a_cut_does_not_tear_an_accent_or_a_joined_emoji_from_its_letter():
    assert escape("abe\u0301xyz", 4) == "ab…"
    assert escape("a👩\u200d🚀bcdef", 6) == "a👩…"


def test_commands_in_a_runbook_step_stay_code_and_the_rest_is_plain():
    assert prose("Run `tocsin check *` then *stop*", 80) == "Run `tocsin check *` then ∗stop∗"
    assert prose("an odd ` sign", 80) == "an odd ˋ sign"
    assert len(prose("`aaaa` bbbb " * 40, 50)) <= 50


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("https://x/{trcae}", 'did you mean "trace"'),
        ("https://x/trace", "names no field"),
        ("ftp://x/{trace}", "not an http or https URL"),
        ("javascript:alert({trace})", "not an http or https URL"),
        ("https://{trace}.example.com/", "choose where the link leads"),
        ("https://x/{trace}}", "brace without its partner"),
        ("https:///{trace}", "not an http or https URL"),
    ],
)
def test_a_trace_template_is_checked_when_it_is_compiled(template, cause):
    with pytest.raises(LinkError, match=cause):
        compile_trace_link(template)


def test_values_in_links_are_quoted_and_cannot_climb_or_add_a_query():
    link = compile_trace_link("https://x.example/trace/{trace}/{span}")
    assert (
        link.url({"trace": "a/b?c#d|e>é", "span": 7})
        == "https://x.example/trace/a%2Fb%3Fc%23d%7Ce%3E%C3%A9/7"
    )
    assert link.url({"trace": "..", "span": "x"}) is None
    assert link.url({"trace": "x"}) is None
    assert link.url({"trace": "x" * 501, "span": "x"}) is None
    assert safe_url("https://x/" + "a" * 3_000) is None
    assert safe_url("http://[x/") is None


def test_an_id_that_slack_would_read_is_shown_without_a_link():
    sent = message(transition(exemplars=(exemplar(trace="<!here>|*x*"),)))
    assert "trace `<!here>|*x*`" in seen(sent)
    assert Received("C", payload(sent)).mentions == []


SIGNS = st.sampled_from(
    [*"<>&`*_~|:@#\n\\\x1b\u202e\ud800é漢👩", "<!channel>", "<@U1>", "<http://x|y>", "&amp;", "&lt"]
)
TEXT = st.one_of(
    st.text(max_size=40),
    st.lists(SIGNS, max_size=30).map("".join),
    st.text(min_size=1).map(lambda t: t * 400),
)
NUMBER = st.one_of(st.integers(-(10**30), 10**30), st.floats())
INSTANT = st.integers(-(10**20), 10**20)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=30).map(tuple)
CALL = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("id", "trace", "request", "user", "model"), st.one_of(TEXT, st.integers(), st.none())
        ),
        "latency_ms": st.one_of(NUMBER, TEXT),
        "cost_usd": st.one_of(NUMBER, TEXT),
        "tokens": st.one_of(
            TEXT, st.dictionaries(st.sampled_from(["input", "output"]), st.one_of(NUMBER, TEXT))
        ),
        "error": st.one_of(
            TEXT, st.fixed_dictionaries({}, optional={"type": TEXT, "code": st.one_of(TEXT, NUMBER)})
        ),
    },
)
EXEMPLARS = st.lists(st.builds(Exemplar, INSTANT, TEXT, st.integers(), st.integers(), CALL), max_size=8).map(
    tuple
)
UNITS = st.one_of(TEXT, st.sampled_from(["ms", "ratio", "nanodollars", "calls", "tokens/s", "score"]))


@given(
    to=st.sampled_from([State.FIRING, State.RESOLVED]),
    severity=st.sampled_from(Severity),
    fields=st.fixed_dictionaries(
        dict.fromkeys(("alert", "group", "measure", "direction", "runbook", "summary", "reason"), TEXT)
        | dict.fromkeys(("window_start_ms", "window_end_ms", "since_ms", "episode_ms", "calls"), INSTANT)
        | {"value": NUMBER, "threshold": NUMBER, "unit": UNITS}
        | {"series": PAIRS, "labels": PAIRS, "exemplars": EXEMPLARS}
    ),
    steps=st.lists(TEXT, max_size=4),
    url=st.one_of(st.none(), TEXT, TEXT.map(lambda text: f"https://wiki.example.com/{text}")),
)
def test_whatever_a_transition_contains_slack_accepts_it_and_nobody_is_mentioned(
    to, severity, fields, steps, url
):
    change = replace(transition(to, severity), **fields)
    sent = message(change, runbook=replace(runbook(), first_steps=tuple(steps)), url=url)
    assert problems(sent) == []
    received = Received("C", payload(sent))
    assert received.mentions == []
    assert all(link.startswith("https://traces.example.com/trace/") for link in received.links)
    assert len(json.dumps(sent.blocks)) < 13_000
    assert len(sent.text.encode()) < 4_000
    for text in all_texts(payload(sent)):
        unlinked = text.replace("<https://traces.example.com/", "")
        assert not any(sign in unlinked for sign in ("<!", "<@", "<http"))
        assert "\x1b" not in text


def test_dates_in_the_tests_are_what_they_say():
    assert datetime.fromtimestamp(AT / 1_000, UTC).isoformat() == "2026-10-01T12:05:00+00:00"
