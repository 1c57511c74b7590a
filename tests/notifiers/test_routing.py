import io

import pytest
from pydantic import ValidationError
from transitions import transition

from notifiers.receivers import ReceiverConfig, ReceiverError, RouteConfig, build_receivers, build_routes
from notifiers.routing import Route, receivers_for
from rules.labels import Matcher

CRITICAL_FIRST = (
    Route((Matcher("severity", ("critical",)),), ("oncall",)),
    Route((), ("team", "here")),
)


def test_the_first_route_that_matches_decides():
    assert receivers_for(CRITICAL_FIRST, {"severity": "critical"}) == ("oncall",)


def test_a_route_without_where_takes_the_rest():
    assert receivers_for(CRITICAL_FIRST, {"severity": "warning"}) == ("team", "here")


def test_no_route_that_matches_gives_no_receiver():
    assert receivers_for(CRITICAL_FIRST[:1], {"severity": "warning"}) == ()


def test_a_receiver_named_twice_is_told_once():
    assert receivers_for((Route((), ("a", "b", "a")),), {}) == ("a", "b")


def test_an_absent_label_matches_none_and_nothing_else():
    assert receivers_for((Route((Matcher("team", ("<none>",)),), ("a",)),), {}) == ("a",)
    assert receivers_for((Route((Matcher("team", ("growth",)),), ("a",)),), {}) == ()


def test_routes_match_on_rule_labels_series_alert_group_and_severity():
    labels = transition().matching_labels()
    for label, value in {
        "team": "growth",
        "feature": "chat",
        "alert": "AnswersSlowly",
        "group": "chat",
        "severity": "critical",
    }.items():
        assert receivers_for((Route((Matcher(label, (value,)),), ("a",)),), labels) == ("a",)


def test_configured_routes_become_matchers_of_one_or_many_values():
    config = [RouteConfig(where={"severity": "critical", "team": ["growth", "core"]}, to=["here"])]
    assert build_routes(config, {"here": None}) == (
        Route((Matcher("severity", ("critical",)), Matcher("team", ("growth", "core"))), ("here",)),
    )


def test_every_unknown_receiver_of_a_route_is_named_with_the_closest_one():
    with pytest.raises(ReceiverError) as caught:
        build_routes(
            [RouteConfig(to=["onCall"]), RouteConfig(to=["here", "nobody"])], {"oncall": None, "here": None}
        )
    assert caught.value.problems == (
        'routes[0].to: no receiver is called "onCall" (did you mean "oncall"?)',
        'routes[1].to: no receiver is called "nobody"',
    )


def test_a_value_in_where_that_yaml_made_a_number_is_refused_instead_of_guessed():
    with pytest.raises(ValidationError):
        RouteConfig.model_validate({"where": {"version": 1.1}, "to": ["here"]})


@pytest.mark.parametrize(
    "receiver",
    [
        {},
        {"slack": {}},
        {"slack": {"channel": "#a"}},
        {"slack": {"token_env": "TOKEN"}},
        {"slack": {"channel": "#a", "token_env": "TOKEN", "webhook_env": "HOOK"}},
        {"slack": {"webhook_env": "HOOK"}, "console": {}},
        {"console": {"width": 80}},
        {"slack": {"webhook_env": "HOOK", "timeout": "10"}},
        {"slack": {"webhook_env": "HOOK", "timeout": "5m"}},
        {"slack": {"webhook_env": "HOOK", "api_url": "file:///etc/passwd"}},
    ],
)
def test_a_receiver_is_exactly_one_way_to_one_place(receiver):
    with pytest.raises(ValidationError):
        ReceiverConfig.model_validate(receiver)


def test_a_secret_written_where_a_variable_belongs_is_refused_and_not_repeated():
    with pytest.raises(ValidationError) as caught:
        ReceiverConfig.model_validate({"slack": {"channel": "#a", "token_env": "xoxb-1-very-secret"}})
    assert "very-secret" not in str(caught.value)
    assert "not the secret itself" in str(caught.value)


def test_every_variable_that_is_not_set_is_named_at_once():
    config = {
        "oncall": ReceiverConfig.model_validate({"slack": {"channel": "#a", "token_env": "SLACK_BOT_TOKEN"}}),
        "team": ReceiverConfig.model_validate({"slack": {"webhook_env": "SLACK_WEBHOOK_URL"}}),
        "here": ReceiverConfig.model_validate({"console": {}}),
    }
    with pytest.raises(ReceiverError) as caught:
        build_receivers(config, {"SLACK_BOT_TOKEN": " "}, io.StringIO())
    advice = "is not set; set it before the start"
    assert caught.value.problems == (
        f"receivers.oncall.slack.token_env: the environment variable SLACK_BOT_TOKEN {advice}",
        f"receivers.team.slack.webhook_env: the environment variable SLACK_WEBHOOK_URL {advice}",
    )


def test_a_webhook_variable_without_a_url_is_refused_without_its_content():
    config = {"team": ReceiverConfig.model_validate({"slack": {"webhook_env": "HOOK"}})}
    with pytest.raises(ReceiverError, match="HOOK holds is not an http or https URL") as caught:
        build_receivers(config, {"HOOK": "secret-without-scheme"}, io.StringIO())
    assert "secret-without-scheme" not in str(caught.value)


def test_receivers_are_built_by_name_and_show_no_secret():
    config = {
        "oncall": ReceiverConfig.model_validate({"slack": {"channel": "#a", "token_env": "TOKEN"}}),
        "team": ReceiverConfig.model_validate({"slack": {"webhook_env": "HOOK"}}),
        "here": ReceiverConfig.model_validate({"console": {}}),
    }
    environ = {"TOKEN": "xoxb-very-secret", "HOOK": "https://hooks.example.com/services/very-secret"}
    receivers = build_receivers(config, environ, io.StringIO())
    assert [(name, receiver.name) for name, receiver in receivers.items()] == [(n, n) for n in config]
    assert "very-secret" not in repr(receivers) + repr(config)
