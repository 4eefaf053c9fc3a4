"""A service on the kit without BentoML, served by a real uvicorn process."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.support.servers import Server, free_port

# Uvicorn ends with the signal that it was sent, after it has shut down.
ENDED = (0, -signal.SIGTERM)

# A service that is ready at once and answers slowly where it is asked to.
SLOW = """
import asyncio
from bentos.kit import Kit, ServiceState

kit = Kit.alone(ServiceState, "slow-service")

async def answer(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("this app has no lifespan")
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})

app = kit.asgi(answer)
"""


def serve(
    program: str,
    directory: Path,
    *options: str,
    probe_port: int = 0,
    env: Mapping[str, str] | None = None,
) -> Server:
    """Serve the app of a program with uvicorn."""
    (directory / "my_service.py").write_text(program, encoding="utf-8")
    port = free_port()
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ},
        "HOST": "127.0.0.1",
        "PROBE_PORT": str(probe_port),
        "DRAIN_SECONDS": "0.2",
        "LOG_LEVEL": "INFO",
        **(env or {}),
    }
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(directory), "my_service:app"]
    return Server(
        [*command, "--port", str(port), *options],
        port=port,
        environment=environment,
        log_path=directory / "log",
        probe_port=probe_port,
    )


def children(server: Server) -> list[psutil.Process]:
    """Return the processes that the service started."""
    return psutil.Process(server.process.pid).children(recursive=True)
