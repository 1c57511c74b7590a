"""Settings: one YAML file, every key of which the environment can override."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from notifiers.links import LinkError, compile_trace_link
from notifiers.receivers import ReceiverConfig, RouteConfig, VariableName
from rules.labels import is_dimension
from rules.problem import InvalidFilesError, Problem, did_you_mean
from rules.quantities import QuantityError, parse_duration
from rules.source import read_yaml, validate
from streams.kafka_security import KafkaSecurityError, SecuritySettings, read_access, warnings_of

_log: Final = logging.getLogger(__name__)

PREFIX: Final = "TOCSIN_"
_NOT_SETTINGS: Final = ("TOCSIN_TEST_", "TOCSIN_UPDATE_")
"""Variables of the test suite."""
_LARGEST_FILE: Final = 1 << 20
_SHORTEST_SESSION_MS: Final = 1_000
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


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


def _addresses(brokers: list[str]) -> list[str]:
    for broker in brokers:
        if not _ADDRESS.fullmatch(broker):
            raise ValueError(f'"{broker}" is no broker: write HOST:PORT, such as localhost:9092')
    return brokers


def _listen(value: object) -> object:
    # A file that is read by another YAML reader may say "off" as false.
    if value is False or value == "off":
        return "off"
    if (
        not isinstance(value, str)
        or not _ADDRESS.fullmatch(value)
        or not 0 < int(value.rpartition(":")[2]) < 65_536
    ):
        raise ValueError("write HOST:PORT, such as 127.0.0.1:8780, or off")
    return value


def _different(topics: list[str]) -> list[str]:
    for topic in topics:
        if topics.count(topic) > 1:
            raise ValueError(f'topic "{topic}" is named twice')
    return topics


def _topic(name: str) -> str:
    if not _TOPIC.fullmatch(name) or name in {".", ".."}:
        raise ValueError(f'"{name[:300]}" is no name of a topic: up to 249 letters, digits, dots, _ and -')
    return name


def _instance(name: str) -> str:
    if not _TOPIC.fullmatch(name):
        raise ValueError("an instance is named by letters, digits, dots, _ and -, such as worker-1")
    return name


def _session(timeout_ms: int) -> int:
    if timeout_ms < _SHORTEST_SESSION_MS:
        raise ValueError("a session timeout must be at least 1s")
    return timeout_ms


def _trace_link(template: str) -> str:
    try:
        compile_trace_link(template)
    except LinkError as error:
        raise ValueError(str(error)) from error
    return template


Duration = Annotated[int, BeforeValidator(_milliseconds), Field(ge=0)]
Words = Annotated[list[str], NoDecode, BeforeValidator(_listed), Field(min_length=1)]
Topic = Annotated[str, AfterValidator(_topic)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaSettings(_Part):
    """The cluster."""

    brokers: Annotated[Words, AfterValidator(_addresses)] = Field(default=["localhost:9092"])
    replication: Annotated[int, Field(ge=1, le=7)] = 1
    """Replicas of the topics that Tocsin creates."""
    session_timeout: Annotated[Duration, AfterValidator(_session)] = 10_000
    """How long a worker may be silent before the others take its partitions."""
    instance: Annotated[str, Field(max_length=100), AfterValidator(_instance)] | None = None
    """Name of this worker among those of its group, for static membership; None: it leaves when it stops."""
    security: SecuritySettings = SecuritySettings()
    """TLS and SASL."""


class CallsSettings(_Part):
    """The calls topics."""

    topics: Annotated[
        list[Topic], NoDecode, BeforeValidator(_listed), Field(min_length=1), AfterValidator(_different)
    ] = Field(default=["llm.calls"])
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 6
    """Partitions of a calls topic that Tocsin creates."""
    lateness: Duration = 10_000
    skew: Duration = 300_000
    keep_rejected: bool = False
    """Whether the bytes of a rejected record (up to 500 kB) are kept with its reason."""


class TopicsSettings(_Part):
    """Names of Tocsin's own topics."""

    rules: Topic = "llm.rules"
    panes: Topic = "llm.panes"
    alerts: Topic = "llm.alerts"
    rejected: Topic = "llm.calls.rejected"
    notifications: Topic = "llm.notifications"
    snapshots: Topic = "llm.snapshots"


class WebSettings(_Part):
    """The health server."""

    listen: Annotated[str, BeforeValidator(_listen)] = "127.0.0.1:8780"
    """HOST:PORT, or "off"."""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port; None where it is off."""
        host, _, port = self.listen.rpartition(":")
        return (host.strip("[]"), int(port)) if host else None


class WatchdogSettings(_Part):
    """How long is too long: past it a part is started again, or the worker ends with the reason."""

    stall: Annotated[Duration, Field(ge=10_000)] = 60_000
    """No progress of a stage although there is something to read, or no sign of life of it."""
    evaluation: Annotated[Duration, Field(ge=10_000)] = 120_000
    """What was evaluated last is this old, beyond the lateness."""
    commit: Annotated[Duration, Field(ge=10_000)] = 60_000
    notification: Annotated[Duration, Field(ge=10_000)] = 300_000


class HeartbeatSettings(_Part):
    """The dead man's switch."""

    url_env: VariableName | None = None
    """The variable that holds the URL of an outside monitor; None: no heartbeat."""
    every: Annotated[Duration, Field(ge=1_000)] = 60_000


