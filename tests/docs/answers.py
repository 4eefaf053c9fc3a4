"""Brings about every answer of both services, for docs/answers.json and the test that compares.

    python -m tests.docs.answers     # writes docs/answers.json anew

Real services are brought into each state: a registry that is stopped, a locked database, workers
that get SIGSTOP or SIGKILL, a model that fails, sleeps or is given nonsense. What they answer then
is what docs/health-endpoints.md shows.
"""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from bentos.inference.delivery.outbox import outbox_path
from docs.answers import ANSWERS, Answer, write_answers
from local import fetch
from tests.faults.injectors import suspended
from tests.support.inference import channel, start_inference
from tests.support.log_server import LogServer, Reply
from tests.support.logging_store import locked_by_another_process
from tests.support.mlflow_server import MlflowServer
from tests.support.models import COLOURS, MOODY, ModelStore, make_store
from tests.support.predictions import batch, prediction
from tests.support.servers import Server, start_service
from tests.support.sockets import Connection

LOGGING = "bentos.logging.service:LoggingService"
TOKEN = "a-token-of-the-page"
_AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
_ROWS = 40
# Of the model that sleeps for as many seconds as the first number says and fails for a second of 2.
_FINE, _REFUSED, _FAILS = [0.0, 0.0], [0.0, 1.0], [0.0, 2.0]
_STALL_SECONDS = 14


class Collector:
    """The answers of one service, in the order in which they were brought about."""

    def __init__(self, service: str, server: Server, *secrets: tuple[str, str]) -> None:
        self.service = service
        self.server = server
        self.found: list[Answer] = []
        self._replaced = secrets

    def probe(
        self, path: str, reason: str = "", *, alongside: Sequence[str] = (), name: str = ""
    ) -> None:
        """Wait until the probe port's answer has this reason first, or is a 200, and keep it.

        `alongside` are reasons that have to follow it, and come a moment later than the first.
        """
        wanted = [reason, *alongside] if alongside else [reason]

        def found() -> bool:
            answer = self.server.probe(path)
            reasons = answer.json().get("reasons", [""])
            if reasons[: len(wanted)] != wanted:
                return False
            self.keep(answer, f"GET {path}", name=name)
            return True

        self.server.wait_until(found, f"{path} says {wanted}", seconds=90)

    def keep(self, answer: httpx.Response, request: str, *, name: str = "") -> None:
        """Keep an answer; `name` tells apart answers with one request, status and reason."""
        text = answer.text
        for found, shown in self._replaced:
            text = text.replace(found, shown)
        body = json.loads(text)
        self.found.append(
            Answer(self.service, request, answer.status_code, body.get("reason", ""), name, body)
        )


def collect(directory: Path, store: ModelStore) -> list[Answer]:
    """Return every answer, from services that run in the directory."""
    # The longest first, and not all at once: four services are more than two cores carry.
    parts = (_inference, _logging, _inference_workers, _logging_workers)
    with ThreadPoolExecutor(3) as pool:
        found = [*pool.map(lambda part: part(directory / part.__name__, store), parts)]
    return [answer for part in found for answer in part]


