"""TLS and SASL of the Kafka clients: their settings, the secrets that those name, and the clients' arguments."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from notifiers.receivers import VariableName

PLACE: Final = "kafka.security"
LARGEST_SECRET: Final = 4_096
"""Bytes of a user name, and of a password."""
LARGEST_PEM: Final = 1 << 20
"""Bytes of a file of certificates or of a key."""

# At DEBUG aiokafka writes whole requests, and that of SASL PLAIN holds the password.
logging.getLogger("aiokafka.conn").setLevel(logging.CRITICAL)


class NoBrokerError(Exception):
    """No broker answers a command; the message says where it was looked for."""


class KafkaSecurityError(Exception):
    """A cluster that cannot be reached as `kafka.security` stands; `problems` holds every finding, never a secret."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


_PathName = Annotated[str, Field(min_length=1, max_length=4_096)]


class SecuritySettings(BaseModel):
    """How the cluster is reached: in plain text or by TLS, and as whom."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    UNKNOWN_KEYS: ClassVar[Mapping[str, str]] = {
        "password": "a password does not belong into this file; write password_env or password_file",
    }

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ca_file: _PathName | None = None
    """PEM file with the certificates that sign the brokers'; None: those that the system trusts."""
    cert_file: _PathName | None = None
    """PEM file with this client's certificate, and its key where `key_file` is not given."""
    key_file: _PathName | None = None
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: Annotated[str, Field(min_length=1, max_length=LARGEST_SECRET)] | None = None
    username_env: VariableName | None = None
    password_env: VariableName | None = None
    password_file: _PathName | None = None

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.protocol.endswith("SSL")

    @property
    def sasl(self) -> bool:
        """Whether the client gives a name and a password."""
        return self.protocol.startswith("SASL")


@dataclass(frozen=True, slots=True)
class Access:
    """Secrets and certificates, read and checked. Its `repr` shows none of them."""

    protocol: str = "PLAINTEXT"
    mechanism: str | None = None
    username: SecretStr = field(default_factory=lambda: SecretStr(""))
    password: SecretStr = field(default_factory=lambda: SecretStr(""))
    context: ssl.SSLContext | None = field(default=None, repr=False)

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments for a consumer, a producer or an admin client of aiokafka."""
        given: dict[str, Any] = {"security_protocol": self.protocol}
        if self.context is not None:
            given["ssl_context"] = self.context
        if self.mechanism is not None:
            given["sasl_mechanism"] = self.mechanism
            given["sasl_plain_username"] = _Hidden(self.username.get_secret_value())
            given["sasl_plain_password"] = _Hidden(self.password.get_secret_value())
        return given


class _Hidden(str):
    """A text whose `repr` does not show it: aiokafka keeps what it is given, and tracebacks show arguments."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


def read_access(security: SecuritySettings, base: Path, environ: Mapping[str, str]) -> Access:
    """Read what the settings name; paths are relative to `base`.

    Raises:
        KafkaSecurityError: every problem, by the name of a key, a variable or a file.
    """
    reader = _Reader(security, base, environ)
    reader.check_keys()
    username, password = reader.username(), reader.password()
    context = reader.context() if security.tls else None
    if reader.problems:
        raise KafkaSecurityError(reader.problems)
    return Access(
        security.protocol,
        security.mechanism if security.sasl else None,
        SecretStr(username),
        SecretStr(password),
        context,
    )


def warnings_of(security: SecuritySettings, brokers: list[str]) -> list[str]:
    """What is allowed and should not be: a password in clear text to a host that is not this one."""
    if security.protocol != "SASL_PLAINTEXT" or security.mechanism != "PLAIN":
        return []
    others = [broker for broker in brokers if not _is_loopback(broker)]
    if not others:
        return []
    shown = ", ".join(others)
    cause = f"{PLACE}: SASL PLAIN without TLS sends the password in clear text to {shown}"
    return [f"{cause}: use protocol SASL_SSL, or a SCRAM mechanism"]


