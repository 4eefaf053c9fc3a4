"""Scenarios of the alerts on the database, its disk, and what the logging service refuses."""

from tests.monitoring.scenarios.story import Kind, Scenario, Silence, Story
from tests.monitoring.scenarios.wave import STILL, Series, Wave, counter, events, gauge
from tests.monitoring.scenarios.world import LOGGING, page, ticket, warning

_BREAKS = gauge((1, "5m"), (0, "15m"), (1, "1h"))

_GIB = float(1 << 30)


def _store_errors(*, started: float = -3600, **waves: Wave) -> list[Series]:
    """Return the errors by reason, and when the process started; time begins at 0."""
    reasons = {"busy": STILL, "full": STILL, "read_only": STILL, **waves}
    return [
        LOGGING.series("logging_start_time_seconds", gauge((started, "2h"))),
        *(
            LOGGING.series("logging_store_errors_total", wave, reason=reason)
            for reason, wave in reasons.items()
        ),
    ]


def _store_error_story(what: str, series: list[Series], over: str, lingers: str) -> Story:
    return Story(
        "LoggingStoreErrors",
        what,
        series,
        holds=("20m", over),
        labels=page(LOGGING, reason="read_only"),
        value="1",
        lingers=lingers,
    )


def _from_start(**waves: float) -> list[Series]:
    """Return the errors of a process that started a minute before its first scrape."""
    absent = dict.fromkeys(("busy", "full", "read_only"), 0.0)
    return _store_errors(
        started=1140,
        **{
            reason: gauge((None, "20m"), (count, "2h"))
            for reason, count in (absent | waves).items()
        },
    )


_DATABASE_SCENARIOS = (
    Story(
        "LoggingDatabaseNotInitialized",
        "the database is deleted and made anew",
        [LOGGING.series("logging_db_initialized", _BREAKS)],
        holds=("5m", "20m"),
        labels=page(LOGGING),
    ),
    Story(
        "LoggingDatabaseNotAccessible",
        "the readiness query fails",
        [
            LOGGING.series("logging_db_accessible", _BREAKS),
            LOGGING.series("logging_db_initialized", gauge((1, "1h"))),
        ],
        holds=("5m", "20m"),
        labels=page(LOGGING),
    ),
    Silence(
        "LoggingDatabaseNotAccessible",
        "the database is not initialized, and that is another alert",
        [
            LOGGING.series("logging_db_accessible", gauge((0, "1h"))),
            LOGGING.series("logging_db_initialized", gauge((0, "1h"))),
        ],
    ),
    _store_error_story(
        "one transaction finds the database read-only",
        _store_errors(read_only=events(1200)),
        "25m",
        "5m",
    ),
    _store_error_story(
        "a transaction has failed before the first scrape", _from_start(read_only=1), "24m", "0s"
    ),
    Silence(
        "LoggingStoreErrors",
        "a pod has just started and met a lock",
        _from_start(busy=1),
        at=("20m", "22m"),
    ),
    Silence(
        "LoggingStoreErrors",
        "nothing fails but for a lock",
        _store_errors(busy=counter((1, "1h"))),
        at=("6m", "20m"),
    ),
    Silence("LoggingStoreErrors", "nothing is stored", _store_errors(), kind=Kind.NO_TRAFFIC),
    Story(
        "LoggingDatabaseBusy",
        "three transactions in two minutes find the database locked",
        _store_errors(busy=events(1200, 1260, 1320)),
        holds=("22m", "25m"),
        labels=ticket(LOGGING, reason="busy"),
        value="3",
        lingers="5m",
    ),
    Silence(
        "LoggingDatabaseBusy",
        "the disk is full, and that is another alert",
        _store_errors(full=counter((1, "1h"))),
        at=("6m", "20m"),
    ),
    Silence("LoggingDatabaseBusy", "nothing is stored", _store_errors(), kind=Kind.NO_TRAFFIC),
)


