"""Keeps pictures for people to review, and sends them to the logging service.

A picture waits in memory, not on disk: unlike a prediction it may be lost. It is dropped, and
counted, where too many wait, where the logging service refuses it, and where the service ends
before it is sent. What waits is sent by a thread with a connection of its own, which takes 0.3% of
a processor at most: predictions come first.
"""

import asyncio
import logging
import threading
import time
from binascii import b2a_base64
from collections import deque
from collections.abc import Callable
from heapq import nlargest

import msgspec
from msgspec.structs import replace

from bentos.evidence import (
    MAX_PICTURES,
    MAX_SCORES,
    ChallengerAnswer,
    Evidence,
    EvidenceBatch,
    decide,
)
from bentos.inference.delivery.sender import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Destination,
    HttpTransport,
    Reply,
)
from bentos.inference.engine import Prediction
from bentos.inference.state import InferenceState
from bentos.process.backoff import Backoff
from bentos.process.logs import event, get_logger

EVIDENCE_PATH = "/evidence"
_BATCH_BYTES = 1 << 20
# Encoded at once, a large picture would keep the event loop waiting for tens of milliseconds. Three
# bytes are four characters, so that pieces of base64 can be joined.
_PIECE_BYTES = 3 << 14
# What a picture takes beside its own bytes, the names of twenty classes with their scores included.
_OVERHEAD_BYTES = 4_096
# The share of a processor that sending may take; handing the interpreter over costs as much again.
_SHARE = 0.003
# The pause after all that waited was sent: pictures kept meanwhile go in one request.
_GATHER_SECONDS = 0.25
# The service refuses the content with these: to send the same again is of no use.
_CONTENT_REFUSED = (400, 409, 413, 422)

_logger = get_logger("evidence")
_encode = msgspec.json.Encoder().encode


def _in_base64(content: bytes) -> msgspec.Raw:
    """Return a JSON text of the content; other threads get their turn on the way."""
    pieces = range(0, len(content), _PIECE_BYTES)
    encoded = (b2a_base64(content[at : at + _PIECE_BYTES], newline=False) for at in pieces)
    return msgspec.Raw(b'"%b"' % b"".join(encoded))


