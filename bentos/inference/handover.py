"""Hands predictions to the logging service: writes them, has them sent, waits and tries again."""

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import orjson

from bentos.inference.outbox import Outbox, Waiting, set_aside
from bentos.inference.state import InferenceState
from bentos.process.logs import event, get_logger

LOG_PATH = "/log"
_BATCH_PREDICTIONS = 500
_GATHER_SECONDS = 0.25
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
# The service says with these that the batch itself is at fault, so sending it again is no use.
_REFUSALS = (400, 413, 422)

_logger = get_logger("outbox")


@dataclass(frozen=True)
class Destination:
    """Where predictions go and as whom they come."""

    url: str
    token: str | None
    edge_device_id: str
    timeout_seconds: float = 5.0


class Handover:
    """Owns the outbox's thread: what it could not deliver stays on disk and is tried again."""

    def __init__(
        self,
        path: Path,
        destination: Destination,
        state: InferenceState,
        *,
        max_rows: int,
        abandoned: Sequence[Path] = (),
    ) -> None:
        self._path = path
        self._abandoned = tuple(abandoned)
        self._destination = destination
        self._state = state
        self._outbox = Outbox(path, max_rows=max_rows)
        self._stop = threading.Event()
        self._flush_until = 0.0
        self._pause = 0.0
        self._retry_at = 0.0
        self._failing = ""
        # Counts the files that were set aside: row ids of one say nothing in the next.
        self._files = 0
        headers = {"Content-Type": "application/json"}
        if destination.token:
            headers["Authorization"] = f"Bearer {destination.token}"
        self._client = httpx.Client(
            base_url=destination.url,
            headers=headers,
            timeout=destination.timeout_seconds,
            trust_env=False,
        )
        self._sender = futures.ThreadPoolExecutor(1, thread_name_prefix="handover")
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin to write and send; what an earlier process left is sent first."""
        self._thread.start()

    def put(self, record: dict[str, object]) -> None:
        """Take a prediction's record without waiting."""
        self._outbox.put(record)

    def stop(self, flush_seconds: float) -> None:
        """Write and send what is left for so long, then end; the rest stays on disk."""
        self._flush_until = time.monotonic() + flush_seconds
        self._stop.set()
        self._thread.join(flush_seconds + self._destination.timeout_seconds)
        self._sender.shutdown(wait=False)
        self._client.close()

    def _run(self) -> None:
        self._guarded(lambda: self._outbox.peek(1))
        for path in self._abandoned:
            self._guarded(partial(self._outbox.adopt, path), path)
        while not self._stop.is_set():
            self._guarded(lambda: self._outbox.write(wait_seconds=_GATHER_SECONDS))
            self._deliver_when_due()
            self._account()
        self._retry_at = 0.0
        before = self._outbox.backlog + 1
        # What makes no headway, for the disk's or the service's failure, is left to the next start.
        while 0 < self._outbox.backlog < before and time.monotonic() < self._flush_until:
            before = self._outbox.backlog
            self._guarded(self._outbox.write)
            self._deliver_when_due()
        while self._outbox.backlog and self._guarded(self._outbox.write):
            pass
        self._account()
        self._outbox.close()

    def _account(self) -> None:
        self._state.log_backlog.set(self._outbox.backlog)
        if dropped := self._outbox.take_dropped():
            self._state.log_dropped.add(dropped)
            event(_logger, logging.ERROR, "predictions dropped", {"predictions": dropped})

    def _guarded(self, work: Callable[[], object], path: Path | None = None) -> bool:
        """Do work on an outbox's file, ours or `path`; say so and go on where the disk fails."""
        path = path or self._path
        try:
            return bool(work())
        except (sqlite3.Error, OSError) as error:
            event(_logger, logging.ERROR, f"the outbox failed: {error}", {"path": str(path)})
            if _is_damage(error) and path.exists():
                if path == self._path:
                    self._outbox.close()
                self._set_aside(path)
        self._stop.wait(_GATHER_SECONDS)
        return False

    def _set_aside(self, path: Path) -> None:
        try:
            fields = {"kept_as": str(set_aside(path))}
            self._files += path == self._path
        except OSError as error:
            event(_logger, logging.ERROR, f"the damaged outbox stays where it is: {error}")
        else:
            event(_logger, logging.ERROR, "the damaged outbox was set aside", fields)

    def _deliver_when_due(self) -> bool:
        """Send batches until none waits or one fails; tell whether all went well."""
        while time.monotonic() >= self._retry_at:
            waiting = self._peek()
            if not waiting.ids:
                return True
            if not self._deliver(waiting):
                return False
            self._account()
            if len(waiting.ids) < _BATCH_PREDICTIONS:
                return True
        return False

    def _peek(self) -> Waiting:
        waiting = Waiting((), ())

        def work() -> bool:
            nonlocal waiting
            waiting = self._outbox.peek(_BATCH_PREDICTIONS)
            return True

        self._guarded(work)
        return waiting

    def _deliver(self, waiting: Waiting) -> bool:
        file = self._files
        reply = self._send(waiting.predictions)
        if reply.status == 200:
            if self._files == file:
                self._guarded(lambda: self._outbox.remove(waiting))
            self._state.log_delivered.add(len(waiting.ids))
            if self._failing:
                event(_logger, logging.INFO, "the logging service takes predictions again")
            self._failing, self._pause = "", 0.0
            return True
        if self._files != file:
            return False  # the rows went with the damaged file; their ids may be others' by now
        if reply.blames(waiting):
            return self._deliver_apart(waiting, reply.trouble)
        self._state.log_send_errors.add()
        self._pause = min(max(self._pause * 2, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        # Jitter, or all edges come back in the same moment after an outage.
        wait = max(reply.retry_after, self._pause * random.uniform(0.5, 1.0))  # noqa: S311
        self._retry_at = time.monotonic() + wait
        if reply.trouble != self._failing:
            self._failing = reply.trouble
            fields = {"backlog": self._outbox.backlog, "retry_in_seconds": round(wait, 1)}
            event(_logger, logging.WARNING, f"predictions wait: {reply.trouble}", fields)
        return False

    def _deliver_apart(self, waiting: Waiting, trouble: str) -> bool:
        """Halve a refused batch until the one prediction at fault is alone, and drop that."""
        if len(waiting.ids) == 1:
            fields = {"prediction": waiting.predictions[0][:500].decode("utf-8", "replace")}
            event(_logger, logging.ERROR, f"a prediction was refused: {trouble}", fields)
            self._guarded(lambda: self._outbox.drop(waiting))
            return True
        return all(self._deliver(half) for half in waiting.halves())

    def _send(self, predictions: Sequence[bytes]) -> "_Reply":
        about = orjson.dumps(
            {
                "batch_size": len(predictions),
                "timestamp": time.time(),
                "edge_device_id": self._destination.edge_device_id,
            }
        )
        body = about[:-1] + b',"predictions":[' + b",".join(predictions) + b"]}"
        sending = self._sender.submit(self._client.post, LOG_PATH, content=body)
        # A service that hangs must not keep what is predicted meanwhile from the disk.
        while not futures.wait([sending], timeout=_GATHER_SECONDS).done:
            self._guarded(self._outbox.write)
            self._account()
        try:
            response = sending.result()
        except httpx.HTTPError as error:
            return _Reply(0, f"{type(error).__name__}: {error}")
        retry_after = response.headers.get("Retry-After", "")
        wait = float(retry_after) if retry_after.isdigit() else 0.0
        return _Reply(
            response.status_code,
            f"{response.status_code} {response.text[:300]}",
            retry_after=min(wait, _LONGEST_PAUSE_SECONDS),
            own=_has_reason(response),
        )


@dataclass(frozen=True)
class _Reply:
    """What became of a batch: a status, 0 without an answer, and what was wrong.

    `own` tells an error of the logging service from one of a proxy before it.
    """

    status: int
    trouble: str
    retry_after: float = 0.0
    own: bool = False

    def blames(self, waiting: Waiting) -> bool:
        """Tell whether the batch is at fault, so that sending it again would be no use."""
        if self.status == 413 and len(waiting.ids) > 1:
            return True  # smaller ones may pass, whoever said it
        return self.status in _REFUSALS and self.own


def _has_reason(response: httpx.Response) -> bool:
    try:
        content = response.json()
    except ValueError:
        return False
    return isinstance(content, dict) and isinstance(content.get("reason"), str)


def _is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)  # its low byte is the primary code
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
