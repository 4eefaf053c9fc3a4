"""A worker's delivery to a logging service that fails, hangs, refuses or is gone, and its disk."""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from bentos.edge.http import ServiceError
from bentos.inference.delivery import files as files_module
from bentos.inference.delivery import sender as sender_module
from bentos.inference.delivery import writer as writer_module
from bentos.inference.delivery.outbox import Outbox, outbox_path
from bentos.inference.delivery.salvage import Salvage, salvage
from tests.support.certificates import make_certificates
from tests.support.disks import small_disk
from tests.support.log_server import LogServer, Reply, refusal
from tests.support.outboxes import DEVICE, Worker, ids_in, rows_in
from tests.support.servers import wait_until

TOKEN = "a-token"


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: the pauses of production would only make the tests wait."""
    monkeypatch.setattr(sender_module, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(sender_module, "LONGEST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(writer_module, "_CHECK_SECONDS", 0.02)


@pytest.fixture
def server() -> Iterator[LogServer]:
    with LogServer() as running:
        yield running


@pytest.fixture
def worker(tmp_path: Path, server: LogServer) -> Iterator[Worker]:
    made = Worker(tmp_path / "outbox", server.url)
    yield made
    server.unhang()
    made.close()


@pytest.fixture
def small(tmp_path: Path, server: LogServer) -> Iterator[Worker]:
    """Return a worker whose outbox lies on a disk of 1 MB."""
    with small_disk(tmp_path / "disk", size="1M") as disk:
        made = Worker(tmp_path, server.url)
        made.directory = disk
        made.path = outbox_path(disk, 1)
        yield made
        server.unhang()
        made.close()


def wait(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, what, seconds=30)


def wait_stored(server: LogServer, count: int) -> None:
    wait_until(
        lambda: len(server.stored) >= count,
        f"{count} stored",
        seconds=30,
        describe=lambda: f"{len(server.stored)} stored, {server.attempts} attempts",
    )


def refused(worker: Worker, **fields: object) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        worker.predict(1, **fields)
    return raised.value


def slowly(_: object) -> Reply:
    time.sleep(0.02)
    return Reply()


# Delivery


def test_predictions_arrive_once_and_leave_the_disk(worker: Worker, server: LogServer) -> None:
    worker.start()
    made = worker.predict(1_200)
    wait_stored(server, 1_200)
    assert sorted(server.stored) == made
    wait(lambda: worker.count("backlog") == 0, "an empty backlog")
    assert rows_in(worker.path) == 0
    assert worker.count("delivered") == 1_200
    assert worker.count("dropped") == worker.count("refused") == worker.count("lost") == 0


def test_a_batch_says_what_the_contract_asks(worker: Worker, server: LogServer) -> None:
    worker.start(token=TOKEN)
    worker.predict(3)
    wait_stored(server, 3)
    batch = server.batches[0]
    assert batch["edge_device_id"] == DEVICE
    assert batch["batch_size"] == len(batch["predictions"])
    headers = server.headers[0]
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["content-type"] == "application/json"


def test_nothing_is_lost_while_the_service_is_gone(worker: Worker, server: LogServer) -> None:
    server.stop()
    worker.start()
    made = worker.predict(700)
    wait(lambda: worker.count("send_errors") >= 2, "two attempts")
    assert rows_in(worker.path) == 700
    wait(lambda: worker.count("backlog") == 700, "a backlog of 700")
    server.start()
    wait_stored(server, 700)
    assert sorted(server.stored) == made


def test_a_service_that_hangs_is_given_up_and_asked_again(
    worker: Worker, server: LogServer
) -> None:
    server.hang()
    worker.start(timeout_seconds=0.2)
    made = worker.predict(2)
    wait(lambda: worker.count("send_errors") >= 2, "two time-outs")
    server.unhang()
    # What hung may have been stored after all: it is sent again under the same ids.
    wait(lambda: rows_in(worker.path) == 0, "an empty outbox")
    assert set(server.stored) == set(made)


def test_an_answer_that_does_not_end_is_none(worker: Worker, server: LogServer) -> None:
    server.behaviour = lambda _: Reply(200, "x" * (2 << 20))
    worker.start()
    made = worker.predict(1)
    wait(lambda: worker.count("send_errors") >= 2, "two attempts")
    assert ids_in(worker.path) == made


@pytest.mark.case(12)
def test_what_is_predicted_while_the_service_hangs_is_on_disk_at_once(
    worker: Worker, server: LogServer
) -> None:
    """The logging service hangs: a prediction is on disk when it is answered."""
    server.hang()
    worker.start(timeout_seconds=30.0)
    worker.predict(1)
    assert server.asked.wait(30)
    for count in (2, 3, 53):
        worker.predict(count - (rows_in(worker.path) or 0))
        assert rows_in(worker.path) == count
    assert not server.stored


# What is refused


def test_one_refused_prediction_does_not_keep_the_others_back(
    worker: Worker, server: LogServer
) -> None:
    bad = {"1-000003", "1-000700"}

    def behaviour(batch: dict[str, Any]) -> Reply:
        ids = [one["prediction_id"] for one in batch["predictions"]]
        return next((refusal(index) for index, one in enumerate(ids) if one in bad), Reply())

    server.behaviour = behaviour
    worker.start()
    made = worker.predict(1_000)
    wait_stored(server, 998)
    assert sorted(server.stored) == [one for one in made if one not in bad]
    wait(lambda: worker.count("refused") == 2, "two refused")
    wait(lambda: worker.count("dead_letters") == 2, "two dead letters")
    wait(lambda: worker.count("delivered") == 998, "the others delivered")
    assert worker.count("dropped") == 0
    assert set(ids_in(worker.path, "dead_letters")) == bad


# The token, and nothing of it in the log


@pytest.mark.case(16)
def test_a_token_that_changes_in_its_file_is_used_at_once(
    worker: Worker, server: LogServer, tmp_path: Path
) -> None:
    """The token is rotated under way: the next request bears the new one, at the stop as well."""
    file = tmp_path / "token"
    file.write_text("first\n")
    valid = {"first"}
    server.authorized = lambda bearer: bearer in valid
    worker.start(token_file=file)
    made = worker.predict(2)
    wait_stored(server, 2)
    valid.clear()
    valid.add("second")
    made += worker.predict(2)
    wait(lambda: worker.count("send_errors") > 0, "a 401")
    file.write_text("  second  ")
    worker.stop(10.0)
    assert sorted(server.stored) == made


@pytest.mark.case(16)
def test_of_several_tokens_the_one_that_is_accepted_is_used(
    worker: Worker, server: LogServer, tmp_path: Path
) -> None:
    """Both tokens are in the file while the service accepts one: no request waits for the other."""
    file = tmp_path / "tokens"
    file.write_text("new\nold\n")
    server.authorized = lambda bearer: bearer == "old"
    worker.start(token_file=file)
    worker.predict(1)
    wait_stored(server, 1)
    server.authorized = lambda bearer: bearer == "new"
    worker.predict(1)
    wait_stored(server, 2)
    assert [headers["authorization"] for headers in server.headers] == ["Bearer old", "Bearer new"]
    assert worker.count("send_errors") == 0


@pytest.mark.case(36)
@pytest.mark.parametrize("content", ["", " \n", "a\x00b", b"\xff\xfe"])
def test_a_token_file_that_cannot_be_used_costs_nothing_and_is_not_logged(
    worker: Worker,
    server: LogServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: str | bytes,
) -> None:
    """A token file holds no token: the last one is used, the log says so without its content."""
    logging.getLogger("bentos").propagate = True
    file = tmp_path / "token"
    file.write_text("secret-1")
    worker.start(token_file=file)
    worker.predict(1)
    wait_stored(server, 1)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    worker.predict(1)
    wait_stored(server, 2)
    file.unlink()
    worker.predict(1)
    wait_stored(server, 3)
    assert "secret-1" not in caplog.text
    assert "LOGGING_TOKEN_FILE cannot be used" in caplog.text


@pytest.mark.case(35)
def test_a_password_in_the_url_is_not_logged(
    tmp_path: Path, server: LogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """LOGGING_URL has a name and a password, and nothing answers or all is refused: not logged."""
    logging.getLogger("bentos").propagate = True
    worker = Worker(tmp_path / "outbox", server.url.replace("//", "//bob:secretpw@"))
    server.stop()
    server.behaviour = lambda _: Reply(404, {"error": "not here", "reason": "not_found"})
    worker.start()
    worker.predict(1)
    wait(lambda: "Connection refused" in caplog.text, "no answer")
    server.start()
    wait(lambda: "not_found" in caplog.text, "a refusal")
    worker.close()
    assert "secretpw" not in caplog.text


@pytest.mark.case(36)
def test_a_private_authority_of_ssl_cert_file_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOGGING_URL is https with a private CA in SSL_CERT_FILE: delivered; without it, it waits."""
    certificates = make_certificates(tmp_path)
    with LogServer(certificates) as server:
        worker = Worker(tmp_path / "outbox", server.url)
        worker.start()
        made = worker.predict(2)
        wait(lambda: worker.count("send_errors") >= 2, "two refusals")
        worker.stop(0.1)
        assert server.stored == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        worker.start()
        wait_stored(server, 2)
        worker.close()
        assert sorted(server.stored) == made