class EvidenceSender:
    """A worker's kept pictures; `offer` and `stop` are for the event loop."""

    def __init__(
        self,
        destination: Destination,
        state: InferenceState,
        *,
        pass_share: float,
        sample_share: float,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`pass_share` and `sample_share` are those of `bentos.evidence.decide`."""
        self._destination = destination
        self._state = state
        self._pass_share = pass_share
        self._sample_share = sample_share
        self._max_bytes = max_bytes
        self._clock = clock
        self._transport = HttpTransport(destination, EVIDENCE_PATH)
        self._waiting: deque[Evidence] = deque()
        # The event loop counts what was put, the thread what was taken: no two add to one of them.
        self._put_bytes = self._taken_bytes = 0
        # Pictures in the next request; fewer after one was refused.
        self._most = MAX_PICTURES
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, jitter=True)
        self._trouble = self._refusal = ""
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
        self._stopping = threading.Event()
        self._deadline = float("inf")
        state.evidence_queue_capacity_bytes.set(max_bytes)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def offer(
        self,
        prediction: Prediction,
        picture: bytes,
        *,
        image_id: str,
        challenger: ChallengerAnswer | None = None,
    ) -> None:
        """Keep the picture of a prediction where it is to be kept and there is room for it.

        A picture may be offered again, once the `challenger` has answered otherwise.
        """
        kept = decide(
            prediction.id,
            prediction.verdict,
            pass_share=self._pass_share,
            sample_share=self._sample_share,
            differs=challenger is not None,
        )
        if not kept.kept:
            return
        # The second half is for the sample: figures come of it, and it is the smaller part.
        limit = self._max_bytes if kept.sampled else self._max_bytes // 2
        size = len(picture) + _OVERHEAD_BYTES
        if self._waiting_bytes + size > limit:
            self._state.evidence_dropped["queue_full"].add()
            return
        self._put_bytes += size
        names, scores = prediction.model.spec.class_names, prediction.probabilities
        highest = nlargest(MAX_SCORES, range(len(names)), key=scores.__getitem__)
        self._waiting.append(
            Evidence(
                prediction_id=prediction.id,
                edge_device_id=self._destination.edge_device_id,
                timestamp=self._clock(),
                image_id=image_id or prediction.id,
                model_name=prediction.model.identity.name,
                model_version=prediction.model.identity.version,
                class_name=prediction.class_name,
                confidence=prediction.confidence,
                verdict=prediction.verdict,
                scores={names[index]: round(scores[index], 6) for index in highest},
                picture=picture,
                sampled=kept.sampled,
                sample_probability=kept.sample_probability,
                keep_probability=kept.keep_probability,
                challenger=challenger,
            )
        )

    @property
    def _waiting_bytes(self) -> int:
        return self._put_bytes - self._taken_bytes

    async def stop(self, seconds: float) -> None:
        """Send for `seconds` what waits, and drop the rest."""
        await asyncio.to_thread(self._stop, seconds)

    def _stop(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(seconds + 1)
        self._drop(len(self._waiting), "shutdown")
        self._transport.close()

    def _run(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            used = time.thread_time()
            try:
                pause = self._send(min(left, self._destination.timeout_seconds))
            except Exception as error:  # a bug: what could not be sent must not end the thread
                event(_logger, logging.ERROR, "pictures cannot be sent", error=error)
                self._drop(1, "refused")
                pause = LONGEST_PAUSE_SECONDS
            self._state.evidence_queue_bytes.set(self._waiting_bytes)
            if self._stopping.is_set():
                if not self._waiting:
                    break
                time.sleep(min(pause, max(0.0, self._deadline - time.monotonic())))
            else:
                self._stopping.wait(max(pause, (time.thread_time() - used) / _SHARE))

    def _send(self, seconds: float) -> float:
        """Send the pictures that have waited longest; return the pause before the next ones."""
        batch = self._next()
        if not batch:
            return _GATHER_SECONDS
        encoded = [replace(one, picture=_in_base64(one.picture)) for one in batch]
        body = _encode(EvidenceBatch(encoded))
        reply = self._transport.post(body, seconds=seconds)
        if reply.success:
            self._sent(len(batch))
            return 0.0
        if reply.status not in _CONTENT_REFUSED:
            return self._later(reply)
        if len(batch) > 1:
            self._most = len(batch) // 2
        else:
            self._drop(1, "refused")
            if reply.message != self._refusal:
                self._refusal = reply.message
                event(_logger, logging.WARNING, f"a picture was refused: {reply.message}")
        return 0.0

    def _next(self) -> list[Evidence]:
        batch: list[Evidence] = []
        size = 0
        # It may grow meanwhile, at its other end.
        for index in range(min(len(self._waiting), self._most)):
            one = self._waiting[index]
            size += len(one.picture)
            if batch and size > _BATCH_BYTES:
                break
            batch.append(one)
        return batch

    def _sent(self, count: int) -> None:
        self._take(count)
        self._state.evidence_sent.add(count)
        self._most = min(2 * self._most, MAX_PICTURES)
        self._backoff.reset()
        if self._trouble:
            event(_logger, logging.INFO, "the logging service takes pictures again")
        self._trouble = ""

    def _later(self, reply: Reply) -> float:
        trouble = "REVIEW is off there (404)" if reply.status == 404 else reply.message
        if trouble != self._trouble:
            event(_logger, logging.WARNING, f"pictures are not taken: {trouble}")
        self._trouble = trouble
        return max(min(reply.retry_after, LONGEST_PAUSE_SECONDS), self._backoff.next())

    def _drop(self, count: int, reason: str) -> None:
        dropped = self._take(count)
        if dropped:
            self._state.evidence_dropped[reason].add(dropped)

    def _take(self, count: int) -> int:
        """Remove the pictures that have waited longest; return how many there were."""
        taken = 0
        while taken < count and self._waiting:
            self._taken_bytes += len(self._waiting.popleft().picture) + _OVERHEAD_BYTES
            taken += 1
        return taken
