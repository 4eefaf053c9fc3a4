"""The processes beside the served model: heat maps, a challenger, and that neither can hurt it."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from tests.support.images import black_png, colour_file, noise_file
from tests.support.inference import channel, metric, predict, ready, start_inference
from tests.support.log_server import LogServer
from tests.support.models import (
    COLOUR_CLASSES,
    FINE,
    MODEL_FAULT_FILE,
    MOODY,
    SWITCHED,
    ModelStore,
    point_alias,
)
from tests.support.servers import Server

CHALLENGER = "challenger"
TOKEN = "a-token"
_MODULE = "bentos.inference.model"
_LOWEST_PRIORITY = 19
_SECONDS = 180.0

Fault = Callable[[str], object]


def side_processes(server: Server) -> list[psutil.Process]:
    """Return the model processes of the lowest priority that run below a service."""
    return [
        process
        for process in psutil.Process(server.process.pid).children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE
        and _MODULE in process.cmdline()
        and process.nice() == _LOWEST_PRIORITY
    ]


def shadowed(server: Server, outcome: str) -> float:
    return metric(server, "inference_shadow_total", outcome=outcome)


def wait_for_shadowed(server: Server, outcome: str, count: float) -> None:
    server.wait_until(
        lambda: shadowed(server, outcome) >= count, f"{count} {outcome}", seconds=_SECONDS
    )


def wait_for_challenger(server: Server, version: str) -> None:
    server.wait_until(
        lambda: metric(server, "inference_shadow_model_info", version=version) == 1,
        f"a challenger of version {version}",
        seconds=_SECONDS,
    )


@pytest.fixture(scope="module")
def colours_uri(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    return model_store.copy(tmp_path_factory.mktemp("colours")).tracking_uri


@pytest.fixture(scope="module")
def log_server() -> Iterator[LogServer]:
    with LogServer() as running:
        yield running


@pytest.fixture(scope="module")
def colours(
    colours_uri: str, log_server: LogServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A service that explains, whose challenger calls every class otherwise."""
    point_alias(colours_uri, "colours", "2", alias=CHALLENGER)
    directory = tmp_path_factory.mktemp("explaining")
    tokens = directory / "tokens"
    tokens.write_text(TOKEN)
    env = {
        "EXPLAIN": "true",
        "SHADOW_STAGE": CHALLENGER,
        "SHADOW_SHARE": "1",
        "PREDICT_TOKENS_FILE": str(tokens),
        "REQUEST_TIMEOUT_SECONDS": "60",
        "LOGGING_URL": log_server.url,
        "KEEP_IMAGES": "true",
        "KEEP_PASS_SHARE": "1e-6",
    }
    with start_inference(directory, colours_uri, env=env) as running:
        running.http.headers["Authorization"] = f"Bearer {TOKEN}"
        running.wait_until_ready()
        yield running


def test_explain_answers_with_a_heat_map_of_the_class(colours: Server) -> None:
    content = colour_file((0, 255, 0), size=(64, 48))
    for options in ({"content": content}, {"files": {"image": ("a.png", content)}}):
        response = colours.post("/explain", timeout=_SECONDS, **options)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["class_name"] == COLOUR_CLASSES[1]
        assert answer["model_version"] == "1"
        assert 0.9 < answer["confidence"] <= 1
        assert (answer["rows"], answer["columns"]) == (10, 10)
        assert [len(row) for row in answer["drops"]] == [10] * 10
    assert metric(colours, "inference_explanations_total", outcome="answered") == 2


def test_what_explain_refuses_counts_against_nobody(colours: Server) -> None:
    before = metric(colours, "inference_errors_total"), metric(colours, "inference_rejected_total")
    bodies = {
        b"": 400,
        b"no picture": 400,
        noise_file()[:-2_000]: 400,
        black_png(6_000, 6_000): 413,
        bytes(11_000_000): 413,
    }
    for body, status in bodies.items():
        response = colours.post("/explain", content=body, timeout=_SECONDS)
        assert response.status_code == status, response.text
        assert response.json()["reason"] in ("bad_input", "too_large")
        assert response.json()["error"]
    # The last one is refused before it is read.
    assert metric(colours, "inference_explanations_total", outcome="refused") == 4
    after = metric(colours, "inference_errors_total"), metric(colours, "inference_rejected_total")
    assert after == before
    assert ready(colours)["status"] == "ready"


