"""The kubelet and Prometheus, as users: their probes come from a process of its own.

Locust's own event loop is busy with the clients, so a probe that it sent would be late, and Locust
rounds the times that it keeps. The prober process sends the probes. The user starts it, adds its
answers to Locust's tables and keeps them unrounded for the verdict.
"""

from collections.abc import Sequence

import gevent
from locust import User, constant, task

from loadtests.plan import ProbePlan, kubelet_plan, prometheus_plan
from loadtests.recorder import Recorder
from loadtests.samples import ProbeSample
from loadtests.settings import LoadTestSettings
from local.prober import ProberProcess

_LAST_ANSWERS_SECONDS = 15.0
_PROBER_LOST = 70

settings = LoadTestSettings()


class ProbeUser(User):  # type: ignore[misc]  # Locust's user has no types
    """One prober process."""

    abstract = True
    fixed_count = 1
    wait_time = constant(0.1)
    plan: Sequence[ProbePlan]

    def on_start(self) -> None:
        """Start the process."""
        # Locust has made the `subprocess` module cooperative, so waiting does not block its loop.
        self._prober = ProberProcess(one.schedule for one in self.plan)
        self._reader = gevent.spawn(self._read)

    def on_stop(self) -> None:
        """End the process once the probes on their way are answered or timed out."""
        self._prober.close()
        self._reader.join(timeout=_LAST_ANSWERS_SECONDS)
        self._prober.stop(seconds=0)

    @task  # type: ignore[untyped-decorator]
    def watch(self) -> None:
        """End the test as broken where the prober has ended: without it there is no verdict."""
        if not self._prober.is_running:
            self.environment.process_exit_code = _PROBER_LOST
            self.environment.runner.quit()

    def _read(self) -> None:
        for answer in self._prober.answers():
            self._hand_on(ProbeSample.of(self.plan[answer.schedule].target, answer))

    def _hand_on(self, sample: ProbeSample) -> None:
        recorder: Recorder = self.environment.recorder
        recorder.probe(sample)
        failure = None if sample.succeeded else sample.error or f"status {sample.status}"
        self.environment.events.request.fire(
            request_type="GET",
            name=f"{sample.path} {sample.service} ({sample.port}, {sample.cadence})",
            response_time=sample.since_intended * 1000,
            response_length=0,
            exception=RuntimeError(failure) if failure else None,
            context={},
        )


class KubeletUser(ProbeUser):
    """Probes every service at its manifest's periods, and more frequently for percentiles."""

    plan = kubelet_plan(settings)


class PrometheusUser(ProbeUser):
    """Scrapes every service's metrics."""

    plan = prometheus_plan(settings)
