"""The probe kit put together: a service of three files served by a real uvicorn process."""

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bentos.kit import Kit, ServiceState, required
from bentos.process.probe_process import ProbePlan
from bentos.process.settings import ServiceSettings
from local import fetch
from tests.support.lone_service import ENDED, SLOW, children, serve
from tests.support.servers import ROOT, Server, free_port, wait_until
from tests.support.sockets import Connection


def readme_example() -> str:
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    return str(example)


@pytest.mark.slow
class TestReadmeExample:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        directory = tmp_path_factory.mktemp("kit")
        with serve(readme_example(), directory, probe_port=free_port()) as server:
            yield server

    def test_it_takes_two_imports_and_at_most_twelve_lines(self) -> None:
        lines = [line for line in readme_example().splitlines() if line.strip()]
        assert len(lines) <= 12
        assert sum("import" in line for line in lines) == 2

    def test_both_ports_tell_why_it_is_not_ready_and_then_that_it_is(self, server: Server) -> None:
        def ready() -> list[dict[str, Any]]:
            return [one.json() for one in (server.get("/ready"), server.probe("/ready"))]

        server.wait_until(
            lambda: [one["reasons"] for one in ready()] == [["cache_cold"]] * 2, "cache_cold"
        )
        server.wait_until(
            lambda: [one["probe_process"] for one in ready()] == ["running"] * 2, "running"
        )
        assert server.get("/").text == "mine"
        server.wait_until(lambda: [one["status"] for one in ready()] == ["ready"] * 2, "ready")
        assert server.get("/ready").status_code == server.probe("/ready").status_code == 200

    def test_both_ports_tell_the_same_apart_from_the_moment(self, server: Server) -> None:
        server.wait_until(lambda: server.probe("/health").status_code == 200, "health")
        for path in ("/health", "/ready"):
            first, second = server.get(path), server.probe(path)
            assert first.status_code == second.status_code
            assert _timeless(first) == _timeless(second)
        first, second = server.get("/metrics"), server.probe("/metrics")
        assert first.headers["content-type"] == second.headers["content-type"]
        assert _names(first.text) == _names(second.text)
        assert 'http_requests_total{route="/health",service="my-service",status="200"}' in (
            second.text
        )

    def test_only_the_three_probes_are_on_the_probe_port(self, server: Server) -> None:
        server.wait_until(lambda: server.probe("/health").status_code == 200, "health")
        assert server.probe("/").status_code == 404
        assert fetch.post(f"{server.probe_url}/ready").status_code == 405

    def test_sigterm_ends_it_and_its_probe_process_and_leaves_no_file(self, tmp_path: Path) -> None:
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        env = {"TMPDIR": str(temporary)}
        with serve(readme_example(), tmp_path, probe_port=free_port(), env=env) as server:
            server.wait_until(lambda: server.get("/health").status_code == 200, "health")
            server.wait_until(lambda: children(server), "the probe process")
            (probe_process,) = children(server)
            assert list(temporary.iterdir()) != []
            assert server.stop() in ENDED
            wait_until(lambda: not probe_process.is_running(), "the probe process ends")
        assert list(temporary.iterdir()) == []

    def test_sigkill_ends_its_probe_process_too(self, tmp_path: Path) -> None:
        with serve(readme_example(), tmp_path, probe_port=free_port()) as server:
            server.wait_until(lambda: children(server), "the probe process")
            (probe_process,) = children(server)
            server.process.send_signal(signal.SIGKILL)
            wait_until(lambda: not probe_process.is_running(), "the probe process ends")


def _timeless(answer: httpx.Response) -> dict[str, Any]:
    content: dict[str, Any] = answer.json()
    for name in ("timestamp", "uptime_seconds"):
        content.pop(name, None)
    return content


def _names(text: str) -> list[str]:
    return [line.rpartition(" ")[0] for line in text.splitlines()]


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Server]:
    with serve(SLOW, tmp_path, env={"DRAIN_SECONDS": "2"}) as server:
        server.wait_until(lambda: server.get("/ready").status_code == 200, "ready")
        yield server


@pytest.mark.slow
@pytest.mark.case(48)
def test_answers_during_the_drain_close_their_connection_and_are_whole(slow: Server) -> None:
    """SIGTERM with a pooled connection open and a request in work: both get their answer."""
    with Connection(slow.port) as pooled, Connection(slow.port) as working:
        pooled.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "connection" not in pooled.read().headers
        working.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        slow.wait_until(lambda: slow.get("/ready").status_code == 200, "ready")
        slow.terminate()
        slow.wait_until(
            lambda: fetch.get(f"{slow.url}/ready").json().get("reason") == "shutting_down", "drain"
        )
        pooled.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = pooled.read()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert pooled.is_closed()
        assert working.read().status == 200
    assert slow.wait() in ENDED