def test_explain_is_guarded_as_predict_is(colours: Server) -> None:
    response = colours.post("/explain", content=b"", headers={"Authorization": "Bearer wrong"})
    assert response.status_code == 401
    assert response.json()["reason"] == "unauthorized"


def test_the_api_page_shows_explain(colours: Server) -> None:
    assert "/explain" in colours.get("/docs.json").json()["paths"]


def test_a_challenger_that_differs_is_counted_and_never_heard(colours: Server) -> None:
    wait_for_challenger(colours, "2")
    predictions = metric(colours, "inference_predictions_total")
    differed = shadowed(colours, "differed")
    asked = 0
    # More than one call of the model takes.
    inputs = [channel(row % 3) for row in range(17)]

    def compared() -> bool:
        nonlocal asked
        answers = colours.post("/predict", json={"data": inputs}).json()
        for row, answer in enumerate(answers["predictions"]):
            assert answer["class_name"] == COLOUR_CLASSES[row % 3]
            assert answer["model_version"] == "1"
        asked += len(inputs)
        return shadowed(colours, "differed") > differed

    colours.wait_until(compared, "a comparison", seconds=_SECONDS)
    # Every input of a request is compared.
    assert (shadowed(colours, "differed") - differed) % len(inputs) == 0
    assert shadowed(colours, "failed") == 0
    assert metric(colours, "inference_predictions_total") == predictions + asked
    assert metric(colours, "inference_model_info") == 1
    assert shadowed(colours, "agreed") == 0


def test_a_picture_that_passed_is_kept_where_the_challenger_differs(
    colours: Server, log_server: LogServer
) -> None:
    wait_for_challenger(colours, "2")
    answers: dict[str, dict[str, Any]] = {}

    def kept() -> list[dict[str, Any]]:
        answer = colours.post("/predict_image", content=colour_file((255, 0, 0))).json()
        assert answer["verdict"] == "pass"
        answers[answer["prediction_id"]] = answer
        return [one for batch in log_server.batches for one in batch.get("evidence", ())]

    colours.wait_until(kept, "the picture", seconds=_SECONDS)
    one = kept()[0]
    answer = answers[one["prediction_id"]]
    assert one["class_name"] == COLOUR_CLASSES[0]
    assert one["sampled"] is False
    challenger = one["challenger"]
    assert (challenger["version"], challenger["class_name"]) == ("2", "fine")
    assert challenger["confidence"] == answer["confidence"]


def test_the_alias_of_the_challenger_is_followed(colours: Server, colours_uri: str) -> None:
    point_alias(colours_uri, "colours", "1", alias=CHALLENGER)
    wait_for_challenger(colours, "1")

    def agreed() -> bool:
        predict(colours, channel(0))
        return shadowed(colours, "agreed") > 0

    colours.wait_until(agreed, "a comparison", seconds=_SECONDS)


