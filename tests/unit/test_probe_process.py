"""The probe process, as a real one: what it answers, imports and survives."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bentos.inference.settings import InferenceSettings
from bentos.inference.state import inference_probes
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import logging_probes
from bentos.process import probe_process as probe_process_module
from bentos.process.lifecycle import LISTENING
from bentos.process.probe_process import PortCheck, ProbePlan, ProbeProcess
from bentos.process.settings import ServiceSettings
from local import fetch
from tests.support.certificates import make_certificates
from tests.support.lone_service import SLOW, serve
from tests.support.metrics import total
from tests.support.servers import ROOT, Server, free_port, start_service, wait_until
from tests.support.small_state import SmallState, small_probes

pytestmark = pytest.mark.slow

SMALL = "tests.support.small_bento:SmallService"
# What a probe process has no use for; each takes seconds, memory or a thread.
LARGE = {"torch", "mlflow", "sqlite3", "sqlite_utils", "PIL", "bentoml", "numpy", "pandas"}


def plan_of(directory: Path, port: int) -> ProbePlan:
    return small_probes(ServiceSettings(host="127.0.0.1", probe_port=port), directory)


@pytest.fixture
def probe_process(tmp_path: Path) -> Iterator[tuple[ProbeProcess, str]]:
    port = free_port()
    process = ProbeProcess(plan_of(tmp_path, port))
    process.start()
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: fetch.get(f"{url}/health").status_code == 200, "it answers")
    yield process, url
    process.stop()


def test_it_judges_what_a_worker_wrote_into_the_pods_memory(
    probe_process: tuple[ProbeProcess, str], tmp_path: Path
) -> None:
    _, url = probe_process
    ready = fetch.get(f"{url}/ready")
    assert (ready.status_code, ready.json()["reason"]) == (503, "cold")
    worker = SmallState(tmp_path, service="small-service", worker=1)
    worker.serving.set(1)
    worker.warm.set(1)
    wait_until(lambda: fetch.get(f"{url}/ready").json()["status"] == "ready", "ready")
    worker.begin_shutdown()
    assert fetch.get(f"{url}/ready").json()["reason"] == "shutting_down"


def test_it_counts_and_times_its_own_answers(probe_process: tuple[ProbeProcess, str]) -> None:
    _, url = probe_process
    before = count(url, "probe_duration_seconds_count", probe="ready", status="503")
    for _ in range(3):
        fetch.get(f"{url}/ready")
    after = count(url, "probe_duration_seconds_count", probe="ready", status="503")
    assert after - before == 3


def count(url: str, name: str, **labels: str) -> float:
    return total(fetch.get(f"{url}/metrics").text, name, **labels)


def test_it_reads_no_body_and_answers_head(probe_process: tuple[ProbeProcess, str]) -> None:
    _, url = probe_process
    assert httpx.head(f"{url}/health").status_code == 200
    assert fetch.request("GET", f"{url}/health", content=b"x" * 1_000_000).status_code == 200
    assert fetch.get(f"{url}/health\n".replace("\n", "%0A")).status_code in (200, 404)
    assert fetch.get(f"{url}/anything").status_code == 404


@pytest.mark.case(60)
def test_a_head_without_end_is_refused_before_it_fills_memory(
    probe_process: tuple[ProbeProcess, str],
) -> None:
    """A head of 100 MB to the probe port: refused after 16 kB, and probes are answered."""
    _, url = probe_process
    port = int(url.rpartition(":")[2])
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ")
        with suppress(ConnectionError):
            while sent < 100_000_000:
                sent += connection.send(b"a" * 65_536)
    # The kernel's buffers take some of it; the process itself no more than its bound.
    assert sent < 50_000_000
    assert fetch.get(f"{url}/health").status_code == 200


def test_it_ends_when_its_parent_closes_the_pipe(probe_process: tuple[ProbeProcess, str]) -> None:
    process, url = probe_process
    assert process.ended() is None
    pid = process.pid
    assert pid is not None
    process.stop()
    assert not psutil.pid_exists(pid)
    with pytest.raises(httpx.ConnectError):
        fetch.get(f"{url}/health")


def test_one_that_does_not_end_is_killed(probe_process: tuple[ProbeProcess, str]) -> None:
    process, _ = probe_process
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    process.stop()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("content", [b"", b"\x05", (1_000).to_bytes(8, "little") + b"half"])
def test_it_ends_where_the_plan_never_came(content: bytes) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bentos.process.probe_process"],
        cwd=ROOT,
        input=content,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


Plans = Callable[[Path], ProbePlan]


def inference(directory: Path) -> ProbePlan:
    settings = InferenceSettings(host="127.0.0.1", probe_port=free_port())
    return inference_probes(settings, directory)


def logging(directory: Path) -> ProbePlan:
    return logging_probes(LoggingSettings(host="127.0.0.1", probe_port=free_port()), directory)


@pytest.mark.parametrize("make", [inference, logging])
def test_it_imports_nothing_large_for_either_service(
    make: Plans,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # The interpreter itself writes a line for each module that it imports.
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    plan = make(tmp_path)
    process = ProbeProcess(plan)
    process.start()
    try:
        for path in ("/health", "/ready", "/metrics"):
            url = f"http://127.0.0.1:{plan.port}{path}"
            wait_until(partial(httpx.get, url), path)
    finally:
        process.stop()
    lines = [line for line in capfd.readouterr().err.splitlines() if "import time:" in line]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert {"uvicorn", "starlette", "bentos"} <= imported
    assert imported & LARGE == set()


class TestPortCheck:
    """What the probe process finds when it asks the service's own port."""

    @pytest.mark.case(34)
    def test_a_service_with_tls_is_asked_with_tls(self, tmp_path: Path) -> None:
        """The service speaks TLS on its port: the probe process does too, and it stays ready."""
        made = make_certificates(tmp_path)
        options = ["--ssl-certfile", str(made.certificate), "--ssl-keyfile", str(made.key)]
        with serve(SLOW, tmp_path, *options, probe_port=free_port()) as server:
            server.wait_until(
                lambda: count(server.probe_url, "http_requests_total", route="/health") >= 2, "two"
            )
            assert server.probe("/ready").status_code == 200
            secure = f"https://127.0.0.1:{server.port}/ready"
            assert fetch.get(secure, verify=False).status_code == 200
            with pytest.raises(httpx.TransportError):
                fetch.get(f"{server.url}/ready")

    def test_a_single_failure_is_none_yet_and_the_moment_is_that_of_the_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probe_process_module, "CHECK_SECONDS", 0.2)
        worker = SmallState(tmp_path, worker=1)
        worker.write_text(LISTENING, {"address": ["127.0.0.1", free_port()], "tls": False})
        state = SmallState(tmp_path, worker=0)

        async def scenario() -> list[float]:
            task = asyncio.create_task(PortCheck(state).run())
            seen = [0.0]
            while not seen[-1]:
                await asyncio.sleep(0.01)
                seen.append(state.port_failing_since.get())
            task.cancel()
            return seen

        seen = asyncio.run(scenario())
        assert len(seen) > 10  # the first check failed meanwhile
        assert time.monotonic() - seen[-1] >= 0.2


