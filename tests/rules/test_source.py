from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from rules.problem import Problem, did_you_mean
from rules.source import LARGEST_FILE, Node, empty_values, read_yaml, salvage, validate


def document(text: str) -> Node:
    node, problems = read_yaml("f.yaml", text)
    assert problems == []
    assert node is not None
    return node


def complaints(text: str) -> list[str]:
    return [str(problem) for problem in read_yaml("f.yaml", text)[1]]


@pytest.mark.parametrize(
    "written",
    [
        "on",
        "NO",
        "yes",
        "1.10",
        "017",
        "0755",
        "1e3",
        "1.0e+3",
        ".nan",
        "17:30",
        "1:30",
        "2024-10-01",
        "0x1F",
        "=",
        "5 %",
    ],
)
def test_a_scalar_is_its_source_text_as_value_and_as_key(written: str) -> None:
    assert document(f"{written}: {written}").data == {written: written}


def test_quoted_and_block_scalars_are_their_text_and_quoted_nulls_stay_text() -> None:
    text = "a: 'it''s'\nb: \"x\\ty\"\nc: |\n  one\n  two\nd: 'null'\ne: \"\"\n"
    assert document(text).data == {"a": "it's", "b": "x\ty", "c": "one\ntwo\n", "d": "null", "e": ""}


@pytest.mark.parametrize("null", ["", "~", "null", "Null", "NULL"])
def test_an_unquoted_null_is_none_and_is_found_as_an_empty_value(null: str) -> None:
    node = document(f"a: 1\nb: {null}\nc:\n  - {null}\n")
    assert node.data == {"a": "1", "b": None, "c": [None]}
    assert [str(problem).split(": ")[-1] for problem in empty_values(node, "f.yaml")] == [
        '"b" has no value',
        "this has no value",
    ]


def test_every_value_and_key_has_its_line_and_column() -> None:
    node = document("a: 1\nlist:\n  - x\n  - key: {inner: [p, q]}\n")
    assert node.position(("a",)) == (1, 4)
    assert node.position(("list", 0)) == (3, 5)
    assert node.position(("list", 1)) == (4, 5)
    assert node.position(("list", 1, "key", "inner", 1)) == (4, 22)
    assert node.key_position(("list", 1, "key")) == (4, 5)
    assert node.key_position(("list", 1, "key", "inner")) == (4, 11)
    assert node.key_position(("list", 0)) == (3, 5)
    assert node.position(("list", 1, "missing", "deeper")) == (4, 5)
    assert node.at(("list", 1, "key")) == {"inner": ["p", "q"]}


