"""A worker's heartbeat, the verdicts it logs, and its end with its parent."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bentos.health.checks import required
from bentos.health.metrics import exposition
from bentos.health.probes import Probes
from bentos.health.state import ServiceState
from bentos.process.lifecycle import HEARTBEAT_SECONDS, Lifecycle, VerdictLog
from tests.support.servers import ROOT, wait_until


@pytest.fixture
def probes(tmp_path: Path) -> Probes:
    state = ServiceState(tmp_path, service="svc")
    return Probes(state, [], [required("cold", "serving")], lambda _: {})


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("bentos")
    propagate, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.INFO, logger="bentos"):
        yield caplog
    logger.propagate = propagate


def delays(state: ServiceState) -> dict[str, float]:
    return {
        sample.labels["le"]: sample.value
        for family in text_string_to_metric_families(exposition(state)[0].decode())
        for sample in family.samples
        if sample.name == "event_loop_delay_seconds_bucket"
    }


def test_a_blocked_event_loop_shows_in_the_delay_and_the_heartbeat_goes_on(probes: Probes) -> None:
    beats: list[float] = []

    async def scenario() -> None:
        lifecycle = Lifecycle(
            probes,
            drain_seconds=0,
            shutdown_seconds=1,
            on_beat=lambda: beats.append(time.monotonic()),
        )
        lifecycle.start()
        await asyncio.sleep(0)
        assert len(beats) == 1
        time.sleep(HEARTBEAT_SECONDS + 0.3)  # noqa: ASYNC251 - the block that is to be seen
        await asyncio.sleep(0.01)
        await lifecycle.stop()

    asyncio.run(scenario())
    assert len(beats) == 2
    found = delays(probes.state)
    assert found["+Inf"] - found["0.25"] == 1
    assert probes.state.row.get("heartbeat") >= beats[0]


def test_a_worker_without_uvicorn_serves_from_its_start(probes: Probes) -> None:
    async def scenario() -> None:
        lifecycle = Lifecycle(probes, drain_seconds=0, shutdown_seconds=1)
        assert not probes.state.serving.value
        lifecycle.start()
        assert probes.state.serving.value
        await lifecycle.stop()

    asyncio.run(scenario())


def test_a_heartbeat_that_fails_says_why(probes: Probes, logged: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise KeyError("queue_depth")

    async def scenario() -> None:
        lifecycle = Lifecycle(probes, drain_seconds=0, shutdown_seconds=1, on_beat=fail)
        lifecycle.start()
        await asyncio.sleep(0.05)
        await lifecycle.stop()

    asyncio.run(scenario())
    (record,) = [one for one in logged.records if one.levelno == logging.CRITICAL]
    assert "heartbeat ended" in record.message
    assert record.exc_info is not None


def test_verdicts_are_logged_when_their_reasons_change(
    probes: Probes, logged: pytest.LogCaptureFixture
) -> None:
    verdicts = VerdictLog(probes)
    for serving in (0, 0, 1, 1, 0):
        probes.state.serving.set(serving)
        verdicts.note()
    found = [(one.levelno, one.message) for one in logged.records]
    assert found == [
        (logging.INFO, "healthy"),
        (logging.WARNING, "not ready"),
        (logging.INFO, "ready"),
        (logging.WARNING, "not ready"),
    ]
    assert logged.records[1].__dict__["fields"]["reason"] == "cold"


# A parent that starts a child which ends with it, prints the child's id, and waits.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""
CHILD = """
import os, signal, time
from bentos.process.parent import end_with_parent
end_with_parent(signal.SIGTERM, os.getppid())
print("asked", flush=True)
time.sleep(600)
"""


@pytest.mark.case(57)
def test_a_process_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    """SIGKILL of a parent: the child that asked for it gets SIGTERM from the kernel."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.status() != psutil.STATUS_ZOMBIE
        parent.kill()
    wait_until(
        lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE,
        "the child ends",
        seconds=30,
    )


def test_a_process_whose_parent_is_gone_already_ends_at_once() -> None:
    gone = CHILD.replace("os.getppid()", "os.getppid() + 1")
    ended = subprocess.run([sys.executable, "-c", gone], cwd=ROOT, check=False, timeout=60)
    assert ended.returncode == -signal.SIGTERM
