"""Clients of the services: they predict, send images, log batches, in closed or open loop.

In closed loop a client sends its next request when it has the answer to the last, so a slow
service is asked less often: right for "so many clients", wrong for "so many requests a second".
In open loop requests arrive at random times at a set rate, whether or not earlier ones have been
answered, and their response time counts from the moment they should have been sent.
"""

import itertools
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, task

from loadtests.kinds import IMAGE, LOG, PREDICT, RequestKind
from loadtests.payloads import image_files, log_bodies, prediction_bodies
from loadtests.recorder import Recorder
from loadtests.samples import Outcome
from loadtests.settings import LoadTestSettings

# A client that is told to come back later does, but not so late that the load ends.
_LONGEST_BACK_OFF_SECONDS = 1.0

settings = LoadTestSettings()


class LoadUser(FastHttpUser):  # type: ignore[misc]  # Locust's client has no types
    """One client that sends one kind of request."""

    abstract = True
    network_timeout = settings.request_timeout_seconds
    connection_timeout = settings.request_timeout_seconds
    concurrency = settings.in_flight if settings.open_loop else 1

    kind: ClassVar[RequestKind]
    bodies: Iterator[bytes]

    def on_start(self) -> None:
        """Prepare the first arrival; each client has its own share of the rate."""
        self._rate = settings.rate / settings.clients
        self._next_arrival = time.perf_counter()
        self._in_flight = Pool(settings.in_flight)

    def on_stop(self) -> None:
        """Wait for what is on its way."""
        self._in_flight.join(timeout=settings.request_timeout_seconds)
        self._in_flight.kill()

    @task  # type: ignore[untyped-decorator]
    def work(self) -> None:
        """Send the next request."""
        if not settings.open_loop:
            self._send(None)
            return
        self._next_arrival += random.expovariate(self._rate)
        gevent.sleep(max(0.0, self._next_arrival - time.perf_counter()))
        if self._in_flight.free_count() == 0:
            self._note("dropped")
        else:
            self._in_flight.spawn(self._send, self._next_arrival)

    def headers(self) -> Mapping[str, str]:
        """Return the headers of a request."""
        return {"Content-Type": self.kind.content_type}

    def _send(self, intended: float | None) -> None:
        with self.client.post(
            self.kind.path,
            data=next(self.bodies),
            headers=self.headers(),
            name=self.kind.path,
            catch_response=True,
        ) as response:
            if intended is not None:
                elapsed = time.perf_counter() - intended
                response.request_meta["response_time"] = elapsed * 1000
            outcome = self._judge(response)
        self._note(outcome)
        if outcome == "rejected":
            gevent.sleep(_back_off_seconds(response.headers))

    def _judge(self, response: Any) -> Outcome:
        if response.status_code == 429:
            # A row of its own in Locust's tables, and no failure: the service protects itself.
            response.request_meta["name"] = f"{self.kind.path} (429)"
            response.success()
            return "rejected"
        if response.status_code == 200 and self.kind.proof in (response.content or b""):
            response.success()
            return "succeeded"
        text = (response.text or "")[:200] if response.status_code else str(response.error)
        response.failure(f"status {response.status_code}: {text}")
        return "failed"

    def _note(self, outcome: Outcome) -> None:
        recorder: Recorder = self.environment.recorder
        recorder.request(self.kind.title, outcome)


class PredictUser(LoadUser):
    """Sends inputs as JSON."""

    host = settings.inference_url
    weight = settings.predict_weight
    kind = PREDICT
    bodies = itertools.cycle(prediction_bodies(settings.input_size))


class ImageUser(LoadUser):
    """Sends image files."""

    host = settings.inference_url
    weight = settings.image_weight
    kind = IMAGE
    bodies = itertools.cycle(image_files())


class LogUser(LoadUser):
    """Sends batches of predictions, as an edge device does."""

    host = settings.logging_url
    weight = settings.log_weight
    kind = LOG
    _numbers = itertools.count(1)

    def on_start(self) -> None:
        """Take a device's name."""
        super().on_start()
        self.bodies = log_bodies(settings.log_batch, device=f"load-test-{next(self._numbers)}")

    def headers(self) -> Mapping[str, str]:
        """Return the headers, with the token where one is set."""
        token = settings.logging_token
        bearer = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        return {**super().headers(), **bearer}


def _back_off_seconds(headers: Mapping[str, str] | None) -> float:
    asked = (headers or {}).get("retry-after", "")
    return min(float(asked), _LONGEST_BACK_OFF_SECONDS) if asked.isdigit() else 0.1
