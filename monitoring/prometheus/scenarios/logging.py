"""Scenarios of the logging service's alerts."""

from monitoring.prometheus.scenarios.story import Kind, Silence, Story
from monitoring.prometheus.scenarios.wave import Series, Wave, counter, events, gauge
from monitoring.prometheus.scenarios.world import (
    LOGGING_PLACE,
    LOGGING_STORE,
    LOGGING_TARGET,
    critical,
    logging,
    warning,
)
from monitoring.timings import LOGGING_SERVICE

_CRITICAL_TARGET = critical(LOGGING_TARGET, LOGGING_SERVICE)
_WARNING_TARGET = warning(LOGGING_TARGET, LOGGING_SERVICE)
_CRITICAL_STORE = critical(LOGGING_STORE, LOGGING_SERVICE)
_WARNING_STORE = warning(LOGGING_STORE, LOGGING_SERVICE)

_GIB = float(1 << 30)
_BREAKS = gauge((1, "5m"), (0, "15m"), (1, "1h"))
_STILL = counter((0, "2h"), start=1000)


def _store_errors(**waves: Wave) -> list[Series]:
    reasons = {"busy": _STILL, "full": _STILL, "read_only": _STILL, **waves}
    return [
        logging("logging_store_errors_total", wave, reason=reason)
        for reason, wave in reasons.items()
    ]


