"""A runbook page: its structure, what is wrong with it, and where it is linked to.

Pure: text and parsed front matter come in, values go out. ``runbook_files`` reads the pages.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Final
from urllib.parse import quote

SECTIONS: Final[tuple[str, ...]] = (
    "Meaning",
    "Impact",
    "First five minutes",
    "Diagnosis",
    "Mitigation",
    "Verify recovery",
    "False positives",
    "Escalation",
)
"""The second-level headings of a page, in the order in which they stand."""

FRONT_MATTER_KEYS: Final[tuple[str, ...]] = (
    "title",
    "alerts",
    "severity",
    "owner",
    "last_tested",
    "first_steps",
)
SEVERITIES: Final[tuple[str, ...]] = ("warning", "critical")

# First steps and title are repeated in every Slack message, whose section text ends at 3,000 characters
# and whose header ends at 150, after escaping.
MAX_FIRST_STEPS: Final = 3
MAX_STEP_CHARACTERS: Final = 200
MAX_LINE_CHARACTERS: Final = 100
MAX_SHOWN_CHARACTERS: Final = 80

TITLE_LEVEL: Final = 1
SECTION_LEVEL: Final = 2

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_HEADING: Final = re.compile(r"(#{1,2})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*")
_URL: Final = re.compile(r"https?://[^/\s]+\S*", re.IGNORECASE)


class RunbookError(ValueError):
    """One or more runbook pages cannot be used; ``problems`` holds every finding, not only the first."""

    def __init__(self, problems: list[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Page:
    """A page as it was read: nothing in it has been checked.

    ``front_matter`` is the parsed YAML with every scalar as its source text; ``body`` is the Markdown after
    it and ``body_line`` the line of the file at which the body starts, counted from 1.
    """

    name: str
    front_matter: Mapping[str, object]
    body: str
    body_line: int = 1


@dataclass(frozen=True, slots=True)
class Runbook:
    """A page that is complete. ``sections`` maps each heading of ``SECTIONS`` to its Markdown, in order."""

    name: str
    title: str
    alerts: tuple[str, ...]
    severity: str
    owner: str
    first_steps: tuple[str, ...]
    sections: dict[str, str]
    last_tested: date | None = None


@dataclass(frozen=True, slots=True)
class _Heading:
    level: int
    text: str
    line: int
    lines: list[str] = field(default_factory=list)

    @property
    def markdown(self) -> str:
        return "\n".join(self.lines).strip()


def split_front_matter(text: str) -> tuple[str | None, str, int]:
    """Split a page into its front matter, its body, and the line at which the body starts (from 1).

    The front matter is None where the page does not start with ``---`` or the closing ``---`` is missing.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    if lines and lines[0].rstrip() == "---":
        for index in range(1, len(lines)):
            if lines[index].rstrip() == "---":
                return "\n".join(lines[1:index]), "\n".join(lines[index + 1 :]), index + 2
    return None, "\n".join(lines), 1


def problems(page: Page) -> list[str]:
    """Everything that keeps the page from being used, with its line where it has one; empty if complete."""
    found: list[str] = []
    if _NAME.fullmatch(page.name) is None:
        found.append(
            f"the page's name {_shown(page.name)} cannot be used in a rule: rename the file; "
            "letters, digits, dot, hyphen and underscore, at most 100"
        )
    found += _front_matter_problems(page.front_matter)
    found += _body_problems(page)
    return found


def runbook(page: Page) -> Runbook:
    """The checked page.

    Raises RunbookError with every finding of ``problems``.
    """
    found = problems(page)
    if found:
        raise RunbookError([f"{page.name}: {problem}" for problem in found])
    headings, _, _ = _headings(page)
    matter = page.front_matter
    return Runbook(
        name=page.name,
        title=str(matter["title"]).strip(),
        alerts=_texts(matter["alerts"]),
        severity=str(matter["severity"]),
        owner=str(matter["owner"]).strip(),
        first_steps=_texts(matter["first_steps"]),
        sections={heading.text: heading.markdown for heading in headings if heading.level == SECTION_LEVEL},
        last_tested=_day(matter["last_tested"]),
    )


def runbook_url(location: str, name: str) -> str | None:
    """The address of the page ``name``, or None where ``location`` is a directory.

    A template reads ``https://wiki.example.com/runbooks/{name}``. The name is percent-encoded, so it cannot add a
    path or a query of its own.

    Raises:
        ValueError: a URL without ``{name}``, a scheme other than http and https, or a directory with ``{name}``.
    """
    template = location.strip()
    placeholder = "{name}" in template
    if "://" not in template:
        if placeholder:
            raise ValueError(f"runbooks: {template!r} has {{name}} but is not a URL: start it with https://")
        return None
    if _URL.fullmatch(template) is None:
        raise ValueError(
            f"runbooks: {template!r} is not an http or https URL: write https://HOST/PATH/{{name}}"
        )
    if not placeholder:
        raise ValueError(f"runbooks: {template!r} names no page: put {{name}} where the page's name belongs")
    return template.replace("{name}", quote(name, safe=""))


def _front_matter_problems(matter: Mapping[str, object]) -> list[str]:
    unknown = [key for key in matter if key not in FRONT_MATTER_KEYS]
    found = [f"unknown key {_shown(key)}{_did_you_mean(key, FRONT_MATTER_KEYS)}" for key in unknown]
    for key in FRONT_MATTER_KEYS:
        found += _value_problems(key, matter[key]) if key in matter else [f"{key} is missing: add it"]
    return [f"front matter: {problem}" for problem in found]


