"""The pictures of the dashboards in the documents, drawn from really driven services.

    python -m tests.monitoring.dashboard_pictures --out docs/images

starts both services and Prometheus, drives them through the states below and draws each dashboard
in those states in which it tells something; `--all` draws every dashboard in every state. It takes
seven minutes. The exporters of a cluster are stood in for, as in the tests.
"""

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from bentos.health.probes import HEALTH_PATH, READY_PATH
from bentos.inference.state import PREDICT_IMAGE_PATH
from local import fetch
from monitoring.generate import BUILDERS
from monitoring.grafana.page import STATES as PICTURED
from monitoring.grafana.render.__main__ import main as render
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE
from tests.monitoring.cluster_exposition import kube_state_metrics, kubelet
from tests.monitoring.live_world import INFERENCE, LOGGING, MODEL, prometheus, train_demo_model
from tests.support.models import remove_alias
from tests.support.repeating import repeating
from tests.support.servers import Server, free_port, start_service

# Each picture shows so much time; what is wrong began in the middle of it.
SHOWN_SECONDS = 150
FAULT_SECONDS = 70
# Prometheus scrapes every second here. Rates over four of these are calm enough to be read.
SMOOTHING_SECONDS = 4

HEALTHY = "healthy"
UNDER_LOAD = "under-load"
LOGGING_AWAY = "logging-away"
HIGH_ERROR_RATE = "high-error-rate"
MODEL_NOT_LOADED = "model-not-loaded"
STATES = (HEALTHY, UNDER_LOAD, LOGGING_AWAY, HIGH_ERROR_RATE, MODEL_NOT_LOADED)


def picture_name(dashboard: str, state: str) -> str:
    """Return the name of the file that shows a dashboard in a state."""
    return f"{dashboard}.png" if state == HEALTHY else f"{dashboard}-{state}.png"


def clients(
    server: Server, images: Sequence[bytes], *, threads: int, pause: float
) -> AbstractContextManager[None]:
    """Return threads that send pictures, each with a pause before it."""
    following = itertools.cycle(images)

    def predict() -> None:
        with suppress(httpx.TransportError):  # the service is being stopped or started
            fetch.post(server.url + PREDICT_IMAGE_PATH, content=next(following), timeout=10.0)

    return repeating(*[predict] * threads, pause=pause)


def kubelets(probe_ports: Sequence[int]) -> AbstractContextManager[None]:
    """Return what asks both probe ports every second, as kubelets of a few nodes do."""

    def probe() -> None:
        for port, path in itertools.product(probe_ports, (HEALTH_PATH, READY_PATH)):
            with suppress(httpx.TransportError):
                fetch.get(f"http://127.0.0.1:{port}{path}")

    return repeating(probe, pause=1.0)


@contextmanager
def failing_model(server: Server) -> Iterator[None]:
    """Let predictions time out most of the time, never so long that liveness fails."""
    (model,) = (
        one
        for one in psutil.Process(server.pid).children(recursive=True)
        if any(part.startswith("bentos.inference.model") for part in one.cmdline())
        # The challenger's has the lowest priority.
        and one.nice() < 19
    )

    def stop_and_go() -> None:
        model.suspend()
        time.sleep(2.5)
        model.resume()

    with repeating(stop_and_go, pause=0.15):
        yield