_DATABASE_SCENARIOS = (
    Story(
        alert="LoggingDatabaseNotInitialized",
        what="the database is deleted and made anew",
        series=[logging("logging_db_initialized", _BREAKS)],
        onset="5m",
        hold="1m",
        over="20m",
        labels=_CRITICAL_TARGET,
        summary=f"the database of {LOGGING_PLACE} is not open",
        description=(
            f"{LOGGING_PLACE} has had no open database with an up-to-date schema for a minute."
            " Nothing is stored; predictions wait in the outboxes of the inference service."
        ),
    ),
    Story(
        alert="LoggingDatabaseNotAccessible",
        what="the readiness query fails",
        series=[
            logging("logging_db_accessible", _BREAKS),
            logging("logging_db_initialized", gauge((1, "1h"))),
        ],
        onset="5m",
        hold="1m",
        over="20m",
        labels=_CRITICAL_TARGET,
        summary=f"the database of {LOGGING_PLACE} does not answer",
        description=(
            f"The readiness query of {LOGGING_PLACE} has failed, or taken more than 2 seconds, for"
            " a minute. Nothing is stored; predictions wait in the outboxes of the inference"
            " service."
        ),
    ),
    Silence(
        alert="LoggingDatabaseNotAccessible",
        what="the database is not initialized, and that is another alert",
        series=[
            logging("logging_db_accessible", gauge((0, "1h"))),
            logging("logging_db_initialized", gauge((0, "1h"))),
        ],
    ),
    Story(
        alert="LoggingStoreErrors",
        what="one transaction finds the database read-only",
        series=_store_errors(read_only=events(1200)),
        onset="20m",
        hold="30s",
        over="25m",
        labels={**_CRITICAL_TARGET, "reason": "read_only"},
        summary=f"the database of {LOGGING_PLACE} fails: read_only",
        description=(
            f"About 1 transactions or checks of the database of {LOGGING_PLACE} have failed in"
            " 5 minutes, reason read_only."
        ),
        lingers="5m",
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
        hold="2m",
        over="25m",
        labels={**_WARNING_TARGET, "reason": "busy"},
        summary=f"another process locks the database of {LOGGING_PLACE}",
        description=(
            f"About 3 transactions or checks of {LOGGING_PLACE} have met SQLITE_BUSY in 5"
            " minutes, each after waiting BUSY_TIMEOUT_SECONDS: another process holds the write"
            " lock."
        ),
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
        buckets.append(logging("logging_commit_duration_seconds_bucket", wave, le=bound))
    return buckets


def _disk(free: Wave, *, size: float) -> list[Series]:
    """Return a disk of so many GiB, and its free space in GiB."""
    return [
        logging("logging_disk_free_bytes", free.times(_GIB)),
        logging("logging_disk_size_bytes", gauge((size * _GIB, "1d"))),
    ]


_SIZE_SCENARIOS = (
    Story(
        alert="LoggingCommitSlow",
        what="one commit in fifty takes more than half a second",
        series=_commits(
            fast=counter((10, "20m"), (9.8, "30m"), (10, "1h")), slow=counter((10, "2h"))
        ),
        onset="22m30s",
        hold="10m",
        over="52m15s",
        labels=_WARNING_STORE,
        summary="commits of the prediction database take 750ms (p99)",
        description=(
            "For 10 minutes one commit in a hundred has taken 750ms or more until it was on disk"
            " (limit 500 ms): the disk is slow or shared."
        ),
        lingers="5m",
    ),
    Silence(
        alert="LoggingCommitSlow",
        what="every commit takes just under half a second",
        series=[
            logging("logging_commit_duration_seconds_bucket", wave, le=bound)
            for bound, wave in (
                ("0.25", _STILL),
                ("0.5", counter((10, "2h"))),
                ("+Inf", counter((10, "2h"))),
            )
        ],
    ),
    Silence(
        alert="LoggingCommitSlow",
        what="nothing is stored",
        series=_commits(fast=_STILL, slow=_STILL),
        kind=Kind.NO_TRAFFIC,
        at=("30m",),
    ),
    Story(
        alert="LoggingWalLarge",
        what="a reader holds the write-ahead log open for half an hour",
        series=[
            logging(
                "logging_database_bytes",
                gauge((0.22 * _GIB, "10m"), (0.28 * _GIB, "20m"), (0, "1h")),
                file="wal",
            ),
            logging("logging_database_bytes", gauge((9 * _GIB, "2h")), file="database"),
        ],
        onset="10m",
        hold="10m",
        over="30m",
        labels={**_WARNING_TARGET, "file": "wal"},
        summary=f"the write-ahead log of {LOGGING_PLACE} has grown to 286.7MiB",
        description=(
            f"The write-ahead log of the database of {LOGGING_PLACE} has been larger than 256 MiB"
            " for 10 minutes, now 286.7MiB: a long-running reader keeps SQLite from a checkpoint,"
            " and every query gets slower."
        ),
    ),
    Story(
        alert="LoggingDiskFillsSoon",
        what="the disk loses two GiB an hour, then someone makes room",
        series=_disk(gauge((60, "1h"), ((60, 40), "10h"), (150, "2h")), size=200),
        onset="7h1m",
        hold="30m",
        over="11h",
        labels=_WARNING_TARGET,
        summary=f"the disk of {LOGGING_PLACE} is full within a day",
        description=(
            f"23.48% of the disk under the prediction database of {LOGGING_PLACE} is free, and at"
            " the pace of the last 6 hours none is within 24 hours."
        ),
        interval="1m",
    ),
    Story(
        alert="LoggingDiskFillsSoon",
        what="an emptier disk loses six GiB an hour",
        series=_disk(gauge((90, "1h"), ((90, 30), "10h"), (95, "2h")), size=100),
        onset="7h41m",
        hold="30m",
        over="11h",
        labels=_WARNING_TARGET,
        summary=f"the disk of {LOGGING_PLACE} is full within a day",
        description=(
            f"46.9% of the disk under the prediction database of {LOGGING_PLACE} is free, and at"
            " the pace of the last 6 hours none is within 24 hours."
        ),
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
        hold="2m",
        over="30m",
        labels=_CRITICAL_TARGET,
        summary=f"9.5% of the disk of {LOGGING_PLACE} is free",
        description=(
            f"Only 9.5% of the disk under the prediction database of {LOGGING_PLACE} is free (limit"
            " 10%). When it is full nothing is stored."
        ),
    ),
)

_READINESS_SCENARIOS = (
    Story(
        alert="LoggingNotReady",
        what="the only pod becomes unready",
        series=[logging("logging_ready", _BREAKS)],
        onset="5m",
        hold="2m",
        over="20m",
        labels=_CRITICAL_TARGET,
        summary=f"{LOGGING_PLACE} is not ready",
        description=(
            f"/ready of {LOGGING_PLACE} has answered 503 for 2 minutes; the logging service has no"
            " second replica. logging_unready tells the reason."
        ),
    ),
    Story(
        alert="LoggingReadinessFlapping",
        what="the pod comes and goes every minute",
        series=[
            logging("logging_ready", gauge((1, "5m"), *(((0, "1m"), (1, "1m")) * 3), (1, "1h")))
        ],
        onset="10m",
        hold="1m",
        over="20m",
        labels=_WARNING_TARGET,
        summary=f"readiness of {LOGGING_PLACE} flaps",
        description=(
            f"{LOGGING_PLACE} has changed between ready and not ready 6 times in 15 minutes."
        ),
        lingers="15m",
    ),
    Story(
        alert="LoggingWorkersMissing",
        what="one of two workers dies and comes back",
        series=[
            logging("logging_workers", gauge((2, "2h"))),
            logging("logging_workers_alive", gauge((2, "5m"), (1, "5m"), (2, "1h"))),
        ],
        onset="5m",
        hold="1m",
        over="10m",
        labels=_WARNING_TARGET,
        summary=f"1 workers of {LOGGING_PLACE} are dead",
        description=(
            f"For a minute 1 worker processes of {LOGGING_PLACE} have been missing. The pod is not"
            " ready, and its liveness probe restarts it unless the worker returns."
        ),
    ),
    Story(
        alert="LoggingRestartLoop",
        what="the third start in half an hour",
        series=[
            logging(
                "logging_start_time_seconds",
                gauge((1000, "5m"), (1300, "5m"), (1600, "5m"), (1900, "2h")),
            )
        ],
        onset="15m",
        hold="1m",
        over="35m",
        labels=_CRITICAL_TARGET,
        summary=f"{LOGGING_PLACE} keeps restarting",
        description=(
            f"{LOGGING_PLACE} has started 3 times in 30 minutes; no prediction is stored between a"
            " stop and the next start."
        ),
        lingers="30m",
    ),
)


def _answers(
    *, stored: Wave, failed: Wave, refused: Wave = _STILL, unauthorized: Wave = _STILL
) -> list[Series]:
    return [
        logging("logging_batches_total", stored),
        logging("logging_errors_total", failed),
        logging("logging_rejected_total", refused, reason="queue_full"),
        logging("logging_rejected_total", unauthorized, reason="unauthorized"),
        logging("logging_rejected_total", counter((20, "2h")), reason="bad_input"),
    ]


_IDLE = _answers(stored=_STILL, failed=_STILL)

_REQUEST_SCENARIOS = (
    Story(
        alert="LoggingHighErrorRate",
        what="one batch in eighteen fails",
        series=_answers(
            stored=counter((2, "30m"), (1.69, "20m"), (1.8, "2h")),
            failed=counter((0, "30m"), (0.1, "20m"), (0, "2h")),
        ),
        onset="34m30s",
        hold="2m",
        over="50m30s",
        labels=_CRITICAL_STORE,
        summary="5.587% of requests to the logging service fail",
        description=(
            "5.587% of the batches and queries of the last 5 minutes failed for the logging"
            " service's fault (limit 5%); refused input is not counted."
        ),
        lingers="5m",
    ),
    Story(
        alert="LoggingHighErrorRate",
        what="four of 22 batches in 5 minutes fails",
        series=_answers(
            stored=counter((22 / 300, "30m"), (18 / 300, "20m"), (22 / 300, "2h")),
            failed=counter((0, "30m"), (4 / 300, "20m"), (0, "2h")),
        ),
        onset="31m15s",
        hold="2m",
        over="53m30s",
        labels=_CRITICAL_STORE,
        summary="12.73% of requests to the logging service fail",
        description=(
            "12.73% of the batches and queries of the last 5 minutes failed for the logging"
            " service's fault (limit 5%); refused input is not counted."
        ),
        lingers="5m",
        local=False,
    ),
    Silence(
        alert="LoggingHighErrorRate",
        what="one of eighteen batches in 5 minutes fails",
        series=_answers(stored=counter((17 / 300, "2h")), failed=counter((1 / 300, "2h"))),
        at=("10m", "20m", "30m"),
    ),
    Silence(
        alert="LoggingHighErrorRate",
        what="nothing is logged",
        series=_IDLE,
        kind=Kind.NO_TRAFFIC,
    ),
    Story(
        alert="LoggingQueueFull",
        what="one batch in eighteen finds the queue full",
        series=_answers(
            stored=counter((2, "30m"), (1.69, "20m"), (1.8, "2h")),
            failed=_STILL,
            refused=counter((0, "30m"), (0.1, "20m"), (0, "2h")),
        ),
        onset="34m30s",
        hold="5m",
        over="50m30s",
        labels=_WARNING_STORE,
        summary="5.587% of batches to the logging service get 429",
        description=(
            "5.587% of the batches of the last 5 minutes found the write queue full (limit 5%):"
            " predictions come faster than the disk takes them."
        ),
        lingers="5m",
    ),
    Silence(
        alert="LoggingQueueFull",
        what="nothing is logged",
        series=_IDLE,
        kind=Kind.NO_TRAFFIC,
    ),
    Story(
        alert="LoggingRequestsUnauthorized",
        what="three requests in two minutes have a wrong token",
        series=_answers(stored=_STILL, failed=_STILL, unauthorized=events(1200, 1260, 1320)),
        onset="22m",
        hold="2m",
        over="25m",
        labels={**_WARNING_TARGET, "reason": "unauthorized"},
        summary=f"{LOGGING_PLACE} refuses requests for their token",
        description=(
            f"About 3 requests to {LOGGING_PLACE} in 5 minutes had no token or a wrong one:"
            " LOGGING_TOKEN differs between the services, or a stranger calls."
        ),
        lingers="5m",
    ),
    Silence(
        alert="LoggingRequestsUnauthorized",
        what="nothing is logged",
        series=_IDLE,
        kind=Kind.NO_TRAFFIC,
    ),
)

SCENARIOS = (
    *_DATABASE_SCENARIOS,
    *_SIZE_SCENARIOS,
    *_READINESS_SCENARIOS,
    *_REQUEST_SCENARIOS,
)