def _inference(directory: Path, store: ModelStore) -> list[Answer]:
    """The answers of a service whose model, registry, outbox and clients fail in turn."""
    outbox = outbox_path(directory / "outbox", 1)
    outbox.mkdir(parents=True)  # as unusable as a disk that is gone
    tokens = directory / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    with ExitStack() as stack:
        logging = stack.enter_context(LogServer())
        mlflow = stack.enter_context(
            MlflowServer(store.copy_to_serve(directory / "mlflow"), store.artifacts)
        )
        server = stack.enter_context(
            start_inference(
                directory,
                mlflow.tracking_uri,
                model=MOODY,
                env={
                    "DRAIN_SECONDS": "4",
                    "ERROR_WINDOW_SECONDS": "10",
                    "LOGGING_URL": logging.url,
                    "MAX_BATCH_SIZE": "1",
                    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
                    "OUTBOX_MAX_ROWS": str(_ROWS),
                    "PREDICT_TOKENS_FILE": str(tokens),
                    "QUEUE_SIZE": "2",
                    "REQUEST_TIMEOUT_SECONDS": "2",
                    "STALL_SECONDS": "3",
                },
            )
        )
        ours = Collector(
            "inference-service",
            server,
            (mlflow.tracking_uri, "http://mlflow:5000"),
            (re.sub(r"^http://", "", mlflow.tracking_uri), "mlflow:5000"),
            (mlflow.tracking_uri.rpartition(":")[2], "5000"),
            (MOODY, "steel-defects"),
        )

        def predict(data: object, **options: Any) -> httpx.Response:
            options = {"json": {"data": data}, "headers": _AUTHORIZED, **options}
            return server.post("/predict", **options)

        server.wait_until(lambda: server.probe("/ready").json()["registry"], "the registry")
        ours.probe("/ready", "model_not_loaded", name="the registry is down")
        ours.keep(predict(_FINE), "POST /predict")
        mlflow.start()
        ours.probe("/ready", "outbox_not_accessible")
        ours.keep(predict(_FINE), "POST /predict")
        outbox.rmdir()
        ours.probe("/ready")
        server.wait_until(lambda: predict(_FINE).status_code == 200, "a prediction")
        ours.probe("/ready", name="after a prediction")
        ours.probe("/health")
        for name, data in (
            ("wrong length", [1.0]),
            ("not a number", [0.0, "x"]),
            ("NaN", [0.0, None]),
        ):
            ours.keep(predict(data), "POST /predict", name=name)
        ours.keep(
            server.post("/predict_image", content=b"no image", headers=_AUTHORIZED),
            "POST /predict_image",
        )
        ours.keep(predict(_FINE, headers={}), "POST /predict")
        ours.keep(server.get("/predict"), "GET /predict")
        ours.keep(predict(None, content=b"x" * (11 << 20), json=None), "POST /predict")
        ours.keep(_slow_body(server, "/predict"), "POST /predict")
        ours.keep(predict(_REFUSED), "POST /predict")
        ours.keep(predict([2.6, 0.0]), "POST /predict")
        server.wait_until(lambda: predict(_FINE).status_code == 200, "the model is free")
        ours.keep(_until(predict, 429, [1.5, 0.0]), "POST /predict")
        server.wait_until(lambda: predict(_FINE).status_code == 200, "the model is free")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(predict, [9.0, 0.0])
            ours.probe("/ready", "model_thread_stuck")
            ours.probe("/health", "model_thread_stuck")
        ours.probe("/ready")
        server.wait_until(lambda: predict(_FINE).status_code == 200, "the model is free")
        # A model that fails and answers in turn is not given a new process.
        failed = [predict(data) for _ in range(15) for data in (_FAILS, _FAILS, _FINE)]
        ours.keep(next(one for one in failed if one.status_code == 500), "POST /predict")
        ours.probe("/ready", "high_error_rate")
        server.wait_until_ready()
        mlflow.stop()
        ours.probe("/ready", "mlflow_not_accessible")
        mlflow.start()
        server.wait_until_ready()
        logging.behaviour = lambda _: Reply(503, {"error": "later", "reason": "shutting_down"})
        ours.keep(_until(predict, 503, _FINE), "POST /predict")
        ours.probe("/ready", "outbox_full")
        logging.behaviour = lambda _: Reply()
        server.wait_until_ready()
        server.terminate()
        ours.probe("/ready", "shutting_down")
        server.wait()
    return ours.found


def _logging(directory: Path, _: ModelStore) -> list[Answer]:
    """The answers of a service whose database and clients fail in turn."""
    directory.mkdir(parents=True)
    folder = directory / "data"
    folder.write_text("no directory")
    database = folder / "predictions.db"
    env = {
        "BUSY_TIMEOUT_SECONDS": "6",
        "DATABASE_PATH": str(database),
        "DRAIN_SECONDS": "4",
        "ERROR_WINDOW_SECONDS": "20",
        "LOGGING_TOKEN": TOKEN,
        "MAX_BODY_BYTES": "100000",
        "REQUEST_TIMEOUT_SECONDS": "9",
        "WRITE_QUEUE_ROWS": "60",
    }
    with ThreadPoolExecutor(1) as aside, start_service(LOGGING, directory, env=env) as server:
        ours = Collector("logging-service", server)

        def log(*predictions: dict[str, Any], **options: Any) -> httpx.Response:
            options = {"json": batch(*predictions), "headers": _AUTHORIZED, **options}
            return fetch.post(f"{server.url}/log", timeout=30, **options)

        def read(path: str) -> httpx.Response:
            return server.get(path, headers=_AUTHORIZED)

        ours.probe("/ready", "database_not_initialized")
        server.wait_until(lambda: server.get("/health").status_code == 200, "its own port")
        ours.keep(log(prediction()), "POST /log")
        folder.unlink()
        ours.probe("/ready")
        slow = aside.submit(_slow_body, server, "/log")
        first = prediction(prediction_id="a-known-id", image_id="line-1/0001.png", timestamp=1.8e9)
        ours.keep(log(first), "POST /log")
        ours.probe("/ready", name="after a batch")
        ours.probe("/health")
        ours.keep(read("/stats"), "GET /stats")
        ours.keep(read("/predictions?limit=1"), "GET /predictions?limit=1")
        ours.keep(read("/predictions?limit=0"), "GET /predictions?limit=0")
        ours.keep(
            read("/predictions?edge_device_id=nobody"), "GET /predictions?edge_device_id=nobody"
        )
        ours.keep(log(prediction(detections="none")), "POST /log")
        ours.keep(log({**first, "defect_detected": False}), "POST /log")
        ours.keep(log(first, headers={}), "POST /log")
        ours.keep(server.get("/log"), "GET /log")
        ours.keep(log(content=b"x" * 200_000, json=None), "POST /log")
        # Forty wait for the lock when it is given up, and sixty rows are all that may wait.
        with ThreadPoolExecutor(41) as pool, locked_by_another_process(database):
            waiting = [pool.submit(log, prediction()) for _ in range(40)]
            server.wait_until(lambda: _queue_depth(server) >= 30, "all of them wait")
            ours.keep(log(*(prediction() for _ in range(60))), "POST /log")
            assert {one.result().status_code for one in waiting} == {503}
            ours.probe("/ready", "database_not_accessible")
            ours.keep(log(prediction()), "POST /log")
        ours.keep(slow.result(), "POST /log")
        ours.probe("/ready", "high_error_rate")
        server.wait_until_ready()
        server.terminate()
        ours.probe("/ready", "shutting_down")
        server.wait()
    return ours.found