def _commits(*, fast: Wave, slow: Wave) -> list[Series]:
    """Return commits, fast ones within 250 ms and slow ones between half a second and one."""
    buckets: list[Series] = []
    for bound, wave in (("0.25", fast), ("0.5", fast), ("1.0", slow), ("+Inf", slow)):
        buckets.append(LOGGING.series("logging_commit_duration_seconds_bucket", wave, le=bound))
    return buckets


def _disk(free: Wave, *, size: float) -> list[Series]:
    """Return a disk by its size and its free space, in GiB."""
    return [
        LOGGING.series("logging_disk_free_bytes", free.times(_GIB)),
        LOGGING.series("logging_disk_size_bytes", gauge((size * _GIB, "1d"))),
    ]


_SIZE_SCENARIOS = (
    Story(
        "LoggingCommitSlow",
        "one commit in fifty takes more than half a second",
        _commits(fast=counter((10, "20m"), (9.8, "30m"), (10, "1h")), slow=counter((10, "2h"))),
        holds=("22m30s", "52m15s"),
        labels=warning(LOGGING.all_pods, LOGGING.service),
        value="750ms",
        lingers="5m",
    ),
    Silence(
        "LoggingCommitSlow",
        "every commit takes just under half a second",
        [
            LOGGING.series("logging_commit_duration_seconds_bucket", wave, le=bound)
            for bound, wave in (
                ("0.25", STILL),
                ("0.5", counter((10, "2h"))),
                ("+Inf", counter((10, "2h"))),
            )
        ],
    ),
    Silence(
        "LoggingCommitSlow",
        "nothing is stored",
        _commits(fast=STILL, slow=STILL),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
    Story(
        "LoggingWalLarge",
        "a reader holds the write-ahead log open for half an hour",
        [
            LOGGING.series(
                "logging_database_bytes",
                gauge((0.22 * _GIB, "10m"), (0.28 * _GIB, "20m"), (0, "1h")),
                file="wal",
            ),
            LOGGING.series("logging_database_bytes", gauge((9 * _GIB, "2h")), file="database"),
        ],
        holds=("10m", "30m"),
        labels=ticket(LOGGING, file="wal"),
        value="286.7Mi",
    ),
    Story(
        "LoggingDiskFillsSoon",
        "the disk loses two GiB an hour, then someone makes room",
        _disk(gauge((60, "1h"), ((60, 40), "10h"), (150, "2h")), size=200),
        holds=("7h1m", "11h"),
        labels=ticket(LOGGING),
        value="23.48%",
        interval="1m",
    ),
    Story(
        "LoggingDiskFillsSoon",
        "an emptier disk loses six GiB an hour",
        _disk(gauge((90, "1h"), ((90, 30), "10h"), (95, "2h")), size=100),
        holds=("7h41m", "11h"),
        labels=ticket(LOGGING),
        value="46.9%",
        interval="1m",
    ),
    Silence(
        "LoggingDiskFillsSoon",
        "nothing is stored on a disk that is nearly full",
        _disk(gauge((12, "1h")), size=100),
        kind=Kind.NO_TRAFFIC,
        at=("1h",),
        interval="1m",
    ),
    Story(
        "LoggingDiskAlmostFull",
        "free space falls below a tenth",
        _disk(gauge((10.5, "10m"), (9.5, "20m"), (10.5, "1h")), size=100),
        holds=("10m", "30m"),
        labels=page(LOGGING),
        value="9.5%",
    ),
)


def _unauthorized(refused: Wave) -> list[Series]:
    return [
        LOGGING.series("logging_rejected_total", refused, reason="unauthorized"),
        LOGGING.series("logging_rejected_total", counter((20, "2h")), reason="bad_input"),
    ]


def _conflicts(conflicts: Wave, *, started: float) -> list[Series]:
    """Return the counter, and when the process started; a scenario's time begins at 0."""
    return [
        LOGGING.series("logging_conflicts_total", conflicts),
        LOGGING.series("logging_start_time_seconds", gauge((started, "2h"))),
    ]


def _conflict_story(what: str, series: list[Series], over: str, lingers: str) -> Story:
    return Story(
        "LoggingPredictionConflicts",
        what,
        series,
        holds=("20m", over),
        labels=ticket(LOGGING),
        value="1",
        lingers=lingers,
    )


_REFUSAL_SCENARIOS = (
    Story(
        "LoggingRequestsUnauthorized",
        "three requests in two minutes have a wrong token",
        _unauthorized(events(1200, 1260, 1320)),
        holds=("22m", "25m"),
        labels=ticket(LOGGING, reason="unauthorized"),
        value="3",
        lingers="5m",
    ),
    Silence(
        "LoggingRequestsUnauthorized",
        "nothing is logged",
        _unauthorized(STILL),
        kind=Kind.NO_TRAFFIC,
    ),
    _conflict_story(
        "one prediction conflicts", _conflicts(events(1200), started=-3600), "35m", "15m"
    ),
    _conflict_story(
        "a pod meets a conflict before its first scrape",
        _conflicts(gauge((None, "20m"), (1, "2h")), started=1140),
        "34m",
        "0s",
    ),
    Silence(
        "LoggingPredictionConflicts",
        "a pod has just started and met no conflict",
        _conflicts(gauge((None, "20m"), (0, "2h")), started=1140),
        at=("20m", "25m"),
    ),
    Silence(
        "LoggingPredictionConflicts",
        "no prediction comes",
        _conflicts(STILL, started=-86_400),
        kind=Kind.NO_TRAFFIC,
    ),
)


def _escapes(limit: float, **rates: Wave) -> list[Series]:
    """Return the escape rate of two versions, and the limit; the other one has no bad figures."""
    version = {"model_name": "steel-defects", "model_version": "3"}
    older = {"model_name": "steel-defects", "model_version": "2"}
    metric = "logging_quality_escape_rate"
    still = gauge((0.01, "2h"))
    return [
        LOGGING.series("logging_quality_escape_rate_limit", gauge((limit, "2h"))),
        *(LOGGING.series(metric, wave, **version, bound=bound) for bound, wave in rates.items()),
        *(
            LOGGING.series(metric, still, **older, bound=bound)
            for bound in ("low", "estimate", "high")
        ),
    ]


_QUALITY_SCENARIOS = (
    Story(
        "EscapeRateHigh",
        "labels show that a tenth of the defects passes, until a new model replaces it",
        _escapes(
            0.05,
            low=gauge((0.01, "20m"), (0.0625, "30m"), (None, "1h")),
            estimate=gauge((0.02, "20m"), (0.1, "30m"), (None, "1h")),
            high=gauge((0.04, "20m"), (0.25, "30m"), (None, "1h")),
        ),
        holds=("20m", "50m"),
        labels=ticket(LOGGING, model_name="steel-defects", model_version="3", bound="low"),
        value="6.25%",
    ),
    Silence(
        "EscapeRateHigh",
        "a few labels only: the estimate is above the limit, the whole interval is not",
        _escapes(
            0.05, low=gauge((0.02, "2h")), estimate=gauge((0.2, "2h")), high=gauge((0.6, "2h"))
        ),
        at=("30m", "1h"),
    ),
    Silence(
        "EscapeRateHigh",
        "more is allowed",
        _escapes(
            0.1, low=gauge((0.0625, "2h")), estimate=gauge((0.1, "2h")), high=gauge((0.25, "2h"))
        ),
        at=("30m", "1h"),
    ),
    Silence(
        "EscapeRateHigh",
        "nobody labels",
        [LOGGING.series("logging_quality_escape_rate_limit", gauge((0.05, "2h")))],
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
)

SCENARIOS: tuple[Scenario, ...] = (
    *_DATABASE_SCENARIOS,
    *_SIZE_SCENARIOS,
    *_REFUSAL_SCENARIOS,
    *_QUALITY_SCENARIOS,
)
