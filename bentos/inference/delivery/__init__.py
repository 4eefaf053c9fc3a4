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

from bentos.inference.delivery.files import Limits
from bentos.inference.delivery.sender import (
    GATHER_SECONDS,
    Destination,
    HttpTransport,
    Sender,
)
from bentos.inference.delivery.writer import OutboxWriter
from bentos.inference.state import InferenceState
from bentos.process.logs import event, get_logger

__all__ = ["Delivery", "Destination", "Limits"]

_SHORT_PAUSE_SECONDS = 0.01
# What the threads may take to end beyond the time for sending.
_CLOSE_SECONDS = 2.0

_logger = get_logger("delivery")


class Delivery(OutboxWriter):
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
        super().__init__(path, limits, state, adopt=adopt)
        self._transport = HttpTransport(destination)
        self._sender = Sender(
            self,
            self._transport,
            state,
            edge_device_id=destination.edge_device_id,
            timeout_seconds=destination.timeout_seconds,
        )
        self._sending = threading.Thread(target=self._send, name="sender", daemon=True)
        self._stop_sending = threading.Event()
        self._deadline = float("inf")

    def start(self) -> None:
        """Open the file and begin to send what an earlier process left in it."""
        super().start()
        self._sending.start()

    async def stop(self, seconds: float) -> None:
        """Write all that was put, send for `seconds` what waits, and close the file.

        What could not be sent stays in the file for the next start.
        """
        await asyncio.to_thread(self._stop, seconds)

    def _stop(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._stop_sending.set()
        if self._sending.is_alive():
            self._sending.join(seconds + _CLOSE_SECONDS)
        # Only a disk that is very slow has not taken everything by now.
        self.end(seconds + _CLOSE_SECONDS)
        self._transport.close()

    def _send(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            try:
                pause = self._sender.step(seconds=left)
            except Exception as error:  # a damaged file, or a bug: the thread outlives both
                known = isinstance(error, sqlite3.Error | OSError)
                message = f"the outbox cannot be sent: {type(error).__name__}: {error}"
                event(_logger, logging.ERROR, message, error=None if known else error)
                pause = 1.0
            if not self._stop_sending.is_set():
                if self._stop_sending.wait(GATHER_SECONDS if pause is None else pause):
                    self._sender.retry_now()
            elif pause is None and self.backlog == 0:
                break
            elif pause is None or pause <= GATHER_SECONDS:
                time.sleep(_SHORT_PAUSE_SECONDS)
            else:
                time.sleep(min(pause, max(0.0, self._deadline - time.monotonic())))
        self.close_reader()
