"""Keeps secrets out of what is logged and answered: passwords in URLs, tokens, secret settings."""

import os
import re
from functools import cache

_HIDDEN = "***"
_IN_URL = re.compile(r"(?<=://)[^\s/?#]*@")
_IN_HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{4,}")
_IN_QUERY = re.compile(r"(?i)\b([\w-]*(?:token|password|secret|signature|api_?key)=)[^\s&'\"]+")
_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|SECRET|API_?KEY|PRIVATE_KEY|ACCESS_KEY$")
_SHORTEST = 6


def redact(text: str) -> str:
    """Return a text without the secrets in it.

    These are users and passwords in URLs, credentials in headers and queries, and the values of
    environment variables that are named like secrets.
    """
    for value in _values():
        text = text.replace(value, _HIDDEN)
    # Every log line comes through here, and nearly none has any of it.
    if "://" in text:
        text = _IN_URL.sub(f"{_HIDDEN}@", text)
    lower = text.lower()
    if "bearer" in lower or "basic" in lower:
        text = _IN_HEADER.sub(rf"\1 {_HIDDEN}", text)
    if "=" in text:
        text = _IN_QUERY.sub(rf"\1{_HIDDEN}", text)
    return text


@cache
def _values() -> list[str]:
    """Return the values of secret settings; files of tokens, and their paths, are none."""
    return [
        value.strip()
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name)
        and not name.endswith("_FILE")
        and len(value.strip()) >= _SHORTEST
    ]