@pytest.mark.slow
def test_a_lone_service_outlives_the_shell_that_started_it(tmp_path: Path) -> None:
    """It may also be the child of process 1, as under an init or systemd."""
    (tmp_path / "my_service.py").write_text(SLOW, encoding="utf-8")
    port = free_port()
    command = [*(sys.executable, "-m", "uvicorn", "--app-dir", str(tmp_path), "my_service:app")]
    shell = ["sh", "-c", '"$@" >"$LOG" 2>&1 & echo $!', "sh", *command, "--port", str(port)]
    environment = {**os.environ, "HOST": "127.0.0.1", "LOG": str(tmp_path / "log")}
    started = subprocess.run(
        shell, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    service = psutil.Process(int(started.stdout))
    try:
        ready = f"http://127.0.0.1:{port}/ready"
        wait_until(lambda: fetch.get(ready).status_code == 200, "ready")
        assert service.ppid() != os.getpid()
    finally:
        service.kill()


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(slow: Server) -> None:
    with Connection(slow.port) as working:
        working.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        slow.process.send_signal(signal.SIGINT)
        slow.process.send_signal(signal.SIGINT)
        slow.wait()


@pytest.mark.slow
@pytest.mark.case(11)
@pytest.mark.parametrize("hard", [None, 192], ids=["soft-limit", "hard-limit"])
def test_more_connections_than_descriptors_keep_no_probe_out(
    tmp_path: Path, hard: int | None
) -> None:
    """400 idle connections with `ulimit -n 128`, and where that cannot be raised: answered."""
    env = {"MAX_CONNECTIONS": "300"}
    with serve(SLOW, tmp_path, probe_port=free_port(), env=env) as server:
        _, allowed = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        limits = (128, allowed) if hard is None else (hard, hard)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
        server.wait_until(lambda: server.get("/ready").status_code == 200, "ready")
        server.wait_until(lambda: server.probe("/ready").status_code == 200, "on both ports")
        with ExitStack() as idle:
            for _ in range(400):
                idle.enter_context(Connection(server.port))
            for path in ("/health", "/ready", "/metrics"):
                assert fetch.get(f"{server.url}{path}").status_code == 200
                assert server.probe(path).status_code == 200


@pytest.mark.slow
def test_a_server_that_cannot_be_bounded_ends_with_the_remedy(tmp_path: Path) -> None:
    with serve(SLOW, tmp_path, "--http", "h11") as server:
        assert server.wait() != 0
        assert "install httptools" in server.log


@pytest.mark.slow
def test_a_unix_socket_is_served_and_checked_by_the_probe_process(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serve(SLOW, tmp_path, "--uds", str(path), probe_port=free_port()) as server:
        server.wait_until(lambda: server.probe("/ready").status_code == 200, "ready")
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://x/slow").text == "done"
        server.process.send_signal(signal.SIGSTOP)
        server.wait_until(
            lambda: server.probe("/ready").json().get("reason") == "port_not_answering", "unready"
        )
        server.process.send_signal(signal.SIGCONT)
        server.wait_until(lambda: server.probe("/ready").status_code == 200, "ready again")


class Lifespan:
    """An app that notes what became of it."""

    def __init__(self, *, fail: bool = False) -> None:
        self.seen: list[str] = []
        self._fail = fail

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Go through a lifespan as ASGI asks."""
        assert scope["type"] == "lifespan"
        self.seen.append((await receive())["type"])
        if self._fail:
            await send({"type": "lifespan.startup.failed", "message": "no"})
            return
        await send({"type": "lifespan.startup.complete"})
        self.seen.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})


class Heart:
    """A kit whose start and stop are noted."""

    def __init__(self, directory: Path, app: Any) -> None:
        plan = ProbePlan(
            ServiceState, {"directory": directory}, [], [], describe=lambda _: {}, port=0
        )
        self.kit = Kit(plan, ServiceSettings())
        self.app: Any = self.kit.asgi(app)

    def live(self) -> tuple[list[str], float]:
        """Go through a whole lifespan; return what was answered and the heartbeat's moment."""
        answered: list[str] = []
        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> Any:
            await asyncio.sleep(0.01)  # a beat
            return messages.pop(0)

        async def send(message: Any) -> None:
            answered.append(message["type"])

        self.kit.state.row.set("heartbeat", 0)
        asyncio.run(self.app({"type": "lifespan"}, receive, send))
        return answered, self.kit.state.row.get("heartbeat")


COMPLETE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_apps_own_lifespan_runs_within_the_kits(tmp_path: Path) -> None:
    app = Lifespan()
    answered, beat = Heart(tmp_path, app).live()
    assert answered == COMPLETE
    assert app.seen == ["lifespan.startup", "lifespan.shutdown"]
    assert beat > 0


def test_a_start_of_the_app_that_failed_is_handed_on(tmp_path: Path) -> None:
    answered, _ = Heart(tmp_path, Lifespan(fail=True)).live()
    assert answered == ["lifespan.startup.failed"]


async def raises(scope: Any, receive: Any, _send: Any) -> None:
    assert scope["type"] == "http"


async def raises_late(scope: Any, receive: Any, _send: Any) -> None:
    await receive()
    assert scope["type"] == "http"


async def returns(_scope: Any, _receive: Any, _send: Any) -> None:
    return


@pytest.mark.parametrize("app", [raises, raises_late, returns])
def test_an_app_without_a_lifespan_gets_the_kits(tmp_path: Path, app: Any) -> None:
    answered, beat = Heart(tmp_path, app).live()
    assert answered == COMPLETE
    assert beat > 0


def test_a_state_that_the_probe_process_cannot_import_is_refused_with_the_remedy() -> None:
    program = """
from bentos.kit import Kit, ServiceState
class MyState(ServiceState): pass
Kit.alone(MyState, "my-service")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PROBE_PORT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "MyState stands in the program that was started" in ended.stderr


def test_reasons_come_in_their_order_of_weight(tmp_path: Path) -> None:
    from bentos.kit import probe_plan

    plan = probe_plan(
        ServiceState,
        "svc",
        ServiceSettings(),
        tmp_path,
        readiness=[required("own", "serving")],
        describe=lambda _: {},
    )
    assert [check.reason for check in plan.readiness] == [
        *("shutting_down", "worker_missing", "event_loop_stalled", "port_not_answering"),
        *("own", "high_error_rate", "worker_not_serving"),
    ]
    assert [check.reason for check in plan.liveness] == [
        *("worker_dead", "event_loop_stalled", "port_not_answering"),
    ]