# Full


@pytest.mark.case(17)
def test_a_full_outbox_refuses_and_takes_predictions_again_when_it_is_not(
    worker: Worker, server: LogServer
) -> None:
    """OUTBOX_MAX_ROWS are reached: 503 `outbox_full`, and the state says so, until some leave."""
    server.stop()
    worker.start(max_rows=50)
    made = worker.predict(50)
    error = refused(worker)
    assert (error.status, error.reason) == (503, "outbox_full")
    assert error.headers["Retry-After"] == "1"
    wait(lambda: worker.state.outbox_full.value == 1, "the gauge")
    assert worker.state.log_backlog.value == worker.state.outbox_capacity_rows.value == 50
    assert worker.delivery is not None
    assert worker.delivery.full
    server.start()
    wait_stored(server, 50)
    wait(lambda: worker.state.outbox_full.value == 0, "the gauge")
    made += worker.predict(1)
    wait_stored(server, 51)
    assert set(server.stored) <= {*made, "1-000050"}
    assert worker.count("dropped") == 0


@pytest.mark.case(17)
@pytest.mark.parametrize("ack", ["durable", "fast"])
def test_an_outbox_is_bounded_in_bytes(worker: Worker, server: LogServer, ack: str) -> None:
    """Large predictions reach OUTBOX_MAX_BYTES: 503, and the files stay near that size."""
    server.stop()
    worker.start(max_bytes=4 << 20, ack=ack)
    reasons: list[str] = []
    while not reasons:
        try:
            worker.predict(1, notes="x" * 10_000)
        except ServiceError as error:
            reasons.append(error.reason)
    assert reasons == ["outbox_full"]
    wait(lambda: worker.state.outbox_bytes.value > 3 << 20, "all to be written")
    size = sum(file.stat().st_size for file in worker.path.parent.glob("outbox-1.db*"))
    assert (2 << 20) < size < (7 << 20)
    assert worker.state.outbox_capacity_bytes.value == 4 << 20


