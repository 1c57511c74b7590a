"""The documentation names everything that a user can write, run or read, and its links lead somewhere."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import click
import msgspec
import pytest
from pydantic import BaseModel

from notifiers.notification import Reason
from notifiers.receivers import ReceiverConfig, RouteConfig, SlackConfig
from rules.files import read_rule_files
from rules.labels import DERIVED_DIMENSIONS, STANDARD_DIMENSIONS
from rules.loader import RuleFile, parse_rule_files
from rules.measures import EXAMPLES
from rules.problem import InvalidFilesError
from rules.schema import FileModel, GroupModel, LevelsModel, RuleModel
from rules.template import FILTERS, VARIABLES
from streams.chunk import Seal
from streams.cli import main
from streams.event import _FINISH, ALWAYS_READ, FIELDS, FULL, CallError, Content, Tokens
from streams.notify import NotificationRecord
from streams.price_file import _KEYS
from streams.rule_log import RulesRecord
from streams.settings import PREFIX, Config, load_settings
from streams.snapshot import Manifest
from streams.topics import planned_topics

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(DOCS.rglob("*.md")),
)
PACKAGES: Final = ("rules", "notifiers", "streams")

_LINK: Final = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^()\s]+)\)")
_FENCED: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RULE: Final = "version: 1\ngroups:\n  - name: g\n    rules:\n      - alert: A\n"
_CODE_SPAN: Final = re.compile(r"`[^`\n]+`")
_MARKETING: Final = re.compile(
    r"\b(?:amazing|awesome|best-in-class|blazing(?:ly)?|cutting[- ]edge|delight(?:ful)?|easily|effortless(?:ly)?|"
    r"enterprise-grade|game[- ]chang(?:er|ing)|incredibl[ey]|leverag(?:e|es|ing)|lightning|next-gen(?:eration)?|"
    r"powerful|revolutionary|robust(?:ly)?|seamless(?:ly)?|simply|state-of-the-art|supercharge[ds]?|unleash|"
    r"unparalleled|world-class)\b",
    re.IGNORECASE,
)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its code: what a sentence can be in."""
    return _CODE_SPAN.sub("", _FENCED.sub("", page.read_text(encoding="utf-8")))


def section(page: str, heading: str) -> str:
    """A page from a heading to the next one of the same level or above."""
    level = heading.split(" ", maxsplit=1)[0]
    _, _, rest = page.partition(f"{heading}\n")
    assert rest, f"there is no heading {heading!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def missing(names: object, page: str) -> list[str]:
    """The names that do not stand on a page in code spans, alone or at the start of one."""
    return [name for name in names if not re.search(rf"`{re.escape(name)}(?![\w])", page)]  # type: ignore[attr-defined]


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    body = _FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#{1,6} (.+)$", body, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def setting_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of the configuration, parts opened."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        parts = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        inner = [part for part in parts if part not in (ReceiverConfig, RouteConfig)]
        if inner:
            for part in inner:
                yield from setting_keys(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def commands(command: click.Command, path: str = "tocsin") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its full name."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, f"{path} {name}")
    else:
        yield path, command


def modules() -> list[str]:
    return [
        f"{package}.{file.stem}"
        for package in PACKAGES
        for file in sorted((ROOT / package).glob("*.py"))
        if file.stem != "__init__"
    ]


def test_every_field_of_the_event_is_on_its_page_with_the_nested_ones() -> None:
    nested = [
        f"{name}.{field}"
        for name, struct in (("tokens", Tokens), ("error", CallError), ("content", Content))
        for field in struct.__struct_fields__
    ]
    assert missing([*FIELDS, *nested], section(text("docs/events.md"), "## Fields")) == []


def test_the_fields_table_of_the_event_has_no_field_that_is_not_there() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section(text("docs/events.md"), "## Fields"), re.MULTILINE)
    assert set(rows) == set(FIELDS)


def test_fields_that_are_always_read_are_listed_where_rejection_is_explained() -> None:
    assert missing(ALWAYS_READ, section(text("docs/events.md"), "## What is rejected")) == []


def test_every_spelling_of_a_finish_reason_is_in_its_row() -> None:
    rows = dict(
        re.findall(
            r"^\| `(\w+)` \| (.+) \|$", section(text("docs/events.md"), "## Finish reasons"), re.MULTILINE
        )
    )
    assert {name: tuple(spellings.split(", ")) for name, spellings in rows.items()} == _FINISH


def test_json_examples_of_the_event_page_are_events() -> None:
    blocks = [body for language, body in _FENCED.findall(text("docs/events.md")) if language == "json"]
    assert blocks
    for block in blocks:
        assert FULL.decode(block.encode()).model


