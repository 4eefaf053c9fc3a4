"""The least that can answer a probe: one thread, one answer a connection, nothing else to do.

Probed beside a loaded server it shows how much of a probe's time is the machine's: its answer
takes microseconds, so whatever its probes take, they took waiting for a core.

Run `python -m benchmarks.apps.bare PORT`.
"""

import socket
import sys
from contextlib import suppress

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_REQUEST_BYTES = 4_096
_WAITING = 128


def main() -> None:
    """Answer until the process is ended."""
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=_WAITING) as listener:
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # a probe that was given up
                connection.recv(_REQUEST_BYTES)
                connection.sendall(_ANSWER)


if __name__ == "__main__":
    main()