def _queue_depth(server: Server) -> float:
    text = server.probe("/metrics").text
    (found,) = re.findall(r"^logging_queue_depth\{.*\} (.+)$", text, re.MULTILINE)
    return float(found)


def _inference_workers(directory: Path, store: ModelStore) -> list[Answer]:
    """The answers of a service whose workers start, stop and die."""
    directory.mkdir(parents=True)
    uri = store.copy(directory).tracking_uri
    server = start_inference(directory, uri, env=_WORKERS)
    return _worker_answers(
        "inference-service", server, "model_not_loaded", (COLOURS, "steel-defects")
    )


def _logging_workers(directory: Path, _: ModelStore) -> list[Answer]:
    """The answers of a service whose workers start, stop and die."""
    directory.mkdir(parents=True)
    env = {**_WORKERS, "DATABASE_PATH": str(directory / "predictions.db")}
    server = start_service(LOGGING, directory, env=env)
    return _worker_answers("logging-service", server, "database_not_initialized")


_WORKERS = {
    # As in an image, where BentoML starts no dead worker anew.
    "BENTOML_CONTAINERIZED": "true",
    "READINESS_REQUIRES_MLFLOW": "never",
    "STALL_SECONDS": str(_STALL_SECONDS),
    "WORKERS": "2",
    "WORKER_GRACE_SECONDS": "8",
}


def _worker_answers(
    service: str, server: Server, first: str, *replaced: tuple[str, str]
) -> list[Answer]:
    with server:
        ours = Collector(service, server, *replaced)
        server.wait_until(server.workers, "a worker")
        with suspended(server.workers()):
            # The probe process answers before any worker does.
            server.wait_until(lambda: server.probe("/health").status_code == 200, "probes")
            ours.probe("/ready", first, name="the pod starts")
            assert "worker_not_serving" in ours.found[-1].body["reasons"]
        server.wait_until(lambda: server.probe("/ready").status_code == 200, "ready", seconds=90)
        if service == "inference-service":
            ours.keep(server.post("/predict", json={"data": channel(1)}), "POST /predict")
        with suspended(server.workers()):
            ours.probe("/ready", "port_not_answering")
            ours.probe("/ready", "event_loop_stalled", alongside=["port_not_answering"])
            ours.probe("/health", "port_not_answering")
            ours.probe("/health", "event_loop_stalled", alongside=["port_not_answering"])
        server.wait_until(lambda: server.probe("/ready").status_code == 200, "ready again")
        os.kill(server.workers()[0].pid, signal.SIGKILL)
        ours.probe("/ready", "worker_missing")
        ours.probe("/health", "worker_dead")
    return ours.found


def _until(send: Callable[[object], httpx.Response], status: int, data: object) -> httpx.Response:
    """Send requests from several clients until one is answered with the status; return that."""
    found: list[httpx.Response] = []
    ends = time.monotonic() + 60

    def ask() -> None:
        while not found and time.monotonic() < ends:
            answer = send(data)
            if answer.status_code == status:
                found.append(answer)

    clients = [threading.Thread(target=ask) for _ in range(6)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return found[0]


def _slow_body(server: Server, path: str) -> httpx.Response:
    """Announce a body and send only its beginning."""
    with Connection(server.port) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        client.send(f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n[".encode())
        answer = client.read()
    return httpx.Response(answer.status, content=answer.body)


def main() -> int:
    """Write docs/answers.json anew."""
    directory = Path(tempfile.mkdtemp())
    try:
        write_answers(collect(directory / "services", make_store(directory / "models")))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    sys.stdout.write(f"wrote {ANSWERS}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
