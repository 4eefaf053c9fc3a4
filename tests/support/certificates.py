"""A private certificate authority, and a certificate of it for this machine."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Files of the authority's certificate, and of the server's with its key."""

    authority: Path
    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """Return what a server speaks TLS with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_certificates(directory: Path) -> Certificates:
    """Make both with openssl, valid for localhost and 127.0.0.1."""
    authority, authority_key = directory / "authority.pem", directory / "authority.key"
    made = Certificates(authority, directory / "server.pem", directory / "server.key")
    new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    _run(
        *new,
        *("-keyout", authority_key, "-out", authority, "-subj", "/CN=private authority"),
        *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign"),
    )
    _run(
        *new,
        *("-CA", authority, "-CAkey", authority_key),
        *("-keyout", made.key, "-out", made.certificate, "-subj", "/CN=localhost"),
        *("-addext", "basicConstraints=critical,CA:FALSE"),
        *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
    )
    return made


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
