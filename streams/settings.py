"""Settings: one YAML file, every key of which the environment can override."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from notifiers.links import LinkError, compile_trace_link
from notifiers.receivers import ReceiverConfig, RouteConfig
from rules.labels import is_dimension
from rules.problem import InvalidFilesError, Problem, did_you_mean
from rules.quantities import QuantityError, parse_duration
from rules.source import read_yaml, validate

PREFIX: Final = "TOCSIN_"
_NOT_SETTINGS: Final = ("TOCSIN_TEST_", "TOCSIN_UPDATE_")
"""Variables of the test suite."""
_LARGEST_FILE: Final = 1 << 20


def _milliseconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except QuantityError as error:
        raise ValueError(str(error)) from error


def _listed(value: object) -> object:
    """A list may be written `a, b` in an environment variable."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.strip("[] ").split(",") if part.strip()]


def _dimensions(names: list[str]) -> list[str]:
    for name in names:
        if not is_dimension(name):
            raise ValueError(f'"{name}" is no dimension of a call')
    return names


def _trace_link(template: str) -> str:
    try:
        compile_trace_link(template)
    except LinkError as error:
        raise ValueError(str(error)) from error
    return template


Duration = Annotated[int, BeforeValidator(_milliseconds), Field(ge=0)]
Words = Annotated[list[str], NoDecode, BeforeValidator(_listed), Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaSettings(_Part):
    """The cluster."""

    brokers: Words = Field(default=["localhost:9092"])
    replication: Annotated[int, Field(ge=1, le=7)] = 1
    """Replicas of the topics that Tocsin creates."""
    session_timeout: Duration = 10_000
    """How long a worker may be silent before the others take its partitions."""


class CallsSettings(_Part):
    """The calls topics."""

    topics: Words = Field(default=["llm.calls"])
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 6
    """Partitions of a calls topic that Tocsin creates."""
    lateness: Duration = 10_000
    skew: Duration = 300_000
    keep_rejected: bool = False
    """Whether the bytes of a rejected record are kept with its reason."""


class TopicsSettings(_Part):
    """Names of Tocsin's own topics."""

    rules: str = "llm.rules"
    panes: str = "llm.panes"
    alerts: str = "llm.alerts"
    rejected: str = "llm.calls.rejected"
    notifications: str = "llm.notifications"


class Config(_Part):
    """What a file says."""

    kafka: KafkaSettings = KafkaSettings()
    calls: CallsSettings = CallsSettings()
    topics: TopicsSettings = TopicsSettings()
    group: Annotated[str, Field(min_length=1, max_length=200)] = "tocsin"
    """Prefix of the consumer groups: workers with the same one share the work."""
    flush: Duration = 500
    rules: Words = Field(default=["library:*"])
    runbooks: str | None = None
    """A folder of pages, or a URL template with {name}; the shipped pages stand in for those that are missing."""
    traces: Annotated[str, AfterValidator(_trace_link)] | None = None
    prices: str | None = None
    overview: Annotated[list[str], NoDecode, BeforeValidator(_listed), AfterValidator(_dimensions)] = Field(
        default=["feature"]
    )
    """Dimensions of the overview; empty switches it off."""
    receivers: dict[str, ReceiverConfig] = Field(default_factory=lambda: {"here": ReceiverConfig(console={})})  # type: ignore[arg-type]
    routes: list[RouteConfig] = Field(default_factory=lambda: [RouteConfig(to=["here"])])


class Settings(BaseSettings, Config):
    """The configuration in force: the file, overridden by `TOCSIN_...` variables."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )
    base: Path = Field(default_factory=Path.cwd, exclude=True)
    """Folder that relative paths start from: that of the file."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file; nothing else is read."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    def path(self, name: str) -> Path:
        """A path of the configuration, relative to its file."""
        return self.base / name


def load_settings(path: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the file (None: defaults only) and the environment.

    Raises:
        InvalidFilesError: every problem of the file, or of the variables.
    """
    known = os.environ if environ is None else environ
    data: dict[str, Any] = {}
    if path is not None:
        data = _read(path)
    problems = _unknown_variables(known)
    if problems:
        raise InvalidFilesError(problems)
    base = Path.cwd() if path is None else path.parent
    try:
        return Settings(**data, base=base)
    except ValidationError as error:
        raise InvalidFilesError(
            Problem(_variable(item["loc"]), 0, 0, item["msg"].removeprefix("Value error, "))
            for item in error.errors()
        ) from error
    except SettingsError as error:
        raise InvalidFilesError([Problem("environment", 0, 0, f"{error}: write it as JSON")]) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()[: _LARGEST_FILE + 1].decode()
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InvalidFilesError([Problem(str(path), 0, 0, f"cannot be read: {cause}")]) from error
    node, problems = read_yaml(str(path), text)
    if node is not None:
        problems += validate(node, Config, str(path))[1]
    if problems:
        raise InvalidFilesError(problems)
    if node is None or not isinstance(node.data, dict):
        return {}
    return node.data


def _unknown_variables(environ: Mapping[str, str]) -> list[Problem]:
    known = set(_variables(Config, PREFIX))
    problems = []
    for name in environ:
        if not name.startswith(PREFIX) or name.startswith(_NOT_SETTINGS):
            continue
        inside = any(name.startswith(f"{each}__") for each in (f"{PREFIX}RECEIVERS", f"{PREFIX}ROUTES"))
        if name not in known and not inside:
            problems.append(Problem("environment", 0, 0, f"{name} is no setting{did_you_mean(name, known)}"))
    return problems


def _variables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Names of the variables that override keys, those of whole parts among them."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        yield variable
        kinds = [field.annotation, *get_args(field.annotation)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, _Part):
                yield from _variables(kind, f"{variable}__")


def _variable(location: tuple[int | str, ...]) -> str:
    return f"environment: {PREFIX}" + "__".join(str(part).upper() for part in location)
