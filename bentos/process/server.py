"""The uvicorn server that a worker runs in, set to what BentoML has no option for."""

import asyncio
import os
import signal
import socket
from functools import partial
from typing import cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bentos.edge.pace import Pace
from bentos.edge.protocol import ProbeFirstProtocol

# libuv takes one new connection in a turn of the event loop: behind a hundred that came at once a
# probe would wait a hundred turns. Each descriptor of the listening socket takes one of its own.
_CONNECTIONS_A_TURN = 8
_CHUNKED_BODIES_A_TURN = 4
_START_POLL_SECONDS = 0.01


def running_server() -> uvicorn.Server | None:
    """Return the server that takes this process's SIGTERM; None where none does, as in a test."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if isinstance(server, uvicorn.Server) else None


def answer_probes_first(server: uvicorn.Server) -> None:
    """Let connections from now on speak our protocol; before the server listens, all do."""
    if server.config.http_protocol_class is HttpToolsProtocol:
        # It is only ever called, to make a connection's protocol.
        protocol = partial(ProbeFirstProtocol, pace=Pace(_CHUNKED_BODIES_A_TURN))
        server.config.http_protocol_class = cast("type[asyncio.Protocol]", protocol)


def bound_shutdown(server: uvicorn.Server, seconds: int) -> None:
    """Let the server wait so long at most for requests in flight when it ends."""
    if server.config.timeout_graceful_shutdown is None:
        # Without a bound one hanging client keeps the pod until it is killed.
        server.config.timeout_graceful_shutdown = seconds


async def accept_several(server: uvicorn.Server, *, connections: int = _CONNECTIONS_A_TURN) -> None:
    """Let the server take so many new connections in one turn of the event loop."""
    while not server.started:  # noqa: ASYNC110 - uvicorn tells it no other way
        await asyncio.sleep(_START_POLL_SECONDS)
    loop = asyncio.get_running_loop()
    config = server.config

    def protocol() -> asyncio.Protocol:
        return config.http_protocol_class(  # type: ignore[call-arg]
            config=config, server_state=server.server_state, app_state=server.lifespan.state
        )

    for listener in [one for first in server.servers for one in first.sockets]:
        for _ in range(connections - 1):
            again = socket.socket(fileno=os.dup(listener.fileno()))
            # The server closes it with its own at the end.
            server.servers.append(
                await loop.create_server(protocol, sock=again, backlog=config.backlog)
            )
