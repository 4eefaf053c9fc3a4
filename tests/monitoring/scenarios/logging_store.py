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
        alert="LoggingStoreErrors",
        what=what,
        series=series,
        onset="20m",
        over=over,
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
        alert="LoggingDatabaseNotInitialized",
        what="the database is deleted and made anew",
        series=[LOGGING.series("logging_db_initialized", _BREAKS)],
        onset="5m",
        over="20m",
        labels=page(LOGGING),
    ),
    Story(
        alert="LoggingDatabaseNotAccessible",
        what="the readiness query fails",
        series=[
            LOGGING.series("logging_db_accessible", _BREAKS),
            LOGGING.series("logging_db_initialized", gauge((1, "1h"))),
        ],
        onset="5m",
        over="20m",
        labels=page(LOGGING),
    ),
    Silence(
        alert="LoggingDatabaseNotAccessible",
        what="the database is not initialized, and that is another alert",
        series=[
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
        alert="LoggingStoreErrors",
        what="a pod has just started and met a lock",
        series=_from_start(busy=1),
        at=("20m", "22m"),
    ),
    Silence(
        alert="LoggingStoreErrors",
        what="nothing fails but for a lock",
        series=_store_errors(busy=counter((1, "1h"))),
        at=("6m", "20m"),
    ),
    Silence(
        alert="LoggingStoreErrors",
        what="nothing is stored",
        series=_store_errors(),
        kind=Kind.NO_TRAFFIC,
    ),
    Story(
        alert="LoggingDatabaseBusy",
        what="three transactions in two minutes find the database locked",
        series=_store_errors(busy=events(1200, 1260, 1320)),
        onset="22m",
        over="25m",
        labels=ticket(LOGGING, reason="busy"),
        value="3",
        lingers="5m",
    ),
    Silence(
        alert="LoggingDatabaseBusy",
        what="the disk is full, and that is another alert",
        series=_store_errors(full=counter((1, "1h"))),
        at=("6m", "20m"),
    ),
    Silence(
        alert="LoggingDatabaseBusy",
        what="nothing is stored",
        series=_store_errors(),
        kind=Kind.NO_TRAFFIC,
    ),
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
        alert="LoggingCommitSlow",
        what="one commit in fifty takes more than half a second",
        series=_commits(
            fast=counter((10, "20m"), (9.8, "30m"), (10, "1h")), slow=counter((10, "2h"))
        ),
        onset="22m30s",
        over="52m15s",
        labels=warning(LOGGING.all_pods, LOGGING.service),
        value="750ms",
        lingers="5m",
    ),
    Silence(
        alert="LoggingCommitSlow",
        what="every commit takes just under half a second",
        series=[
            LOGGING.series("logging_commit_duration_seconds_bucket", wave, le=bound)
            for bound, wave in (
                ("0.25", STILL),
                ("0.5", counter((10, "2h"))),
                ("+Inf", counter((10, "2h"))),
            )
        ],
    ),
    Silence(
        alert="LoggingCommitSlow",
        what="nothing is stored",
        series=_commits(fast=STILL, slow=STILL),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
    Story(
        alert="LoggingWalLarge",
        what="a reader holds the write-ahead log open for half an hour",
        series=[
            LOGGING.series(
                "logging_database_bytes",
                gauge((0.22 * _GIB, "10m"), (0.28 * _GIB, "20m"), (0, "1h")),
                file="wal",
            ),
            LOGGING.series("logging_database_bytes", gauge((9 * _GIB, "2h")), file="database"),
        ],
        onset="10m",
        over="30m",
        labels=ticket(LOGGING, file="wal"),
        value="286.7Mi",
    ),
    Story(
        alert="LoggingDiskFillsSoon",
        what="the disk loses two GiB an hour, then someone makes room",
        series=_disk(gauge((60, "1h"), ((60, 40), "10h"), (150, "2h")), size=200),
        onset="7h1m",
        over="11h",
        labels=ticket(LOGGING),
        value="23.48%",
        interval="1m",
    ),
    Story(
        alert="LoggingDiskFillsSoon",
        what="an emptier disk loses six GiB an hour",
        series=_disk(gauge((90, "1h"), ((90, 30), "10h"), (95, "2h")), size=100),
        onset="7h41m",
        over="11h",
        labels=ticket(LOGGING),
        value="46.9%",
        interval="1m",
    ),
    Silence(
        alert="LoggingDiskFillsSoon",
        what="nothing is stored on a disk that is nearly full",
        series=_disk(gauge((12, "1h")), size=100),
        kind=Kind.NO_TRAFFIC,
        at=("1h",),
        interval="1m",
    ),
    Story(
        alert="LoggingDiskAlmostFull",
        what="free space falls below a tenth",
        series=_disk(gauge((10.5, "10m"), (9.5, "20m"), (10.5, "1h")), size=100),
        onset="10m",
        over="30m",
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
        alert="LoggingPredictionConflicts",
        what=what,
        series=series,
        onset="20m",
        over=over,
        labels=ticket(LOGGING),
        value="1",
        lingers=lingers,
    )


_REFUSAL_SCENARIOS = (
    Story(
        alert="LoggingRequestsUnauthorized",
        what="three requests in two minutes have a wrong token",
        series=_unauthorized(events(1200, 1260, 1320)),
        onset="22m",
        over="25m",
        labels=ticket(LOGGING, reason="unauthorized"),
        value="3",
        lingers="5m",
    ),
    Silence(
        alert="LoggingRequestsUnauthorized",
        what="nothing is logged",
        series=_unauthorized(STILL),
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
        alert="LoggingPredictionConflicts",
        what="a pod has just started and met no conflict",
        series=_conflicts(gauge((None, "20m"), (0, "2h")), started=1140),
        at=("20m", "25m"),
    ),
    Silence(
        alert="LoggingPredictionConflicts",
        what="no prediction comes",
        series=_conflicts(STILL, started=-86_400),
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
        alert="EscapeRateHigh",
        what="labels show that a tenth of the defects passes, until a new model replaces it",
        series=_escapes(
            0.05,
            low=gauge((0.01, "20m"), (0.0625, "30m"), (None, "1h")),
            estimate=gauge((0.02, "20m"), (0.1, "30m"), (None, "1h")),
            high=gauge((0.04, "20m"), (0.25, "30m"), (None, "1h")),
        ),
        onset="20m",
        over="50m",
        labels=ticket(LOGGING, model_name="steel-defects", model_version="3", bound="low"),
        value="6.25%",
    ),
    Silence(
        alert="EscapeRateHigh",
        what="a few labels only: the estimate is above the limit, the whole interval is not",
        series=_escapes(
            0.05,
            low=gauge((0.02, "2h")),
            estimate=gauge((0.2, "2h")),
            high=gauge((0.6, "2h")),
        ),
        at=("30m", "1h"),
    ),
    Silence(
        alert="EscapeRateHigh",
        what="more is allowed",
        series=_escapes(
            0.1,
            low=gauge((0.0625, "2h")),
            estimate=gauge((0.1, "2h")),
            high=gauge((0.25, "2h")),
        ),
        at=("30m", "1h"),
    ),
    Silence(
        alert="EscapeRateHigh",
        what="nobody labels",
        series=[LOGGING.series("logging_quality_escape_rate_limit", gauge((0.05, "2h")))],
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
