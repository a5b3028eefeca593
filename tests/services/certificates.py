# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests: authorities of their own making, and what they sign, by openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = "IP:127.0.0.1,DNS:localhost"
_EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, in PEM."""

    pem: Path
    key: Path

    @property
    def both(self) -> Path:
        """Key and certificate in one file, as Kafka reads them."""
        path = self.pem.with_suffix(".both")
        path.write_text(self.key.read_text() + self.pem.read_text())
        return path


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates; *own* is what those who trust it are given."""

    folder: Path
    own: Certificate

    @classmethod
    def made(cls, folder: Path, name: str) -> "Authority":
        own = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
        _openssl(
            *("req", "-x509", *_EC_KEY, "-subj", f"/CN={name}", "-days", "2"),
            *("-addext", "keyUsage=critical,keyCertSign", "-keyout", own.key, "-out", own.pem),
        )
        return cls(folder, own)

    def signed(self, name: str, *, hosts: str = HERE, days: int = 2) -> Certificate:
        """A certificate of *name* that is good for *hosts*; of no days at all it has expired."""
        stem = f"{self.own.pem.stem}-{name}-{days}"
        made = Certificate(self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
        request = self.folder / f"{stem}.csr"
        _openssl(
            *(
                "req",
                "-new",
                *_EC_KEY,
                "-subj",
                f"/CN={name}",
                "-addext",
                f"subjectAltName={hosts}",
            ),
            *("-keyout", made.key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-days", str(days), "-copy_extensions", "copy"),
            *("-CA", self.own.pem, "-CAkey", self.own.key, "-out", made.pem),
        )
        return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
