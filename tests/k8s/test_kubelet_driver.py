"""The driver against small servers that misbehave, over real connections."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from loadtests.kubelet.container import Container
from loadtests.kubelet.driver import Address, Driver, ask
from loadtests.kubelet.spec import ContainerProbes, HttpProbe
from loadtests.kubelet.verdict import Report
from tests.k8s.misbehaving import OK, Behaviour, Server, serve, status
from tests.support.servers import ROOT, free_port

# Small servers, and time that has to pass.
pytestmark = pytest.mark.slow

WELL = {"/health": Behaviour(), "/ready": Behaviour()}
PROBES = ContainerProbes(
    "it",
    startup=HttpProbe("startup", "/health", 8000, period_seconds=0.1, failure_threshold=50),
    readiness=HttpProbe("readiness", "/ready", 8000, period_seconds=0.1, timeout_seconds=0.5),
    liveness=HttpProbe("liveness", "/health", 8000, period_seconds=0.2, timeout_seconds=0.5),
)
PATIENCE = 20.0

Scenario = Callable[[Driver], Awaitable[object]]


def drive(server: Server, scenario: Scenario, probes: ContainerProbes = PROBES) -> Report:
    """Play the kubelet while a scenario goes on; return the report at its end."""

    async def play() -> Report:
        driver = Driver(probes, Address.of(server.url))
        running = asyncio.create_task(driver.run(10 * PATIENCE))
        try:
            await scenario(driver)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return driver.verdict.report()

    return asyncio.run(play())


def ready(report: Report) -> bool:
    """Tell whether the container is ready now."""
    return report.ready


def events(report: Report) -> list[str]:
    """Return what happened, in its order."""
    return [transition.event for transition in report.transitions]


def test_a_good_container_starts_and_becomes_ready() -> None:
    async def scenario(driver: Driver) -> None:
        await driver.wait_for(lambda report: report.probes["liveness"] >= 5, seconds=PATIENCE)

    with serve(WELL) as server:
        report = drive(server, scenario)
    assert events(report) == ["started", "ready"]
    assert report.failures == {"startup": 0, "readiness": 0, "liveness": 0}


def test_every_probe_is_a_connection_of_its_own() -> None:
    """As the kubelet's, so a full backlog or a blocked accept is seen."""

    async def scenario(driver: Driver) -> None:
        await driver.wait_for(lambda report: report.probes["readiness"] >= 5, seconds=PATIENCE)

    with serve(WELL) as server:
        report = drive(server, scenario)
        assert server.connections >= sum(report.probes.values())


def test_a_port_that_opens_late_is_a_slow_start() -> None:
    """Refused connections are failures of the startup probe, within its budget."""

    async def scenario(driver: Driver) -> None:
        await driver.wait_for(lambda report: report.failures["startup"] >= 3, seconds=PATIENCE)
        server.listen()
        await driver.wait_for(ready, seconds=PATIENCE)

    with serve(WELL) as server:
        server.close()
        report = drive(server, scenario)
    assert events(report) == ["started", "ready"]


def test_a_blocked_event_loop_has_the_container_restarted() -> None:
    async def scenario(driver: Driver) -> None:
        await driver.wait_for(ready, seconds=PATIENCE)
        server.behaviours["/health"] = server.behaviours["/ready"] = Behaviour(hang=True)
        await driver.wait_for(lambda report: report.restarts == 1, seconds=PATIENCE)

    with serve(WELL) as server:
        report = drive(server, scenario)
    (restart,) = [entry for entry in report.transitions if entry.event == "restart"]
    assert "no answer within 0.5 s" in restart.why


def test_readiness_is_asked_as_soon_as_the_container_has_started() -> None:
    probes = ContainerProbes(
        "it",
        startup=HttpProbe("startup", "/health", 8000, period_seconds=0.1, failure_threshold=50),
        readiness=HttpProbe("readiness", "/ready", 8000, period_seconds=10 * PATIENCE),
    )

    async def scenario(driver: Driver) -> None:
        await driver.wait_for(lambda report: report.failures["startup"] >= 2, seconds=PATIENCE)
        server.behaviours["/health"] = Behaviour()
        await driver.wait_for(ready, seconds=PATIENCE)

    with serve({"/health": status(503), "/ready": Behaviour()}) as server:
        drive(server, scenario, probes)


