"""What looks after the probe process and the workers, over real processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from bentos.process.supervisor import Supervisor
from local import fetch
from tests.support.servers import ROOT, Server, free_port, start_service, wait_until
from tests.support.small_state import SmallState, plan_of

pytestmark = pytest.mark.slow

SMALL = "tests.support.small_bento:SmallService"


def status_of(port: int, path: str = "/health") -> int:
    return fetch.get(f"http://127.0.0.1:{port}{path}").status_code


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def probe_process_of(reader: SmallState) -> psutil.Process:
    return psutil.Process(int(reader.pod.probe_process.get("pid")))


@pytest.fixture
def message(tmp_path: Path) -> Path:
    path = tmp_path / "termination-log"
    path.touch()
    return path


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def supervised(tmp_path: Path, message: Path, port: int) -> Iterator[SmallState]:
    """Supervise a pod of which this process is the worker; return the worker's state."""
    plan = plan_of(tmp_path, probe_port=port)
    state: SmallState = plan.probes(worker=1).state  # type: ignore[assignment]
    state.row.set("heartbeat", time.monotonic() + 3_600)  # nothing beats in this process
    supervisor = Supervisor(plan, containerized=False, termination_message=message)
    supervisor.start()
    try:
        wait_until(lambda: status_of(port) == 200, "the probe process answers")
        yield state
    finally:
        supervisor.stop()


def test_a_probe_process_that_is_killed_is_started_again(supervised: SmallState, port: int) -> None:
    first = probe_process_of(supervised)
    wait_until(lambda: supervised.probe_process == "running", "running")
    first.kill()
    wait_until(lambda: supervised.probe_process == "missing", "missing")
    wait_until(lambda: supervised.probe_process == "running", "running again")
    assert probe_process_of(supervised).pid != first.pid
    assert status_of(port) == 200


def test_a_liveness_that_fails_is_the_termination_message_until_it_recovers(
    supervised: SmallState, message: Path, port: int
) -> None:
    supervised.row.set("heartbeat", time.monotonic() - 100)
    wait_until(message.read_text, "the message", seconds=30)
    assert message.read_text().startswith(
        "small-service: the liveness probe fails: event_loop_stalled, stuck_for_seconds 100."
    )
    assert status_of(port) == 500
    supervised.row.set("heartbeat", time.monotonic() + 100)
    wait_until(lambda: not message.read_text(), "no message", seconds=30)
    assert status_of(port) == 200


