"""HTTP sessions whose answers are read up to a size: what answers may be a proxy, or something worse."""

from __future__ import annotations

from typing import Final

import aiohttp

LARGEST_ANSWER: Final = 1 << 20
"""Bytes of an answer, decompressed. Slack's have some hundred."""


class _BoundedResponse(aiohttp.ClientResponse):
    async def read(self) -> bytes:
        """The body.

        Raises:
            aiohttp.ClientPayloadError: it is larger than 1 MiB; the rest is not read.
        """
        if self._body is None:
            body = bytearray()
            async for part in self.content.iter_any():
                body += part
                if len(body) > LARGEST_ANSWER:
                    self.close()
                    raise aiohttp.ClientPayloadError(f"the answer is larger than {LARGEST_ANSWER:,} bytes")
            self._body = bytes(body)
        return self._body


def bounded_session(timeout_s: float) -> aiohttp.ClientSession:
    """A session for one message. It follows no cookie, and each of its answers is at most 1 MiB."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        response_class=_BoundedResponse,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