def test_every_setting_is_on_its_page_with_its_variable() -> None:
    page = text("docs/configuration.md")
    keys = list(setting_keys(Config))
    variables = [PREFIX + key.upper().replace(".", "__") for key in keys]
    rows = [f"| `{key}` | `{variable}` |" for key, variable in zip(keys, variables, strict=True)]
    assert [row for row in rows if row not in page] == []


def test_the_settings_table_has_no_key_that_is_not_there() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `TOCSIN_", text("docs/configuration.md"), re.MULTILINE)
    assert sorted(rows) == sorted(setting_keys(Config))


def test_every_key_of_a_price_file_is_on_the_configuration_page() -> None:
    page = section(text("docs/configuration.md"), "## Price file")
    assert [key for key in _KEYS if f"{key}:" not in page] == []


def test_every_key_of_receivers_and_routes_is_on_the_notifications_page() -> None:
    keys = [*ReceiverConfig.model_fields, *SlackConfig.model_fields, *RouteConfig.model_fields]
    assert missing(keys, text("docs/notifications.md")) == []


def test_every_reason_of_a_notification_is_on_its_page() -> None:
    assert missing([str(reason) for reason in Reason], text("docs/notifications.md")) == []


@pytest.mark.parametrize(("path", "command"), list(commands(main)))
def test_every_command_has_a_heading_and_every_option_stands_below_it(
    path: str, command: click.Command
) -> None:
    page = text("docs/cli.md")
    headings = [line for line in re.findall(r"^## .+$", page, re.MULTILINE) if path in line[3:].split(", ")]
    assert len(headings) == 1, f"docs/cli.md needs one heading with {path}"
    body = section(page, headings[0])
    options = [each.opts[-1] for each in command.params if isinstance(each, click.Option)]
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    assert missing(options, body) == []
    assert [each.human_readable_name for each in arguments if (each.name or "").upper() not in body] == []


def test_options_on_the_command_line_page_exist() -> None:
    known = {option for _, command in commands(main) for each in command.params for option in each.opts}
    written = set(re.findall(r"`(--[a-z-]+)", text("docs/cli.md")))
    assert written - known - {"--help", "--version"} == set()


def test_every_key_of_a_rule_file_is_on_the_rules_page() -> None:
    models = (FileModel, GroupModel, RuleModel)
    keys = [field.alias or name for model in models for name, field in model.model_fields.items()]
    assert missing(keys, section(text("docs/rules.md"), "## Keys")) == []
    assert [name for name in LevelsModel.model_fields if f"{name}:" not in text("docs/rules.md")] == []


def test_every_dimension_is_on_the_rules_page() -> None:
    assert missing((*STANDARD_DIMENSIONS, *DERIVED_DIMENSIONS), text("docs/rules.md")) == []


def test_every_variable_and_filter_of_a_summary_is_on_the_rules_page() -> None:
    page = section(text("docs/rules.md"), "## Summaries")
    assert missing(VARIABLES, page) == []
    assert [name for name in FILTERS if name not in page] == []


def test_every_shipped_rule_file_is_on_the_rules_page() -> None:
    names = [
        file.name.removeprefix("library/").removesuffix(".yaml")
        for file in read_rule_files(["library:*"], ROOT)
    ]
    assert missing([f"library:{name}" for name in names], text("docs/rules.md")) == []


@pytest.mark.parametrize("page", ["README.md", "docs/rules.md"])
def test_rule_files_on_a_page_are_valid(page: str) -> None:
    pages = [path.stem for path in (ROOT / "runbooks").glob("*.md")]
    files = [body for _, body in _FENCED.findall(text(page)) if body.startswith("version: 1\ngroups:")]
    assert files
    for body in files:
        parse_rule_files([RuleFile(page, body)], pages)


def test_thresholds_on_the_rules_page_are_valid() -> None:
    rest = "        by: [feature]\n        window: 5m\n        runbook: r\n"
    blocks = [body for _, body in _FENCED.findall(text("docs/rules.md")) if body.startswith("above:")]
    assert blocks
    for body in blocks:
        indented = "".join(f"        {line}\n" for line in body.splitlines())
        measure = "error_rate" if "%" in body else "latency.p95"
        parse_rule_files(
            [RuleFile("rules.md", f"{_RULE}        measure: {measure}\n{rest}{indented}")], ["r"]
        )