def test_a_byte_order_mark_does_not_move_columns() -> None:
    assert document("\ufeffa: 1").key_position(("a",)) == (1, 1)


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "null\n"])
def test_an_empty_file_is_no_document_and_no_problem(text: str) -> None:
    assert read_yaml("f.yaml", text) == (None, [])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("for: 1m\nb: 2\nfor: 2m\n", 'f.yaml:3:1: duplicate key "for": it already stands in line 1'),
        ("a: {x: 1, x: {y: 2}}\n", 'f.yaml:1:11: duplicate key "x": it already stands in line 1'),
        ("a: &x 1\n", 'f.yaml:1:4: anchors are not supported: quote the value, "&x ..."'),
        ("a: [*x]\n", 'f.yaml:1:5: aliases are not supported: quote the value, "*x"'),
        ("*x : 1\n", 'f.yaml:1:1: aliases are not supported: quote the key, "*x"'),
        ("*x\n", 'f.yaml:1:1: aliases are not supported: quote the value, "*x"'),
        ("<<: {a: 1}\n", 'f.yaml:1:1: merge keys ("<<") are not supported: write the keys out'),
        ("a: !chat\n", 'f.yaml:1:4: tags are not supported: quote the value, "!chat ..."'),
        ("a: !!str x\n", 'f.yaml:1:4: tags are not supported: quote the value, "!!str ..."'),
        ("a: !x {b: 1}\n", 'f.yaml:1:4: tags are not supported: quote the value, "!x ..."'),
        ("null: 1\n", 'f.yaml:1:1: a key must be text: quote it, "null"'),
        ("? [a]\n: 1\n", "f.yaml:1:3: a key must be text"),
        ("? {a: [b]}\n: {c: [d]}\n", "f.yaml:1:3: a key must be text"),
        (
            "a: 1\n---\nb: {c: [2]}\n",
            "f.yaml:2:1: a second document starts here: put it into a file of its own",
        ),
        ("a: {{ x }}\n", 'f.yaml:1:4: a value cannot start with "{{": quote the value'),
        ("a: {{ x }} is\n", 'f.yaml:1:4: a value cannot start with "{{": quote the value'),
        ("a: {% if x %}\n", 'f.yaml:1:4: a value cannot start with "{%": quote the value'),
        (
            "above: {warning: $1,000}\n",
            'f.yaml:1:21: "000" has no value; where a comma belongs to a value, quote the value: "$1,000"',
        ),
        ("a: %x\n", 'f.yaml:1:4: a value cannot start with "%": quote the value'),
        ("a: @bob\n", 'f.yaml:1:4: a value cannot start with "@": quote the value'),
        ("a: `x`\n", 'f.yaml:1:4: a value cannot start with "`": quote the value'),
        ("a: > 5\n", 'f.yaml:1:4: a value cannot start with ">": quote the value'),
        ("a: >= 2\n", 'f.yaml:1:4: a value cannot start with ">": quote the value'),
        ("a: * x\n", 'f.yaml:1:4: a value cannot start with "*": quote the value'),
        ("a: & x\n", 'f.yaml:1:4: a value cannot start with "&": quote the value'),
        ("a: !<x\n", 'f.yaml:1:4: a value cannot start with "!": quote the value'),
        ("a:\n\tb: 1\n", "f.yaml:2:1: a tab: YAML is indented with spaces, replace it"),
        ("a: b: c\n", 'f.yaml:1:5: ":" is not expected here: quote the value, or check the indentation'),
        ("a: 'x\n", "f.yaml:1:4: the quote that opens here is not closed"),
        ('a: "\\q"\n', "f.yaml:1:5: unknown escape: use single quotes, or write the backslash twice"),
        (
            "a: [1\n",
            'f.yaml:1:4: the "[" that opens here is not closed, or a value in it with , : { } [ ] lacks quotes',
        ),
        (
            "a: {b: 1\nc: 2\n",
            'f.yaml:1:4: the "{" that opens here is not closed, or a value in it with , : { } [ ] lacks quotes',
        ),
        ("a: 1\nword\nb: 2\n", 'f.yaml:2:1: this line has no ":": write "key: value", or quote the text'),
        (
            "- a\nb: c\n",
            "f.yaml:2:1: this does not fit what stands above: check the indentation and the quotes",
        ),
        (
            "a: x\x07y\n",
            "f.yaml:1:5: control character '\\x07': remove it, or write it as an escape in double quotes",
        ),
        (
            "a:\n b: \ud800\n",
            "f.yaml:2:5: control character '\\ud800': remove it, or write it as an escape in double quotes",
        ),
        ("a: " + "[" * 40 + "]" * 40, "f.yaml:1:35: nested deeper than 32 levels"),
        ("[" * 100_000, "f.yaml:1:1001: nested deeper than 32 levels"),
        ("{" * 40 + "}" * 40, 'f.yaml:1:1: a value cannot start with "{{": quote the value'),
        ("x" * (LARGEST_FILE + 1), "f.yaml: the file is larger than 1 MiB: split it"),
    ],
)
def test_what_yaml_would_misread_is_refused_at_its_place_with_what_to_do(text: str, complaint: str) -> None:
    assert complaints(text)[0].startswith(complaint)


