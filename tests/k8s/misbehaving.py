"""A small real HTTP server that answers each path well or badly, as a test asks."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


@dataclass
class Behaviour:
    """How a path is answered: the bytes, after how long; a `hang` sends nothing at all."""

    answer: bytes = OK
    seconds: float = 0.0
    hang: bool = False


def status(code: int, body: str = "") -> Behaviour:
    """Return the behaviour of a path that answers with this status."""
    return Behaviour(
        f"HTTP/1.1 {code} Status\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )


@dataclass
class Server:
    """The server; change `behaviours` at any time. `connections` counts those it accepted."""

    behaviours: dict[str, Behaviour]
    host: str = "127.0.0.1"
    port: int = 0
    connections: int = 0
    requests: list[str] = field(default_factory=list)
    _listener: socket.socket | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        """Open the port, the same one as before if there was one."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.create_server((self.host, self.port), family=family)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Close the port: connections are refused from now on."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, IndexError):
            request = b""
            while b"\r\n\r\n" not in request:
                if not (chunk := connection.recv(4096)):
                    return
                request += chunk
            self.requests.append(request.decode())
            behaviour = self.behaviours[request.split(b" ")[1].decode()]
            if behaviour.hang:
                while connection.recv(4096):
                    pass
                return
            time.sleep(behaviour.seconds)
            connection.sendall(behaviour.answer)


@contextlib.contextmanager
def serve(behaviours: Mapping[str, Behaviour], *, host: str = "127.0.0.1") -> Iterator[Server]:
    """Run a server for the block."""
    server = Server(dict(behaviours), host)
    server.listen()
    try:
        yield server
    finally:
        server.close()
