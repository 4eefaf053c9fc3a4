"""Raw HTTP over real sockets: a uvicorn server in a thread, and a client that sends any bytes."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import uvicorn
import uvloop

from bentos.edge.protocol import use_bounded_protocol

SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """One response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A client's connection; whatever it waits for takes at most SECONDS."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(SECONDS)
        self.socket.connect(("127.0.0.1", port))
        self._reader = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self.socket.close()

    def send(self, *parts: bytes, pause: float = 0.0) -> int:
        """Send each part by itself; return how many bytes left before the server closed."""
        sent = 0
        for part in parts:
            rest = memoryview(part)
            while rest:
                try:
                    size = self.socket.send(rest)
                except (ConnectionError, TimeoutError):
                    return sent
                sent, rest = sent + size, rest[size:]
            if pause:
                time.sleep(pause)
        return sent

    def read(self) -> Answer:
        """Return the next response; ConnectionError where the server closed before it."""
        status = self._reader.readline()
        if not status.endswith(b"\n"):
            raise ConnectionResetError(f"closed after {status!r}")
        headers: dict[str, str] = {}
        while (line := self._reader.readline().decode("latin-1").strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        code = int(status.split()[1])
        if code == 100:
            return Answer(code, headers, b"")
        body = self._reader.read(int(headers.get("content-length", "0")))
        return Answer(code, headers, body)

    def read_head(self) -> Answer:
        """Return the next response, one to HEAD: it has no body, whatever its length says."""
        reader, self._reader = self._reader, _WithoutBody(self._reader)  # type: ignore[assignment]
        try:
            return self.read()
        finally:
            self._reader = reader

    def is_closed(self) -> bool:
        """Wait until the server sends or closes; return whether it closed."""
        try:
            return self._reader.read(1) == b""
        except ConnectionError:
            return True


class _WithoutBody:
    def __init__(self, reader: Any) -> None:
        self.readline = reader.readline

    def read(self, _: int) -> bytes:
        return b""


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


@contextmanager
def served(
    app: Any, *, loop: str = "uvloop", max_connections: int = 4_096, keep_alive: int = 75
) -> Iterator[int]:
    """Serve an app with the bounded protocol on a free port, which is returned."""
    config = uvicorn.Config(
        app, log_config=None, lifespan="off", timeout_keep_alive=keep_alive, access_log=False
    )
    config.load()
    server = uvicorn.Server(config)
    use_bounded_protocol(server, max_connections=max_connections)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))

    def run() -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        deadline = time.monotonic() + SECONDS
        while not server.started:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.005)
        yield listener.getsockname()[1]
    finally:
        server.force_exit = server.should_exit = True
        thread.join(SECONDS)
        listener.close()
