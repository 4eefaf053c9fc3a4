"""Runs the bare socket that is probed beside a loaded server."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.process import ROOT, ServerFailed, free_ports

_START_SECONDS = 10.0


@contextmanager
def bare_server() -> Iterator[str]:
    """Run it and give its URL; ServerFailed where it does not start."""
    port = free_ports()[0]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.apps.bare", str(port)], cwd=ROOT)
    try:
        ends = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > ends or process.poll() is not None:
                    raise ServerFailed("the bare socket does not start") from None
                time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait()