@pytest.mark.case(17)
def test_where_it_may_the_outbox_drops_the_oldest_and_counts_them(
    worker: Worker, server: LogServer
) -> None:
    """OUTBOX_FULL=drop_oldest: every prediction is taken, the oldest leave and are counted."""
    server.stop()
    worker.start(max_rows=50, when_full="drop_oldest")
    made: list[str] = []
    for _ in range(8):
        made += worker.predict(10)
    wait(lambda: worker.count("dropped") == 30, "thirty dropped")
    assert ids_in(worker.path) == made[30:]
    server.start()
    wait_stored(server, 50)
    assert server.stored == made[30:]


@pytest.mark.case(17)
def test_a_disk_that_is_full_refuses_predictions_and_loses_none(
    small: Worker, server: LogServer
) -> None:
    """The outbox is on a disk of 1 MB: what was answered is stored, the rest got a 503."""
    server.stop()
    small.start()
    made: list[str] = []
    reasons: list[str] = []
    for _ in range(2_500):
        try:
            made += small.predict(1, notes="x" * 500)
        except ServiceError as error:
            reasons.append(error.reason)
    assert set(reasons) == {"outbox_full"}
    assert len(made) > 300
    wait(lambda: small.state.outbox_full.value == 1, "the gauge")
    server.start()
    wait(lambda: set(made) <= set(server.stored), "all stored")
    wait(lambda: small.state.outbox_full.value == 0, "the gauge")
    made += small.predict(5)
    wait(lambda: set(made) <= set(server.stored), "the new ones stored")


