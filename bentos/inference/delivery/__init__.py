"""The way of a prediction to the logging service: on disk first, then sent until it is settled.

`outbox` is one file; `files` looks after the one in use and those that come into it; `salvage`
reads what a damaged one still holds. `writer` puts predictions there in a thread of its own, and
`sender` sends what is there in another one.
"""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bentos.inference.delivery.sender import (
    GATHER_SECONDS,
    Destination,
    HttpTransport,
    Sender,
)
from bentos.inference.delivery.writer import Limits, OutboxWriter
from bentos.inference.state import InferenceState
from bentos.process.logs import event, get_logger

__all__ = ["Delivery", "Destination", "Limits"]

_SHORT_PAUSE_SECONDS = 0.01
# What the threads may take to end beyond the time for sending.
_CLOSE_SECONDS = 2.0

_logger = get_logger("delivery")


class Delivery:
    """A worker's outbox and what empties it; `start`, `put` and `stop` are for the event loop."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        destination: Destination,
        state: InferenceState,
        *,
        adopt: Sequence[Path] = (),
    ) -> None:
        self._writer = OutboxWriter(path, limits, state, adopt=adopt)
        self._transport = HttpTransport(destination)
        self._sender = Sender(
            self._writer,
            self._transport,
            state,
            edge_device_id=destination.edge_device_id,
            timeout_seconds=destination.timeout_seconds,
        )
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._stop = threading.Event()
        self._deadline = float("inf")

    def start(self) -> None:
        """Open the file and begin to send what an earlier process left in it."""
        self._writer.start()
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether the outbox holds as much as it may, or as its disk can."""
        return self._writer.full

    def check(self) -> None:
        """Raise the ServiceError 503 with which `put` would refuse a prediction now."""
        refusal = self._writer.refusal()
        if refusal is not None:
            raise refusal

    async def put(self, record: bytes) -> None:
        """Store a prediction, one JSON object as `/log` takes it; return when that is on disk.

        With `ack` "fast" it returns at once. Raises ServiceError 503, `outbox_full` or
        `outbox_not_accessible`, where the prediction is not stored.
        """
        await self._writer.put(record)

    async def stop(self, seconds: float) -> None:
        """Write all that was put, send for `seconds` what waits, and close the file.

        What could not be sent stays in the file for the next start.
        """
        await asyncio.to_thread(self._end, seconds)

    def _end(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(seconds + _CLOSE_SECONDS)
        # Only a disk that is very slow has not taken everything by now.
        self._writer.stop(seconds + _CLOSE_SECONDS)
        self._transport.close()

    def _run(self) -> None:
        try:
            self._send()
        finally:
            self._writer.close_reader()

    def _send(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            try:
                pause = self._sender.step(seconds=left)
            except Exception as error:  # a damaged file, or a bug: the thread outlives both
                known = isinstance(error, sqlite3.Error | OSError)
                message = f"the outbox cannot be sent: {type(error).__name__}: {error}"
                event(_logger, logging.ERROR, message, error=None if known else error)
                pause = 1.0
            if not self._stop.is_set():
                if self._stop.wait(GATHER_SECONDS if pause is None else pause):
                    self._sender.retry_now()
            elif pause is None and self._writer.backlog == 0:
                return
            elif pause is None or pause <= GATHER_SECONDS:
                time.sleep(_SHORT_PAUSE_SECONDS)
            else:
                time.sleep(min(pause, max(0.0, self._deadline - time.monotonic())))