class Stage:
    """Both services on fixed ports, to be stopped and started between the pictures."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._ports = {name: free_port() for name in (INFERENCE, LOGGING)}
        self._probe_ports = {name: free_port() for name in (INFERENCE, LOGGING)}
        self.demo = train_demo_model(directory / "demo", per_class=100, epochs=12)
        self.images = [path.read_bytes() for path in self.demo.images]
        random.Random(0).shuffle(self.images)
        self.cluster = [stack.enter_context(each()) for each in (kube_state_metrics, kubelet)]
        for exporter in self.cluster:
            exporter.crash(False)
        exporters = zip(("kube-state-metrics", "kubelet"), self.cluster, strict=True)
        services = {INFERENCE_SERVICE: INFERENCE, LOGGING_SERVICE: LOGGING}
        self.prometheus = stack.enter_context(
            prometheus(
                directory,
                {job: f"127.0.0.1:{self._probe_ports[name]}" for job, name in services.items()}
                | {job: exporter.address for job, exporter in exporters},
                rules=True,
            )
        )
        stack.enter_context(kubelets(list(self._probe_ports.values())))
        self.logging = self.start_logging()
        self.inference = self.start_inference()

    def start_logging(self) -> Server:
        """Start the logging service on its database."""
        self.logging = self._start(
            LOGGING, {"DATABASE_PATH": str(self._directory / "predictions.db")}
        )
        return self.logging

    def start_inference(self) -> Server:
        """Start the inference service on its outbox."""
        self.inference = self._start(
            INFERENCE,
            {
                "MLFLOW_TRACKING_URI": self.demo.tracking_uri,
                "MODEL_NAME": MODEL,
                "MODEL_POLL_SECONDS": "2",
                "LOGGING_URL": f"http://127.0.0.1:{self._ports[LOGGING]}",
                "OUTBOX_PATH": str(self._directory / "outbox"),
                "REQUEST_TIMEOUT_SECONDS": "1",
                "ERROR_WINDOW_SECONDS": "20",
                "QUEUE_SIZE": "32",
                "KEEP_IMAGES": "true",
                "SHADOW_STAGE": "1",
            },
        )
        return self.inference

    def _start(self, target: str, settings: Mapping[str, str]) -> Server:
        return self._stack.enter_context(
            start_service(
                target,
                self._directory,
                port=self._ports[target],
                env={"PROBE_PORT": str(self._probe_ports[target]), **settings},
            )
        )


def states(stage: Stage, wanted: Collection[str]) -> Iterator[str]:
    """Bring the services into one state after the other; yield each as soon as it shows."""
    with clients(stage.inference, stage.images, threads=4, pause=0.12):
        # What the start left is over when the picture begins.
        time.sleep(SHOWN_SECONDS + 30)
        yield HEALTHY
        if UNDER_LOAD in wanted:
            with clients(stage.inference, stage.images, threads=48, pause=0.0):
                time.sleep(FAULT_SECONDS)
                yield UNDER_LOAD
            time.sleep(SHOWN_SECONDS - FAULT_SECONDS)
        stage.logging.stop()
        time.sleep(FAULT_SECONDS)
        yield LOGGING_AWAY
        stage.start_logging().wait_until_ready()
        time.sleep(SHOWN_SECONDS - FAULT_SECONDS)
        for exporter in stage.cluster:
            exporter.crash(True)
        with (
            clients(stage.inference, stage.images, threads=8, pause=0.3),
            failing_model(stage.inference),
        ):
            time.sleep(FAULT_SECONDS)
            yield HIGH_ERROR_RATE
        time.sleep(SHOWN_SECONDS - FAULT_SECONDS)
        stage.inference.stop()
        remove_alias(stage.demo.tracking_uri, MODEL)
        stage.start_inference()
        time.sleep(FAULT_SECONDS)
        yield MODEL_NOT_LOADED


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the pictures; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.monitoring.dashboard_pictures")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--all", action="store_true", help="every dashboard in every state")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    wanted = STATES if given.all else {HEALTHY, *itertools.chain(*PICTURED.values())}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stage = Stage(Path(folder), stack)
        for service in (stage.logging, stage.inference):
            service.wait_until_ready()
        for state in states(stage, wanted):
            drawn = Path(folder) / state
            options = ["--prometheus", stage.prometheus, "--out", str(drawn)]
            options += ["--last", f"{SHOWN_SECONDS}s", "--scrape-interval", f"{SMOOTHING_SECONDS}s"]
            for name in BUILDERS:
                if not (given.all or state == HEALTHY or state in PICTURED[name]):
                    continue
                if render([*options, "--dashboard", name]):
                    return 1
                target = given.out / picture_name(name, state)
                target.write_bytes((drawn / f"{name}.png").read_bytes())
                print(f"wrote {target}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