def _value_problems(key: str, value: object) -> list[str]:
    if key in {"title", "owner"}:
        return _line_problems(key, value)
    if key in {"alerts", "first_steps"}:
        return _list_problems(key, value)
    if key == "severity" and value not in SEVERITIES:
        return [f"severity must be {' or '.join(SEVERITIES)}, not {_shown(value)}"]
    if key == "last_tested" and _day(value) is None:
        return [f"last_tested must be a day such as 2026-11-24, not {_shown(value)}"]
    return []


def _line_problems(key: str, value: object) -> list[str]:
    if not _is_text(value):
        return [f"{key} must be one line of text, not {_shown(value)}"]
    length = len(str(value))
    if length > MAX_LINE_CHARACTERS:
        return [
            f"{key} has {length} characters: shorten it to {MAX_LINE_CHARACTERS} so that it fits a message"
        ]
    return []


def _list_problems(key: str, value: object) -> list[str]:
    if not _is_list_of_texts(value):
        return [f"{key} must be a list of at least one line of text"]
    texts = _texts(value)
    if key == "alerts":
        return [f"alerts names {_shown(alert)} twice: remove one" for alert in _repeated(texts)]
    found = [
        f"first step {number} has {len(step)} characters: shorten it to {MAX_STEP_CHARACTERS}"
        for number, step in enumerate(texts, start=1)
        if len(step) > MAX_STEP_CHARACTERS
    ]
    if len(texts) > MAX_FIRST_STEPS:
        found.append(
            f"{len(texts)} first_steps: at most {MAX_FIRST_STEPS} are shown; "
            "move the others to First five minutes"
        )
    return found


def _body_problems(page: Page) -> list[str]:
    headings, before, open_fence = _headings(page)
    found: list[str] = []
    if open_fence is not None:
        found.append(f"line {open_fence}: this code block is not closed: what follows is read as code")
    if before.strip():
        found.append(f"line {page.body_line}: text before the title is shown nowhere: move it to a section")
    found += _title_problems(page, [heading for heading in headings if heading.level == TITLE_LEVEL])
    found += _section_problems([heading for heading in headings if heading.level == SECTION_LEVEL])
    return found


def _section_problems(sections: list[_Heading]) -> list[str]:
    found: list[str] = []
    for heading in sections:
        if heading.text not in SECTIONS:
            found.append(
                f"line {heading.line}: unknown heading ## {heading.text}"
                f"{_did_you_mean(heading.text, SECTIONS)}: use ### for headings of your own"
            )
        elif not heading.markdown:
            found.append(f"line {heading.line}: ## {heading.text} is empty: say what to do")
    names = tuple(heading.text for heading in sections if heading.text in SECTIONS)
    found += [f"## {name} is missing: add it" for name in SECTIONS if name not in names]
    found += [f"## {name} stands twice: join the two" for name in _repeated(names)]
    once = list(dict.fromkeys(names))
    for stands, belongs in zip(once, [name for name in SECTIONS if name in once], strict=True):
        if stands != belongs:
            # One finding: every later heading would be reported as a consequence of the first.
            found.append(f"## {stands} stands where ## {belongs} belongs: order is {', '.join(SECTIONS)}")
            break
    return found


def _title_problems(page: Page, titles: list[_Heading]) -> list[str]:
    if not titles:
        return ["the title is missing: add # and the front matter's title as the first line"]
    found = [f"line {title.line}: a second # heading: use ## or ###" for title in titles[1:]]
    found += [
        f"line {title.line}: text between the title and ## {SECTIONS[0]} is shown nowhere: move it to a section"
        for title in titles
        if title.markdown
    ]
    title = page.front_matter.get("title")
    if isinstance(title, str) and titles[0].text != title.strip():
        found.append(
            f"line {titles[0].line}: # {titles[0].text} differs from the front matter's title "
            f"{_shown(title)}: make them the same"
        )
    return found


def _headings(page: Page) -> tuple[list[_Heading], str, int | None]:
    """The first- and second-level headings, the text before them, and the line of a code block left open.

    A ``#`` inside a code block is a shell comment, not a heading.
    """
    headings: list[_Heading] = []
    before: list[str] = []
    fence: str | None = None
    fence_line: int | None = None
    for number, line in enumerate(page.body.splitlines(), start=page.body_line):
        marker = _FENCE.fullmatch(line)
        if fence is not None:
            closes = marker is not None and marker[1].startswith(fence) and not marker[2].strip()
            if closes:
                fence = fence_line = None
        elif marker is not None:
            fence, fence_line = marker[1], number
        else:
            heading = _HEADING.fullmatch(line)
            if heading is not None:
                headings.append(_Heading(len(heading[1]), heading[2], number))
                continue
        (headings[-1].lines if headings else before).append(line)
    return headings, "\n".join(before), fence_line


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\n" not in value.strip()


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(item) for item in value)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item).strip() for item in value) if isinstance(value, list) else ()


def _day(value: object) -> date | None:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _repeated(names: tuple[str, ...]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _did_you_mean(word: str, known: tuple[str, ...]) -> str:
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def _shown(value: object) -> str:
    # What others wrote is cut, so that one bad page cannot fill the log.
    text = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 3] + "..."
