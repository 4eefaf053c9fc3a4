"""Scenarios of the alerts that both services have: one definition, an instance for each service."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.monitoring.scenarios.story import Alarm, Kind, Scenario, Silence, Story
from tests.monitoring.scenarios.wave import ALWAYS, STILL, Series, Wave, counter, gauge
from tests.monitoring.scenarios.world import (
    INFERENCE,
    LOGGING,
    OTHER_INFERENCE,
    Pod,
    critical,
    page,
    ticket,
    warning,
)

_BREAKS = gauge((1, "5m"), (0, "15m"), (1, "1h"))
_LOST = gauge((1, "5m"), (None, "5m"), (1, "1h"))
_SECOND_LOGGING = replace(LOGGING, name="logging-service-1", instance="10.0.0.5:8011")


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A service under test: two pods of it and what its metrics are called."""

    pod: Pod
    second: Pod
    title: str
    answered: str
    always: str

    @property
    def prefix(self) -> str:
        """How its metrics' names begin."""
        return self.title.lower()

    @property
    def staging(self) -> Pod:
        """A pod of the same service in another namespace."""
        return replace(self.pod, namespace="staging", instance="10.9.0.1:8010")

    def answers(self, *, good: Wave, failed: Wave, refused: Wave = STILL) -> list[Series]:
        """Return what requests were answered; clients send nonsense all the time."""
        errors, rejected = f"{self.prefix}_errors_total", f"{self.prefix}_rejected_total"
        return [
            self.pod.series(self.answered, good),
            self.pod.series(errors, failed, reason="internal_error"),
            self.pod.series(errors, counter((0, "2h")), reason="timeout"),
            self.pod.series(rejected, refused, reason="queue_full"),
            self.pod.series(rejected, counter((20, "2h")), reason="bad_input"),
        ]


_SUBJECTS = (
    _Subject(
        pod=INFERENCE,
        second=OTHER_INFERENCE,
        title="Inference",
        answered="inference_predictions_total",
        always="inference_model_loaded",
    ),
    _Subject(
        pod=LOGGING,
        second=_SECOND_LOGGING,
        title="Logging",
        answered="logging_batches_total",
        always="logging_db_initialized",
    ),
)


def _readiness(subject: _Subject) -> Iterator[Scenario]:
    pod, second, title, prefix = subject.pod, subject.second, subject.title, subject.prefix
    yield Story(
        f"{title}NotReady",
        "the last of two pods becomes unready",
        [
            pod.series(f"{prefix}_ready", _BREAKS),
            second.series(f"{prefix}_ready", gauge((1, "3m"), (0, "1h"))),
        ],
        holds=("5m", "20m"),
        labels=critical(pod.all_pods, pod.service),
    )
    yield Silence(
        f"{title}NotReady",
        "one of two pods is still ready",
        [pod.series(f"{prefix}_ready", _BREAKS), second.series(f"{prefix}_ready", ALWAYS)],
        at=("10m", "19m"),
    )
    yield Story(
        f"{title}ReadinessFlapping",
        "a pod comes and goes every minute",
        [pod.series(f"{prefix}_ready", gauge((1, "5m"), *(((0, "1m"), (1, "1m")) * 3), (1, "1h")))],
        holds=("10m", "20m"),
        labels=ticket(pod),
        value="6",
        lingers="15m",
    )
    yield Story(
        f"{title}WorkersMissing",
        "one of two workers dies and comes back",
        [
            pod.series(f"{prefix}_workers", gauge((2, "2h"))),
            pod.series(f"{prefix}_workers_alive", gauge((2, "5m"), (1, "5m"), (2, "1h"))),
        ],
        holds=("5m", "10m"),
        labels=ticket(pod),
        value="1",
    )
    yield Story(
        f"{title}RestartLoop",
        "the third start in half an hour",
        [
            pod.series(
                f"{prefix}_start_time_seconds",
                gauge((1000, "5m"), (1300, "5m"), (1600, "5m"), (1900, "2h")),
            )
        ],
        holds=("15m", "35m"),
        labels=page(pod),
        value="3",
        lingers="30m",
    )