@pytest.mark.parametrize(
    ("answer", "expected", "said"),
    [
        (OK, 200, "OK"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\n\r\n", 301, "Moved"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nwhy", 503, "why"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 0, "no HTTP answer"),
        (b"", 0, "no HTTP answer"),
        (b"HTTP/1.1 200", 0, "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000, 200, "OK"),
    ],
    ids=["whole", "redirect", "error", "other protocol", "closed", "cut", "long"],
)
def test_an_answer_is_read_as_the_kubelet_reads_it(answer: bytes, expected: int, said: str) -> None:
    """Redirects are not followed, long bodies not read to their end, nonsense is no answer."""
    with serve({"/health": Behaviour(answer)}) as server:
        probe = HttpProbe("liveness", "/health", server.port, timeout_seconds=5)
        sample = asyncio.run(ask(probe, Address.of(server.url), at=0))
    assert sample.status == expected
    assert said in sample.detail


def test_a_container_on_ipv6_is_probed() -> None:
    """Its address stands in brackets wherever a port follows it."""
    with serve({"/health": Behaviour()}, host="::1") as server:
        probe = HttpProbe("liveness", "/health", server.port)
        address = Address.of(f"http://[::1]:{server.port}")
        assert str(address) == f"[::1]:{server.port}"
        assert asyncio.run(ask(probe, address, at=0)).status == 200
        assert f"Host: [::1]:{server.port}" in server.requests[0]


# Answers every request, and exits with the status that a path such as /exit/3 names.
_CONTAINER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/exit/"):
            os._exit(int(self.path.removeprefix("/exit/")))
        self.send_response(500 if self.path == sys.argv[2] else 200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def run_container(
    scenario: Callable[[Driver, Container, Address], Awaitable[object]], *, failing: str = ""
) -> Report:
    """Run a real process as the container while a scenario goes on; return the report."""
    address = Address("127.0.0.1", free_port())
    command = [sys.executable, "-c", _CONTAINER, str(address.port), failing]

    async def play() -> Report:
        container = Container(command, grace_seconds=5, first_pause=0.2)
        driver = Driver(PROBES, address, container=container)
        running = asyncio.create_task(driver.run(10 * PATIENCE))
        try:
            await scenario(driver, container, address)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert container.pid is None
        return driver.verdict.report()

    return asyncio.run(play())


@pytest.mark.case(49)
def test_a_container_that_is_killed_is_counted_and_started_again() -> None:
    """`kill -9` of a container's process: one restart is counted, and it becomes ready again."""

    async def scenario(driver: Driver, container: Container, _: Address) -> None:
        await driver.wait_for(ready, seconds=PATIENCE)
        assert container.pid is not None
        os.kill(container.pid, signal.SIGKILL)
        await driver.wait_for(lambda report: report.restarts == 1, seconds=PATIENCE)
        await driver.wait_for(ready, seconds=PATIENCE)

    report = run_container(scenario)
    assert events(report) == ["started", "ready", "restart", "started", "ready"]
    assert "exited by itself: exit status 137 (SIGKILL)" in report.transitions[2].why


@pytest.mark.case(49)
@pytest.mark.parametrize("status", [0, 3])
def test_a_container_that_exits_by_itself_is_counted_each_time(status: int) -> None:
    """A container exits by itself, three times: each exit is a restart, whatever its status."""

    async def scenario(driver: Driver, _: Container, address: Address) -> None:
        for count in (1, 2, 3):
            await driver.wait_for(ready, seconds=PATIENCE)
            await ask(HttpProbe("liveness", f"/exit/{status}", 0), address, at=0)
            await driver.wait_for(lambda report: report.restarts == count, seconds=PATIENCE)  # noqa: B023

    report = run_container(scenario)
    assert [event for event in events(report) if event == "restart"] == ["restart"] * 3
    assert f"exit status {status}" in report.transitions[2].why


def test_a_container_that_liveness_ends_is_restarted_once_for_it() -> None:
    """Its exit is the kubelet's doing and no restart of its own."""

    async def scenario(driver: Driver, _: Container, __: Address) -> None:
        await driver.wait_for(lambda report: report.restarts == 2, seconds=PATIENCE)

    report = run_container(scenario, failing="/health")
    assert set(events(report)) == {"restart"}
    assert all("startup probe" in entry.why for entry in report.transitions)


def run_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line on the manifest of the base."""
    return subprocess.run(
        [sys.executable, "-m", "loadtests.kubelet", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_tells_a_good_service_from_one_that_does_not_answer() -> None:
    options = ("--workload", "inference-service", "--seconds", "1.5")
    with serve(WELL) as server:
        good = run_command("--probe-url", server.url, *options)
    assert good.returncode == 0, good.stderr
    assert "restarted 0 times" in good.stdout
    bad = run_command("--probe-url", f"http://127.0.0.1:{free_port()}", *options)
    assert bad.returncode == 1
    assert "started never, ready never" in bad.stdout


def test_the_command_says_what_it_could_not_try(tmp_path: Path) -> None:
    unknown = run_command("--workload", "inference")
    assert unknown.returncode == 2
    assert "name --manifest" in unknown.stderr
    absent = run_command("--workload", "x", "--manifest", str(tmp_path / "absent.yaml"))
    assert absent.returncode == 2
    no_command = run_command("--workload", "inference-service", "--", "no-such-command")
    assert no_command.returncode == 2
    assert "no-such-command" in no_command.stderr


@pytest.mark.case(49)
def test_the_command_runs_a_container_and_tells_its_exits() -> None:
    """A command that exits at once, run as the container: its exits are listed and counted."""
    options = ("--workload", "inference-service", "--seconds", "2")
    done = run_command(*options, "--", sys.executable, "-c", "raise SystemExit(3)")
    assert done.returncode == 1
    assert "exited by itself: exit status 3" in done.stderr
    assert "restarted 2 times" in done.stdout
