from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from rules.loader import RuleFile, load_rules, read_rule_files
from rules.problem import InvalidFilesError
from rules.rule import RuleSet

RULES = """\
version: 1
groups:
  - name: {group}
    rules:
      - {{alert: Many, measure: calls, window: 1m, above: 5, runbook: r}}
"""


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(RULES.format(group=Path(name).stem), encoding="utf-8")


def names(folder: Path, *patterns: str | Path) -> list[str]:
    return [file.name for file in read_rule_files(patterns, folder)]


def complaints(folder: Path, *patterns: str) -> list[str]:
    with pytest.raises(InvalidFilesError) as caught:
        read_rule_files(patterns, folder)
    return [str(problem) for problem in caught.value.problems]


def test_globs_are_relative_to_the_base_sorted_and_each_file_comes_once(tmp_path: Path) -> None:
    write(tmp_path, "alerts/b.yaml", "alerts/a.yaml", "alerts/deep/c.yaml", "other.yaml", "alerts/note.txt")
    assert names(tmp_path, "alerts/*.yaml", "alerts/a.yaml", "./alerts/../alerts/b.yaml") == [
        "alerts/a.yaml",
        "alerts/b.yaml",
    ]
    assert names(tmp_path, "alerts/**/*.yaml") == ["alerts/a.yaml", "alerts/b.yaml", "alerts/deep/c.yaml"]
    assert names(tmp_path / "alerts", Path("deep"), "*.yaml") == ["a.yaml", "b.yaml", "deep/c.yaml"]


def test_a_directory_means_its_yaml_files_without_the_tests_of_rules(tmp_path: Path) -> None:
    write(tmp_path, "alerts/a.yaml", "alerts/a.test.yaml", "alerts/b.yml", "alerts/deep/c.yaml")
    assert names(tmp_path, "alerts") == ["alerts/a.yaml"]
    assert names(tmp_path, "alerts/*.yaml") == ["alerts/a.yaml"]
    assert names(tmp_path, "alerts/a.test.yaml") == ["alerts/a.test.yaml"]


def test_a_file_outside_the_base_has_its_whole_path_as_its_name(tmp_path: Path) -> None:
    write(tmp_path, "out/a.yaml")
    (tmp_path / "base").mkdir()
    whole = str((tmp_path / "out" / "a.yaml").resolve())
    assert names(tmp_path / "base", tmp_path / "out" / "a.yaml") == [whole]
    assert names(tmp_path / "base", str(tmp_path / "out" / "*.yaml")) == [whole]


def test_a_pattern_that_matches_nothing_is_a_problem_and_all_are_reported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert complaints(tmp_path, "none/*.yaml", "missing.yaml", "empty") == [
        f"empty: matches no rule file in {tmp_path}",
        f"missing.yaml: matches no rule file in {tmp_path}",
        f"none/*.yaml: matches no rule file in {tmp_path}",
    ]


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    (tmp_path / "loop.yaml").mkdir()
    (tmp_path / "loop.yaml" / "x.yaml").symlink_to(tmp_path / "gone.yaml")
    assert complaints(tmp_path, "latin.yaml", "loop.yaml") == [
        "gone.yaml: cannot be read: No such file or directory",
        "latin.yaml: the file is not UTF-8 text: save it as UTF-8",
    ]


def test_a_shipped_file_is_named_by_the_library_prefix() -> None:
    here = Path()
    assert [file.name for file in read_rule_files(["library:latency"], here)] == ["library/latency.yaml"]
    shipped = [file.name for file in read_rule_files(["library:*", "library:latency"], here)]
    assert "library/latency.yaml" in shipped
    assert shipped == sorted(set(shipped))


def test_an_unknown_shipped_file_is_refused_with_the_ones_that_there_are(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", "a.yaml", "a.test.yaml")
    with pytest.raises(InvalidFilesError) as caught:
        read_rule_files(["library:latencies"], tmp_path, library=tmp_path)
    assert (
        str(caught.value)
        == "library:latencies: there is no such shipped file; there are library/a.yaml, library/b.yaml"
    )
    with pytest.raises(InvalidFilesError, match="there are none"):
        read_rule_files(["library:*"], tmp_path, library=tmp_path / "gone")


def test_loading_reports_missing_files_and_faults_of_the_others_together(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml")
    (tmp_path / "b.yaml").write_text("version: 2\ngroups: []\n", encoding="utf-8")
    with pytest.raises(InvalidFilesError) as caught:
        load_rules(["*.yaml", "gone.yaml"], tmp_path, None)
    assert str(caught.value).splitlines() == [
        'b.yaml:1:10: "2" is not one of 1',
        f"gone.yaml: matches no rule file in {tmp_path}",
    ]


def test_loading_gives_the_rules_of_all_files(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", "a.yaml")
    assert [rule.name for rule in load_rules(["*.yaml"], tmp_path, {"r"}).rules] == ["a/Many", "b/Many"]


def test_every_shipped_rule_loads_and_its_runbook_exists() -> None:
    pages = {
        Path(page.name).stem for page in resources.files("runbooks").iterdir() if page.name.endswith(".md")
    }
    rules = load_rules(["library:*"], Path(), pages)
    assert rules.rules
    assert rules.views


def test_a_file_read_twice_has_the_same_rules(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml")
    first: RuleSet = load_rules(["a.yaml"], tmp_path, None)
    assert first == load_rules(["a.yaml"], tmp_path, None)
    assert RuleFile("a", "b") == RuleFile("a", "b")
