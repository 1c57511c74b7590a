"""Scripted incidents of the demo's traffic: what goes wrong, to whom, and when."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What an incident does to the calls of its target."""

    PROVIDER_OUTAGE = "provider outage"
    """60 % of the calls to the provider `target` fail, with 503 at once or with a timeout after 30 s."""
    LATENCY_SPIKE = "latency spike"
    """Calls of the model `target` take four times as long, all of it in the provider's queue."""
    SPEND_SPIKE = "spend spike"
    """The user `target` calls an expensive model with huge inputs, again and again."""
    PROMPT_GROWTH = "prompt growth"
    """The feature `target` has a new prompt version, with three times the input tokens."""
    TRUNCATION_WAVE = "truncation wave"
    """The feature `target` asks for too few output tokens: about 30 % of its answers are cut off."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident over [start_ms, end_ms), in milliseconds from the start of the script, on whole seconds.

    `cause` says in words what a person would find, and what it did.
    """

    kind: Kind
    target: str
    start_ms: int
    end_ms: int
    cause: str


@dataclass(frozen=True, slots=True)
class Script:
    """Incidents that do not overlap, in order; after `period_ms`, a whole number of seconds, they start again."""

    incidents: tuple[Incident, ...]
    period_ms: int

    def at(self, offset_ms: int) -> Incident | None:
        """The incident that plays at a time since the start of the script, or None."""
        here = offset_ms % self.period_ms
        return next((each for each in self.incidents if each.start_ms <= here < each.end_ms), None)

    def upcoming(self, offset_ms: int) -> tuple[Incident, int] | None:
        """The next incident to start after a time, and the milliseconds until then; None in a script without any."""
        here = offset_ms % self.period_ms
        waits = ((each, (each.start_ms - here) % self.period_ms or self.period_ms) for each in self.incidents)
        return min(waits, key=lambda pair: pair[1], default=None)


QUIET: Final = Script((), 60_000)
"""No incidents."""

_SECOND: Final = 1_000


def _incident(kind: Kind, target: str, start_s: int, cause: str) -> Incident:
    return Incident(kind, target, start_s * _SECOND, (start_s + 22) * _SECOND, cause)


# Each lasts 22 s: long enough for a window of 10 s to fill and `for` to pass. The 8 s in between and the next
# incident's first seconds are what its alert takes to resolve.
DEMO: Final = Script(
    (
        _incident(
            Kind.PROVIDER_OUTAGE, "anthropic", 9, "60 % of the calls to anthropic fail with 503 or time out"
        ),
        _incident(Kind.LATENCY_SPIKE, "gpt-4.1", 39, "gpt-4.1 is four times slower: calls wait in its queue"),
        _incident(
            Kind.SPEND_SPIKE, "user-2718", 69, "user-2718 sends 30,000 tokens to claude-opus-4-1 in a loop"
        ),
        _incident(
            Kind.PROMPT_GROWTH,
            "code-completion",
            99,
            "prompt version v42 of code-completion sends whole files: three times the input tokens",
        ),
        _incident(
            Kind.TRUNCATION_WAVE,
            "search-answers",
            129,
            "max_tokens of search-answers went from 1,024 to 256: 30 % of its answers are cut off",
        ),
    ),
    165 * _SECOND,
)
"""Every kind of incident once in 165 s."""
