"""Structured logs, in JSON and in plain lines, to a stream that may not be read at all."""

import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import pytest

from bentos.process.logs import BackgroundHandler, configure_logging, event, get_logger
from tests.support.servers import ROOT


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    names = ("bentos", "bentoml", "mlflow", "uvicorn", "circus", "")
    before = [(logging.getLogger(n), list(logging.getLogger(n).handlers)) for n in names]
    kept = [(logger, logger.level, logger.propagate) for logger, _ in before]
    yield
    for handler in logging.getLogger("bentos").handlers:
        handler.close()
    logging.captureWarnings(capture=False)
    for (logger, handlers), (_, level, propagate) in zip(before, kept, strict=True):
        logger.handlers = handlers
        logger.setLevel(level)
        logger.propagate = propagate


class Written:
    """What was written to standard error since it was last read."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def read(self) -> list[str]:
        for handler in logging.getLogger("bentos").handlers:
            handler.flush()
        return self._capsys.readouterr().err.splitlines()


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Written:
    return Written(capsys)


def configure(form: str, level: str = "INFO") -> logging.Logger:
    configure_logging(level=level, form=form, service="svc", worker=2)
    return get_logger("test")


def lines(stream: Written) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.read()]


def test_an_event_is_one_json_object_on_one_line(written: Written) -> None:
    event(configure("json"), logging.INFO, "done", {"path": "/predict", "n": 3})
    (line,) = lines(written)
    assert line["message"] == "done"
    assert (line["level"], line["service"], line["worker"]) == ("info", "svc", 2)
    assert (line["path"], line["n"]) == ("/predict", 3)
    assert line["timestamp"].endswith("+00:00")


def test_a_traceback_is_part_of_the_object(written: Written) -> None:
    logger = configure("json")
    with pytest.raises(ZeroDivisionError) as failed:
        print(1 / 0)
    event(logger, logging.ERROR, "failed", error=failed.value)
    (line,) = lines(written)
    assert "ZeroDivisionError" in line["exception"]
    assert "Traceback" in line["exception"]


@pytest.mark.parametrize("value", ["a\nb", "\udc80", Path("/x"), float("inf"), {1: 2}])
def test_whatever_a_field_holds_is_one_line(written: Written, value: object) -> None:
    event(configure("json"), logging.INFO, "done", {"value": value})
    assert len(lines(written)) == 1


def test_a_plain_line_cannot_be_forged_by_what_a_client_sent(written: Written) -> None:
    event(configure("plain"), logging.INFO, "done", {"file": "a\nERROR svc/2 fake", "e": "\x1b["})
    (line,) = written.read()
    assert "svc/2 done" in line
    assert "\x1b" not in line


def test_levels_below_the_set_one_are_not_written(written: Written) -> None:
    logger = configure("json", "WARNING")
    event(logger, logging.INFO, "no")
    event(logger, logging.WARNING, "yes")
    assert [line["message"] for line in lines(written)] == ["yes"]


def test_libraries_are_heard_from_warnings_on(written: Written) -> None:
    configure("json", "DEBUG")
    logging.getLogger("mlflow.tracking").info("no")
    logging.getLogger("mlflow.tracking").warning("yes")
    logging.getLogger("another.package").warning("yes too")
    assert [line["message"] for line in lines(written)] == ["yes", "yes too"]


def test_a_warning_of_pythons_own_is_a_line_like_any_other(written: Written) -> None:
    configure("json")
    warnings.warn("beware", UserWarning, stacklevel=1)
    (line,) = lines(written)
    assert "beware" in line["message"]
    assert line["level"] == "warning"


class Lines(logging.Formatter):
    """A record as its message; that lines were lost as their number."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        lost = getattr(record, "fields", {}).get("lines")
        return record.getMessage() if lost is None else f"{lost} lost"


def write(handler: BackgroundHandler, line: str) -> None:
    handler.handle(logging.LogRecord("test", logging.INFO, "", 0, line, None, None))


class Pipe:
    """A stream that ends in a pipe, which holds what is not read."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self.stream: TextIO = os.fdopen(writer, "w")

    def read_all(self) -> str:
        """Read until the stream is closed."""
        found = b""
        while part := os.read(self.reader, 1 << 20):
            found += part
        return found.decode()


class TestBackgroundHandler:
    @pytest.fixture
    def pipe(self) -> Iterator[Pipe]:
        one = Pipe()
        yield one
        os.closerange(one.reader, one.reader + 1)

    def test_lines_come_in_their_order(self) -> None:
        stream = io.StringIO()
        handler = BackgroundHandler(Lines(), stream)
        for number in range(100):
            write(handler, str(number))
        handler.flush()
        assert stream.getvalue().splitlines() == [str(number) for number in range(100)]

    def test_nobody_waits_for_a_reader_that_does_not_read_and_the_loss_is_told(
        self, pipe: Pipe
    ) -> None:
        before = set(threading.enumerate())
        handler = BackgroundHandler(Lines(), pipe.stream, limit=1 << 20)
        (writer,) = set(threading.enumerate()) - before
        started = time.monotonic()
        for _ in range(4_096):  # 4 MiB: more than the pipe and the handler hold
            write(handler, "x" * 1023)
        assert time.monotonic() - started < 30
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(pipe.read_all)  # the reader comes back
            write(handler, "again")
            handler.close()
            writer.join(30)
            pipe.stream.close()
            found = reading.result(30)
        lost = [int(line.split()[0]) for line in found.splitlines() if line.endswith("lost")]
        assert sum(lost) > 2_000
        assert found.count("x" * 1023) + found.count("again") == 4_097 - sum(lost)

    def test_the_end_of_a_process_does_not_wait_long_for_a_reader_that_is_gone(
        self, pipe: Pipe
    ) -> None:
        handler = BackgroundHandler(Lines(), pipe.stream)
        write(handler, "x" * 1_000_000)
        started = time.monotonic()
        handler.flush()
        assert 1 < time.monotonic() - started < 30

    def test_the_last_line_of_a_process_is_written(self) -> None:
        program = (
            "from bentos.process.logs import configure_logging, event, get_logger\n"
            "configure_logging(level='INFO', form='plain', service='svc', worker=1)\n"
            "event(get_logger('test'), 40, 'the last words')\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert ended.stderr.count("the last words") == 1

    def test_a_reader_that_left_ends_nothing(self, pipe: Pipe) -> None:
        handler = BackgroundHandler(Lines(), pipe.stream)
        os.close(pipe.reader)
        pipe.reader = os.open(os.devnull, os.O_RDONLY)
        for _ in range(3):
            write(handler, "x")
            handler.flush()

    def test_after_the_close_what_waited_is_written_and_the_thread_ends(self) -> None:
        stream = io.StringIO()
        before = set(threading.enumerate())
        handler = BackgroundHandler(Lines(), stream)
        (thread,) = set(threading.enumerate()) - before
        write(handler, "last")
        handler.close()
        thread.join(30)
        assert not thread.is_alive()
        assert stream.getvalue() == "last\n"
