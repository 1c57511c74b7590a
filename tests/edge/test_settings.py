"""Settings: the file, the environment over it, and every mistake of both at once, each with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from rules.problem import InvalidFilesError
from streams.settings import Settings, load_settings


def load(folder: Path, text: str) -> Settings:
    path = folder / "tocsin.yaml"
    path.write_text(text)
    return load_settings(path)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(InvalidFilesError) as caught:
        load(folder, text)
    return sorted(str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems)


def test_without_a_file_the_defaults_hold() -> None:
    settings = load_settings(None)
    assert settings.kafka.brokers == ["localhost:9092"]
    assert (settings.calls.topics, settings.calls.lateness, settings.calls.skew) == (
        ["llm.calls"],
        10_000,
        300_000,
    )
    assert (settings.flush, settings.group, settings.rules) == (500, "tocsin", ["library:*"])
    assert list(settings.receivers) == ["here"]
    assert settings.base == Path.cwd()


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing yet\n").calls == load_settings(None).calls


def test_the_documented_file_is_read(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """\
kafka: {brokers: [localhost:9092]}
calls: {topics: [llm.calls], lateness: 10s}
rules: [alerts/*.yaml]
runbooks: runbooks/
traces: "https://traces.example.com/trace/{trace}"
receivers:
  oncall: {slack: {channel: "#llm-oncall", token_env: SLACK_BOT_TOKEN}}
  team:   {slack: {webhook_env: SLACK_WEBHOOK_URL}}
  here:   {console: {}}
routes:
  - {where: {severity: critical}, to: [oncall]}
  - {to: [team, here]}
""",
    )
    assert settings.path("alerts") == tmp_path / "alerts"
    assert [route.to for route in settings.routes] == [["oncall"], ["team", "here"]]
    assert settings.receivers["oncall"].slack is not None


@pytest.mark.parametrize(
    ("variable", "value", "path", "expected"),
    [
        ("TOCSIN_KAFKA__BROKERS", "one:9092, two:9092", "kafka.brokers", ["one:9092", "two:9092"]),
        ("TOCSIN_KAFKA__BROKERS", "[one:9092]", "kafka.brokers", ["one:9092"]),
        ("TOCSIN_KAFKA__SESSION_TIMEOUT", "6s", "kafka.session_timeout", 6_000),
        ("TOCSIN_CALLS__TOPICS", "a,b", "calls.topics", ["a", "b"]),
        ("TOCSIN_CALLS__LATENESS", "2s", "calls.lateness", 2_000),
        ("TOCSIN_CALLS__KEEP_REJECTED", "true", "calls.keep_rejected", True),
        ("TOCSIN_CALLS", '{"lateness": "3s"}', "calls.lateness", 3_000),
        ("TOCSIN_TOPICS__PANES", "my.panes", "topics.panes", "my.panes"),
        ("TOCSIN_GROUP", "alerting", "group", "alerting"),
        ("TOCSIN_FLUSH", "1s", "flush", 1_000),
        ("TOCSIN_RULES", "a.yaml,b/*.yaml", "rules", ["a.yaml", "b/*.yaml"]),
        ("TOCSIN_OVERVIEW", "feature,model", "overview", ["feature", "model"]),
        ("TOCSIN_OVERVIEW", "", "overview", []),
        ("tocsin_group", "lower", "group", "lower"),
    ],
)
def test_a_variable_goes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, path: str, expected: object
) -> None:
    monkeypatch.setenv(variable, value)
    found: object = load(tmp_path, "calls: {lateness: 9s, skew: 1m}\ngroup: from-file\noverview: [user]\n")
    assert isinstance(found, Settings)
    assert found.calls.skew == 60_000, "what no variable names stays as the file has it"
    for part in path.split("."):
        found = getattr(found, part)
    assert found == expected


def test_receivers_and_routes_can_come_from_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_RECEIVERS__TEAM__SLACK__WEBHOOK_ENV", "HOOK")
    monkeypatch.setenv("TOCSIN_ROUTES", '[{"to": ["team"]}]')
    settings = load(tmp_path, "")
    assert settings.receivers["team"].slack is not None
    assert [route.to for route in settings.routes] == [["team"]]


def test_all_mistakes_of_a_file_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    assert problems(
        tmp_path,
        """\
kafka: {brokers: [localhost], broker: x, session_timeout: 10ms}
calls: {latenes: 10s, lateness: 10, partitions: 0}
topics: {panes: "a b"}
rules: []
overview: [featur]
receivers: {x: {slak: {}}}
routes: [{too: [x]}]
flushh: 1s
""",
    ) == sorted(
        [
            'tocsin.yaml:1:18: "localhost" is no broker: write HOST:PORT, such as localhost:9092',
            'tocsin.yaml:1:31: unknown key "broker" (did you mean "brokers"?)',
            "tocsin.yaml:1:59: a session timeout must be at least 1s",
            'tocsin.yaml:2:9: unknown key "latenes" (did you mean "lateness"?)',
            'tocsin.yaml:2:33: "10" is not a duration: write a number with ms, s, m, h, d or w, such as 90s or 5m',
            'tocsin.yaml:2:49: "partitions" must be at least 1',
            'tocsin.yaml:3:17: "a b" is no name of a topic: up to 249 letters, digits, dots, _ and -',
            'tocsin.yaml:4:8: "rules" must not be empty',
            'tocsin.yaml:5:11: "featur" is no dimension of a call',
            'tocsin.yaml:6:17: unknown key "slak" (did you mean "slack"?)',
            'tocsin.yaml:7:10: "to" is missing',
            'tocsin.yaml:7:11: unknown key "too" (did you mean "to"?)',
            'tocsin.yaml:8:1: unknown key "flushh" (did you mean "flush"?)',
        ]
    )


def test_mistakes_of_the_file_and_of_the_environment_are_told_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_CALLS__LATENES", "3s")
    assert problems(tmp_path, "group: ''\n") == [
        'environment: TOCSIN_CALLS__LATENES is no setting (did you mean "TOCSIN_CALLS__LATENESS"?)',
        'tocsin.yaml:1:8: "group" must not be empty',
    ]


def test_all_mistakes_of_the_environment_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "TOCSIN_CALLS__LATENESS": "3 parsecs",
        "TOCSIN_CALLS__PARTITIONS": "many",
        "TOCSIN_ZZZ": "1",
        "TOCSIN_BASE": "/",
    }.items():
        monkeypatch.setenv(name, value)
    found = problems(tmp_path, "")
    assert [line.split(" ")[1].rstrip(":") for line in found] == [
        "TOCSIN_BASE",
        "TOCSIN_CALLS__LATENESS",
        "TOCSIN_CALLS__PARTITIONS",
        "TOCSIN_ZZZ",
    ]
    assert "did you mean" not in found[-1]


def test_a_part_that_is_no_json_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_CALLS", '{"topics": ')
    assert problems(tmp_path, "") == ["environment: TOCSIN_CALLS: not valid JSON"]


def test_variables_of_other_programs_and_of_the_tests_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_TEST_KAFKA_JARS", "somewhere")
    monkeypatch.setenv("TOCSINX", "1")
    assert load(tmp_path, "group: mine").group == "mine"


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("calls: {topics: [llm.panes]}", "llm.panes"),
        ("topics: {alerts: same, notifications: same}", "same"),
    ],
)
def test_a_topic_has_one_use(tmp_path: Path, text: str, topic: str) -> None:
    assert any(f'topic "{topic}" has two uses' in line for line in problems(tmp_path, text))


def test_a_calls_topic_is_named_once(tmp_path: Path) -> None:
    assert problems(tmp_path, "calls: {topics: [a, a]}") == ['tocsin.yaml:1:17: topic "a" is named twice']


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- a\n- b\n", "must be a mapping"),
        (b"kafka: [\n", "is not closed"),
        (b"group: a\ngroup: b\n", 'duplicate key "group"'),
        (b"group: \xff\n", "not UTF-8"),
        (b"kafka:\n", '"kafka" has no value'),
        (b"base: /tmp\n", 'unknown key "base"'),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "tocsin.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidFilesError, match=said):
        load_settings(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFilesError, match=r"none\.yaml: cannot be read: No such file"):
        load_settings(tmp_path / "none.yaml")