def _requests(subject: _Subject) -> Iterator[Scenario]:
    pod, title = subject.pod, subject.title
    idle = subject.answers(good=STILL, failed=STILL)
    for what, good, failed, onset, over, percent in (
        (
            "one request in eighteen fails",
            counter((2, "30m"), (1.69, "20m"), (1.8, "2h")),
            counter((0, "30m"), (0.1, "20m"), (0, "2h")),
            *("34m30s", "50m30s", "5.587%"),
        ),
        (
            "four of 22 requests in 5 minutes fail",
            counter((22 / 300, "30m"), (18 / 300, "20m"), (22 / 300, "2h")),
            counter((0, "30m"), (4 / 300, "20m"), (0, "2h")),
            *("31m15s", "53m30s", "12.73%"),
        ),
    ):
        yield Story(
            f"{title}HighErrorRate",
            what,
            subject.answers(good=good, failed=failed),
            holds=(onset, over),
            labels=critical(pod.all_pods, pod.service),
            value=percent,
            lingers="5m",
            local=onset == "34m30s",
        )
    yield Silence(
        f"{title}HighErrorRate",
        "a client sends nonsense",
        subject.answers(good=counter((1, "2h")), failed=counter((0, "2h"))),
    )
    yield Silence(
        f"{title}HighErrorRate",
        "one of eighteen requests in 5 minutes fails",
        subject.answers(good=counter((17 / 300, "2h")), failed=counter((1 / 300, "2h"))),
        at=("10m", "20m", "30m"),
    )
    yield Story(
        f"{title}QueueFull",
        "one request in eighteen finds the queue full",
        subject.answers(
            good=counter((2, "30m"), (1.69, "20m"), (1.8, "2h")),
            failed=STILL,
            refused=counter((0, "30m"), (0.1, "20m"), (0, "2h")),
        ),
        holds=("34m30s", "50m30s"),
        labels=warning(pod.all_pods, pod.service),
        value="5.587%",
        lingers="5m",
    )
    for alert in ("HighErrorRate", "QueueFull"):
        yield Silence(f"{title}{alert}", "nobody asks for anything", idle, kind=Kind.NO_TRAFFIC)


def _down_story(subject: _Subject, what: str, *others: Series) -> Story:
    pod = subject.pod
    return Story(
        f"{subject.title}ServiceDown",
        what,
        [pod.up(gauge((1, "5m"), (0, "5m"), (1, "1h"))), *others],
        holds=("5m", "10m"),
        labels=critical({"namespace": "mlops", "job": pod.service}, pod.service),
        local=not others,
        outlasts_targets=not others,
        loses_targets=not others,
    )


def _targets(subject: _Subject) -> Iterator[Scenario]:
    pod, title = subject.pod, subject.title
    yield _down_story(subject, "the only target stops answering")
    yield _down_story(
        subject,
        "the only target stops answering, staging runs in another namespace",
        subject.staging.up(ALWAYS),
    )
    yield Silence(
        f"{title}ServiceDown",
        "one of two targets is left",
        [pod.up(gauge((1, "5m"), (0, "5m"), (1, "1h"))), subject.second.up(ALWAYS)],
        at=("4m", "9m", "20m"),
    )
    yield Alarm(
        f"{title}ServiceDown",
        "there was never a target",
        [],
        labels=critical({"job": pod.service}, pod.service),
    )
    yield Story(
        "ServingTargetDown",
        f"one of two targets of {pod.service} stops answering",
        [pod.up(gauge((1, "5m"), (0, "5m"), (1, "1h"))), subject.second.up(ALWAYS)],
        holds=("5m", "10m"),
        labels=warning(pod.target, pod.service),
    )
    yield Story(
        f"{title}MetricsAbsent",
        "the metric is gone from a target that answers",
        [
            pod.up(ALWAYS),
            pod.series(subject.always, _LOST),
            subject.second.up(ALWAYS),
            subject.second.series(subject.always, ALWAYS),
        ],
        holds=("5m", "10m"),
        labels=critical(pod.target, pod.service),
    )
    yield Silence(
        f"{title}MetricsAbsent",
        "the target is down, and that is another alert",
        [pod.up(gauge((0, "1h")))],
        kind=Kind.TARGET_GONE,
    )


SCENARIOS: tuple[Scenario, ...] = (
    *(
        scenario
        for subject in _SUBJECTS
        for scenarios in (_readiness, _requests, _targets)
        for scenario in scenarios(subject)
    ),
    Silence(
        "ServingTargetDown",
        "a target of another job is down",
        [replace(INFERENCE, service="node-exporter").up(gauge((0, "1h")))],
    ),
)
