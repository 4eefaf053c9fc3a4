"""Structured logs: one JSON object, or one plain line, an event, on standard error."""

import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import TextIO

from bentos.health.encoding import encode_json
from bentos.process.secrets import redact

_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}
ROOT = "bentos"
_GATHER_SECONDS = 0.01
# At the end of a process: as long as a reader that is only slow may take.
_FLUSH_SECONDS = 2.0


def get_logger(name: str) -> logging.Logger:
    """Return a logger of the project; `event(logger, ...)` writes to it."""
    return logging.getLogger(f"{ROOT}.{name}")


def event(
    logger: logging.Logger,
    level: int,
    message: str,
    fields: Mapping[str, object] | None = None,
    *,
    error: BaseException | None = None,
) -> None:
    """Log a message with fields, JSON values, and the traceback of an exception."""
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={"fields": fields or {}}, exc_info=error)


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, service, worker, message and the fields."""

    def __init__(self, *, service: str, worker: int) -> None:
        super().__init__()
        self._constant = {"service": service, "worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        line: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
            **self._constant,
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        return encode_json(line).decode()


class PlainFormatter(logging.Formatter):
    """A line for people: time, level, service, message and the fields as name=value."""

    def __init__(self, *, service: str, worker: int) -> None:
        super().__init__()
        self._who = f"{service}/{worker}"

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line, a traceback below it."""
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(
            f" {name}={_plain(value)}" for name, value in getattr(record, "fields", {}).items()
        )
        line = f"{moment} {record.levelname:<7} {self._who} {record.getMessage()}{fields}"
        if record.exc_info and record.exc_info[1]:
            line += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        return line


def _plain(value: object) -> str:
    """Keep a value on its line: what a client sent must not forge a second one."""
    text = str(value)
    return text if text.isprintable() else repr(text)


class BackgroundHandler(logging.Handler):
    """Writes records to a stream from a thread of its own, so that no caller waits for the stream.

    Standard error of a container is a pipe. When its reader stops, because a node's disk is full
    for example, a write to it blocks for ever. Then `limit` characters wait at most; lines beyond
    them are lost, and a line says how many.
    """

    def __init__(
        self, formatter: logging.Formatter, stream: TextIO | None = None, *, limit: int = 4_194_304
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream or sys.stderr
        self._limit = limit
        self._waiting = 0
        self._lost = 0
        # Not the handler's own lock, which logging.shutdown holds while it waits for `flush`. A
        # signal's handler may log while its thread does: this lock and this queue allow it.
        self._counting = threading.RLock()
        self._queue: SimpleQueue[str | threading.Event | None] = SimpleQueue()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record's line, or count it as lost."""
        try:
            line = redact(self.format(record)) + "\n"
        except Exception:  # as logging's own handlers do: the work matters more than its log
            self.handleError(record)
            return
        with self._counting:
            if self._waiting + len(line) > self._limit:
                self._lost += 1
                return
            self._waiting += len(line)
        self._queue.put(line)

    def flush(self) -> None:
        """Wait until everything is written, but not long for a reader that is gone."""
        written = threading.Event()
        self._queue.put(written)
        written.wait(_FLUSH_SECONDS)

    def close(self) -> None:
        """Let the thread end when it has written what is left."""
        self._queue.put(None)
        super().close()

    def _run(self) -> None:
        open_ = True
        while open_:
            taken = [self._queue.get()]
            # A thread that woke for each line would take the interpreter from the event loop.
            time.sleep(_GATHER_SECONDS)
            while not self._queue.empty():
                taken.append(self._queue.get())
            text = "".join(one for one in taken if isinstance(one, str))
            # Who closed the stream reads nothing any more.
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text + self._report_lost())
                self._stream.flush()
            with self._counting:
                self._waiting -= len(text)
            for one in taken:
                if isinstance(one, threading.Event):
                    one.set()
            open_ = None not in taken

    def _report_lost(self) -> str:
        """Return a line that says how many were lost, empty where none was."""
        with self._counting:
            lost, self._lost = self._lost, 0
        if not lost:
            return ""
        record = logging.LogRecord(
            f"{ROOT}.logs", logging.ERROR, "", 0, "log lines lost: nobody read them", None, None
        )
        record.__dict__["fields"] = {"lines": lost}
        return self.format(record) + "\n"


def configure_logging(*, level: str, form: str, service: str, worker: int) -> None:
    """Send the project's records, and other libraries' warnings, to standard error.

    BentoML leaves its workers' root logger at WARNING; the project's own logger is configured
    beside it, so that INFO lines are seen. Warnings of Python's own go the same way: written
    directly they would wait for standard error's reader.
    """
    formatter: logging.Formatter = (
        JsonFormatter(service=service, worker=worker)
        if form == "json"
        else PlainFormatter(service=service, worker=worker)
    )
    handler = BackgroundHandler(formatter)
    logging.captureWarnings(capture=True)
    ours = logging.getLogger(ROOT)
    ours.handlers = [handler]
    ours.setLevel(_LEVELS[level])
    ours.propagate = False
    for name in ("bentoml", "mlflow", "uvicorn", "circus", ""):
        theirs = logging.getLogger(name)
        theirs.handlers = [handler]
        theirs.propagate = False
        if theirs.level == logging.NOTSET or theirs.level < logging.WARNING:
            theirs.setLevel(max(_LEVELS[level], logging.WARNING))
    # Uvicorn puts a line together for every answer wherever this logger has a handler.
    logging.getLogger("uvicorn.access").propagate = False