def test_problems_before_a_syntax_error_are_reported_with_it() -> None:
    assert complaints("a: 1\na: 2\nb: @x\n") == [
        'f.yaml:2:1: duplicate key "a": it already stands in line 1',
        'f.yaml:3:4: a value cannot start with "@": quote the value',
    ]


def test_inside_a_part_that_is_refused_nothing_more_is_reported() -> None:
    text = "a: 1\na: {x: 1, x: 2, ? [k] : &b 3, null: 4, <<: 5, *c : 6, d: *e, f: !g 7, h: , {i: 1}: 2}\n"
    assert complaints(text) == ['f.yaml:2:1: duplicate key "a": it already stands in line 1']


def test_the_first_of_two_equal_keys_is_kept() -> None:
    node, _ = read_yaml("f.yaml", "a: 1\na: 2\n")
    assert node is not None
    assert node.data == {"a": "1"}


@given(st.text(alphabet=" \t\n-:,[]{}#&*!|>'\"%@`?~<ab1$\\\x85\u2028é", max_size=60))
def test_no_text_makes_the_reader_fail(text: str) -> None:
    node, problems = read_yaml("f.yaml", text)
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
    if node is not None:
        assert list(node.empty_values()) is not None
        assert all(node.position(path) for path in node.values)


@given(
    st.recursive(
        st.text(alphabet="abc019:. ", min_size=1, max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(alphabet="xyz", min_size=1), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_json_with_text_scalars_reads_as_itself(data: Any) -> None:
    node = document(json.dumps(data))
    assert node.data == data


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Child(Strict):
    UNKNOWN_KEYS: ClassVar[dict[str, str]] = {"colour": "write color:"}
    color: str
    size: int = Field(1, ge=1, le=9)


class Parent(Strict):
    MISSING_KEYS: ClassVar[dict[str, str]] = {"name": "write name: and a name"}
    name: str
    child: Child | None = None
    children: list[Child] = []
    by_name: dict[str, Child] = {}
    tags: str | Annotated[list[str], Field(min_length=1)] = "x"
    mode: Literal["slow", "fast"] = "slow"
    share: float = Field(0.5, gt=0, lt=1)
    enabled: bool = True
    for_: str = Field("0s", alias="for")
    even: int = 2
    short: Annotated[str, Field(pattern="^a")] = "a"

    @field_validator("even")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"{value} is odd: write an even number")
        return value


def faults(text: str) -> list[str]:
    node, problems = read_yaml("f.yaml", text)
    assert node is not None
    return [str(problem) for problem in [*problems, *validate(node, Parent, "f.yaml")[1]]]


def test_a_valid_document_becomes_the_model_with_numbers_from_their_text() -> None:
    node = document("name: 017\nchild: {color: on, size: 7}\nenabled: false\nshare: 0.25\nfor: 5m\n")
    model, problems = validate(node, Parent, "f.yaml")
    assert problems == []
    assert model is not None
    assert (model.name, model.child, model.for_) == ("017", Child(color="on", size=7), "5m")
    assert (model.enabled, model.share) == (False, 0.25)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("child: {color: x}\n", 'f.yaml:1:1: "name" is missing: write name: and a name'),
        ("name: a\nchild:\n  size: 2\n", 'f.yaml:3:3: "color" is missing'),
        ("name: a\nenabeld: true\n", 'f.yaml:2:1: unknown key "enabeld" (did you mean "enabled"?)'),
        ("name: a\nchild: {color: x, sise: 2}\n", 'f.yaml:2:19: unknown key "sise" (did you mean "size"?)'),
        ("name: a\nchild: {color: x, colour: 2}\n", 'f.yaml:2:19: unknown key "colour": write color:'),
        (
            "name: a\nchildren:\n  - {color: x, q: 2}\n",
            'f.yaml:3:16: unknown key "q"; the keys here are color, size',
        ),
        (
            "name: a\nby_name: {x: {color: x, sz: 2}}\n",
            'f.yaml:2:25: unknown key "sz" (did you mean "size"?)',
        ),
        ("name: [a]\n", 'f.yaml:1:7: "name" must be text'),
        ("name:\n", 'f.yaml:1:6: "name" has no value'),
        ("name: a\nchild: x\n", 'f.yaml:2:8: "child" must be a mapping of keys to values'),
        ("name: a\nchildren: x\n", 'f.yaml:2:11: "children" must be a list, such as [a, b]'),
        ("name: a\nchildren: [x]\n", "f.yaml:2:12: this must be a mapping of keys to values"),
        ("name: a\nby_name: [x]\n", 'f.yaml:2:10: "by_name" must be a mapping of keys to values'),
        ("name: a\ntags: {x: y}\n", 'f.yaml:2:7: "tags" must be text or a list, such as [a, b]'),
        ("name: a\ntags: [x, [y]]\n", "f.yaml:2:11: this must be text"),
        ("name: a\nmode: fats\n", 'f.yaml:2:7: "fats" is not one of slow, fast (did you mean "fast"?)'),
        ("name: a\nmode: [x]\n", 'f.yaml:2:7: "mode" must be one of slow, fast'),
        ("name: a\nenabled: maybe\n", 'f.yaml:2:10: "enabled" must be true or false'),
        ("name: a\nshare: much\n", 'f.yaml:2:8: "share" must be a number'),
        ("name: a\nshare: 0\n", 'f.yaml:2:8: "share" must be more than 0.0'),
        ("name: a\nshare: 1\n", 'f.yaml:2:8: "share" must be less than 1.0'),
        ("name: a\nchild: {color: x, size: big}\n", 'f.yaml:2:25: "size" must be a whole number'),
        ("name: a\nchild: {color: x, size: 0}\n", 'f.yaml:2:25: "size" must be at least 1'),
        ("name: a\nchild: {color: x, size: 10}\n", 'f.yaml:2:25: "size" must be at most 9'),
        ("name: a\neven: 3\n", "f.yaml:2:7: 3 is odd: write an even number"),
        ("name: a\nshort: b\n", "f.yaml:2:8: \"short\" is not valid: string should match pattern '^a'"),
        ("just text\n", "f.yaml:1:1: the file must be a mapping of keys to values"),
    ],
)
def test_a_fault_against_the_model_is_said_in_plain_words_at_its_place(text: str, expected: str) -> None:
    assert faults(text) == [expected]


