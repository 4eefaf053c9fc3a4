"""The prober, on real sockets: its schedule, its patience, what it calls an answer."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from local.prober import (
    MISSED,
    TIMED_OUT,
    Answer,
    Prober,
    Schedule,
    probing,
)
from local.process import free_port, wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Conversation = Callable[[socket.socket], None]


class Listener:
    """A server whose every connection is a conversation of the test's own."""

    def __init__(self, conversation: Conversation) -> None:
        self.requests: list[bytes] = []
        listener = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                listener.requests.append(self.request.recv(65_536))
                conversation(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/ready"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def listening(conversation: Conversation) -> Iterator[Listener]:
    listener = Listener(conversation)
    try:
        yield listener
    finally:
        listener.close()


def says(*parts: bytes) -> Conversation:
    def conversation(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return conversation


def probed(
    url: str, *, seconds: float = 0.2, interval: float = 0.05, timeout: float = 5.0
) -> list[Answer]:
    answers: list[Answer] = []
    schedule = Schedule(url, interval_seconds=interval, timeout_seconds=timeout)
    Prober([schedule], answers.append).run(seconds=seconds)
    return answers


def sent(answers: list[Answer]) -> list[Answer]:
    """Return those of the ticks that a busy machine let the prober send."""
    return [answer for answer in answers if answer.error != MISSED]


def test_an_answer_has_its_status_and_times_that_are_not_rounded() -> None:
    with listening(says(OK)) as listener:
        answers = probed(listener.url)
    assert len(answers) >= 2
    assert {answer.status for answer in sent(answers)} == {200}
    assert all(answer.latency > 0 and answer.delay >= 0 for answer in sent(answers))
    assert any(answer.latency != round(answer.latency, 4) for answer in sent(answers))


def test_every_probe_has_a_connection_of_its_own_and_says_so() -> None:
    with listening(says(OK)) as listener:
        answers = probed(listener.url)
        assert len(listener.requests) == len(sent(answers))
    assert all(request.startswith(b"GET /ready HTTP/1.1\r\n") for request in listener.requests)
    assert all(b"Connection: close\r\n" in request for request in listener.requests)


def test_a_stalled_server_is_asked_as_often_as_a_quick_one() -> None:
    """Coordinated omission: a prober that waited for answers would send one probe and stop."""
    released = threading.Event()

    def stall(connection: socket.socket) -> None:
        released.wait(10)
        connection.sendall(OK)

    answers: list[Answer] = []
    with listening(stall) as listener:
        schedule = Schedule(listener.url, interval_seconds=0.02, timeout_seconds=10)
        prober = Prober([schedule], answers.append)
        thread = threading.Thread(target=prober.run, kwargs={"seconds": 0.4})
        thread.start()
        wait_until(lambda: len(listener.requests) >= 5, "probes sent while none was answered")
        assert sent(answers) == []
        released.set()
        thread.join(10)
    assert sum(answer.status == 200 for answer in answers) >= 5


def test_a_tick_is_intended_on_the_wall_clock_grid_whatever_was_answered() -> None:
    with listening(says(OK)) as listener:
        answers = sorted(probed(listener.url, interval=0.04), key=lambda answer: answer.intended)
    gaps = [after.intended - before.intended for before, after in pairwise(answers)]
    assert gaps == [pytest.approx(0.04, abs=1e-6)] * len(gaps)


def test_ticks_that_could_not_be_sent_are_told_and_not_made_up_for() -> None:
    held = threading.Event()
    answers: list[Answer] = []

    def emit(answer: Answer) -> None:
        answers.append(answer)
        if len(answers) == 1:
            held.wait(0.3)  # the prober's own process is held up

    with listening(says(OK)) as listener:
        schedule = Schedule(listener.url, interval_seconds=0.02, timeout_seconds=5)
        Prober([schedule], emit).run(seconds=0.5)
    missed = [answer for answer in answers if answer.error == MISSED]
    assert len(missed) >= 5
    assert all(answer.delay >= 0.02 and answer.status == 0 for answer in missed)
    ticks = [answer.intended for answer in answers]
    assert len(ticks) == len(set(ticks))


def test_no_answer_in_time_is_a_timeout_of_that_length() -> None:
    never = threading.Event()

    def keep_silent(_: socket.socket) -> None:
        never.wait(5)

    with listening(keep_silent) as listener:
        answers = probed(listener.url, timeout=0.05)
        never.set()
    assert {(answer.status, answer.error) for answer in sent(answers)} == {(0, TIMED_OUT)}
    assert all(answer.latency >= 0.05 for answer in sent(answers))


def test_nobody_listening_is_a_failure_with_its_reason() -> None:
    answers = probed(f"http://127.0.0.1:{free_port()}/ready")
    assert {(answer.status, answer.error) for answer in sent(answers)} == {
        (0, "Connection refused")
    }


@pytest.mark.parametrize(
    ("conversation", "status"),
    [
        (says(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), 503),
        (says(b"HTTP/1.1 429 \r\n\r\n"), 429),
        (says(b"HTTP/1.0 200 OK\r\n\r\nuntil the end"), 200),
        (says(b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 4\r\n\r\n", b"late"), 200),
        (says(b"HTTP", b"/1.1 20", b"4 No Content\r\nContent-Length: 0\r\n\r\n"), 204),
    ],
)
def test_an_answer_is_read_however_it_ends(conversation: Conversation, status: int) -> None:
    with listening(conversation) as listener:
        answers = probed(listener.url)
    assert {answer.status for answer in sent(answers)} == {status}


def test_an_answer_is_whole_with_its_last_byte_and_not_before() -> None:
    def dawdle(connection: socket.socket) -> None:
        connection.sendall(OK[:-1])
        threading.Event().wait(0.1)
        connection.sendall(OK[-1:])

    with listening(dawdle) as listener:
        answers = probed(listener.url)
    assert {answer.status for answer in sent(answers)} == {200}
    assert all(answer.latency >= 0.1 for answer in sent(answers))


def test_an_answer_is_whole_though_the_server_keeps_the_connection() -> None:
    released = threading.Event()

    def keep(connection: socket.socket) -> None:
        connection.sendall(OK)
        released.wait(20)

    with listening(keep) as listener:
        answers = probed(listener.url)
        released.set()
    assert {answer.status for answer in sent(answers)} == {200}


@pytest.mark.parametrize("garbage", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 okay\r\n\r\n"])
def test_what_is_no_http_is_no_answer(garbage: bytes) -> None:
    with listening(says(garbage)) as listener:
        answers = probed(listener.url)
    assert {(answer.status, answer.error) for answer in sent(answers)} == {(0, "no HTTP answer")}


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://127.0.0.1/ready"},
        {"url": "127.0.0.1:8000/ready"},
        {"interval_seconds": 0.0},
        {"timeout_seconds": 0.0},
        {"offset_seconds": -1.0},
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused(wrong: dict[str, float]) -> None:
    sound = {"url": "http://127.0.0.1/ready", "interval_seconds": 1.0, "timeout_seconds": 1.0}
    with pytest.raises(ValueError, match=r"http|interval"):
        Schedule(**{**sound, **wrong})  # type: ignore[arg-type]


def test_a_prober_process_with_many_answers_is_not_held_up_by_writing_them() -> None:
    nobody = f"http://127.0.0.1:{free_port()}/"
    schedule = Schedule(nobody, interval_seconds=0.0005, timeout_seconds=5)
    with probing([schedule]) as answers:
        threading.Event().wait(1.5)
    written = sum(len(f"{answer.intended} {answer.delay} {answer.latency}") for answer in answers)
    assert written > 65_536, "no more than a pipe holds"


def test_a_prober_process_probes_while_the_block_runs() -> None:
    with listening(says(OK)) as listener:
        schedule = Schedule(listener.url, interval_seconds=0.02, timeout_seconds=5)
        with probing([schedule]) as answers:
            wait_until(lambda: len(listener.requests) >= 3, "probes of the process")
            assert answers == []
        asked = len(listener.requests)
    assert len(answers) >= 3
    assert {answer.status for answer in sent(answers)} == {200}
    assert len([answer for answer in answers if answer.error != MISSED]) == asked
