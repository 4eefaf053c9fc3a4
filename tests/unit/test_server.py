"""A real uvicorn server, set as a worker's is."""

import asyncio
import socket
from typing import Any

import httpx
import uvicorn

from bentos.process.server import accept_several, bound_shutdown, running_server


async def app(scope: Any, _receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})


def server_on(listener: socket.socket) -> uvicorn.Server:
    listener.bind(("127.0.0.1", 0))
    return uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))


def test_all_descriptors_of_the_port_take_connections_and_close_with_it() -> None:
    async def scenario() -> set[str]:
        listener = socket.socket()
        server = server_on(listener)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(server.serve([listener]))
        await accept_several(server, connections=4)
        assert len(server.servers) == 4
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answers = await asyncio.gather(*(client.get("/") for _ in range(50)))
        server.should_exit = True
        await serving
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                await client.get(url)
            except httpx.ConnectError:
                return {answer.text for answer in answers}
        raise AssertionError("the port still answers")

    assert asyncio.run(scenario()) == {"here"}


def test_the_running_server_is_found_by_its_signals_and_its_end_is_bounded_once() -> None:
    async def scenario() -> None:
        listener = socket.socket()
        server = server_on(listener)
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn tells it no other way
            await asyncio.sleep(0.01)
        assert running_server() is server
        bound_shutdown(server, 7)
        bound_shutdown(server, 8)
        assert server.config.timeout_graceful_shutdown == 7
        server.should_exit = True
        await serving

    asyncio.run(scenario())
    assert running_server() is None
