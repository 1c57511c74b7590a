"""Why a cluster cannot be reached: one connection tried by hand, and what its failure means for the settings.

aiokafka says of a failed start only that no broker answered, and writes the reason to its log.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiokafka.conn import create_conn
from aiokafka.errors import (
    BrokerResponseError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from rules.visible import visible
from streams.kafka_security import PLACE, Access, SecuritySettings, read_access

SECONDS: Final = 5.0
"""How long one broker is waited for."""
_BROKERS: Final = 3

# Codes of OpenSSL's verification: x509_vfy.h.
_EXPIRED: Final = (9, 10)
_OTHER_NAME: Final = (62, 64)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a broker that answers has against this client. `final`: trying again will not change it."""

    cause: str
    final: bool


async def refusal(brokers: list[str], security: SecuritySettings, base: Path) -> Refusal | None:
    """Why a broker that does answer refuses this client, and what to check; None where none answers."""
    access = read_access(security, base, os.environ)
    for broker in brokers[:_BROKERS]:
        error = await _attempt(broker, access)
        found = None if error is None else explain(error, security)
        if found is not None:
            return Refusal(f"{broker}: {found.cause}", found.final)
    return None


async def _attempt(broker: str, access: Access) -> Exception | None:
    """The error of a connection and of the first request on it."""
    host, _, port = broker.rpartition(":")
    try:
        connection = await create_conn(
            host.strip("[]"),
            int(port),
            client_id="tocsin-check",
            request_timeout_ms=int(SECONDS * 1_000),
            **access.arguments(),
        )
    except (KafkaError, OSError, TimeoutError, EOFError, ValueError, AssertionError) as error:
        return error
    try:
        async with asyncio.timeout(SECONDS):
            await connection.send(MetadataRequest([]))
    except (KafkaError, OSError, TimeoutError, EOFError) as error:
        return error
    finally:
        connection.close()
    return None


def explain(error: BaseException, security: SecuritySettings) -> Refusal | None:
    """The meaning of a failed connection; None where there is nothing wrong with how it was tried."""
    for each in _chain(error):
        if isinstance(each, ssl.SSLError):
            return Refusal(_of_tls(each, security), final=True)
        if isinstance(each, BrokerResponseError):
            cause = _of_sasl(each, security)
            return None if cause is None else Refusal(cause, final=True)
        if isinstance(each, ValueError | AssertionError):
            cause = f"its answer to SASL {security.mechanism} cannot be verified: check kafka.brokers"
            return Refusal(cause, final=True)
    if any(
        isinstance(each, KafkaConnectionError | EOFError | ConnectionResetError) for each in _chain(error)
    ):
        # So does one that is being stopped.
        cause = f"the broker closed the connection: if it goes on, check that {PLACE}.protocol ({security.protocol}) "
        return Refusal(f"{cause}is that of this port", final=False)
    return None


def _of_tls(error: ssl.SSLError, security: SecuritySettings) -> str:
    words = str(error).upper()
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OTHER_NAME:
            cause = "the broker's certificate is for another host name: "
            return f"{cause}write the name in the certificate under kafka.brokers"
        if error.verify_code in _EXPIRED:
            return "the broker's certificate has expired or does not hold yet: renew it, or check this machine's clock"
        signed = "ca_file" if security.ca_file is not None else "ca_file (now the system's certificates)"
        return (
            "the broker's certificate is not signed by an authority that is trusted here "
            f"({visible(error.verify_message, 200)}): "
            f"check {PLACE}.{signed}"
        )
    if "ALERT" in words or "CERTIFICATE_REQUIRED" in words:
        missing = security.cert_file is None
        what = (
            "wants a certificate of this client" if missing else "does not accept this client's certificate"
        )
        return f"the broker {what}: check {PLACE}.cert_file and {PLACE}.key_file"
    return (
        f"the port does not speak TLS as it must, version 1.2 or later: check the port, and {PLACE}.protocol"
    )


def _of_sasl(error: BrokerResponseError, security: SecuritySettings) -> str | None:
    if isinstance(error, SaslAuthenticationFailed):
        name = "username" if security.username is not None else f"username_env ({security.username_env})"
        kept = security.password_env or security.password_file
        key = "password_env" if security.password_env is not None else "password_file"
        return (
            f"the broker refused the user name or the password: check {PLACE}.{name}, {key} ({kept}) and "
            f"mechanism ({security.mechanism})"
        )
    if isinstance(error, UnsupportedSaslMechanismError | IllegalSaslStateError):
        return (
            f"the broker does not take SASL {security.mechanism} on this port: check {PLACE}.mechanism and "
            f"{PLACE}.protocol ({security.protocol})"
        )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__