class Watch:
    """Asks a service's probes and for predictions all the time, and keeps what was not as usual."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.asked: Counter[str] = Counter()
        self.unusual: list[str] = []

    def _run(self) -> None:
        with httpx.Client(trust_env=False, timeout=30.0) as client:
            while not self._end.wait(0.02):
                for path in ("/ready", "/health"):
                    self._note(path, client.get(self._server.probe_url + path))
                body = {"data": list(FINE)}
                answer = client.post(f"{self._server.url}/predict", json=body)
                self._note("/predict", answer)
                if answer.status_code == 200 and answer.json()["model_version"] != "1":
                    self.unusual.append(answer.text)

    def _note(self, path: str, answer: httpx.Response) -> None:
        self.asked[path] += 1
        if answer.status_code != 200:
            self.unusual.append(f"{path}: {answer.status_code} {answer.text}")

    def wait_for_more(self, server: Server, count: int) -> None:
        """Wait until each was asked so many times more."""
        wanted = self.asked["/predict"] + count
        server.wait_until(lambda: self.asked["/predict"] >= wanted, "requests", seconds=_SECONDS)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._end.set()
            self._thread.join()


@pytest.fixture(scope="module")
def faulty(
    model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Fault]]:
    """A service whose challenger does what a test tells it."""
    directory = tmp_path_factory.mktemp("faulty")
    uri = model_store.copy(directory).tracking_uri
    client = MlflowClient(uri, uri)
    client.create_model_version(MOODY, client.get_model_version_download_uri(SWITCHED, "1"))
    point_alias(uri, MOODY, "2", alias=CHALLENGER)
    file = directory / "fault"
    file.write_text("")
    env = {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
        MODEL_FAULT_FILE: str(file),
        "SHADOW_STAGE": CHALLENGER,
        "SHADOW_SHARE": "1",
        "SIDE_MEMORY_BYTES": str(512 << 20),
        "REQUEST_TIMEOUT_SECONDS": "5",
    }
    with start_inference(directory, uri, model=MOODY, env=env) as running:
        running.wait_until_ready()
        yield running, file.write_text


def _ends(server: Server) -> None:
    """Wait until the challenger's process is another one, or none."""
    (old,) = side_processes(server)
    server.wait_until(
        lambda: old.pid not in [process.pid for process in side_processes(server)],
        "the end of the challenger's process",
        seconds=_SECONDS,
    )


def _killed(server: Server, _fault: Fault) -> None:
    (old,) = side_processes(server)
    os.kill(old.pid, signal.SIGKILL)
    server.wait_until(
        lambda: any(process.pid != old.pid for process in side_processes(server)),
        "another process",
        seconds=_SECONDS,
    )


def _hung(server: Server, fault: Fault) -> None:
    fault("hang")
    _ends(server)


def _leaking(server: Server, fault: Fault) -> None:
    fault("leak")
    _ends(server)


def _crashing_at_load(server: Server, fault: Fault) -> None:
    fault("crash")
    for _ in range(2):
        server.wait_until(lambda: side_processes(server), "a process", seconds=_SECONDS)
        _ends(server)


@pytest.mark.parametrize("happens", [_killed, _hung, _leaking, _crashing_at_load])
def test_nothing_that_happens_to_the_challenger_reaches_the_served_model(
    faulty: tuple[Server, Fault], happens: Callable[[Server, Fault], None]
) -> None:
    """The probes stay 200, every request is answered by the champion, and no count moves."""
    server, fault = faulty
    wait_for_challenger(server, "2")
    served = ready(server)
    watch = Watch(server)
    with watch.watching():
        agreed = shadowed(server, "agreed")
        wait_for_shadowed(server, "agreed", agreed + 1)
        happens(server, fault)
        watch.wait_for_more(server, 10)
        fault("")
    assert watch.unusual == []
    now = ready(server)
    assert now["predictions_served"] == served["predictions_served"] + watch.asked["/predict"]
    assert now["errors"] == 0
    assert now["model"] == served["model"]
    assert now["model_since"] == served["model_since"]
    assert now["load"] == served["load"]
    assert metric(server, "inference_errors_total") == 0
    assert metric(server, "inference_rejected_total") == 0
    assert metric(server, "inference_model_process_exits_total") == 0
    assert metric(server, "inference_model_loads_total") == 1
    assert metric(server, "inference_batch_size_sum") == now["predictions_served"]


def test_the_challenger_ends_with_the_service(faulty: tuple[Server, Fault]) -> None:
    server, _ = faulty
    wait_for_challenger(server, "2")
    left = side_processes(server)
    assert len(left) == 1
    assert server.stop() == 0
    assert not left[0].is_running()