def test_where_there_is_no_file_for_the_message_none_is_made(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    state = plan.probes(worker=1).state
    supervisor = Supervisor(plan, containerized=False, termination_message=tmp_path / "none")
    supervisor.start()
    state.row.set("heartbeat", time.monotonic() - 100)
    time.sleep(1)
    supervisor.stop()
    assert not (tmp_path / "none").exists()


def test_a_probe_port_that_is_taken_is_logged_and_tried_again_until_it_is_free(
    tmp_path: Path, message: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        plan = plan_of(tmp_path, probe_port=port)
        reader: SmallState = plan.probes(worker=-1).state  # type: ignore[assignment]
        supervisor = Supervisor(plan, containerized=False, termination_message=message)
        supervisor.start()
        try:
            seen: set[float] = set()

            def tried_three_times() -> bool:
                seen.add(reader.pod.probe_process.get("pid"))
                return len(seen - {0.0}) >= 3

            wait_until(tried_three_times, "three attempts")
            assert reader.probe_process == "missing"
            taken.close()
            wait_until(lambda: reader.probe_process == "running", "running")
            assert status_of(port) == 200
        finally:
            supervisor.stop()
    assert "address already in use" in capfd.readouterr().err.lower()


def test_without_a_probe_port_there_is_no_probe_process(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, probe_port=0)
    before = psutil.Process().children()
    supervisor = Supervisor(plan, containerized=False)
    supervisor.start()
    assert psutil.Process().children() == before
    assert plan.probes(worker=1).state.probe_process == "off"
    supervisor.stop()


# `bentoml serve` in an image: it supervises, and starts one worker, which claims its row.
CONTAINER = """
import subprocess, sys
from pathlib import Path
from bentos.process.supervisor import Supervisor
from tests.support.small_state import plan_of
directory, message = Path(sys.argv[1]), Path(sys.argv[2])
Supervisor(plan_of(directory), containerized=True, termination_message=message).start()
worker = subprocess.Popen([sys.executable, "-c", sys.argv[3], str(directory)])
print(worker.pid, flush=True)
sys.stdin.read()
"""
WORKER = """
import sys, time
from pathlib import Path
from tests.support.small_state import plan_of
state = plan_of(Path(sys.argv[1])).probes(worker=1).state
state.row.set("heartbeat", time.monotonic() + float(sys.argv[2] if len(sys.argv) > 2 else 600))
{}
time.sleep(600)
"""


class Container:
    """A supervisor in a process of its own, with a worker."""

    def __init__(self, directory: Path, message: Path, *, before_sleep: str = "") -> None:
        program = WORKER.format(before_sleep)
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTAINER, str(directory), str(message), program],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.worker = psutil.Process(int(self.process.stdout.readline()))
        reader = plan_of(directory).probes(worker=-1).state
        wait_until(reader.pod.live_workers, "the worker")

    def end(self) -> int:
        """Let it come to its end in order."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(60)


@pytest.fixture
def container(tmp_path: Path, message: Path) -> Iterator[Container]:
    one = Container(tmp_path, message)
    yield one
    if runs(one.worker):
        one.worker.kill()
    one.process.kill()
    one.process.wait()
    assert one.process.stdout is not None
    one.process.stdout.close()


@pytest.mark.case(49)
@pytest.mark.case(52)
def test_a_container_ends_with_a_status_and_a_message_when_no_worker_is_left(
    container: Container, message: Path
) -> None:
    """SIGKILL of the only worker in an image: the container ends with status 1, and says why."""
    began = time.monotonic()
    container.worker.kill()
    assert container.process.wait(60) == 1
    assert time.monotonic() - began < 15
    assert message.read_text() == "small-service: no worker is left: worker_dead\n"


@pytest.mark.case(52)
def test_a_container_whose_liveness_failed_ends_with_a_status(
    container: Container, message: Path, tmp_path: Path
) -> None:
    """An end in order while liveness fails, as after the kubelet's SIGTERM: status 1."""
    worker = plan_of(tmp_path).probes(worker=-1).state.pod.workers[0]
    worker.set("heartbeat", time.monotonic() - 100)
    wait_until(message.read_text, "the message", seconds=30)
    assert container.end() == 1
    wait_until(lambda: not runs(container.worker), "its worker ends", seconds=30)


def test_a_worker_that_ended_in_order_is_no_reason_to_end(
    container: Container, message: Path, tmp_path: Path
) -> None:
    worker = plan_of(tmp_path).probes(worker=-1).state.pod.workers[0]
    worker.set("shutting_down", 1)
    container.worker.kill()
    time.sleep(1.5)
    assert container.process.poll() is None
    assert not message.read_text()
    assert container.end() == 0


def test_a_pods_directory_is_found_by_its_children_and_removed_at_the_end() -> None:
    program = """
import os
from bentos.process.supervisor import make_pod_directory, pod_directory
made = make_pod_directory("svc-a")
(made / "pod.state").touch()
child = os.fork()
if child == 0:
    assert pod_directory("svc-a") == made
    lone = pod_directory("svc-b")
    assert lone != made and lone.is_dir()
    raise SystemExit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7
assert (made / "pod.state").exists()
assert not list(made.parent.glob(f"svc-b-*-{child}"))
assert make_pod_directory("svc-a") == made  # as after a start with the same process id
assert not list(made.iterdir())
os.environ["IS_PROBE_PROCESS"] = "1"
if os.fork() == 0:
    assert pod_directory("svc-a") != made
    raise SystemExit
os.wait()
print(made)
"""
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not Path(found.stdout.strip()).exists()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Server]:
    with start_service(SMALL, tmp_path) as server:
        server.wait_until_ready()
        yield server


@pytest.mark.case(57)
def test_workers_end_when_bentoml_serve_gets_sigkill(small: Server) -> None:
    """SIGKILL of `bentoml serve`: its workers and the probe process end and leave both ports."""
    processes = psutil.Process(small.process.pid).children(recursive=True)
    assert small.workers()
    small.process.send_signal(signal.SIGKILL)
    wait_until(
        lambda: (
            not [
                one
                for one in processes
                if one.is_running() and one.status() != psutil.STATUS_ZOMBIE
            ]
        ),
        "all processes end",
        seconds=60,
    )
    with pytest.raises(httpx.ConnectError):
        fetch.get(f"{small.url}/health")


@pytest.mark.case(49)
def test_bentoml_serve_in_an_image_ends_at_once_when_its_worker_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the worker of `bentoml serve` in an image: it ends with status 1 in seconds."""
    with start_service(SMALL, tmp_path, env={"BENTOML_CONTAINERIZED": "true"}) as server:
        server.wait_until_ready()
        (worker,) = server.workers()
        worker.kill()
        assert server.wait(seconds=15) == 1
        assert server.events("no worker is left: worker_dead")
        assert "Traceback" not in server.log
