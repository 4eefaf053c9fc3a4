"""Sends what waits in the outbox to the logging service, again and again until it is settled.

A prediction leaves the outbox in two ways only: the logging service has acknowledged it, or it has
refused this very prediction, which then is a dead letter. Whatever else is answered (no answer, a
proxy's page, a wrong token, a fault of the whole request) means that it is sent again later.
"""

import logging
import math
import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx
import orjson

from bentos.edge.tokens import read_tokens
from bentos.inference.delivery.outbox import Batch, Refusal, Settlement
from bentos.inference.state import InferenceState
from bentos.process.backoff import Backoff
from bentos.process.logs import event, get_logger

LOG_PATH = "/log"
BATCH_ROWS = 500
BATCH_BYTES = 4 << 20
# The pause after all that waited was sent: what is predicted meanwhile goes in one request.
GATHER_SECONDS = 0.25
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0

# The service refuses the content with these: to send the same again is of no use.
_CONTENT_REFUSED = (400, 409, 413, 422)
# With these the content may be the cause, and smaller requests show which part of it.
_MAYBE_CONTENT = (*_CONTENT_REFUSED, 500)
_ENOUGH_TIMES = 2
_ROW = re.compile(r"predictions\[(\d+)\]")
_LONGEST_ANSWER_BYTES = 1 << 20
_LONGEST_REASON = 1_000

_logger = get_logger("sender")


@dataclass(frozen=True)
class Destination:
    """Where predictions go, and as whom: a token, or a file of tokens that may change."""

    url: str
    edge_device_id: str
    token: str | None = None
    token_file: Path | None = None
    timeout_seconds: float = 5.0


@dataclass(frozen=True)
class Reply:
    """The answer to a batch: status 0 where there was none.

    `reason` is the logging service's own, empty for an answer of something in between, and
    `field` what it finds fault with.
    """

    status: int
    message: str = ""
    reason: str = ""
    field: str = ""
    success: bool = False
    retry_after: float = 0.0

    @property
    def row(self) -> int | None:
        """The index of the one prediction that was refused, None where none was named."""
        match = _ROW.match(self.field)
        return int(match[1]) if match and self.reason and self.status in _CONTENT_REFUSED else None


class Transport(Protocol):
    """Takes a request's body to the logging service."""

    def post(self, body: bytes, *, seconds: float) -> Reply:
        """Return the answer; one with status 0 where none came within `seconds`."""


class Outgoing(Protocol):
    """The outbox as its sender sees it."""

    def read(self, *, after: int, rows: int, limit_bytes: int) -> Batch | None:
        """Return the oldest waiting predictions above an id."""

    def settle(self, settlement: Settlement) -> bool:
        """Remove what was settled; False where that is not on disk."""


class Sender:
    """One request at a time, from the oldest prediction on; `step` does one.

    A batch that is refused without saying which prediction is at fault is sent in smaller parts. A
    single prediction that is refused like that is passed over until another one is accepted, and
    then sent again at once. What is refused right after an acceptance, and once more after another
    one, is at fault itself; a fault of the request as such would have met the others too.
    """

    def __init__(
        self,
        outbox: Outgoing,
        transport: Transport,
        state: InferenceState,
        *,
        edge_device_id: str,
        timeout_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._state = state
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._about = orjson.dumps({"edge_device_id": edge_device_id})[1:-1]
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, jitter=True)
        self._rows = BATCH_ROWS
        self._after = 0
        self._file = 0
        # By the id of a prediction that was refused alone: how often right after an acceptance.
        self._suspects: dict[int, int] = {}
        self._just_accepted = False
        self._trouble = ""

    def step(self, *, seconds: float = math.inf) -> float | None:
        """Send the next batch; return the pause before the next step, None where nothing waits.

        `seconds` is the longest wait for the answer where it is shorter than the time-out. Raises
        sqlite3.Error or OSError where the outbox cannot be read.
        """
        batch = self._outbox.read(after=self._after, rows=self._rows, limit_bytes=BATCH_BYTES)
        if batch is None and not self._after:
            return None
        if batch is None:
            # Back to those that were passed over, one by one.
            self._after, self._rows = 0, 1
            return self._backoff.next()
        if batch.file != self._file:
            self._file, self._after, self._suspects = batch.file, 0, {}
        reply = self._transport.post(
            b'{"batch_size":%d,%b,"predictions":[%b]}' % (len(batch.ids), self._about, batch.body),
            seconds=min(seconds, self._timeout_seconds),
        )
        if reply.success:
            return self._delivered(batch)
        row = reply.row
        if row is not None and row < len(batch.ids):
            return self._bury(batch, batch.ids[row], reply)
        if reply.status == 413 or (reply.reason and reply.status in _MAYBE_CONTENT):
            return self._look_closer(batch, reply)
        return self._later(reply.message, reply.retry_after)

    def retry_now(self) -> None:
        """Begin with the shortest pause again."""
        self._backoff.reset()

    def _delivered(self, batch: Batch) -> float:
        if not self._outbox.settle(Settlement(delivered=batch.ids, file=batch.file)):
            return self._later("the outbox cannot be written")
        if self._trouble:
            event(_logger, logging.INFO, "the logging service takes predictions again")
        self._trouble = ""
        self._just_accepted = True
        self._rows = min(2 * self._rows, BATCH_ROWS)
        for row_id in self._suspects.keys() & batch.ids:
            del self._suspects[row_id]
        if self._suspects:
            self._after, self._rows = 0, 1
            return 0.0
        self._backoff.reset()
        return 0.0 if batch.more or self._after else GATHER_SECONDS

    def _bury(self, batch: Batch, row_id: int, reply: Reply) -> float:
        reason = reply.message[:_LONGEST_REASON]
        refusal = Refusal(row_id, reply.status, reason, self._clock())
        if not self._outbox.settle(Settlement(refused=(refusal,), file=batch.file)):
            return self._later("the outbox cannot be written")
        fields = {"status": reply.status, "reason": reason}
        event(_logger, logging.ERROR, "a prediction was refused for good", fields)
        self._suspects.pop(row_id, None)
        return 0.0

    def _look_closer(self, batch: Batch, reply: Reply) -> float:
        (row_id, *others) = batch.ids
        if others:
            self._rows = len(batch.ids) // 2
            if reply.status != 500:
                self._note(reply.message)
                return 0.0
        else:
            times = self._suspects.get(row_id, 0) + self._just_accepted
            too_large = reply.status == 413 and reply.reason
            if too_large or (times == _ENOUGH_TIMES and reply.status != 500):
                return self._bury(batch, row_id, reply)
            if reply.status != 500:
                self._suspects[row_id] = times
            self._after = row_id
        return self._later(reply.message, reply.retry_after)

    def _later(self, trouble: str, retry_after: float = 0.0) -> float:
        self._note(trouble)
        return max(min(retry_after, LONGEST_PAUSE_SECONDS), self._backoff.next())

    def _note(self, trouble: str) -> None:
        self._just_accepted = False
        self._state.log_send_errors.add(1)
        if trouble != self._trouble:
            self._trouble = trouble
            event(_logger, logging.WARNING, f"predictions wait: {trouble}")


