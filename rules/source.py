"""Files that people write, checked against pydantic models: each fault in plain words, at its line and column."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rules.document import DEEPEST_NESTING, LARGEST_FILE, Data, Node, Path, Place, read_yaml
from rules.problem import Problem, did_you_mean

__all__ = [
    "DEEPEST_NESTING",
    "LARGEST_FILE",
    "Data",
    "Node",
    "Path",
    "Place",
    "empty_values",
    "read_yaml",
    "salvage",
    "validate",
]

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def validate(
    node: Node, model: type[AnyModel], file: str, context: Callable[[Path], str] = lambda _: ""
) -> tuple[AnyModel | None, list[Problem]]:
    """Run a pydantic model over a document.

    A model may carry `UNKNOWN_KEYS` and `MISSING_KEYS`, class variables that map a key to what to write instead.

    Args:
        context: names the part of the file that a path lies in, as it is put before the cause.

    Returns:
        The model, or None and every problem of the document, each where it is.
    """
    try:
        return model.model_validate(node.data), []
    except ValidationError as error:
        items = [(_data_path(node.data, item), item) for item in error.errors(include_url=False)]
    problems, expected = [], dict[Path, list[str]]()
    explained = {path for path, item in items if item["type"] not in _EXPECTED}
    explained |= {path[:length] for path, _ in items for length in range(len(path))}
    for path, item in items:
        if any(path[:length] in node.faulty for length in range(len(path) + 1)):
            continue
        if word := _EXPECTED.get(item["type"]):
            # A branch of a union that was not meant: what is wrong is said by the branch that was.
            if path not in explained:
                expected.setdefault(path, []).append(word)
            continue
        unknown = item["type"] == "extra_forbidden"
        place = node.key_position(path) if unknown else node.position(path)
        problems.append(Problem(file, *place, _cause(model, path, item), context(path)))
    for path, words in expected.items():
        cause = "has no value" if node.at(path) is None else f"must be {' or '.join(dict.fromkeys(words))}"
        problems.append(Problem(file, *node.position(path), _named(path) + cause, context(path)))
    return None, problems


def empty_values(node: Node, file: str, context: Callable[[Path], str] = lambda _: "") -> list[Problem]:
    """A problem for each `key:` without a value, for files in which null means nothing."""
    return [
        Problem(file, *node.position(path), _named(path) + "has no value", context(path))
        for path in node.empty_values()
    ]


def salvage(data: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The fields of `data` that are valid alone, by field name; the rest of a rule can be checked in spite of them."""
    draft = model.model_construct()
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        key = info.alias or name
        if key not in data:
            continue
        try:
            model.__pydantic_validator__.validate_assignment(draft, name, data[key])
        except ValidationError:
            continue
        fields[name] = getattr(draft, name)
    return fields


_EXPECTED: Final = {
    "string_type": "text",
    "list_type": "a list, such as [a, b]",
    "tuple_type": "a list, such as [a, b]",
    "set_type": "a list, such as [a, b]",
    "dict_type": "a mapping of keys to values",
    "mapping_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
"""What pydantic's type errors ask for, in plain words."""


def _data_path(data: Data, item: ErrorDetails) -> Path:
    """The part of an error's location that is in the document: branches of unions and the missing key are not."""
    path: list[str | int] = []
    here: Any = data
    for part in item["loc"]:
        inside = (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if inside:
            path.append(part)
            here = here[part]
    return tuple(path)


def _named(path: Path) -> str:
    """The subject of a cause."""
    return "the file " if not path else f'"{path[-1]}" ' if isinstance(path[-1], str) else "this "


def _cause(model: type[BaseModel], path: Path, item: ErrorDetails) -> str:
    limits = item.get("ctx", {})
    name = _named(path)
    match item["type"]:
        case "extra_forbidden":
            return _unknown_key(str(path[-1]), list(_models_at(model, path[:-1])))
        case "missing":
            key = str(item["loc"][-1])
            hint = _hint("MISSING_KEYS", key, _models_at(model, path))
            return f'"{key}" is missing' + (f": {hint}" if hint else "")
        case "literal_error" | "enum":
            allowed = re.findall(r"'([^']*)'", str(limits["expected"]))
            written = item["input"]
            if not isinstance(written, str):
                return f"{name}must be one of {', '.join(allowed)}"
            return f'"{written[:100]}" is not one of {", ".join(allowed)}{did_you_mean(written, allowed)}'
        case "value_error" | "assertion_error":
            return str(limits["error"])
        case "too_short" | "string_too_short":
            return name + "must not be empty"
        case "greater_than_equal":
            return name + f"must be at least {limits['ge']}"
        case "greater_than":
            return name + f"must be more than {limits['gt']}"
        case "less_than_equal":
            return name + f"must be at most {limits['le']}"
        case "less_than":
            return name + f"must be less than {limits['lt']}"
        case _:
            return name + "is not valid: " + item["msg"][:1].lower() + item["msg"][1:]


def _unknown_key(key: str, models: Sequence[type[BaseModel]]) -> str:
    if hint := _hint("UNKNOWN_KEYS", key, models):
        return f'unknown key "{key}": {hint}'
    known = list(
        dict.fromkeys(info.alias or name for model in models for name, info in model.model_fields.items())
    )
    return f'unknown key "{key}"' + (did_you_mean(key, known) or f"; the keys here are {', '.join(known)}")


def _hint(table: str, key: str, models: Iterable[type[BaseModel]]) -> str:
    tables: Iterator[Mapping[str, str]] = (getattr(model, table, {}) for model in models)
    return next((hints[key] for hints in tables if key in hints), "")


def _models_at(model: type[BaseModel], path: Path) -> Iterator[type[BaseModel]]:
    """The models that a mapping at `path` may be."""
    kinds: list[Any] = [model]
    for part in path:
        kinds = [inner for kind in kinds for inner in _step(kind, part)]
    return (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))


def _step(kind: Any, part: str | int) -> Iterator[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        inner = [info.annotation for name, info in kind.model_fields.items() if part == (info.alias or name)]
    else:
        inner = list(get_args(kind)[-1:])
    for each in inner:
        yield from _alternatives(each)


def _alternatives(kind: Any) -> Iterator[Any]:
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _alternatives(get_args(kind)[0])
    elif origin in (Union, types.UnionType):
        for each in get_args(kind):
            yield from _alternatives(each)
    else:
        yield kind
