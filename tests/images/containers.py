"""A running container as a test sees it: its probes, its log, its workers, its end."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, Self

import httpx
import psutil

from bentos.health.probes import HEALTH_PATH, METRICS_PATH, READY_PATH
from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from tests.images.engine import NETWORK, Engine
from tests.support.metrics import total
from tests.support.servers import wait_until

INFERENCE_PORT = int(InferenceSettings.model_fields["inference_port"].default)
LOGGING_PORT = int(LoggingSettings.model_fields["logging_port"].default)
_PROBE_PORTS = {
    INFERENCE_PORT: int(InferenceSettings.model_fields["probe_port"].default),
    LOGGING_PORT: int(LoggingSettings.model_fields["probe_port"].default),
}
_PROBE_PATHS = (HEALTH_PATH, READY_PATH, METRICS_PATH)
# What the kernel lets any process write to.
KERNEL_DIRECTORIES = frozenset({"/dev/shm", "/dev/mqueue"})
# No user of the image, and of no group but 0, as clusters that give out user ids do it.
ARBITRARY_USER = "23456"
START_SECONDS = 90.0

_WORKER_MODULE = "_bentoml_impl.worker.service"
_HOMES = {"HOME": "/tmp", "BENTOML_HOME": "/tmp/bentoml"}


class Container:
    """A service in a container, asked at the container's own address."""

    def __init__(
        self, engine: Engine, name: str, *, port: int, address_of: str | None = None
    ) -> None:
        self._engine = engine
        self.name = name
        self._port = port
        # In a pod the address is the infrastructure container's.
        self._address_of = address_of or name
        self.http = httpx.Client(timeout=20.0, trust_env=False)

    @property
    def described(self) -> dict[str, Any]:
        """What podman says of it."""
        return self._engine.inspect("container", "inspect", self.name)

    @property
    def state(self) -> dict[str, Any]:
        """Whether it runs, and its exit status."""
        return dict(self.described["State"])

    @property
    def url(self) -> str:
        """Where the service is; a restart may move it."""
        return f"http://{self.address}:{self._port}"

    @property
    def address(self) -> str:
        """Its address in the network; httpx.ConnectError while it has none."""
        described = self._engine.inspect("container", "inspect", self._address_of)
        address = described["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
        if not address:
            raise httpx.ConnectError(f"{self.name} has no address")
        return str(address)

    @property
    def probe_url(self) -> str:
        """Where its probe process is."""
        return f"http://{self.address}:{_PROBE_PORTS[self._port]}"

    def get(self, path: str) -> httpx.Response:
        """Send a GET request: a probe to the probe port, as the kubelet does."""
        base = self.probe_url if path in _PROBE_PATHS else self.url
        return self.http.get(base + path)

    @property
    def log(self) -> str:
        """All that it has written."""
        finished = self._engine.run("logs", self.name)
        return finished.stdout + finished.stderr

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Return as soon as the condition holds; AssertionError with the log where it does not."""
        wait_until(
            condition,
            f"{self.name}: {what}",
            seconds=START_SECONDS,
            describe=lambda: self.log[-4_000:],
        )

    def wait_for(self, path: str, status: int, reason: str | None = None) -> httpx.Response:
        """Return the first answer with this status and, where one is given, reason."""
        answers: list[httpx.Response] = []

        def answered() -> bool:
            answers.append(self.get(path))
            right = answers[-1].status_code == status
            return right and (reason is None or answers[-1].json()["reason"] == reason)

        self.wait_until(answered, f"{path} {status} {reason or ''}")
        return answers[-1]

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        return total(self.get(METRICS_PATH).text, name)

    def workers(self) -> list[psutil.Process]:
        """Return its worker processes, as the machine sees them."""
        pid = self.state["Pid"]
        return [
            child
            for child in (psutil.Process(pid).children(recursive=True) if pid else [])
            if child.status() != psutil.STATUS_ZOMBIE and _WORKER_MODULE in child.cmdline()
        ]

    def kill_a_worker(self) -> None:
        """Kill one worker at once, as the kernel does when memory runs out."""
        os.kill(self.workers()[0].pid, signal.SIGKILL)

    def python(self, code: str) -> str:
        """Run Python inside and return what it printed."""
        return self._engine.run("exec", self.name, "python", "-c", code).stdout

    def writable_directories(self) -> set[str]:
        """Return the topmost directories that its user may write to."""
        code = (
            "import json, os\n"
            "found = []\n"
            "for root, names, _ in os.walk('/'):\n"
            "    names[:] = [n for n in names if os.path.join(root, n) not in ('/proc', '/sys')]\n"
            "    if os.access(root, os.W_OK):\n"
            "        found.append(root)\n"
            "        names.clear()\n"
            "print(json.dumps(found))"
        )
        return set(json.loads(self.python(code)))

    def process_status(self) -> dict[str, str]:
        """Return what the kernel says of its first process: user, capabilities."""
        lines = self.python("print(open('/proc/1/status').read())").splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def terminate(self) -> None:
        """Ask for an orderly end, as Kubernetes does, and do not wait for it."""
        self._engine.run("kill", "--signal=TERM", self.name)

    def wait(self, *, seconds: float) -> int:
        """Return the exit status; it has to end within the seconds."""
        return int(self._engine.run("wait", self.name, seconds=seconds).stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.http.close()
        self._engine.remove(self.name)


def start_logging(
    engine: Engine, image: str, *, name: str = "logging", more_volumes: Sequence[str] = ()
) -> Container:
    """Start the logging service; its database is on a volume."""
    volumes = [f"{name}-predictions:/var/lib/predictions", *more_volumes]
    engine.start(name, image, user=ARBITRARY_USER, env=_HOMES, volumes=volumes)
    return Container(engine, name, port=LOGGING_PORT)


def start_inference(
    engine: Engine, image: str, name: str, *, tracking_uri: str, restart: str = "no", **env: str
) -> Container:
    """Start the inference service; its outbox is on a volume."""
    settings = {
        **_HOMES,
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MODEL_POLL_SECONDS": "0.2",
        "DRAIN_SECONDS": "1",
        **env,
    }
    volumes = [f"{name}-outbox:/var/lib/outbox"]
    engine.start(name, image, user=ARBITRARY_USER, env=settings, volumes=volumes, restart=restart)
    return Container(engine, name, port=INFERENCE_PORT)


def unready_reason(container: Container) -> str:
    """Return why it is not ready; empty where it is."""
    answer = container.get(READY_PATH)
    return "" if answer.status_code == 200 else str(answer.json()["reason"])
