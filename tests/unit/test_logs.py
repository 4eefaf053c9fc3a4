"""Structured logs, in JSON and in plain lines."""

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bentos.process.logs import configure_logging, event, get_logger


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