class Config(_Part):
    """What a file says."""

    kafka: KafkaSettings = KafkaSettings()
    calls: CallsSettings = CallsSettings()
    topics: TopicsSettings = TopicsSettings()
    group: Annotated[str, Field(min_length=1, max_length=200)] = "tocsin"
    """Prefix of the consumer groups: workers with the same one share the work."""
    flush: Duration = 500
    snapshot: Duration = 10_000
    """How often the state of a shard is snapshotted, at most."""
    rules: Words = Field(default=["library:*"])
    runbooks: str | None = None
    """A folder of pages, or a URL template with {name}; the shipped pages stand in for those that are missing."""
    traces: Annotated[str, AfterValidator(_trace_link)] | None = None
    prices: str | None = None
    overview: Annotated[list[str], NoDecode, BeforeValidator(_listed), AfterValidator(_dimensions)] = Field(
        default=["feature"]
    )
    """Dimensions of the overview; empty switches it off."""
    web: WebSettings = WebSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()
    receivers: Annotated[dict[str, ReceiverConfig], Field(max_length=100)] = Field(
        default_factory=lambda: {"here": ReceiverConfig(console={})}  # type: ignore[arg-type]
    )
    routes: Annotated[list[RouteConfig], Field(max_length=1_000)] = Field(
        default_factory=lambda: [RouteConfig(to=["here"])]
    )

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        """What a stage writes must not be what another one reads as something else."""
        names = [*self.calls.topics, *self.topics.model_dump().values()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f'topic "{name}" has two uses: give each its own under calls.topics and topics'
                )
        return self


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


def load_settings(path: Path | None) -> Settings:
    """Read the file (None: defaults only) and the environment.

    Raises:
        InvalidFilesError: every problem of the file and of the variables.
    """
    data, problems = ({}, []) if path is None else _read(path)
    known = {name.upper() for name in _variables(Config, PREFIX)}
    unknown = {name.upper() for name in os.environ if _is_unknown(name.upper(), known)}
    problems += [
        Problem("environment", 0, 0, f"{name} is no setting{_meant(name, known)}") for name in unknown
    ]
    if data is None:
        raise InvalidFilesError(problems)
    settings: Settings | None = None
    try:
        settings = Settings(**data, base=Path.cwd() if path is None else path.parent)
    except ValidationError as error:
        found = [
            (_variable(item["loc"]), item["msg"].removeprefix("Value error, ")) for item in error.errors()
        ]
        problems += [_in_environment(name, cause) for name, cause in found if name not in unknown]
    except SettingsError as error:
        named = re.search(r'field "([^"]*)"', str(error))
        problems.append(_in_environment(_variable((named[1],) if named else ()), "not valid JSON"))
    except RecursionError:
        problems.append(_in_environment(f"{PREFIX}...", "a value of JSON is nested too deeply"))
    if settings is not None:
        try:
            read_access(settings.kafka.security, settings.base, os.environ)
        except KafkaSecurityError as error:
            problems += [Problem("settings", 0, 0, cause) for cause in error.problems]
    if problems or settings is None:
        raise InvalidFilesError(problems)
    for warning in warnings_of(settings.kafka.security, settings.kafka.brokers):
        _log.warning("%s", warning)
    return settings


def _read(path: Path) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The data of the file, None where it is not valid, and its problems."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE + 1).decode()
    except OSError as error:
        return None, [Problem(str(path), 0, 0, f"cannot be read: {error.strerror}")]
    except UnicodeDecodeError:
        return None, [Problem(str(path), 0, 0, "the file is not UTF-8 text: save it as UTF-8")]
    node, problems = read_yaml(str(path), text)
    if node is not None:
        problems += validate(node, Config, str(path))[1]
    if problems:
        return None, problems
    return (node.data if node is not None and isinstance(node.data, dict) else {}), []


def _is_unknown(name: str, known: set[str]) -> bool:
    if not name.startswith(PREFIX) or name.startswith(_NOT_SETTINGS) or name in known:
        return False
    return not name.startswith((f"{PREFIX}RECEIVERS__", f"{PREFIX}ROUTES__"))


def _meant(name: str, known: set[str]) -> str:
    # Compared without the prefix, which would make any two names look alike.
    hint = did_you_mean(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in sorted(known)])
    return hint.replace('mean "', f'mean "{PREFIX}')


def _in_environment(variable: str, cause: str) -> Problem:
    return Problem("environment", 0, 0, f"{variable}: {cause}")


def _variables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Names of the variables that override keys, those of whole parts among them."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        yield variable
        kinds = [field.annotation, *get_args(field.annotation)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, _Part | SecuritySettings):
                yield from _variables(kind, f"{variable}__")


def _variable(location: tuple[int | str, ...]) -> str:
    return PREFIX + "__".join(str(part).upper() for part in location)
