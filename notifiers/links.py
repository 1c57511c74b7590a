"""Links built from templates and ids that others wrote: only http and https, every inserted value quoted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from rules.problem import did_you_mean

PLACEHOLDERS: Final = ("trace", "span", "request", "session", "id")
"""Fields of a call that a trace template can name."""

LONGEST_URL: Final = 3_000
"""Slack refuses a longer one in a button."""

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
# What may stand in a URL as it is; everything else is percent-encoded. `|` and `>` would end a link in mrkdwn.
_AS_IS: Final = ":/?#[]@!$&'()*+,;=%"
_LONGEST_VALUE: Final = 500


class LinkError(ValueError):
    """A template that cannot be used; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class TraceLink:
    """A checked template such as `https://traces.example.com/trace/{trace}`; built by `compile_trace_link`."""

    template: str
    placeholders: tuple[str, ...]

    def url(self, call: Mapping[str, object]) -> str | None:
        """The link of one call; None where the call lacks a field that the template names."""
        values = {}
        for name in self.placeholders:
            value = call.get(name)
            # "." and ".." would climb the path of the template.
            if (
                not isinstance(value, str | int)
                or not 0 < len(str(value)) <= _LONGEST_VALUE
                or value in (".", "..")
            ):
                return None
            values[name] = quote(str(value), safe="", errors="replace")
        return safe_url(_PLACEHOLDER.sub(lambda match: values[match[1]], self.template))


def compile_trace_link(template: str) -> TraceLink:
    """Check a template.

    Raises:
        LinkError: not http or https, no host, no placeholder, an unknown one, or one before the path.
    """
    template = template.strip()
    names = tuple(dict.fromkeys(_PLACEHOLDER.findall(template)))
    example = "https://traces.example.com/trace/{trace}"
    for name in names:
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            raise LinkError(
                f"traces: unknown placeholder {{{name}}}{did_you_mean(name, PLACEHOLDERS)}; known: {known}"
            )
    if "{" in _PLACEHOLDER.sub("", template) or "}" in _PLACEHOLDER.sub("", template):
        raise LinkError(f"traces: a brace without its partner in the template; write it like {example}")
    if not names:
        raise LinkError(f"traces: the template names no field of a call; write it like {example}")
    if safe_url(_PLACEHOLDER.sub("x", template)) is None:
        raise LinkError(f"traces: the template is not an http or https URL; write it like {example}")
    if "{" in re.split(r"[/?#]", template.split("://", 1)[1], maxsplit=1)[0]:
        raise LinkError(
            "traces: a placeholder in the host would let a call choose where the link leads; use the path"
        )
    return TraceLink(template, names)


def safe_url(url: str) -> str | None:
    """The URL with everything but URL characters percent-encoded, or None where it cannot be a link.

    A link is http or https, has a host, no white space or control characters, and at most 3,000 characters.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return None
    if not usable or any(character.isspace() or not character.isprintable() for character in url):
        return None
    quoted = quote(url, safe=_AS_IS, errors="replace")
    return quoted if len(quoted) <= LONGEST_URL else None
