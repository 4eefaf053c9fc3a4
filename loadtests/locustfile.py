"""The load test as Locust runs it: headless by `loadtests.run`, or under its web page.

`locust -f loadtests/locustfile.py` takes the same LOADTEST_ variables.
"""

import logging
import time
from typing import Any

import gevent
from locust import LoadTestShape, events
from locust.runners import MasterRunner, WorkerRunner

from bentos.health.probes import READY_PATH
from loadtests.probe_users import KubeletUser, PrometheusUser
from loadtests.recorder import Recorder
from loadtests.samples import percentile
from loadtests.settings import LoadTestSettings
from loadtests.shapes import clients_at, stages
from loadtests.users import ImageUser, LogUser, PredictUser

_PROGRESS_SECONDS = 5.0

settings = LoadTestSettings()
_plan = stages(settings)

# Locust runs every user class that it finds in this module.
USERS = (KubeletUser, PrometheusUser, PredictUser, ImageUser, LogUser)
if not settings.logging_url or not settings.log_weight:
    del LogUser
if not settings.predict_weight:
    del PredictUser
if not settings.image_weight:
    del ImageUser

_FIXED_USERS = KubeletUser.fixed_count + PrometheusUser.fixed_count

if _plan:

    class PlannedLoad(LoadTestShape):  # type: ignore[misc]  # Locust's shape has no types
        """The stages of LOADTEST_SHAPE; the probe users run through all of them."""

        def tick(self) -> tuple[int, float] | None:
            """Return how many users there should be now, None at the end."""
            clients = clients_at(_plan, self.get_run_time())
            if clients is None:
                return None
            recorder: Recorder = self.runner.environment.recorder
            if not recorder.changes or recorder.changes[-1].clients != clients:
                recorder.clients(clients)
            return _FIXED_USERS + clients, float(_FIXED_USERS + settings.clients)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _record(environment: Any, **_: object) -> None:
    """Give the environment a recorder, and carry a worker's observations to its master."""
    recorder = Recorder()
    environment.recorder = recorder
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        environment.events.report_to_master.add_listener(
            lambda client_id, data: recorder.drain(data)  # noqa: ARG005 - Locust names them
        )
    if isinstance(runner, MasterRunner):
        environment.events.worker_report.add_listener(
            lambda client_id, data: recorder.merge(data)  # noqa: ARG005
        )


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _begin(environment: Any, **_: object) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return
    if environment.web_ui is None:
        gevent.spawn(_tell, environment)
    logging.getLogger("locust").info("probes go to %s", settings.inference_url)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _end(environment: Any, **_: object) -> None:
    if not isinstance(environment.runner, WorkerRunner):
        environment.recorder.write(settings.reports)


def _tell(environment: Any) -> None:
    """Print a line of progress every few seconds."""
    recorder: Recorder = environment.recorder
    began = moment = time.perf_counter()
    total = sum(stage.seconds for stage in _plan)
    sent = 0
    while environment.runner is not None and environment.runner.state not in ("stopped", "cleanup"):
        gevent.sleep(_PROGRESS_SECONDS)
        now = time.perf_counter()
        rate = (recorder.count() - sent) / (now - moment)
        moment, sent = now, recorder.count()
        ready = [sample.since_intended for sample in recorder.recent(READY_PATH)]
        clients = recorder.changes[-1].clients if recorder.changes else 0
        print(
            f"{now - began:5.0f} of {total:.0f} s  {clients:3d} clients  {rate:7.0f} requests/s  "
            f"{recorder.count('failed', 'dropped')} failed  {recorder.count('rejected')} rejected  "
            + (f"{READY_PATH} p99 {percentile(ready, 0.99) * 1000:.1f} ms" if ready else ""),
            flush=True,
        )