def test_yaml_traps_are_refused() -> None:
    """What the page calls a trap must be one."""
    start = f"{_RULE}        measure: spend\n        window: 5m\n        runbook: r\n        "
    for line in ("above: {warning: $1,000}", "above: $1\n        summary: {{ value }} is high"):
        with pytest.raises(InvalidFilesError):
            parse_rule_files([RuleFile("trap", f"{start}{line}\n")], ["r"])


def test_the_example_configuration_is_valid(tmp_path: Path) -> None:
    blocks = [
        body for _, body in _FENCED.findall(text("docs/configuration.md")) if body.startswith("# tocsin.yaml")
    ]
    assert len(blocks) == 1
    path = tmp_path / "tocsin.yaml"
    path.write_text(blocks[0], encoding="utf-8")
    assert load_settings(path).calls.topics == ["llm.calls"]


def test_every_measure_is_on_its_page() -> None:
    assert missing(EXAMPLES, text("docs/measures.md")) == []


def test_every_topic_is_on_the_architecture_page_with_its_partitions() -> None:
    page = section(text("docs/architecture.md"), "## Topics")
    plans = planned_topics(load_settings(None))
    assert missing([plan.name for plan in plans], page) == []
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (\d+) \|", page, re.MULTILINE))
    assert {plan.name: str(plan.partitions) for plan in plans if plan.fixed}.items() <= rows.items()


@pytest.mark.parametrize(
    ("heading", "record"),
    [
        ("### llm.rules", RulesRecord),
        ("### llm.notifications", NotificationRecord),
        ("### llm.snapshots", Manifest),
    ],
)
def test_every_field_of_a_record_is_under_its_topic(heading: str, record: type[msgspec.Struct]) -> None:
    assert missing(record.__struct_fields__, section(text("docs/architecture.md"), heading)) == []


def test_every_field_of_panes_and_alerts_is_under_its_topic() -> None:
    from streams.alert_record import _Exemplar, _Record, _Window  # noqa: PLC0415
    from streams.chunk import WireLate, _WireBlock, _WireChunk  # noqa: PLC0415

    page = text("docs/architecture.md")
    alerts: list[str] = [
        field.encode_name
        for struct in (_Record, _Exemplar, _Window)
        for field in msgspec.structs.fields(struct)
    ]
    assert missing(alerts, section(page, "### llm.alerts")) == []
    panes = section(page, "### llm.panes")
    assert missing([*_WireChunk.__struct_fields__, *(f.name for f in dataclasses.fields(Seal))], panes) == []
    arrays: Any = (*_WireBlock.__struct_fields__, *WireLate.__struct_fields__)
    assert [name for name in arrays if not re.search(rf"\b{name}\b", panes)] == []


def test_every_module_is_on_the_architecture_page() -> None:
    page = text("docs/architecture.md")
    assert missing(modules(), page) == []
    written = re.findall(r"^\| `((?:rules|notifiers|streams)\.\w+)` \|", page, re.MULTILINE)
    assert sorted(written) == sorted(modules())


def test_every_page_of_the_documentation_is_reached_from_the_readme_or_the_architecture() -> None:
    linked = text("README.md") + text("docs/architecture.md") + text("docs/events.md")
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.glob("*.md")]
    assert [page for page in pages if f"docs/{page}" not in linked and f"({page}" not in linked] == []


def test_every_public_fault_has_its_tests_and_every_test_that_is_named_there_exists() -> None:
    page = text("docs/public-faults.md")
    sources = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "tests").rglob("test_*.py"))]
    names = {
        name for source in sources for name in re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE)
    }
    rows = [row.lower() for row in re.findall(r"^\| ([A-Z]\d+) \|", page, re.MULTILINE)]
    assert [row for row in rows if not any(name.startswith(f"test_{row}_") for name in names)] == []
    assert set(re.findall(r"`(test_\w+)`", page)) <= names
    tested = {match[1] for name in names if (match := re.match(r"test_([bcs]\d+)_", name))}
    assert sorted(tested - set(rows)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (fragment and fragment not in anchors(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_prose_is_plain(page: Path) -> None:
    words = prose(page)
    assert _MARKETING.findall(words) == []
    assert re.findall(r"[^\n]*!(?!\[)[^\n]*", words) == []
    assert "—" not in words


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("*.md")), ids=lambda page: page.stem)
def test_a_decision_has_its_number_and_four_parts(page: Path) -> None:
    body = page.read_text(encoding="utf-8")
    assert body.startswith(f"# {int(page.stem[:4])}. ")
    assert re.findall(r"^- \*\*(\w+)\.\*\*", body, re.MULTILINE) == [
        "Context",
        "Decision",
        "Why",
        "Consequence",
    ]
