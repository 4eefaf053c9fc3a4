"""Scenarios of the alerts on the database and its disk."""

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

_PAGED_TARGET = critical(LOGGING_TARGET, LOGGING_SERVICE)
_TICKETED_TARGET = warning(LOGGING_TARGET, LOGGING_SERVICE)
_TICKETED_STORE = warning(LOGGING_STORE, LOGGING_SERVICE)

_BREAKS = gauge((1, "5m"), (0, "15m"), (1, "1h"))
_STILL = counter((0, "2h"), start=1000)

_GIB = float(1 << 30)


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
        labels=_PAGED_TARGET,
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
        labels=_PAGED_TARGET,
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
        labels={**_PAGED_TARGET, "reason": "read_only"},
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
        labels={**_TICKETED_TARGET, "reason": "busy"},
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
        labels=_TICKETED_STORE,
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
        labels={**_TICKETED_TARGET, "file": "wal"},
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
        labels=_TICKETED_TARGET,
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
        labels=_TICKETED_TARGET,
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
        labels=_PAGED_TARGET,
        summary=f"9.5% of the disk of {LOGGING_PLACE} is free",
        description=(
            f"Only 9.5% of the disk under the prediction database of {LOGGING_PLACE} is free (limit"
            " 10%). When it is full nothing is stored."
        ),
    ),
)

SCENARIOS = (*_DATABASE_SCENARIOS, *_SIZE_SCENARIOS)
