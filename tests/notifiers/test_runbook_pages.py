"""The shipped runbook pages and rule library agree with each other and with the command line; the page parser."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from notifiers.runbook import SECTIONS, Page, Runbook, RunbookError, problems, runbook, runbook_url
from notifiers.runbook_files import MAX_PAGE_BYTES, MAX_PAGES, load_runbooks, read_page, shipped_runbooks
from rules.loader import load_rules
from streams.builtin import ALERTS
from streams.price_file import read_price_file

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "runbooks").glob("*.md"))
LIBRARY = sorted((ROOT / "rules" / "library").glob("*.yaml"))
TOOLS = {"curl", "cut", "grep", "head", "jq", "kcat", "sort", "uniq"}
NAMES = [
    "clock-skew",
    "error-rate-high",
    "ingest-lag",
    "late-calls",
    "latency-high",
    "notifications-failing",
    "provider-outage",
    "rate-limited",
    "rejected-calls",
    "rules-not-loaded",
    "source-silent",
    "spend-spike",
    "tokens-growing",
    "truncation-high",
    "unpriced-calls",
]

BLOCK = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(tocsin [^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")

page_files = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def body(*, without: str = "", order: tuple[str, ...] = SECTIONS, title: str = "Calls fail") -> str:
    sections = [f"## {name}\n\nText of {name}.\n" for name in order if name != without]
    return "\n".join([f"# {title}\n", *sections])


def matter(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "title": "Calls fail",
        "alerts": ["CallsFail"],
        "severity": "warning",
        "owner": "llm-oncall",
        "last_tested": "2026-11-24",
        "first_steps": ["Look at the errors."],
    }
    return {key: value for key, value in (values | changes).items() if value is not None}


def page(text: str | None = None, **changes: object) -> Page:
    return Page(
        name="calls-fail", front_matter=matter(**changes), body=body() if text is None else text, body_line=9
    )


def page_text(text: str | None = None, **changes: object) -> str:
    front_matter = "\n".join(f"{key}: {json.dumps(value)}" for key, value in matter(**changes).items())
    return f"---\n{front_matter}\n---\n\n{body() if text is None else text}"


def write(directory: Path, name: str, text: str) -> None:
    (directory / f"{name}.md").write_text(text, encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [content for found, content in BLOCK.findall(text) if found == language]


def commands(script: str) -> list[list[str]]:
    """The simple commands of a shell script: split at pipes, `;` and line ends that are not in quotes."""
    lexer = shlex.shlex(script.replace("\\\n", " "), posix=True, punctuation_chars="|;&\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    lexer.commenters = ""
    found: list[list[str]] = [[]]
    for token in lexer:
        if token.strip("|;&\n"):
            found[-1].append(token)
        else:
            found.append([])
    return [command for command in found if command]


def command_line() -> click.Group:
    """The `tocsin` command; a test that needs it fails while it does not exist."""
    main = importlib.import_module("streams.cli").main
    assert isinstance(main, click.Group), "streams.cli.main must be a click.Group"
    return main


def unknown_words(arguments: list[str], *, complete: bool) -> list[str]:
    """What the command line does not know of `tocsin ARGUMENTS`: subcommands and options."""
    command: click.Command = command_line()
    rest = list(arguments)
    while isinstance(command, click.Group):
        known = command.list_commands(click.Context(command))
        if not rest or rest[0] not in known:
            return [f"no such subcommand: {' '.join(arguments)!r}; there are {', '.join(known)}"]
        found = command.get_command(click.Context(command), rest.pop(0))
        assert found is not None
        command = found
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    missing = {
        parameter.opts[0]
        for parameter in command.params
        if complete
        and parameter.required
        and isinstance(parameter, click.Option)
        and given.isdisjoint(parameter.opts)
    }
    return [f"no such option: {name}" for name in sorted(given - options)] + [
        f"option is required: {name}" for name in sorted(missing)
    ]


def library_rules() -> list[dict[str, Any]]:
    documents = [yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) for path in LIBRARY]  # noqa: S506 - text only
    return [rule for document in documents for group in document["groups"] for rule in group["rules"]]


def texts_and_values(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in (key, *texts_and_values(item))]
    if isinstance(value, list):
        return [leaf for item in value for leaf in texts_and_values(item)]
    return [value]


# The shipped pages


def test_the_shipped_pages_are_those_that_library_and_built_in_alerts_need_and_all_of_them_load():
    assert sorted(load_runbooks(None)) == NAMES
    assert [path.stem for path in PAGES] == NAMES


@page_files
def test_a_page_is_complete_and_its_sections_stand_in_order(path: Path):
    loaded = load_runbooks(None)[path.stem]
    assert problems(read_page(path)) == []
    assert tuple(loaded.sections) == SECTIONS
    assert loaded.last_tested == date(2026, 11, 24)


@page_files
def test_a_page_links_only_to_pages_that_ship_with_it(path: Path):
    links = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (path.parent / link).is_file() or "/" in link] == []


@page_files
def test_a_page_uses_only_tocsin_commands_and_options_that_exist(path: Path):
    lines = [
        command[1:]
        for script in blocks(path, "bash")
        for command in commands(script)
        if command[0] == "tocsin"
    ]
    without_blocks = BLOCK.sub("", path.read_text(encoding="utf-8"))
    inline = [command[1:] for text in INLINE.findall(without_blocks) for command in commands(text)[:1]]
    inline += [
        command[1:]
        for text in INLINE.findall(without_blocks)
        for command in commands(text)[1:]
        if command[0] == "tocsin"
    ]
    assert lines, "a page without a single tocsin command helps nobody"
    assert [word for line in lines for word in unknown_words(line, complete=True)] == []
    assert [word for line in inline for word in unknown_words(line, complete=False)] == []


@page_files
def test_a_page_uses_no_other_tools_than_those_at_hand(path: Path):
    programs = {command[0] for script in blocks(path, "bash") for command in commands(script)}
    assert programs <= TOOLS | {"tocsin"}


@page_files
def test_the_configuration_that_a_page_shows_can_be_parsed(path: Path):
    for text in blocks(path, "yaml"):
        assert isinstance(yaml.safe_load(text), dict)
    for text in blocks(path, "json"):
        assert isinstance(json.loads(text), dict)


def test_the_price_file_that_the_page_on_unpriced_calls_shows_can_be_read(tmp_path: Path):
    (text,) = [text for text in blocks(ROOT / "runbooks" / "unpriced-calls.md", "yaml") if "prices:" in text]
    (tmp_path / "prices.yaml").write_text(text, encoding="utf-8")
    assert len(read_price_file(tmp_path / "prices.yaml")) == 1


@page_files
def test_each_diagnosis_and_each_mitigation_is_a_branch_and_each_mitigation_says_how_to_undo_it(path: Path):
    sections = load_runbooks(None)[path.stem].sections
    assert len(re.findall(r"^### ", sections["Diagnosis"], re.MULTILINE)) >= 3
    assert "```bash" in sections["Diagnosis"]
    mitigations = re.split(r"^### ", sections["Mitigation"], flags=re.MULTILINE)[1:]
    assert len(mitigations) >= 3
    assert [text.partition("\n")[0] for text in mitigations if "To undo:" not in text] == []


def test_shell_scripts_are_split_at_pipes_and_lines_but_not_inside_quotes():
    script = "tocsin export --from 5m \\\n  | jq -r '.a | .b\n .c'\ncurl -d \"{}\" x\n"
    assert commands(script) == [
        ["tocsin", "export", "--from", "5m"],
        ["jq", "-r", ".a | .b\n .c"],
        ["curl", "-d", "{}", "x"],
    ]


# The shipped rules


def test_every_shipped_rule_names_a_page_and_that_page_names_the_alert():
    pages = load_runbooks(None)
    rules = library_rules()
    assert [rule["alert"] for rule in rules if rule.get("runbook") not in pages] == []
    assert [rule["alert"] for rule in rules if rule["alert"] not in pages[rule["runbook"]].alerts] == []


def test_every_built_in_alert_names_a_page_and_that_page_names_the_alert():
    pages = load_runbooks(None)
    assert [name for name, kind in ALERTS.items() if name not in pages[kind.runbook].alerts] == []


def test_every_alert_that_a_page_serves_is_in_the_library_or_built_in():
    alerts = {rule["alert"] for rule in library_rules()} | set(ALERTS)
    unknown = {name: set(page.alerts) - alerts for name, page in load_runbooks(None).items()}
    assert {name: left for name, left in unknown.items() if left} == {}


def test_shipped_alert_names_are_unique():
    names = [rule["alert"] for rule in library_rules()]
    assert len(set(names)) == len(names)


def test_every_shipped_ratio_mean_and_percentile_has_a_minimum_of_calls_and_every_rule_a_summary():
    measured = re.compile(r"_rate$|\.p\d+$|\.avg$")
    rules = library_rules()
    assert [
        rule["alert"] for rule in rules if measured.search(rule["measure"]) and "min_calls" not in rule
    ] == []
    assert [rule["alert"] for rule in rules if "{{ value }}" not in rule["summary"]] == []


def test_the_summary_of_a_shipped_rule_uses_only_variables_that_exist():
    common = {"value", "threshold", "window", "calls", "severity", "alert"}
    for rule in library_rules():
        used = set(re.findall(r"{{\s*(\w+)\s*}}", rule["summary"]))
        assert used <= common | set(rule.get("by", [])), rule["alert"]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_no_scalar_of_a_shipped_rule_is_read_as_anything_but_text(path: Path):
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            del rule["alert"]
            assert isinstance(rule.pop("min_calls", 0), int)
            assert [value for value in texts_and_values(rule) if not isinstance(value, str)] == []


def test_the_shipped_rules_load_with_the_names_of_the_shipped_pages():
    loaded = load_rules(LIBRARY, ROOT, set(load_runbooks(None)))
    assert len(loaded.rules) == len(library_rules())


# The parser


def test_a_complete_page_becomes_a_runbook():
    assert runbook(page()) == Runbook(
        name="calls-fail",
        title="Calls fail",
        alerts=("CallsFail",),
        severity="warning",
        owner="llm-oncall",
        first_steps=("Look at the errors.",),
        sections={name: f"Text of {name}." for name in SECTIONS},
        last_tested=date(2026, 11, 24),
    )


@pytest.mark.parametrize("name", SECTIONS)
def test_a_missing_heading_is_named(name: str):
    assert problems(page(body(without=name))) == [f"## {name} is missing: add it"]


def test_headings_in_another_order_are_reported_once_at_the_first():
    swapped = ("Impact", "Meaning", *SECTIONS[2:])
    assert problems(page(body(order=swapped))) == [
        f"## Impact stands where ## Meaning belongs: order is {', '.join(SECTIONS)}"
    ]


def test_a_heading_that_stands_twice_is_reported():
    assert problems(page(body(order=(*SECTIONS, "Impact")))) == ["## Impact stands twice: join the two"]


def test_a_misspelt_heading_is_reported_with_the_one_that_was_meant():
    found = problems(page(body().replace("## Verify recovery", "## Verify Recovry")))
    assert len(found) == 2
    assert "unknown heading ## Verify Recovry; did you mean Verify recovery?" in found[0]
    assert found[0].startswith("line 31: ")
    assert found[1] == "## Verify recovery is missing: add it"


def test_an_empty_section_is_reported():
    found = problems(page(body().replace("Text of Impact.", "")))
    assert found == ["line 15: ## Impact is empty: say what to do"]


def test_a_shell_comment_in_a_code_block_is_not_a_heading():
    text = body().replace("Text of Diagnosis.", "```bash\n# not a title\n## not a section\n```")
    assert problems(page(text)) == []


def test_a_code_block_that_is_not_closed_is_reported_at_its_line():
    found = problems(page(body().replace("Text of Escalation.", "```bash\ntocsin demo")))
    assert found == ["line 41: this code block is not closed: what follows is read as code"]


def test_a_code_block_is_closed_only_by_a_fence_as_long_as_its_own():
    text = body().replace("Text of Diagnosis.", "````\n```\n## not a section\n````")
    assert problems(page(text)) == []


def test_a_title_that_differs_from_the_front_matter_is_reported():
    found = problems(page(title="Calls failed"))
    assert found == [
        "line 9: # Calls fail differs from the front matter's title 'Calls failed': make them the same"
    ]


def test_a_page_without_a_title_or_with_two_is_reported():
    assert "the title is missing" in problems(page(body().replace("# Calls fail\n", "", 1)))[0]
    assert "a second # heading" in problems(page(body() + "\n# Calls fail\n"))[0]


def test_text_that_no_section_holds_is_reported():
    found = problems(page("Lost.\n" + body().replace("# Calls fail\n", "# Calls fail\nLost too.\n", 1)))
    assert [problem.partition(":")[0] for problem in found] == ["line 9", "line 10"]


@pytest.mark.parametrize("key", ["title", "alerts", "severity", "owner", "last_tested", "first_steps"])
def test_a_missing_key_of_the_front_matter_is_named(key: str):
    assert problems(page(**{key: None})) == [f"front matter: {key} is missing: add it"]


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        ("title", ["a"], "title must be one line of text, not a list"),
        ("owner", "", "owner must be one line of text, not ''"),
        ("owner", "x" * 101, "owner has 101 characters: shorten it to 100"),
        ("severity", "page", "severity must be warning or critical, not 'page'"),
        ("last_tested", "24.11.2026", "last_tested must be a day such as 2026-11-24, not '24.11.2026'"),
        ("last_tested", ["2026-11-24"], "last_tested must be a day such as 2026-11-24, not a list"),
        ("alerts", [], "alerts must be a list of at least one line of text"),
        ("alerts", "CallsFail", "alerts must be a list of at least one line of text"),
        ("alerts", ["A", "B", "A"], "alerts names 'A' twice: remove one"),
        ("first_steps", ["a", ["b"]], "first_steps must be a list of at least one line of text"),
        ("first_steps", ["a", "b", "c", "d"], "4 first_steps: at most 3 are shown"),
        ("first_steps", ["x" * 201], "first step 1 has 201 characters: shorten it to 200"),
        ("sevrity", "warning", "unknown key 'sevrity'; did you mean severity?"),
        ("zzz", "1", "unknown key 'zzz'"),
    ],
)
def test_a_wrong_value_in_the_front_matter_is_reported(key: str, value: object, cause: str):
    found = [problem for problem in problems(page(**{key: value})) if problem.startswith("front matter: ")]
    assert len(found) == 1
    assert found[0].startswith(f"front matter: {cause}")


def test_everything_wrong_with_a_page_is_reported_at_once():
    broken = replace(page(body(without="Impact"), severity="page", owner=None), name="../up")
    with pytest.raises(RunbookError) as raised:
        runbook(broken)
    assert len(raised.value.problems) == 4
    assert all(problem.startswith("../up: ") for problem in raised.value.problems)


def test_a_long_value_is_cut_in_the_message():
    assert max(len(problem) for problem in problems(page(severity="x" * 10_000))) < 200


# Where a page is found


def test_a_directory_has_no_url():
    assert runbook_url("runbooks/", "latency-high") is None


def test_a_template_gives_a_url_in_which_the_name_cannot_add_a_path():
    template = "https://wiki.example.com/runbooks/{name}#top"
    assert runbook_url(template, "latency-high") == "https://wiki.example.com/runbooks/latency-high#top"
    assert runbook_url(template, "../a b?c") == "https://wiki.example.com/runbooks/..%2Fa%20b%3Fc#top"


@pytest.mark.parametrize(
    ("location", "cause"),
    [
        ("https://wiki.example.com/runbooks/", "names no page"),
        ("wiki.example.com/{name}", "is not a URL"),
        ("file://host/{name}", "is not an http or https URL"),
        ("https:///{name}", "is not an http or https URL"),
        ("https://wiki.example.com/a b/{name}", "is not an http or https URL"),
    ],
)
def test_a_location_that_is_neither_a_directory_nor_a_template_is_refused(location: str, cause: str):
    with pytest.raises(ValueError, match=cause):
        runbook_url(location, "latency-high")


# Reading pages


def test_a_users_page_replaces_the_shipped_one_and_the_others_stay(tmp_path: Path):
    write(tmp_path, "latency-high", page_text())
    write(tmp_path, "our-own", page_text())
    loaded = load_runbooks(tmp_path)
    assert sorted(loaded) == sorted([*NAMES, "our-own"])
    assert loaded["latency-high"].title == "Calls fail"
    assert list(loaded) == sorted(loaded)


def test_scalars_of_the_front_matter_are_their_source_text(tmp_path: Path):
    text = page_text().replace('"llm-oncall"', "on").replace('["CallsFail"]', "[1.10, 017]")
    write(tmp_path, "our-own", text)
    loaded = load_runbooks(tmp_path)["our-own"]
    assert (loaded.owner, loaded.alerts) == ("on", ("1.10", "017"))


def test_a_readme_a_hidden_file_and_a_folder_are_not_pages(tmp_path: Path):
    write(tmp_path, "README", "# About these pages")
    write(tmp_path, ".draft", "")
    (tmp_path / "folder.md").mkdir()
    assert sorted(load_runbooks(tmp_path)) == NAMES


def test_all_broken_pages_are_reported_at_once_with_path_and_line(tmp_path: Path):
    write(tmp_path, "a", page_text(severity="page"))
    write(tmp_path, "b", "# No front matter")
    write(tmp_path, "c", page_text().replace("severity:", "title:"))
    write(tmp_path, "d", page_text() + "\n## More\n\nText.\n")
    (tmp_path / "e.md").write_bytes(b"---\n\n\xff\n---\n")
    (tmp_path / "f.md").write_bytes(b"x" * (MAX_PAGE_BYTES + 1))
    with pytest.raises(RunbookError) as raised:
        load_runbooks(tmp_path)
    starts = [
        "a.md: front",
        "b.md:1: front",
        "c.md:4: front",
        "d.md:44: unk",
        "e.md:3: not UTF-8",
        "f.md: larger",
    ]
    assert len(raised.value.problems) == len(starts)
    for problem, start in zip(raised.value.problems, starts, strict=True):
        assert problem.startswith(f"{tmp_path}/{start}"), problem


def test_a_directory_with_too_many_pages_is_refused_unread(tmp_path: Path):
    for number in range(MAX_PAGES + 1):
        (tmp_path / f"{number}.md").touch()
    with pytest.raises(RunbookError) as raised:
        load_runbooks(tmp_path)
    assert raised.value.problems == (
        f"{tmp_path}: {MAX_PAGES + 1} pages: at most {MAX_PAGES} are read; correct the setting runbooks",
    )


def test_a_directory_that_does_not_exist_is_reported_with_what_to_do(tmp_path: Path):
    with pytest.raises(RunbookError, match="no such directory: create it"):
        load_runbooks(tmp_path / "absent")


@pytest.mark.parametrize(
    ("front_matter", "cause"),
    [
        ("- a", "must be keys and values"),
        ("", "must be keys and values"),
        ("title: [", "2: front matter: "),
        ("? [a]\n: b", "2: front matter: a key must be text"),
        ("a: &x [1]\nb: *x", "3: front matter: aliases are not allowed here"),
        ("a: " + "[" * 20_000, "1: front matter is nested too deeply"),
        ("a: \x01", "front matter: "),
    ],
)
def test_front_matter_that_is_not_plain_yaml_is_refused(tmp_path: Path, front_matter: str, cause: str):
    write(tmp_path, "a", f"---\n{front_matter}\n---\n")
    with pytest.raises(RunbookError) as raised:
        load_runbooks(tmp_path)
    (problem,) = raised.value.problems
    assert cause in problem


def test_an_open_front_matter_is_reported(tmp_path: Path):
    write(tmp_path, "a", "---\ntitle: a\n# b\n")
    with pytest.raises(RunbookError, match="start the page with --- and close it with ---"):
        load_runbooks(tmp_path)


def test_a_page_with_windows_line_ends_and_a_byte_order_mark_is_read(tmp_path: Path):
    (tmp_path / "a.md").write_bytes(("\ufeff" + page_text()).replace("\n", "\r\n").encode())
    assert load_runbooks(tmp_path)["a"].title == "Calls fail"


def test_the_shipped_pages_are_found_beside_the_packages():
    assert sorted(source.name for source in shipped_runbooks().iterdir() if source.name.endswith(".md")) == [
        f"{name}.md" for name in NAMES
    ]