@pytest.mark.case(17)
def test_a_disk_that_others_fill_refuses_predictions_until_there_is_room(
    small: Worker, server: LogServer
) -> None:
    """Another file takes the last byte of the disk: 503, and 200 again once it is gone."""
    server.stop()
    small.start()
    made = small.predict(20)
    other = small.directory / "other"
    with suppress(OSError), other.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1_024))
    reasons = {refused(small, notes="x" * 500).reason for _ in range(20)}
    assert reasons == {"outbox_full"}
    wait(lambda: small.state.outbox_full.value == 1, "the gauge")
    other.unlink()
    wait(lambda: small.state.outbox_full.value == 0, "the gauge")
    made += small.predict(20)
    server.start()
    wait(lambda: set(made) <= set(server.stored), "all stored")


def test_a_full_disk_drops_the_oldest_where_it_may(small: Worker, server: LogServer) -> None:
    server.stop()
    small.start(when_full="drop_oldest")
    made: list[str] = []
    for _ in range(2_500):
        made += small.predict(1, notes="x" * 500)
    server.start()
    wait(lambda: made[-1] in server.stored, "the newest stored")
    wait(lambda: rows_in(small.path) == 0, "an empty outbox")
    assert len(set(server.stored)) + small.count("dropped") == len(made)


# A disk that fails


def test_a_disk_that_fails_refuses_what_it_cannot_keep_and_recovers(
    worker: Worker, server: LogServer
) -> None:
    worker.path.mkdir()  # as unusable as a disk that is gone
    worker.start()
    assert (refused(worker).status, refused(worker).reason) == (503, "outbox_not_accessible")
    wait(lambda: worker.state.outbox_failing.value == 1, "the gauge")
    assert worker.state.outbox_full.value == 0
    worker.path.rmdir()
    wait(lambda: worker.state.outbox_failing.value == 0, "the gauge")
    made = worker.predict(3)
    wait_stored(server, 3)
    assert sorted(server.stored) == made


def test_fast_predictions_wait_in_memory_for_a_disk_that_fails(
    worker: Worker, server: LogServer
) -> None:
    worker.path.mkdir()  # as unusable as a disk that is gone
    worker.start(ack="fast")
    made = worker.predict(5)
    wait(lambda: worker.count("backlog") == 5, "five in memory")
    worker.path.rmdir()
    wait_stored(server, 5)
    assert sorted(server.stored) == made


