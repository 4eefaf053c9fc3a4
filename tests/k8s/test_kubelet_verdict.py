"""The kubelet's verdict on the real services, in the situations that probes are for.

It asks the probe port. Periods are a tenth of the manifest's, time-outs and thresholds its own. The
services' own limits are shortened as well, by their settings.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil
import pytest

from loadtests.kubelet.container import Container
from loadtests.kubelet.driver import Address, Driver
from loadtests.kubelet.spec import MANIFESTS, ContainerProbes, HttpProbe, read_probes
from loadtests.kubelet.verdict import Report
from local import fetch
from tests.support.event_loop import EventLoop
from tests.support.mlflow_server import MlflowServer
from tests.support.models import COLOURS, MOODY, ModelStore
from tests.support.proxy import Proxy
from tests.support.repeating import repeating
from tests.support.servers import Server, free_port, start_service

pytestmark = pytest.mark.slow

INFERENCE_SERVICE = "bentos.inference.service:InferenceService"
LOGGING_SERVICE = "bentos.logging.service:LoggingService"
HASTE = 10
# Of each kind: more than twice as many as the kubelet waits for before it acts.
MANY = 7
PATIENCE = 90.0
PROBES = {
    INFERENCE_SERVICE: read_probes(MANIFESTS["inference-service"], "inference-service"),
    LOGGING_SERVICE: read_probes(MANIFESTS["logging-service"], "logging-service"),
}


class Kubelet:
    """A driver that runs in a thread of its own while a test breaks and repairs the service."""

    def __init__(
        self, spec: ContainerProbes, address: Address, container: Container | None = None
    ) -> None:
        self.address = address
        self._loop = EventLoop()
        self._loop.run(self._begin(spec, container))

    async def _begin(self, spec: ContainerProbes, container: Container | None) -> None:
        self._driver = Driver(spec, self.address, container=container)
        self._running = asyncio.create_task(self._driver.run(float("inf")))

    async def _end(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._end())
        self._loop.close()

    def wait_for(self, condition: Callable[[Report], bool]) -> Report:
        """Return the report as soon as a condition holds of it."""
        found = self._driver.wait_for(condition, seconds=PATIENCE)
        return self._loop.run(found, seconds=2 * PATIENCE)

    def more_probes(self, count: int) -> Report:
        """Return the report after so many more liveness and readiness probes."""
        before = self._driver.verdict.report().probes
        return self.wait_for(
            lambda report: all(
                report.probes[kind] >= before[kind] + count for kind in ("liveness", "readiness")
            )
        )

    def terminate(self) -> None:
        """Continue as with a pod that is being deleted."""

        async def terminate() -> None:
            self._driver.terminate()

        self._loop.run(terminate())


def kubelet_of(target: str, server: Server) -> Kubelet:
    """Return a kubelet that begins to ask a service's probe port."""
    return Kubelet(PROBES[target].hastened(HASTE), Address.of(server.probe_url))


@contextmanager
def watched(
    target: str, directory: Path, environment: Mapping[str, str]
) -> Iterator[tuple[Server, Kubelet]]:
    """Serve a service and play the kubelet on its probe port for the block."""
    with (
        start_service(target, directory, env=environment) as server,
        kubelet_of(target, server) as kubelet,
    ):
        yield server, kubelet


def ready(report: Report) -> bool:
    """Tell whether the container is ready now."""
    return report.ready


def unready(report: Report) -> bool:
    """Tell whether the container was ready and is not now."""
    return report.unready > 0 and not report.ready


def restarted(report: Report) -> bool:
    """Tell whether the kubelet would have killed the container."""
    return report.restarts > 0


def settings(tracking_uri: str, model: str = COLOURS, **changes: str) -> dict[str, str]:
    """Return the environment of an inference service for a test."""
    return {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MODEL_NAME": model,
        "MODEL_POLL_SECONDS": "0.2",
        "MLFLOW_TIMEOUT_SECONDS": "1",
        **changes,
    }