class HttpTransport:
    """Sends to the logging service by HTTP or HTTPS.

    Certificates are those that the system trusts, or those of `SSL_CERT_FILE`.
    """

    def __init__(self, destination: Destination, path: str = LOG_PATH) -> None:
        self._destination = destination
        self._path = path
        self._accepted: bytes | None = None
        self._token_trouble = ""
        self._client = httpx.Client(
            base_url=destination.url,
            headers={"Content-Type": "application/json"},
            verify=ssl.create_default_context(),
            trust_env=False,
        )

    def post(self, body: bytes, *, seconds: float) -> Reply:
        """Return the answer; one with status 0 where none came within `seconds`.

        Of several tokens the next is tried where one is not accepted: while a token is being
        replaced, the services may read the new file at different times.
        """
        reply = Reply(401, "there is no token")
        for token in self._tokens():
            reply = self._post(body, token, seconds)
            if reply.status != 401:
                self._accepted = token
                break
        return reply

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _post(self, body: bytes, token: bytes | None, seconds: float) -> Reply:
        deadline = time.monotonic() + seconds
        headers = {b"Authorization": b"Bearer " + token} if token else {}
        try:
            with self._client.stream(
                "POST", self._path, content=body, headers=headers, timeout=seconds
            ) as response:
                content = b""
                for part in response.iter_raw():
                    content += part
                    # A time-out of httpx is for each part, and there could be any number of them.
                    if len(content) > _LONGEST_ANSWER_BYTES or time.monotonic() > deadline:
                        return Reply(0, "the answer does not end")
        except httpx.HTTPError as error:
            return Reply(0, f"{type(error).__name__}: {error}")
        return _reply(response, content)

    def _tokens(self) -> Sequence[bytes | None]:
        """Return the tokens to try: those of the file now, the one accepted last first."""
        token, file = self._destination.token, self._destination.token_file
        if file is None:
            return [token.encode() if token else None]
        try:
            tokens = read_tokens(file)
        except (OSError, ValueError) as error:
            if str(error) != self._token_trouble:
                self._token_trouble = str(error)
                message = "LOGGING_TOKEN_FILE cannot be used, the last token is"
                event(_logger, logging.ERROR, message, {"trouble": self._token_trouble})
            return [self._accepted]
        self._token_trouble = ""
        # Sorting keeps the order of the others.
        return sorted(tokens, key=lambda token: token != self._accepted)


def _reply(response: httpx.Response, content: bytes) -> Reply:
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        answer = {}
    retry_after = response.headers.get("Retry-After", "")
    error = str(answer.get("error", ""))
    return Reply(
        status=response.status_code,
        message=f"{response.status_code} {content[:300].decode('utf-8', 'replace')}",
        reason=str(answer.get("reason", "")),
        # Every error names its field first in its text.
        field=str(answer.get("field", error)),
        success=response.status_code == 200 and answer.get("status") == "success",
        retry_after=float(retry_after) if retry_after.isdigit() else 0.0,
    )
