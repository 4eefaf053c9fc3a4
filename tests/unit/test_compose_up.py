"""How `make up` waits: a line for each part, the reason of one that is late, and an end."""

import re
import sys
from collections.abc import Iterator

import httpx
import pytest

from compose import demo_model, stack
from compose.demo_model import alias_url, is_registered
from compose.stack import Part, Ports, refuse_taken_ports, wait_until_ready
from local.process import Process, StepError, free_port
from tests.support.http_server import Answer, HttpServer, Request


class Answers:
    """An HTTP server; `statuses` are what a path is answered with, the last one from then on."""

    def __init__(self) -> None:
        self.statuses: dict[str, list[int]] = {}
        self.server = HttpServer(self._answer)
        self.port, self.url = self.server.port, self.server.url

    def part(self, service: str, *statuses: int) -> Part:
        """Return a part that is answered so."""
        self.statuses[f"/{service}"] = list(statuses)
        return Part(service, self.url, f"{self.url}/{service}")

    def _answer(self, request: Request) -> Answer:
        statuses = self.statuses[request.path.partition("?")[0]]
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        return Answer(b'{"reason": "model_not_loaded"}' if status == 503 else b"", status)


@pytest.fixture
def answers() -> Iterator[Answers]:
    made = Answers()
    with made.server:
        yield made


@pytest.fixture
def endless() -> Iterator[Process]:
    """A training that has not ended."""
    with Process([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process


@pytest.fixture
def ended() -> Process:
    """A training that has ended."""
    process = Process([sys.executable, "-c", ""])
    process.wait()
    return process


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(stack, "_POLL_SECONDS", 0.01)


def no_log(service: str) -> None:
    """Fail where a log is shown that nobody needs."""
    raise AssertionError(service)


def said(lines: list[str]) -> list[str]:
    """Return the lines without the time that passed."""
    return [re.sub(r" after \d+ s$", "", line) for line in lines]


def test_each_part_gets_a_line_when_it_is_ready(answers: Answers, endless: Process) -> None:
    lines: list[str] = []
    parts = [answers.part("mlflow", 200), answers.part("demo-model", 404, 404, 200)]
    wait_until_ready(parts, lines.append, no_log, training=endless)
    assert said(lines) == ["mlflow is ready", "demo-model is ready"]


def test_the_reason_of_a_part_that_is_late_is_told_once(answers: Answers, endless: Process) -> None:
    lines: list[str] = []
    parts = [answers.part("inference-service", 503, 503, 503, 200)]
    wait_until_ready(parts, lines.append, no_log, training=endless)
    assert said(lines) == [
        "inference-service is not ready yet: model_not_loaded",
        "inference-service is ready",
    ]


def test_parts_that_never_come_are_named_after_their_logs(endless: Process) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    shown: list[str] = []
    with pytest.raises(StepError, match=r"not ready within 0\.1 s: grafana"):
        wait_until_ready(
            [Part("grafana", url, url)], print, shown.append, training=endless, seconds=0.1
        )
    assert shown == ["grafana"]


def test_the_log_of_a_part_that_gives_no_answer_is_shown_once_while_waiting(
    endless: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "_LOG_SECONDS", 0.0)
    url = f"http://127.0.0.1:{free_port()}"
    shown: list[str] = []
    with pytest.raises(StepError):
        wait_until_ready(
            [Part("grafana", url, url)], print, shown.append, training=endless, seconds=0.5
        )
    assert shown == ["grafana", "grafana"], "once after a while, and once at the end"


def test_training_that_ends_without_a_model_ends_the_wait(answers: Answers, ended: Process) -> None:
    with pytest.raises(StepError, match="there is no demo model"):
        wait_until_ready([answers.part("demo-model", 404)], print, no_log, training=ended)


def test_a_model_of_an_earlier_start_needs_no_training(answers: Answers, ended: Process) -> None:
    wait_until_ready([answers.part("demo-model", 200)], print, no_log, training=ended)


def test_a_taken_port_is_named_with_the_variable_that_chooses_another(answers: Answers) -> None:
    free = {name: free_port() for name in Ports.model_fields}
    ports = Ports.model_validate({**free, "grafana_port": answers.port})
    with pytest.raises(StepError, match=rf"port {answers.port} is taken.*GRAFANA_PORT="):
        refuse_taken_ports(ports)


def test_the_one_shot_asks_whether_the_alias_is_there(answers: Answers) -> None:
    path = "/api/2.0/mlflow/registered-models/alias"
    url = alias_url(answers.url, "steel-defects", "production")
    assert url == f"{answers.url}{path}?name=steel-defects&alias=production"
    answers.statuses[path] = [404, 200, 500]
    assert not is_registered(url)
    assert is_registered(url)
    with pytest.raises(httpx.HTTPStatusError):
        is_registered(url)


def test_the_one_shot_says_which_registry_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(demo_model, "MLFLOW_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    monkeypatch.setenv("MODEL_NAME", "steel-defects")
    monkeypatch.setenv("MODEL_STAGE", "production")
    assert demo_model.main() == 1
    assert f"{url} cannot be asked for steel-defects@production" in capsys.readouterr().err