def _is_loopback(broker: str) -> bool:
    host = broker.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class _Reader:
    """Reads one configuration and collects what is wrong with it."""

    def __init__(self, security: SecuritySettings, base: Path, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._security = security
        self._base = base
        self._environ = environ

    def check_keys(self) -> None:
        """Keys that are missing, that exclude one another, or that the protocol has no use for."""
        given = self._security
        sasl = ("mechanism", "username", "username_env", "password_env", "password_file")
        tls = ("ca_file", "cert_file", "key_file")
        for used, keys, protocols in (
            (given.sasl, sasl, "SASL_PLAINTEXT or SASL_SSL"),
            (given.tls, tls, "SSL or SASL_SSL"),
        ):
            if not used:
                for key in keys:
                    if getattr(given, key) is not None:
                        self._report(key, f"has no use with protocol {given.protocol}: write {protocols}")
        if given.key_file is not None and given.cert_file is None:
            self._report("key_file", "there is no cert_file: write both, or neither")
        if given.sasl:
            if given.mechanism is None:
                self._report("mechanism", "is missing: write PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
            self._exactly_one("username", "username_env")
            self._exactly_one("password_env", "password_file")

    def username(self) -> str:
        """The name to give; empty where there is none."""
        given = self._security
        if not given.sasl or given.username is not None:
            return self._secret("username", given.username or "") if given.sasl else ""
        return self._variable("username_env", given.username_env)

    def password(self) -> str:
        """The password to give; empty where there is none."""
        given = self._security
        if not given.sasl:
            return ""
        if given.password_env is not None:
            return self._variable("password_env", given.password_env)
        if given.password_file is None:
            return ""
        content = self._content("password_file", given.password_file, LARGEST_SECRET)
        if content is None:
            return ""
        try:
            text = content.decode()
        except UnicodeDecodeError:
            self._report("password_file", f"{given.password_file} is not UTF-8 text")
            return ""
        # An editor ends a file with a line break, which is no part of the password.
        return self._secret("password_file", text.rstrip("\r\n"), given.password_file)

    def context(self) -> ssl.SSLContext | None:
        """TLS 1.2 or later, with the broker's certificate and name checked; None where a file cannot be used."""
        given = self._security
        known = len(self.problems)
        authorities = self._pem("ca_file", given.ca_file, "CERTIFICATE")
        chain = self._pem("cert_file", given.cert_file, "CERTIFICATE")
        key = self._pem("key_file", given.key_file, "PRIVATE KEY")
        if len(self.problems) > known:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate and the host's name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if authorities is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(cafile=authorities)
        except (ssl.SSLError, OSError):
            self._report(
                "ca_file", f"{given.ca_file} holds no certificates that can be read: write them as PEM"
            )
        if chain is not None:
            try:
                # Without a passphrase given here OpenSSL would ask for one on the terminal.
                context.load_cert_chain(chain, key, password=lambda: "")
            except (ssl.SSLError, OSError, ValueError):
                where = given.key_file or given.cert_file
                self._report(
                    "cert_file",
                    f"{given.cert_file} and the key in {where} cannot be used: both must be PEM, belong together, "
                    "and the key must have no passphrase",
                )
        return context

    def _exactly_one(self, one: str, other: str) -> None:
        given = [key for key in (one, other) if getattr(self._security, key) is not None]
        if not given:
            self._report(one, f"is missing: write {one} or {other}")
        if len(given) == 2:
            self._report(one, f"is there beside {other}: write one of them")

    def _variable(self, key: str, name: str | None) -> str:
        if name is None:
            return ""
        value = self._environ.get(name, "").strip("\r\n")
        if not value:
            self._report(key, f"the environment variable {name} is not set; set it before the start")
            return ""
        return self._secret(key, value, name)

    def _secret(self, key: str, value: str, holder: str = "") -> str:
        holder = f"what {holder} holds " if holder else ""
        if not value:
            self._report(key, f"{holder or ''}is empty")
        elif len(value.encode("utf-8", "replace")) > LARGEST_SECRET:
            self._report(key, f"{holder}is longer than {LARGEST_SECRET:,} bytes")
        elif any(not character.isprintable() for character in value):
            self._report(key, f"{holder}has a line break or another control character in it: remove it")
        else:
            return value
        return ""

    def _pem(self, key: str, name: str | None, label: str) -> Path | None:
        if name is None:
            return None
        content = self._content(key, name, LARGEST_PEM)
        if content is None:
            return None
        if f"{label}-----".encode() not in content:
            self._report(key, f'{name} is no PEM file with a "{label}": convert it to PEM')
            return None
        return self._base / name

    def _content(self, key: str, name: str, limit: int) -> bytes | None:
        path = self._base / name
        try:
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except (OSError, ValueError) as error:
            # Someone may have written the secret where its file's name belongs: only what looks like a path is shown.
            shown = f"{name} " if "/" in name else ""
            cause = error.strerror if isinstance(error, OSError) else "no file name"
            self._report(key, f"{shown}cannot be read: {cause}; write the path of a file")
            return None
        if len(content) > limit:
            self._report(key, f"{name} is larger than {limit:,} bytes: it cannot be what is meant")
            return None
        return content

    def _report(self, key: str, cause: str) -> None:
        self.problems.append(f"{PLACE}.{key}: {cause}")