def test_the_memory_is_bounded_too(
    worker: Worker, server: LogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_MEMORY_BYTES", 10 * len('{"prediction_id":"1-000000"}'))
    worker.path.mkdir()
    worker.start(ack="fast")
    worker.predict(10)
    assert refused(worker).reason == "outbox_full"
    worker.stop(0.1)
    worker.start(ack="fast", when_full="drop_oldest")
    worker.predict(25)
    wait(lambda: worker.count("dropped") == 15, "fifteen dropped")
    worker.path.rmdir()
    wait_stored(server, 10)


def test_a_file_that_another_process_holds_is_waited_for(worker: Worker, server: LogServer) -> None:
    server.stop()
    worker.start()
    worker.predict(1)
    with closing(sqlite3.connect(worker.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        made = threading.Thread(target=worker.predict)
        made.start()
        made.join(0.2)
        assert made.is_alive()
        other.execute("ROLLBACK")
        made.join(10)
    assert rows_in(worker.path) == 2


@pytest.mark.case(18)
def test_an_outbox_that_is_deleted_under_way_loses_nothing(
    worker: Worker, server: LogServer
) -> None:
    """The outbox's files are deleted while predictions wait: they are stored all the same."""
    server.stop()
    worker.start()
    made = worker.predict(100)
    for file in worker.path.parent.glob("outbox-1.db*"):
        file.unlink()
    wait(lambda: rows_in(worker.path) == 100, "all in a new file")
    made += worker.predict(5)
    server.start()
    wait(lambda: set(made) <= set(server.stored), "all stored")
    assert list(worker.path.parent.glob("outbox-1.recovered*")) == []


def test_a_deleted_outbox_is_kept_open_until_its_content_could_be_copied(
    worker: Worker, server: LogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[Path] = []
    copy = Outbox.copy_to

    def failing(self: Outbox, path: Path) -> None:
        attempts.append(path)
        if len(attempts) < 3:
            raise OSError("the directory is gone")
        copy(self, path)

    monkeypatch.setattr(Outbox, "copy_to", failing)
    server.stop()
    worker.start()
    made = worker.predict(10)
    for file in worker.path.parent.glob("outbox-1.db*"):
        file.unlink()
    server.start()
    wait(lambda: set(made) <= set(server.stored), "all stored")
    assert len(attempts) == 3


# Damage


@pytest.mark.case(18)
def test_what_a_damaged_outbox_holds_is_recovered_and_sent(
    worker: Worker, server: LogServer
) -> None:
    """100 bytes of FF at the start of the file, 1,000 rows waiting: all of them are stored."""
    server.stop()
    worker.start()
    made = worker.predict(1_000)
    worker.stop(0.1)
    with worker.path.open("r+b") as file:
        file.write(b"\xff" * 100)
    worker.start()
    made += worker.predict(4)
    server.start()
    wait(lambda: set(made) <= set(server.stored), "all stored")
    assert worker.count("lost") == 0
    wait(lambda: worker.count("backlog") == 0, "an empty backlog")
    assert [file.name for file in worker.path.parent.glob("outbox-1.*ed-*")] == []


@pytest.mark.case(18)
def test_what_is_lost_with_a_damaged_page_is_counted(worker: Worker, server: LogServer) -> None:
    """Pages in the middle of the outbox are overwritten: their rows are counted as lost."""
    server.stop()
    worker.start()
    made = worker.predict(2_000, notes="x" * 200)
    worker.stop(0.1)
    content = bytearray(worker.path.read_bytes())
    content[40 * 4_096 : 42 * 4_096] = bytes(2 * 4_096)
    worker.path.write_bytes(content)
    server.start()
    worker.start()
    wait(lambda: worker.count("lost") > 0, "the lost ones")
    stored = len(made) - worker.count("lost")
    wait(lambda: len(set(server.stored)) == stored, "all others stored")
    assert len(list(worker.path.parent.glob("outbox-1.db.unreadable-*"))) == 1


def test_new_predictions_do_not_wait_for_a_salvage(
    worker: Worker, server: LogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = threading.Event()

    def slow(damaged: Path, target: Path) -> Salvage:
        finish.wait(30)
        return salvage(damaged, target)

    monkeypatch.setattr(files_module, "salvage", slow)
    worker.path.write_bytes(b"this is no database, and was one before the power went" * 100)
    worker.start()
    made = worker.predict(4)
    wait_stored(server, 4)
    assert sorted(server.stored) == made
    finish.set()
    wait(lambda: list(worker.path.parent.glob("*.unreadable-*")), "it to be kept")


# Other files


@pytest.mark.case(19)
def test_what_a_worker_that_is_gone_left_is_taken_over_in_pieces(
    worker: Worker, server: LogServer
) -> None:
    """WORKERS goes from 2 to 1: the second one's rows move 200 at a time, its file is removed."""
    left = outbox_path(worker.directory, 2)
    with closing(Outbox(left)) as other:
        other.add([b'{"prediction_id":"left-%04d"}' % number for number in range(3_000)])
    worker.start()
    made = worker.predict(1)
    wait_stored(server, 3_001)
    assert {*made, "left-0000", "left-2999"} <= set(server.stored)
    assert len(set(server.stored)) == 3_001
    wait(lambda: not left.exists(), "its file to be gone")


def test_no_more_is_taken_over_than_there_is_room_for(worker: Worker, server: LogServer) -> None:
    server.stop()
    left = outbox_path(worker.directory, 2)
    with closing(Outbox(left)) as other:
        other.add([b'{"prediction_id":"left-%04d"}' % number for number in range(3_000)])
    worker.start(max_rows=500)
    wait(lambda: worker.state.outbox_full.value == 1, "it to be full")
    assert (rows_in(worker.path) or 0) + (rows_in(left) or 0) == 3_000
    server.start()
    wait_stored(server, 3_000)
    assert len(set(server.stored)) == 3_000


def test_a_damaged_file_of_such_a_worker_costs_only_that(worker: Worker, server: LogServer) -> None:
    left = outbox_path(worker.directory, 2)
    left.write_bytes(b"no database" * 1_000)
    worker.start()
    made = worker.predict(3)
    wait_stored(server, 3)
    assert sorted(server.stored) == made
    wait(lambda: list(worker.directory.glob("outbox-2.db.unreadable-*")), "it to be kept")


def test_what_another_process_puts_back_is_sent(worker: Worker, server: LogServer) -> None:
    server.behaviour = lambda batch: refusal(0) if batch["predictions"][0].get("bad") else Reply()
    worker.start()
    made = worker.predict(2, bad=True)
    wait(lambda: worker.count("dead_letters") == 2, "two dead letters")
    server.behaviour = lambda _: Reply()
    with closing(Outbox(worker.path, create=False)) as other:
        assert other.resend([letter.id for letter in other.dead_letters()]) == 2
    wait_stored(server, 2)
    assert sorted(server.stored) == made
    wait(lambda: worker.count("dead_letters") == 0, "no dead letter")
    wait(lambda: worker.count("backlog") == 0, "an empty backlog")


# The end


def test_a_stop_hands_over_what_is_left(worker: Worker, server: LogServer) -> None:
    worker.start()
    made = worker.predict(2_000)
    worker.stop()
    assert sorted(server.stored) == made
    assert rows_in(worker.path) == 0
    assert worker.count("backlog") == 0


@pytest.mark.case(13)
@pytest.mark.parametrize("ack", ["durable", "fast"])
def test_a_stop_during_a_drain_writes_everything_first(
    worker: Worker, server: LogServer, ack: str
) -> None:
    """SIGTERM while 30,000 rows drain: all that was answered is on disk or stored."""
    server.stop()
    worker.start(ack=ack)
    made = worker.predict(10_000)
    server.behaviour = slowly
    server.start()
    wait_stored(server, 500)
    made += worker.predict(1_000)
    worker.stop(0.2)
    assert set(made) == {*server.stored, *ids_in(worker.path)}
    assert 0 < len(ids_in(worker.path)) < 10_500


def test_a_stop_without_the_service_keeps_all_on_disk_for_the_next_start(
    worker: Worker, server: LogServer
) -> None:
    server.stop()
    worker.start()
    made = worker.predict(1_500)
    worker.stop(0.3)
    assert rows_in(worker.path) == 1_500
    server.start()
    worker.start()
    wait_stored(server, 1_500)
    assert sorted(server.stored) == made


def test_a_stop_uses_the_time_it_has(worker: Worker, server: LogServer) -> None:
    """The logging service comes back while the service stops: what waits is delivered."""
    server.stop()
    worker.start()
    made = worker.predict(10)
    threading.Timer(0.5, server.start).start()
    worker.stop(20.0)
    assert sorted(server.stored) == made


def test_a_stop_does_not_wait_for_a_pause_to_pass(
    worker: Worker, server: LogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "FIRST_PAUSE_SECONDS", 1_000.0)
    monkeypatch.setattr(sender_module, "LONGEST_PAUSE_SECONDS", 1_000.0)
    server.behaviour = lambda _: Reply(503, {})
    worker.start()
    worker.predict(1)
    wait(lambda: worker.count("send_errors") == 1, "one attempt")
    server.behaviour = lambda _: Reply()
    worker.stop()
    assert len(server.stored) == 1


def test_a_service_that_hangs_does_not_hold_up_the_stop(worker: Worker, server: LogServer) -> None:
    server.hang()
    worker.start(timeout_seconds=20.0)
    made = worker.predict(3)
    assert server.asked.wait(30)
    thread = threading.Thread(target=worker.stop, args=(0.5,))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert ids_in(worker.path) == made


def test_nothing_is_taken_after_the_stop(worker: Worker, server: LogServer) -> None:
    worker.start()
    delivery = worker.delivery
    assert delivery is not None
    worker.stop()
    with pytest.raises(ServiceError) as raised:
        asyncio.run(delivery.put(b"{}"))
    assert raised.value.reason == "shutting_down"


def test_a_client_that_goes_away_costs_nobody_else_an_answer(
    worker: Worker, server: LogServer
) -> None:
    worker.start()

    async def put() -> list[object]:
        assert worker.delivery is not None
        puts = [
            asyncio.ensure_future(worker.delivery.put(orjson.dumps({"prediction_id": str(n)})))
            for n in range(10)
        ]
        await asyncio.sleep(0)
        puts[3].cancel()
        return await asyncio.gather(*puts, return_exceptions=True)

    results = worker.run(put())
    assert [result for result in results if result is not None] == [results[3]]
    wait_stored(server, 10)