@pytest.fixture(scope="module")
def mlflow_port(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Serve the models for all tests here."""
    served = model_store.copy_to_serve(tmp_path_factory.mktemp("registry"))
    with MlflowServer(served, model_store.artifacts) as mlflow:
        mlflow.start()
        yield mlflow.port


@pytest.fixture(scope="module")
def way(mlflow_port: int) -> Iterator[Proxy]:
    """Return the way to the registry, cut."""
    way = Proxy(mlflow_port)
    way.become("cut")
    yield way
    way.close()


@pytest.fixture(scope="module")
def pod(way: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that waits for its registry; the first test sees it come up."""
    directory = tmp_path_factory.mktemp("pod")
    with start_service(INFERENCE_SERVICE, directory, env=settings(way.url)) as server:
        yield server


def test_a_pod_whose_model_takes_long_to_come_is_left_alone(way: Proxy, pod: Server) -> None:
    with kubelet_of(INFERENCE_SERVICE, pod) as kubelet:
        kubelet.wait_for(lambda report: report.started_after is not None)
        report = kubelet.more_probes(MANY)
        assert report.ready_after is None
        # The same pod under probes that make no difference between the two questions.
        careless = HttpProbe("liveness", "/ready", 0, period_seconds=0.5)
        spec = ContainerProbes("careless", liveness=careless)
        with Kubelet(spec, kubelet.address) as other:
            other.wait_for(restarted)
        way.become("pass")
        report = kubelet.wait_for(ready)
    assert (report.restarts, report.unready) == (0, 0), report.transitions
    assert report.started_after is not None
    assert report.ready_after is not None
    assert report.started_after < report.ready_after


def test_a_registry_that_goes_away_takes_the_pod_out_of_rotation_and_no_more(
    way: Proxy, pod: Server
) -> None:
    way.become("pass")
    with kubelet_of(INFERENCE_SERVICE, pod) as kubelet:
        kubelet.wait_for(ready)
        way.become("cut")
        kubelet.wait_for(unready)
        kubelet.more_probes(MANY)
        way.become("pass")
        report = kubelet.wait_for(ready)
    assert (report.restarts, report.unready) == (0, 1)
    assert "mlflow_not_accessible" in report.transitions[2].why


def test_an_overloaded_pod_stays_ready_and_alive(model_store: ModelStore, tmp_path: Path) -> None:
    environment = settings(model_store.tracking_uri, MOODY, QUEUE_SIZE="2", MAX_BATCH_SIZE="1")
    # Checks of the registry compete for the processor as well: they may be late here.
    environment |= {"MODEL_POLL_SECONDS": "5", "MLFLOW_TIMEOUT_SECONDS": "10"}
    environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
    statuses: set[int] = set()
    with watched(INFERENCE_SERVICE, tmp_path, environment) as (server, kubelet):
        kubelet.wait_for(ready)

        def predict() -> None:
            # Each input takes the model a fifth of a second.
            body = {"data": [0.2, 0.0]}
            statuses.add(fetch.post(f"{server.url}/predict", json=body, timeout=30).status_code)

        with repeating(*[predict] * 16):
            report = kubelet.more_probes(MANY)
    assert 429 in statuses
    assert (report.restarts, report.unready) == (0, 0), report.transitions


def test_a_pod_whose_model_is_stuck_is_restarted(model_store: ModelStore, tmp_path: Path) -> None:
    """Stuck model: only a restart helps, and it comes, after STALL_SECONDS and the patience."""
    environment = settings(
        model_store.tracking_uri, MOODY, REQUEST_TIMEOUT_SECONDS="1", STALL_SECONDS="5"
    )
    environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
    with watched(INFERENCE_SERVICE, tmp_path, environment) as (server, kubelet):
        kubelet.wait_for(ready)
        assert server.post("/predict", json={"data": [600.0, 0.0]}).status_code == 504
        report = kubelet.wait_for(restarted)
    (restart,) = [entry for entry in report.transitions if entry.event == "restart"]
    assert "model_thread_stuck" in restart.why


def test_a_pod_with_a_dead_worker_leaves_rotation_and_is_then_restarted(tmp_path: Path) -> None:
    """Dead worker: in an image nobody starts it anew, so the container has to be."""
    environment = {
        "DATABASE_PATH": str(tmp_path / "predictions.db"),
        "WORKERS": "2",
        "WORKER_GRACE_SECONDS": "2",
        "BENTOML_CONTAINERIZED": "true",
    }
    with watched(LOGGING_SERVICE, tmp_path, environment) as (server, kubelet):
        kubelet.wait_for(ready)
        victim = server.workers()[0]
        os.kill(victim.pid, signal.SIGKILL)
        report = kubelet.wait_for(restarted)
    events = [entry.event for entry in report.transitions]
    assert events[:4] == ["started", "ready", "unready", "restart"]
    assert "worker" in report.transitions[2].why
    assert "worker_dead" in report.transitions[3].why


def test_a_pod_whose_worker_is_stopped_leaves_rotation_and_is_then_restarted(
    tmp_path: Path,
) -> None:
    """SIGSTOP: the worker answers nothing, and the probe port says so for it."""
    environment = {
        "DATABASE_PATH": str(tmp_path / "predictions.db"),
        "STALL_SECONDS": "2",
        "WORKER_GRACE_SECONDS": "2",
    }
    with watched(LOGGING_SERVICE, tmp_path, environment) as (server, kubelet):
        kubelet.wait_for(ready)
        (worker,) = server.workers()
        worker.suspend()
        report = kubelet.wait_for(restarted)
    events = [entry.event for entry in report.transitions]
    assert events[:4] == ["started", "ready", "unready", "restart"]
    assert "event_loop_stalled" in report.transitions[3].why


@pytest.mark.case(49)
def test_a_container_whose_only_worker_is_killed_ends_and_is_started_again(tmp_path: Path) -> None:
    """`kill -9` of the worker: the container ends by itself, is counted and serves again."""
    port, probe_port = free_port(), free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_CONTAINERIZED": "true",
        "DATABASE_PATH": str(tmp_path / "predictions.db"),
        "PROBE_PORT": str(probe_port),
    }
    (tmp_path / "bentoml").mkdir()
    command = [sys.executable, "-m", "bentoml", "serve", LOGGING_SERVICE]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    container = Container(command, grace_seconds=30, environment=environment)
    probes, address = PROBES[LOGGING_SERVICE].hastened(HASTE), Address("127.0.0.1", probe_port)
    with Kubelet(probes, address, container) as kubelet:
        kubelet.wait_for(ready)
        first = container.pid
        assert first is not None
        (worker,) = [
            child
            for child in psutil.Process(first).children(recursive=True)
            if "_bentoml_impl.worker.service" in child.cmdline()
        ]
        worker.kill()
        report = kubelet.wait_for(lambda report: report.restarts > 0)
        assert "exited by itself: exit status 1" in report.transitions[-1].why
        report = kubelet.wait_for(ready)
        assert container.pid not in (None, first)
    assert report.restarts == 1


