"""A small TCP proxy that cuts, slows, delays and breaks what goes through it."""

import asyncio
import random
from typing import Literal

from tests.support.event_loop import EventLoop

Mode = Literal["pass", "cut", "slow", "break", "swallow", "delay", "hang", "error"]

_CHUNK = 65_536
_SLOW_CHUNK = 2_048
_SLOW_SECONDS = 0.02
_ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
    b'Content-Length: 22\r\nConnection: close\r\n\r\n{"error": "it failed"}'
)


class Proxy:
    """Listens on a port of its own and forwards to another one, as `mode` says.

    `cut` closes every connection at once, `slow` forwards little at a time, `break` closes after
    a part of the answer, `swallow` lets requests through and no answer back. `delay` keeps each
    part of an answer for `delay_seconds`, `hang` takes connections and forwards nothing, and
    `error` answers 500 itself.
    """

    def __init__(self, target_port: int, *, seed: int = 1, delay_seconds: float = 0.0) -> None:
        self._target_port = target_port
        self._delay_seconds = delay_seconds
        self._chance = random.Random(seed)
        self._connections: set[asyncio.StreamWriter] = set()
        self._mode: Mode = "pass"
        self._loop = EventLoop()
        self.broken = 0
        self._server = self._loop.run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    def become(self, mode: Mode) -> None:
        """Treat what comes from now on like this; connections that are open are closed."""

        async def change() -> None:
            self._mode = mode
            for writer in self._connections:
                writer.transport.abort()

        self._loop.run(change())

    def close(self) -> None:
        """Listen no more."""
        self.become("cut")

        async def stop() -> None:
            self._server.close()

        self._loop.run(stop())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "cut":
            writer.transport.abort()
            return
        if self._mode in ("hang", "error"):
            await self._answer(reader, writer)
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._connections |= {writer, back}
        try:
            await asyncio.gather(
                self._forward(reader, back, answers=False),
                self._forward(there, writer, answers=True),
            )
        except OSError:
            pass
        finally:
            self._connections -= {writer, back}
            writer.transport.abort()
            back.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer 500, or nothing until the client leaves or the mode changes."""
        self._connections.add(writer)
        try:
            if self._mode == "error" and await reader.read(_CHUNK):
                writer.write(_ERROR)
                await writer.drain()
            while self._mode == "hang" and await reader.read(_CHUNK):
                pass
        except OSError:
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while data := await reader.read(_SLOW_CHUNK if self._mode == "slow" else _CHUNK):
            if self._mode == "slow":
                await asyncio.sleep(_SLOW_SECONDS)
            if answers and self._mode in ("break", "swallow"):
                kept = self._chance.randrange(len(data)) if self._mode == "break" else 0
                writer.write(data[:kept])
                await asyncio.sleep(0.01)
                self.broken += 1
                raise ConnectionResetError
            if answers and self._mode == "delay":
                await asyncio.sleep(self._delay_seconds)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError
