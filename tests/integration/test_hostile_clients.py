"""What clients send to do harm, while both ports of both services are probed.

On the probe port no probe may fail, and none may take longer than a busy machine does anyway:
it shares neither an interpreter nor an event loop with what clients reach.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from benchmarks import hostile
from benchmarks.probing import bare_server
from local import fetch
from local.prober import MISSED, Answer, Schedule, probing
from tests.support.inference import start_inference
from tests.support.models import ModelStore
from tests.support.servers import Server, start_service

# What a probe may take on the probe port at most, beyond what a bare socket beside it takes on the
# same busy machine.
SLOWEST_SECONDS = 0.25
# It measures, so nothing else may run beside it.
pytestmark = pytest.mark.serial
_LOGGING = "bentos.logging.service:LoggingService"


@pytest.fixture(scope="module")
def inference(
    model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("hostile-inference")
    with start_inference(directory, model_store.copy(directory).tracking_uri) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A logging service with a token."""
    directory = tmp_path_factory.mktemp("guarded-logging")
    env = {"DATABASE_PATH": str(directory / "predictions.db"), "LOGGING_TOKEN": "token"}
    with start_service(_LOGGING, directory, env=env) as server:
        server.wait_until_ready()
        yield server


@contextmanager
def probed(server: Server) -> Iterator[None]:
    """Probe `/health` and `/ready` on the probe port; none fails and none is slow."""
    with bare_server() as bare:
        schedules = [
            Schedule(url, interval_seconds=0.05, timeout_seconds=5.0)
            for url in (server.probe_url + "/health", server.probe_url + "/ready", bare)
        ]
        with probing(schedules) as answers:
            time.sleep(1.5)  # the prober is a process of its own, which has to start
            yield
            time.sleep(0.5)
    sent = [answer for answer in answers if answer.error != MISSED]
    probes = [answer for answer in sent if answer.schedule < 2]
    assert len(probes) > 2
    assert [answer for answer in probes if answer.status != 200] == []
    machine = max(answer.latency for answer in sent if answer.schedule == 2)
    slowest: Answer = max(probes, key=lambda answer: answer.latency)
    assert slowest.latency < SLOWEST_SECONDS + machine, f"{slowest}; a bare socket: {machine:.3f} s"


def send_raw(server: Server, data: bytes, *, seconds: float = 30.0) -> bytes:
    """Send bytes as they are and return what is answered until the server closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:

        def send() -> None:
            with suppress(OSError):
                connection.sendall(data)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        with suppress(OSError):
            while chunk := connection.recv(65_536):
                received += chunk
        sender.join(seconds)
    return received


def status_of(answer: bytes) -> int:
    """Return the status of a raw answer, 0 for none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


@dataclass(frozen=True)
class Sent:
    """What is sent, and which statuses are right."""

    name: str
    data: Callable[[], bytes]
    statuses: tuple[int, ...]


HEADS = [
    Sent("one header of 30 MB", lambda: hostile.huge_header(30_000_000), (431,)),
    Sent("two million headers", lambda: hostile.many_headers(2_000_000), (431,)),
    Sent("a URL of 50 MB", lambda: hostile.long_url(50_000_000), (414,)),
]


@pytest.mark.case(2)
@pytest.mark.parametrize("sent", HEADS, ids=lambda sent: sent.name)
def test_a_huge_head_is_refused_and_its_connection_closed(inference: Server, sent: Sent) -> None:
    """Heads of 10 to 50 MB get 431 or 414 after 64 kB, and the connection is closed."""
    data = sent.data()
    with probed(inference):
        answer = send_raw(inference, data)
    assert status_of(answer) in (*sent.statuses, 0)  # 0: it was reset while it still sent


@pytest.mark.case(3)
def test_pipelined_requests_are_answered_in_order_and_keep_nobody_waiting(
    inference: Server,
) -> None:
    """5,000 pipelined `GET /ready` in one write are all answered, one after the other."""
    count = 5_000
    requests = b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n" * (count - 1)
    requests += b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with probed(inference):
        answer = send_raw(inference, requests, seconds=120.0)
    assert answer.count(b"HTTP/1.1 200 OK") == count


PICTURES = [
    Sent("800,000 empty chunks", lambda: hostile.png_with_chunks(800_000), (200, 400)),
    Sent("2.4 million comments", lambda: hostile.jpeg_with_comments(2_400_000), (200, 400)),
    Sent("a scan repeated to 10 MB", lambda: hostile.jpeg_with_scans(10_000_000), (400,)),
]


@pytest.mark.case(5, 6)
@pytest.mark.parametrize("sent", PICTURES, ids=lambda sent: sent.name)
def test_a_picture_made_to_take_long_keeps_no_probe_waiting(inference: Server, sent: Sent) -> None:
    """Pictures with endless chunks, comments or scans, three at once: answered, probes unharmed."""
    content = sent.data()
    answers: list[int] = []

    def post() -> None:
        answer = fetch.post(
            inference.url + "/predict_image",
            content=content,
            headers={"Content-Type": "image/png"},
            timeout=60.0,
        )
        answers.append(answer.status_code)

    with probed(inference):
        threads = [threading.Thread(target=post) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90.0)
    assert len(answers) == 3
    assert set(answers) <= {*sent.statuses, 429}


BATCHES = [
    Sent("a NUL last", lambda: hostile.batch_with_late_nul(9_800_000), (400,)),
    Sent("lists", lambda: hostile.batch_with_nested_lists(1_800_000), (400,)),
    Sent("lists in the envelope", lambda: hostile.envelope_with_nested_lists(9_900_000), (400,)),
]


@pytest.mark.case(7)
@pytest.mark.parametrize("sent", BATCHES, ids=lambda sent: sent.name)
def test_a_batch_made_to_be_explained_keeps_no_probe_waiting(guarded: Server, sent: Sent) -> None:
    """Batches of up to 10 MB whose fault is hard to explain: 400, probes unharmed."""
    content = sent.data()
    headers = {"Authorization": "Bearer token"}
    with probed(guarded):
        answer = guarded.post("/log", content=content, headers=headers, timeout=60.0)
    assert answer.status_code in sent.statuses, answer.text[:500]
    assert len(answer.content) < 2_000


@pytest.mark.case(11)
def test_idle_connections_leave_probes_and_requests_alone(
    model_store: ModelStore, tmp_path: Path
) -> None:
    """1,100 idle connections where 1,024 files may be open: the longest idle ones give way."""
    # The limit is raised as far as the system allows, so the service is given a lower one.
    env = {"MAX_CONNECTIONS": "256"}
    store = model_store.copy(tmp_path)
    with start_inference(tmp_path, store.tracking_uri, env=env) as server:
        server.wait_until_ready()
        idle: list[socket.socket] = []
        try:
            with probed(server):
                address = ("127.0.0.1", server.port)
                idle += [socket.create_connection(address, timeout=5.0) for _ in range(600)]
                answer = fetch.get(server.url + "/ready", timeout=10.0)
            assert answer.status_code == 200
        finally:
            for connection in idle:
                connection.close()


def test_many_scrapes_at_once_keep_no_request_waiting(inference: Server) -> None:
    """16 clients scrape the service's own port without a pause: another client is answered."""
    ends = time.monotonic() + 4.0

    def scrape() -> None:
        with httpx.Client(base_url=inference.url, timeout=30.0, trust_env=False) as client:
            while time.monotonic() < ends:
                assert client.get("/metrics").status_code == 200

    threads = [threading.Thread(target=scrape) for _ in range(16)]
    with bare_server() as bare:
        schedules = [Schedule(url, 0.1, 10.0) for url in (inference.url + "/ready", bare)]
        with probing(schedules) as answers:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30.0)
    ready = [answer.latency for answer in answers if answer.schedule == 0 and answer.status == 200]
    machine = max(answer.latency for answer in answers if answer.schedule == 1)
    assert ready
    assert max(ready) < machine + 0.5, f"{max(ready):.3f} s; a bare socket: {machine:.3f} s"


@pytest.mark.case(1)
@pytest.mark.parametrize(
    "target",
    [
        *("/log%0A", "/log%0D%0A", "/log/", "//log", "/LOG", "/log%00", "/./log", "/log;x"),
        *("/log%20", "/%6Cog%0A", "http://a/log", "/log?x=%0A", "/x/../log"),
    ],
)
def test_no_spelling_of_a_guarded_path_gets_around_its_token(guarded: Server, target: str) -> None:
    """`POST /log%0A` and other spellings without the token: 401 or 404, and nothing is stored."""
    body = b'{"predictions":[],"edge_device_id":"a"}'
    request = f"POST {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n".encode()
    request += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert status_of(send_raw(guarded, request + body)) in (401, 404)