def test_a_pod_that_shuts_down_leaves_rotation_and_finishes_its_requests(
    model_store: ModelStore, tmp_path: Path
) -> None:
    environment = settings(
        model_store.tracking_uri, MOODY, DRAIN_SECONDS="4", SHUTDOWN_SECONDS="10"
    )
    environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
    answers: list[int] = []
    with watched(INFERENCE_SERVICE, tmp_path, environment) as (server, kubelet):
        kubelet.wait_for(ready)
        kubelet.terminate()
        server.terminate()
        report = kubelet.wait_for(unready)
        late = threading.Thread(
            target=lambda: answers.append(
                server.post("/predict", json={"data": [4.0, 0.0]}).status_code
            )
        )
        late.start()
        assert server.wait() == 0
        late.join()
    assert answers == [200]
    assert report.restarts == 0
    assert "shutting_down" in report.transitions[2].why


def test_a_logging_pod_whose_database_goes_leaves_rotation_and_returns(tmp_path: Path) -> None:
    """A disk that is away is no reason for a restart."""
    directory = tmp_path / "volume"
    environment = {"DATABASE_PATH": str(directory / "predictions.db")}
    with watched(LOGGING_SERVICE, tmp_path, environment) as (_, kubelet):
        kubelet.wait_for(ready)
        directory.rename(tmp_path / "away")
        directory.write_text("in its place")
        kubelet.wait_for(unready)
        kubelet.more_probes(MANY)
        directory.unlink()
        (tmp_path / "away").rename(directory)
        report = kubelet.wait_for(ready)
    assert (report.restarts, report.unready) == (0, 1)
    assert "database_not" in report.transitions[2].why
