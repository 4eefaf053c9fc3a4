"""Bearer tokens that a service accepts: several at once, changed without a restart."""

import hmac
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from bentos.edge.http import Request, ServiceError
from bentos.process.logs import event, get_logger

# How often a request may cause a look at the file: a stat call, which takes microseconds.
_CHECK_SECONDS = 1.0

_logger = get_logger("tokens")


def clean_token(text: str) -> str:
    """Return a token without white space around it, empty where there is none.

    Raises ValueError, which does not show the token, for one with a control character: no header
    could carry it.
    """
    token = text.strip()
    if not token.isprintable():
        raise ValueError("a token must not hold a control character, such as a line end")
    return token


class Tokens:
    """Accepts `token` and those in `file`, one a line; where both are None, every request.

    The file is read again when it changes, so a token is rotated by adding the new one, changing
    the senders, and removing the old one. A file that cannot be read later, or has no token in it,
    is reported in the log, and what was read before stays valid.
    """

    def __init__(
        self,
        token: str | None,
        file: Path | None,
        *,
        realm: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the file. Raises ValueError or OSError, neither of which shows a token."""
        self._own = [clean_token(token).encode()] if token else []
        self._file = file
        self._realm = realm
        self._clock = clock
        self._version = _version(file) if file else ()
        self._of_file = read_tokens(file) if file else []
        self._checked_at = clock()
        self._failing = False

    def check(self, request: Request) -> None:
        """Raise ServiceError 401 for a request without one of the tokens: a route's guard."""
        self.require(request.header(b"authorization"))

    def require(self, authorization: bytes | None) -> None:
        """Raise ServiceError 401 unless the header is `Bearer ` and one of the tokens."""
        if not self._own and self._file is None:
            return
        self._read_again()
        scheme, _, given = (authorization or b"").partition(b" ")
        # All are compared, each in constant time: how long it takes tells nothing about them.
        accepted = [hmac.compare_digest(given, token) for token in (*self._own, *self._of_file)]
        if scheme.lower() != b"bearer" or not any(accepted):
            raise ServiceError(
                401,
                "unauthorized",
                "the Authorization header has to be 'Bearer ' and a token that is valid now",
                headers={"WWW-Authenticate": f'Bearer realm="{self._realm}"'},
            )

    def _read_again(self) -> None:
        now = self._clock()
        if self._file is None or now - self._checked_at < _CHECK_SECONDS:
            return
        self._checked_at = now
        try:
            version = _version(self._file)
            if version == self._version and not self._failing:
                return
            self._of_file = read_tokens(self._file)
        except (OSError, ValueError) as error:
            if not self._failing:
                fields = {"path": str(self._file), "error": str(error)}
                event(_logger, logging.ERROR, "the tokens cannot be read again", fields)
            self._failing = True
            return
        self._version, self._failing = version, False
        fields = {"path": str(self._file), "tokens": str(len(self._of_file))}
        event(_logger, logging.INFO, "the tokens were read again", fields)


def _readable(file: Path) -> Path:
    try:
        read_tokens(file)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    return file


# A setting that names a file of tokens: one that cannot be read is refused when the service starts.
TokensFile: TypeAlias = Annotated[Path, AfterValidator(_readable)]


def _version(file: Path) -> Sequence[int]:
    """Return what changes when a file gets other content or another takes its place."""
    status = os.stat(file)  # noqa: PTH116 - follows the links by which Kubernetes mounts a secret
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_tokens(file: Path) -> list[bytes]:
    """Return the tokens of a file; raises OSError, or ValueError where there is none."""
    # Neither splitlines() nor read_text(): they also split at characters that a token must not
    # hold, as a carriage return, and each piece would be a token.
    lines = file.read_bytes().decode("utf-8").split("\n")
    try:
        tokens = [token for line in lines if (token := clean_token(line))]
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not tokens:
        raise ValueError(f"{file}: expected a token on each line, got none")
    return [token.encode() for token in tokens]
