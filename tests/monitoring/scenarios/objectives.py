"""Scenarios of the objectives' alerts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from monitoring.prometheus.source.rule import seconds
from monitoring.timings import INFERENCE_SERVICE
from tests.monitoring.scenarios.story import Kind, Scenario, Silence, Story
from tests.monitoring.scenarios.wave import Series, counter, gauge
from tests.monitoring.scenarios.world import INFERENCE

# Requests per second, the share of them that is bad, and for how long.
Traffic = Sequence[tuple[float, float, str]]


def _answers(traffic: Traffic) -> list[Series]:
    good = counter(*((rate * (1 - bad), length) for rate, bad, length in traffic))
    bad = counter(*((rate * bad / 2, length) for rate, bad, length in traffic))
    return [
        INFERENCE.series("inference_predictions_total", good),
        INFERENCE.series("inference_errors_total", bad, reason="model_failure"),
        INFERENCE.series("inference_rejected_total", bad, reason="model_not_loaded"),
        INFERENCE.series("inference_rejected_total", counter((1, "4d")), reason="queue_full"),
        INFERENCE.series("inference_rejected_total", counter((1, "4d")), reason="bad_input"),
    ]


def _durations(traffic: Traffic) -> list[Series]:
    quick = counter(*((rate * (1 - bad), length) for rate, bad, length in traffic))
    every = counter(*((rate, length) for rate, _, length in traffic))
    return [
        INFERENCE.series("inference_prediction_duration_seconds_bucket", quick, le="0.25"),
        INFERENCE.series("inference_prediction_duration_seconds_bucket", every, le="0.5"),
        INFERENCE.series("inference_prediction_duration_seconds_bucket", every, le="+Inf"),
        INFERENCE.series("inference_prediction_duration_seconds_count", every),
        INFERENCE.series("inference_predictions_total", every),
    ]


@dataclass(frozen=True)
class _Subject:
    """An objective under test.

    `leniency` is its error budget over that of availability: that much more may be bad. `least`
    is the number of requests that decide, by window. Without the metrics `lost` it is not measured.
    """

    slo: str
    title: str
    series: Callable[[Traffic], list[Series]]
    leniency: float
    least: Mapping[str, int]
    lost: Sequence[str]

    def scale(self, burn: "_Burn") -> Traffic:
        """Return traffic that burns this budget as fast as the burn's does availability's."""
        factor = self.least[burn.window] if burn.few_requests else 1
        return [(rate * factor, bad * self.leniency, length) for rate, bad, length in burn.traffic]


_SUBJECTS = (
    _Subject(
        slo="predict-availability",
        title="Availability",
        series=_answers,
        leniency=1.0,
        least={"1h": 70, "6h": 167, "1d": 334, "3d": 1000},
        lost=("inference_predictions_total", "inference_errors_total"),
    ),
    _Subject(
        slo="predict-latency",
        title="Latency",
        series=_durations,
        leniency=2.0,
        least={"1h": 35, "6h": 84, "1d": 167, "3d": 500},
        lost=tuple(f"inference_prediction_duration_seconds_{part}" for part in ("bucket", "count")),
    ),
)

_HOUR = 1 / 3600
_DAY = 1 / 86_400


@dataclass(frozen=True)
class _Burn:
    """Traffic that sets off one window of one alert.

    With `few_requests` its rates are in units of the requests that decide in the window.
    """

    speed: str
    what: str
    traffic: Traffic
    few_requests: bool
    window: str
    onset: str
    over: str
    times: str


_BURNS = (
    _Burn(
        "Fast",
        "a fifth is bad for half an hour, then less and less",
        [(1, 0, "3h"), (1, 0.2, "26m"), (1, 0.08, "8m"), (1, 0.065, "8m"), (1, 0, "2h")],
        few_requests=False,
        window="1h",
        onset="3h21m",
        over="3h36m",
        times="16",
    ),
    _Burn(
        "Fast",
        "a smaller share is bad for hours",
        [(1, 0, "4h"), (1, 0.07, "2h45m"), (1, 0, "2h")],
        few_requests=False,
        window="6h",
        onset="6h34m",
        over="7h2m",
        times="6.106",
    ),
    _Burn(
        "Fast",
        "half is bad as soon as the hour has enough requests",
        [(1.03 * _HOUR, 0.5, "1h10m"), (1.03 * _HOUR, 0, "2h")],
        few_requests=True,
        window="1h",
        onset="59m",
        over="1h14m",
        times="100",
    ),
    _Burn(
        "Fast",
        "half is bad as soon as six hours have enough requests",
        [(0.18 * _HOUR, 0.5, "5h50m"), (0.18 * _HOUR, 0, "2h")],
        few_requests=True,
        window="6h",
        onset="5h34m",
        over="6h18m",
        times="100",
    ),
    _Burn(
        "Slow",
        "a share is bad for a day after a busier one",
        [(10, 0, "1d"), (1, 0.04, "24h"), (1, 0.0165, "4h"), (1, 0, "6h")],
        few_requests=False,
        window="1d",
        onset="44h30m",
        over="52h",
        times="3.932",
    ),
    _Burn(
        "Slow",
        "a small share is bad for a day",
        [(1, 0, "10h"), (1, 0.0081, "24h"), (1, 0, "6h")],
        few_requests=False,
        window="3d",
        onset="25h30m",
        over="36h15m",
        times="1.024",
    ),
    _Burn(
        "Slow",
        "half is bad as soon as a day has enough requests",
        [(1.05 * _DAY, 0.5, "26h"), (1.05 * _DAY, 0, "6h")],
        few_requests=True,
        window="1d",
        onset="23h",
        over="27h45m",
        times="100",
    ),
    _Burn(
        "Slow",
        "a share is bad as soon as three days have enough requests",
        [(0.51 * _DAY, 0.0102, "51h"), (0.51 * _DAY, 0, "12h")],
        few_requests=True,
        window="3d",
        onset="47h15m",
        over="54h",
        times="2.04",
    ),
)
_INTERVALS = {"Fast": "1m", "Slow": "15m"}
_SEVERITIES = {"Fast": "critical", "Slow": "warning"}
# The short window of each: as long as an alert outlives its targets.
_GONE = {"1h": "5m", "6h": "30m", "1d": "2h", "3d": "6h"}


def _burn_story(subject: _Subject, burn: _Burn) -> Story:
    return Story(
        f"Inference{subject.title}BudgetBurn{burn.speed}",
        burn.what,
        subject.series(subject.scale(burn)),
        holds=(burn.onset, burn.over),
        labels={
            **INFERENCE.all_pods,
            "severity": _SEVERITIES[burn.speed],
            "service": INFERENCE_SERVICE,
            "slo": subject.slo,
            "window": burn.window,
        },
        value=burn.times,
        lingers=_GONE[burn.window],
        local=burn.window == "1h",
        loses_targets=not burn.few_requests,
        interval=_INTERVALS[burn.speed],
    )


def _silences(subject: _Subject) -> Iterator[Silence]:
    for speed, interval in _INTERVALS.items():
        alert = f"Inference{subject.title}BudgetBurn{speed}"
        yield Silence(
            alert,
            "nobody asks for a prediction",
            subject.series([(0, 0, "4d")]),
            kind=Kind.NO_TRAFFIC,
            at=("15m", "3h"),
            interval=interval,
        )
        yield Silence(
            alert,
            "the only request of an hour is bad",
            subject.series([(0, 0, "2h"), (1 / seconds(interval), 1, interval), (0, 0, "1d")]),
            at=("2h15m", "2h30m", "4h"),
            interval=interval,
        )


def _absent_story(subject: _Subject, *, staging: bool) -> Story:
    lost = counter((1, "1h"), (None, "30m"), (1, "2h"))
    there = counter((0, "4h"), start=1)
    series = [
        replace(one, wave=lost if one.metric in subject.lost else there)
        for one in subject.series([(1, 0, "4h")])
    ]
    what = "its metrics are gone for half an hour"
    if staging:
        what += ", staging still has them"
        series += [
            replace(one, labels={**one.labels, "namespace": "staging"}, wave=there)
            for one in series
        ]
    return Story(
        f"Inference{subject.title}ObjectiveAbsent",
        what,
        [INFERENCE.up(gauge((1, "4h"))), *series],
        holds=("1h4m", "1h31m"),
        labels={
            "namespace": "mlops",
            "job": INFERENCE_SERVICE,
            "severity": "warning",
            "service": INFERENCE_SERVICE,
            "slo": subject.slo,
        },
        local=not staging,
        loses_targets=not staging,
        interval="1m",
    )


def _absent_silences(subject: _Subject) -> Iterator[Silence]:
    alert = f"Inference{subject.title}ObjectiveAbsent"
    unasked = (one for one in subject.series([(0, 0, "4h")]) if "duration" not in one.metric)
    yield Silence(
        alert,
        "nobody has asked for a prediction yet, and there is no duration",
        [INFERENCE.up(gauge((1, "4h"))), *unasked],
        kind=Kind.NO_TRAFFIC,
        at=("20m",),
        interval="1m",
    )
    yield Silence(
        alert,
        "the service is down, and that is another alert",
        [INFERENCE.up(gauge((0, "4h")))],
        at=("20m",),
        interval="1m",
    )
    yield Silence(
        alert,
        "another service has no objectives",
        [Series("up", {"job": "mlflow", "namespace": "mlops"}, gauge((1, "4h")))],
        at=("20m",),
        interval="1m",
    )


def _scenarios(subject: _Subject) -> Iterator[Scenario]:
    yield from (_burn_story(subject, burn) for burn in _BURNS)
    yield from _silences(subject)
    yield _absent_story(subject, staging=False)
    yield _absent_story(subject, staging=True)
    yield from _absent_silences(subject)


SCENARIOS: tuple[Scenario, ...] = tuple(
    scenario for subject in _SUBJECTS for scenario in _scenarios(subject)
)
