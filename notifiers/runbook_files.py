"""Reads runbook pages from the user's directory and from the pages shipped with Tocsin."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import yaml

from notifiers.runbook import Page, Runbook, RunbookError, problems, runbook, split_front_matter

MAX_PAGE_BYTES: Final = 256 * 1024
MAX_PAGES: Final = 1_000


class _FrontMatterLoader(yaml.BaseLoader):
    """Scalars stay their source text; duplicate keys and aliases are refused."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            # A few lines of nested aliases expand to gigabytes.
            raise yaml.MarkedYAMLError(
                problem="aliases are not allowed here: write the value out",
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        return super().compose_node(parent, index)

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,
    ) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in seen:
                problem = f"duplicate key {key.value!r}: remove one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def load_runbooks(directory: Path | None) -> dict[str, Runbook]:
    """All pages by name: those of ``directory`` first, the shipped ones where it has no page of that name.

    A page's name is its file name without ``.md``; a README is not a page. Raises RunbookError with the
    findings of all pages, each as ``PATH:LINE: cause`` or ``PATH: cause``.
    """
    found: list[str] = []
    loaded: dict[str, Runbook] = {}
    if directory is not None:
        if directory.is_dir():
            loaded |= _load(directory, str(directory), found, skip=())
        else:
            found.append(f"{directory}: no such directory: create it, or name another folder of runbooks")
    loaded |= _load(shipped_runbooks(), "runbooks", found, skip=loaded)
    if found:
        raise RunbookError(found)
    return dict(sorted(loaded.items()))


def shipped_runbooks() -> Traversable:
    """The directory of the pages shipped with Tocsin.

    Raises RunbookError if the installation lacks them.
    """
    try:
        return files("runbooks")
    except ModuleNotFoundError as error:
        raise RunbookError(["the shipped runbook pages are not installed: reinstall Tocsin"]) from error


def read_page(source: Traversable) -> Page:
    """Read one page without checking its structure.

    Raises RunbookError if it cannot be read, is larger than MAX_PAGE_BYTES, is not UTF-8, or if its front
    matter is missing or not YAML. The findings carry no path.
    """
    try:
        with source.open("rb") as file:
            data = file.read(MAX_PAGE_BYTES + 1)
    except OSError as error:
        raise RunbookError([f" cannot be read: {error.strerror or error}"]) from error
    if len(data) > MAX_PAGE_BYTES:
        raise RunbookError([f" larger than {MAX_PAGE_BYTES // 1024} KiB: shorten the page"])
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RunbookError([f"{line}: not UTF-8: save the page as UTF-8"]) from error
    matter, body, body_line = split_front_matter(text)
    if matter is None:
        raise RunbookError(["1: front matter is missing: start the page with --- and close it with ---"])
    name = source.name.removesuffix(".md")
    return Page(name=name, front_matter=_front_matter(matter), body=body, body_line=body_line)


def _front_matter(text: str) -> dict[str, object]:
    try:
        value = yaml.load(text, Loader=_FrontMatterLoader)  # noqa: S506 - a BaseLoader builds no objects
    except yaml.MarkedYAMLError as error:
        # Line 1 of the page is the opening ---.
        line = error.problem_mark.line + 2 if error.problem_mark else 1
        raise RunbookError([f"{line}: front matter: {error.problem or error}"]) from error
    except yaml.YAMLError as error:
        raise RunbookError([f"1: front matter: {' '.join(str(error).split())}"]) from error
    except RecursionError as error:
        raise RunbookError(["1: front matter is nested too deeply: it needs two levels"]) from error
    if not isinstance(value, dict):
        raise RunbookError(["1: front matter must be keys and values, such as title: ..."])
    return value


def _load(directory: Traversable, shown: str, found: list[str], skip: Iterable[str]) -> dict[str, Runbook]:
    pages: dict[str, Runbook] = {}
    sources = sorted(
        (source for source in directory.iterdir() if _is_page(source)), key=lambda source: source.name
    )
    if len(sources) > MAX_PAGES:
        found.append(
            f"{shown}: {len(sources)} pages: at most {MAX_PAGES} are read; correct the setting runbooks"
        )
        return pages
    for source in sources:
        if source.name.removesuffix(".md") in skip:
            continue
        path = f"{shown}/{source.name}"
        try:
            page = read_page(source)
        except RunbookError as error:
            found.extend(f"{path}:{problem}" for problem in error.problems)
            continue
        causes = problems(page)
        if causes:
            found.extend(_placed(path, cause) for cause in causes)
        else:
            pages[page.name] = runbook(page)
    return pages


def _is_page(source: Traversable) -> bool:
    hidden = source.name.startswith(".") or source.name.lower() == "readme.md"
    return source.name.endswith(".md") and not hidden and source.is_file()


def _placed(path: str, cause: str) -> str:
    # "line 12: cause" becomes "PATH:12: cause", which editors and terminals can open.
    return f"{path}:{cause.removeprefix('line ')}" if cause.startswith("line ") else f"{path}: {cause}"
