"""Single requests to servers of this machine, over connections of their own and no proxy."""

import ssl
from functools import cache
from typing import Any

import httpx


def get(url: str, **options: Any) -> httpx.Response:
    """Send a GET request; options and errors are those of `httpx.get`."""
    return request("GET", url, **options)


def post(url: str, **options: Any) -> httpx.Response:
    """Send a POST request; options and errors are those of `httpx.post`."""
    return request("POST", url, **options)


def request(method: str, url: str, **options: Any) -> httpx.Response:
    """Send a request; options and errors are those of `httpx.request`."""
    return httpx.request(method, url, **{"verify": _tls(), **options}, trust_env=False)


@cache
def _tls() -> ssl.SSLContext:
    """Return a context that trusts nobody: `verify` gives another one where a server has TLS.

    httpx makes one for every request by itself, in 15 ms of processor time, since it reads all the
    authorities that the machine trusts.
    """
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