def test_an_empty_list_is_refused_where_one_item_is_needed() -> None:
    assert faults("name: a\ntags: []\n") == ['f.yaml:2:7: "tags" must not be empty']


def test_what_the_reader_refused_is_not_refused_again_by_the_model() -> None:
    assert faults("name: a\nchild: {{ x }}\n") == [
        'f.yaml:2:8: a value cannot start with "{{": quote the value'
    ]


def test_the_context_stands_between_the_place_and_the_cause() -> None:
    node = document("name: a\nchild: {color: x, size: big}\n")
    _, problems = validate(node, Parent, "f.yaml", lambda path: f"part {path[0]}")
    assert [str(problem) for problem in problems] == [
        'f.yaml:2:25: part child: "size" must be a whole number'
    ]


def test_the_fields_that_are_valid_alone_can_be_salvaged() -> None:
    data = {"name": "n", "child": {"color": ["x"]}, "for": "5m", "unknown": "x", "even": "4"}
    assert salvage(data, Parent) == {"name": "n", "for_": "5m", "even": 4}


def test_a_problem_without_a_line_names_the_file_only() -> None:
    assert str(Problem("f.yaml", 0, 0, "cause")) == "f.yaml: cause"
    assert str(Problem("f.yaml", 1, 2, "cause", "group a")) == "f.yaml:1:2: group a: cause"


def test_a_word_that_is_close_to_nothing_gets_no_suggestion() -> None:
    assert did_you_mean("zzz", ["alert", "window"]) == ""
    assert did_you_mean("widow", ["alert", "window"]) == ' (did you mean "window"?)'
