"""What is asked of the other service for a page: bounded in time and size, and read with care."""

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

AnswerT = TypeVar("AnswerT")


class Neighbour:
    """Asks the service at `url`, each time for `seconds` and for `most_bytes` of an answer."""

    def __init__(self, url: str, *, seconds: float, most_bytes: int) -> None:
        # Without the password that an address may have.
        self.place = urlsplit(url).netloc.rpartition("@")[2]
        self._url = url.rstrip("/")
        self._most_bytes = most_bytes
        # Without the proxies of the environment: it is near. With a new connection each time,
        # since one that was kept may just be closed at the other end.
        self._client = httpx.AsyncClient(
            trust_env=False, timeout=seconds, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def ask(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Return the status and the body, which is empty where it is too large.

        Raises OSError or httpx.HTTPError where there is no answer.
        """
        asking = self._client.stream(method, self._url + path, content=content, headers=headers)
        async with asking as response:
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > self._most_bytes:
                    return response.status_code, b""
            return response.status_code, body

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


def decode_answer(content: bytes, kind: type[AnswerT]) -> AnswerT:
    """Return a body of JSON as a type; raises ValueError for any other content."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"another answer than was expected: {error}") from error
