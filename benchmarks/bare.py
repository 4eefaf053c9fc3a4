"""Runs the bare socket that is probed beside a loaded server."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from local.process import Server, free_port

_START_SECONDS = 10.0


@contextmanager
def bare_server() -> Iterator[str]:
    """Run it and give its URL; StepError where it does not start."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.apps.bare", str(port)]
    with Server(command, port=port, name="the bare socket") as server:
        server.wait_until_answers("/", seconds=_START_SECONDS)
        yield f"{server.url}/"
