"""Receivers and routes in the configuration: their schema, the secrets they name, and building them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Self, TextIO

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from notifiers.console import Console
from notifiers.delivery import Receiver
from notifiers.links import safe_url
from notifiers.routing import Route
from notifiers.slack import API_URL, SlackBot, SlackWebhook
from rules.labels import Matcher
from rules.problem import did_you_mean
from rules.quantities import SECOND, QuantityError, parse_duration

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WIDEST: Final = 100
_LONGEST_TIMEOUT_MS: Final = 60 * SECOND


class ReceiverError(ValueError):
    """Receivers or routes that cannot be built; `problems` holds every finding, never a secret."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError(
            "write the name of an environment variable, such as SLACK_BOT_TOKEN, not the secret itself"
        )
    return name


def _web_address(url: str) -> str:
    if safe_url(url) is None:
        raise ValueError("write an http or https URL")
    return url


def _timeout(text: str) -> str:
    try:
        milliseconds = parse_duration(text)
    except QuantityError as error:
        raise ValueError(str(error)) from error
    if not 0 < milliseconds <= _LONGEST_TIMEOUT_MS:
        raise ValueError("write a duration of up to 60s")
    return text


VariableName = Annotated[str, AfterValidator(_variable)]


class _Config(BaseModel):
    # What a user wrote in place of a variable's name may be the secret: errors do not repeat input.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SlackConfig(_Config):
    """Slack, by bot token (`channel`, `token_env`) or by incoming webhook (`webhook_env`)."""

    channel: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    token_env: VariableName | None = None
    webhook_env: VariableName | None = None
    api_url: Annotated[str, AfterValidator(_web_address)] = API_URL
    """Where the Web API is; another one is for tests."""
    timeout: Annotated[str, AfterValidator(_timeout)] = "10s"
    """How long an answer may take."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        bot = self.channel is not None, self.token_env is not None
        if (self.webhook_env is not None) == any(bot) or any(bot) != all(bot):
            raise ValueError("write either channel and token_env, or webhook_env")
        return self


class ConsoleConfig(_Config):
    """The terminal that the worker runs in."""


class ReceiverConfig(_Config):
    """One receiver: exactly one kind."""

    slack: SlackConfig | None = None
    console: ConsoleConfig | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.slack is None) == (self.console is None):
            raise ValueError("write exactly one of slack and console")
        return self


class RouteConfig(_Config):
    """One route: alerts whose labels are as in `where` go to the receivers in `to`. Without `where`: every alert."""

    where: dict[str, str | list[str]] = Field(default_factory=dict)
    to: Annotated[list[str], Field(min_length=1)]


def build_routes(routes: Sequence[RouteConfig], receivers: Mapping[str, object]) -> tuple[Route, ...]:
    """The routes, in order.

    Raises:
        ReceiverError: a route names a receiver that is not configured.
    """
    problems = [
        f'routes[{index}].to: no receiver is called "{name}"{did_you_mean(name, receivers)}'
        for index, route in enumerate(routes)
        for name in route.to
        if name not in receivers
    ]
    if problems:
        raise ReceiverError(problems)
    return tuple(
        Route(
            where=tuple(
                Matcher(label, (values,) if isinstance(values, str) else tuple(values))
                for label, values in route.where.items()
            ),
            to=tuple(route.to),
        )
        for route in routes
    )


def build_receivers(
    config: Mapping[str, ReceiverConfig], environ: Mapping[str, str], stream: TextIO
) -> dict[str, Receiver]:
    """Every configured receiver by name, with its secrets read from `environ`; the console writes to `stream`.

    Raises:
        ReceiverError: variables that are not set or hold no URL, all of them.
    """
    problems: list[str] = []
    receivers: dict[str, Receiver] = {}
    for name, one in config.items():
        if one.slack is not None:
            receiver = _slack(name, one.slack, environ, problems)
            if receiver is not None:
                receivers[name] = receiver
        else:
            receivers[name] = _console(name, environ, stream)
    if problems:
        raise ReceiverError(problems)
    return receivers


def _slack(
    name: str, config: SlackConfig, environ: Mapping[str, str], problems: list[str]
) -> Receiver | None:
    variable = config.webhook_env or config.token_env or ""
    secret = SecretStr(environ.get(variable, "").strip())
    place = f"receivers.{name}.slack.{'webhook_env' if config.webhook_env else 'token_env'}"
    timeout_s = parse_duration(config.timeout) / SECOND
    if not secret.get_secret_value():
        problems.append(f"{place}: the environment variable {variable} is not set; set it before the start")
        return None
    if config.channel is not None:
        return SlackBot(
            name,
            channel=config.channel,
            token=secret.get_secret_value(),
            api_url=config.api_url,
            timeout_s=timeout_s,
        )
    if safe_url(secret.get_secret_value()) is None:
        problems.append(
            f"{place}: what the environment variable {variable} holds is not an http or https URL"
        )
        return None
    return SlackWebhook(name, url=secret.get_secret_value(), timeout_s=timeout_s)


def _console(name: str, environ: Mapping[str, str], stream: TextIO) -> Console:
    colour = bool(stream.isatty() or environ.get("FORCE_COLOR")) and not environ.get("NO_COLOR")
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    return Console(name, stream, width=width, colour=colour)
