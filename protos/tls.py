"""The files that TLS between processes is made of: what they must be, and what is in them; knows nothing of gRPC."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Pem(NamedTuple):
    """What the files hold, as PEM."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None


@dataclass(frozen=True)
class Tls:
    """How one side of a connection proves who it is, and how it knows the other one; all files are PEM.

    Attributes:
        ca: Certificates that sign those of the other side. A caller without it takes the authorities that gRPC brings;
            a worker without it asks callers for no certificate.
        cert: Our own certificate, then those between it and the authority.
        key: The private key of `cert`, without a password.
        name: What the other side's certificate must name, where that is not what it is reached by, such as an address.
    """

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None
    name: str = ""

    def read(self) -> Pem:
        """Read the files.

        Raises:
            ValueError: One cannot be read, or is not what it should be; says which.
        """
        if self.ca:
            check_certificates(self.ca)
        check_pair(self.cert, self.key)
        return Pem(*(Path(file).read_bytes() if file else None for file in (self.ca, self.cert, self.key)))

    def stamp(self) -> object:
        """What is different once a file has been replaced."""
        there = [Path(file) for file in (self.ca, self.cert, self.key) if file]
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in (file.stat() for file in there)]


def check_certificates(file: Path | str) -> None:
    """See that a file holds certificates.

    Raises:
        ValueError: It does not.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError as error:  # One of the operating system's errors, too: so it comes first.
        raise ValueError(f"{file} holds no certificate in PEM, or a broken one") from error
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}; give a file of certificates in PEM") from error


def check_pair(cert: Path | str | None, key: Path | str | None) -> None:
    """See that a certificate and a private key belong together; both may be missing.

    Raises:
        ValueError: They do not, or one of them is missing.
    """
    if not cert and not key:
        return
    if not cert or not key:
        missing, there = ("key", f"the certificate {cert}") if cert else ("certificate", f"the key {key}")
        raise ValueError(f"{there} is there without its {missing}; give both, or neither")
    check_certificates(cert)
    try:
        # The library would ask the terminal for a password.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, _no_password)
    except ssl.SSLError as error:
        why = "is not that of" if error.reason == "KEY_VALUES_MISMATCH" else "is no private key in PEM, for"
        raise ValueError(f"{key} {why} the certificate {cert}") from error
    except OSError as error:
        raise ValueError(f"cannot read {key}: {error.strerror}; give the private key in PEM") from error


def _no_password() -> str:
    raise ValueError("the private key has a password; give one without")
