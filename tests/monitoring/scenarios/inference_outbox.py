"""Scenarios of the alerts on predictions on their way to the logging service."""

from collections.abc import Iterator

from tests.monitoring.scenarios.story import Kind, Scenario, Silence, Story
from tests.monitoring.scenarios.wave import STILL, Series, Wave, counter, events, gauge
from tests.monitoring.scenarios.world import INFERENCE, page, ticket


def _outbox(backlog: Wave, delivered: Wave) -> list[Series]:
    return [
        INFERENCE.series("inference_log_backlog", backlog),
        INFERENCE.series("inference_log_delivered_total", delivered),
    ]


def _losses(started: float, **waves: Wave) -> list[Series]:
    """Return what was dropped and lost, and when the process started; time begins at 0."""
    return [
        INFERENCE.series("inference_start_time_seconds", gauge((started, "2h"))),
        *(INFERENCE.series(f"inference_log_{name}_total", wave) for name, wave in waves.items()),
    ]


def _pictures(dropped: Wave, sent: Wave, *, shutdown: Wave = STILL) -> list[Series]:
    name = "inference_evidence_dropped_total"
    return [
        INFERENCE.series(name, dropped, reason="queue_full"),
        INFERENCE.series(name, STILL, reason="refused"),
        INFERENCE.series(name, shutdown, reason="shutdown"),
        INFERENCE.series("inference_evidence_sent_total", sent),
    ]


_FROM_START = gauge((None, "20m"), (0, "2h"))


def _loss_scenarios(lost: str, other: str) -> Iterator[Scenario]:
    for what, started, waves, over, lingers in (
        (f"one is {lost}", -3600, (events(1200), STILL), "35m", "15m"),
        (
            f"a new pod has {lost} one before it is scraped",
            1140,
            (gauge((None, "20m"), (1, "2h")), _FROM_START),
            "34m",
            "0s",
        ),
    ):
        yield Story(
            "InferencePredictionsDropped",
            what,
            _losses(started, **dict(zip((lost, other), waves, strict=True))),
            holds=("20m", over),
            labels=page(INFERENCE),
            value="1",
            lingers=lingers,
        )


SCENARIOS: tuple[Scenario, ...] = (
    Story(
        "InferenceLogBacklogGrowing",
        "a backlog grows past a thousand, then is worked off",
        _outbox(
            gauge((0, "10m"), ((0, 1800), "30m"), ((1800, 0), "20m"), (0, "1h")), counter((5, "2h"))
        ),
        holds=("26m45s", "44m30s"),
        labels=ticket(INFERENCE),
        value="1.605k",
    ),
    Silence(
        "InferenceLogBacklogGrowing",
        "nothing is predicted while a large backlog waits",
        _outbox(gauge((5000, "1h")), STILL),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
    Silence(
        "InferenceLogBacklogGrowing",
        "a busy service's outbox fills and empties",
        _outbox(gauge(*(((100, "30s"), (900, "30s")) * 60)), counter((500, "2h"))),
        at=("20m", "20m30s", "40m"),
    ),
    Story(
        "InferenceLogDeliveryStalled",
        "the logging service is down for twenty minutes",
        _outbox(
            gauge((0, "10m"), (1, "20m"), (0, "1h")), counter((1, "10m"), (0, "20m"), (1, "1h"))
        ),
        holds=("14m45s", "30m"),
        labels=ticket(INFERENCE),
        value="1",
    ),
    Silence(
        "InferenceLogDeliveryStalled",
        "nothing is predicted, nothing waits",
        _outbox(gauge((0, "1h")), STILL),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
    Silence(
        "InferenceLogDeliveryStalled",
        "a large backlog is being worked off",
        _outbox(gauge((9000, "1h")), counter((1, "1h"))),
        at=("30m",),
    ),
    Story(
        "InferenceOutboxNearlyFull",
        "the outbox fills to 81% and is worked off",
        [
            INFERENCE.series("inference_outbox_bytes", gauge((790, "5m"), (810, "10m"), (0, "1h"))),
            INFERENCE.series("inference_outbox_capacity_bytes", gauge((1000, "2h"))),
            INFERENCE.series("inference_log_backlog", gauge((700, "2h"))),
            INFERENCE.series("inference_outbox_capacity_rows", gauge((1000, "2h"))),
        ],
        holds=("5m", "15m"),
        labels=page(INFERENCE),
        value="81%",
    ),
    Story(
        "InferenceOutboxNearlyFull",
        "small predictions reach 81% of the rows while most bytes are free",
        [
            INFERENCE.series("inference_outbox_bytes", gauge((100, "2h"))),
            INFERENCE.series("inference_outbox_capacity_bytes", gauge((1000, "2h"))),
            INFERENCE.series("inference_log_backlog", gauge((790, "5m"), (810, "10m"), (0, "1h"))),
            INFERENCE.series("inference_outbox_capacity_rows", gauge((1000, "2h"))),
        ],
        holds=("5m", "15m"),
        labels=page(INFERENCE),
        value="81%",
    ),
    Silence(
        "InferenceOutboxNearlyFull",
        "the outbox is filled to 79% of both limits",
        [
            INFERENCE.series("inference_outbox_bytes", gauge((790, "1h"))),
            INFERENCE.series("inference_outbox_capacity_bytes", gauge((1000, "1h"))),
            INFERENCE.series("inference_log_backlog", gauge((790, "1h"))),
            INFERENCE.series("inference_outbox_capacity_rows", gauge((1000, "1h"))),
        ],
        at=("30m",),
    ),
    Story(
        "InferenceDeadLetters",
        "one prediction is refused for good, then sent again by hand",
        [INFERENCE.series("inference_log_dead_letters", gauge((0, "5m"), (1, "10m"), (0, "1h")))],
        holds=("5m", "15m"),
        labels=ticket(INFERENCE),
        value="1",
    ),
    *_loss_scenarios("dropped", "lost"),
    *_loss_scenarios("lost", "dropped"),
    Silence(
        "InferencePredictionsDropped",
        "a pod has just started and lost nothing",
        _losses(1140, dropped=_FROM_START, lost=_FROM_START),
        at=("20m", "25m"),
    ),
    Silence(
        "InferencePredictionsDropped",
        "nothing was lost since yesterday",
        _losses(-86_400, dropped=STILL, lost=STILL),
        kind=Kind.NO_TRAFFIC,
    ),
    Story(
        "InferencePicturesDropped",
        "the logging service takes no pictures for half an hour",
        _pictures(counter((0, "20m"), (1, "30m"), (0, "2h")), STILL),
        holds=("20m", "1h19m45s"),
        labels=ticket(INFERENCE),
        value="915",
        lingers="30m",
    ),
    Silence(
        "InferencePicturesDropped",
        "a busy service drops some pictures and sends more",
        _pictures(counter((1, "2h")), counter((2, "2h"))),
        at=("30m", "1h"),
    ),
    Silence(
        "InferencePicturesDropped",
        "pods end with pictures that wait",
        _pictures(STILL, STILL, shutdown=counter((1, "2h"))),
        at=("30m", "1h"),
    ),
    Silence(
        "InferencePicturesDropped",
        "no pictures are kept",
        _pictures(STILL, STILL),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
)
