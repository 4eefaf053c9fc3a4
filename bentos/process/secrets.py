"""Keeps secrets out of what is logged and answered: passwords in URLs, tokens, secret settings."""

import os
import re

_HIDDEN = "***"
_IN_URL = re.compile(r"(?<=://)[^\s/?#]*@")
_IN_HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{4,}")
_IN_QUERY = re.compile(r"(?i)\b([\w-]*(?:token|password|secret|signature|api_?key)=)[^\s&'\"]+")
_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|SECRET|CREDENTIAL|(?:^|_)KEY$")
_SHORTEST = 6


def redact(text: str) -> str:
    """Return a text without the secrets in it.

    These are users and passwords in URLs, credentials in headers and queries, and the values of
    environment variables that are named like secrets.
    """
    for value in _values():
        text = text.replace(value, _HIDDEN)
    text = _IN_URL.sub(f"{_HIDDEN}@", text)
    text = _IN_HEADER.sub(rf"\1 {_HIDDEN}", text)
    return _IN_QUERY.sub(rf"\1{_HIDDEN}", text)


def _values() -> list[str]:
    """Return the values of secret settings; files of tokens, and their paths, are none."""
    return [
        value.strip()
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name)
        and not name.endswith("_FILE")
        and len(value.strip()) >= _SHORTEST
    ]
