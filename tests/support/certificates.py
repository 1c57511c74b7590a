"""Certificates for the tests, made with `openssl`: authorities, and what they sign, as PEM files."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_LEAF = """basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature,keyEncipherment
extendedKeyUsage=serverAuth,clientAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
subjectAltName={names}
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, and both in one file."""

    certificate: Path
    key: Path
    both: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates; `certificate` is what a client trusts."""

    folder: Path
    name: str

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.pem"

    @classmethod
    def make(cls, folder: Path, name: str) -> Authority:
        authority = cls(folder, name)
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", str(authority._key), "-out", str(authority.certificate),
        )  # fmt: skip
        return authority

    def sign(self, name: str, alternative_names: str) -> Certificate:
        """A certificate; names are written as openssl takes them: `DNS:localhost,IP:127.0.0.1`."""
        key, request = self.folder / f"{name}.key", self.folder / f"{name}.csr"
        extensions = self.folder / f"{name}.ext"
        certificate, both = self.folder / f"{name}.pem", self.folder / f"{name}-both.pem"
        extensions.write_text(_LEAF.format(names=alternative_names))
        _openssl(
            "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-days", "2", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key),
            "-CAcreateserial", "-extfile", str(extensions), "-out", str(certificate),
        )  # fmt: skip
        both.write_bytes(key.read_bytes() + certificate.read_bytes())
        return Certificate(certificate, key, both)

    @property
    def _key(self) -> Path:
        return self.folder / f"{self.name}.key"


def encrypted(key: Path) -> Path:
    """The key protected by a passphrase."""
    path = key.with_suffix(".locked")
    _openssl("rsa", "-aes256", "-passout", "pass:made-up", "-in", str(key), "-out", str(path))
    return path


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