def answer(url: str, path: str) -> tuple[int, Mapping[str, Any]]:
    found = fetch.get(f"{url}{path}")
    return found.status_code, found.json()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Server]:
    env = {"STALL_SECONDS": "12", "WORKER_GRACE_SECONDS": "1"}
    with start_service(SMALL, tmp_path, env=env) as server:
        server.wait_until_ready()
        yield server


def test_a_worker_that_is_stopped_is_unready_then_not_live_and_recovers(small: Server) -> None:
    probes = small.probe_url
    (worker,) = small.workers()
    wait_until(lambda: answer(probes, "/ready")[0] == 200, "ready")
    worker.suspend()
    try:
        wait_until(
            lambda: answer(probes, "/ready")[1].get("reason") == "port_not_answering",
            "unready",
            seconds=15,
        )
        assert answer(probes, "/ready")[0] == 503
        assert answer(probes, "/health")[0] == 200  # its grace has not passed
        wait_until(lambda: answer(probes, "/health")[0] == 500, "not live", seconds=30)
        assert answer(probes, "/ready")[1]["reasons"][:2] == [
            *("event_loop_stalled", "port_not_answering"),
        ]
        # A restart of the container would write this as its reason.
        wait_until(
            lambda: "the liveness probe fails" in small.log, "the supervisor says so", seconds=30
        )
    finally:
        worker.resume()
    wait_until(lambda: answer(probes, "/ready")[0] == 200, "ready again", seconds=30)
    assert answer(probes, "/health")[0] == 200
    assert small.get("/ready").json()["probe_process"] == "running"
