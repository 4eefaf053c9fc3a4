"""Alerts on the logging service alone: its database, its disk and what it refuses."""

from functools import partial

from monitoring.prometheus.source.promql import grew
from monitoring.prometheus.source.rule import INSTANCE, Alert, Group, Recording, RuleFile
from monitoring.prometheus.source.services import (
    LOGGING,
    p99,
    readiness_alerts,
    request_alerts,
    request_recordings,
)
from monitoring.timings import LOGGING_SERVICE

_alert = partial(Alert, service=LOGGING_SERVICE, dashboard="logging")

_DATABASE_ALERTS = (
    _alert(
        "LoggingDatabaseNotInitialized",
        "critical",
        expr="logging_db_initialized == 0",
        hold="1m",
        summary=f"the database of {INSTANCE} is not open",
        description=(
            f"{INSTANCE} has had no open database with an up-to-date schema for a minute. Nothing"
            " is stored; predictions wait in the outboxes of the inference service."
        ),
    ),
    _alert(
        "LoggingDatabaseNotAccessible",
        "critical",
        expr="logging_db_accessible == 0 and logging_db_initialized == 1",
        hold="1m",
        summary=f"the database of {INSTANCE} does not answer",
        description=(
            f"The readiness query of {INSTANCE} has failed, or taken more than 2 seconds, for a"
            " minute. Nothing is stored; predictions wait in the outboxes of the inference service."
        ),
    ),
    _alert(
        "LoggingStoreErrors",
        "critical",
        expr=grew('logging_store_errors_total{reason!="busy"}', "5m", "logging_start_time_seconds"),
        hold="30s",
        summary=f"the database of {INSTANCE} fails: {{{{ $labels.reason }}}}",
        description=(
            f"About {{{{ $value | humanize }}}} transactions or checks of the database of"
            f" {INSTANCE} have failed in 5 minutes, reason {{{{ $labels.reason }}}}."
        ),
    ),
    _alert(
        "LoggingDatabaseBusy",
        "warning",
        expr='increase(logging_store_errors_total{reason="busy"}[5m]) > 2.5',
        hold="2m",
        summary=f"another process locks the database of {INSTANCE}",
        description=(
            f"About {{{{ $value | humanize }}}} transactions or checks of {INSTANCE} have met"
            " SQLITE_BUSY in 5 minutes, each after waiting BUSY_TIMEOUT_SECONDS: another process"
            " holds the write lock."
        ),
    ),
    _alert(
        "LoggingCommitSlow",
        "warning",
        expr="logging:commit_duration_seconds:p99_rate5m > 0.5",
        hold="10m",
        summary="commits of the prediction database take {{ $value | humanizeDuration }} (p99)",
        description=(
            "For 10 minutes one commit in a hundred has taken {{ $value | humanizeDuration }} or"
            " more until it was on disk (limit 500 ms): the disk is slow or shared."
        ),
    ),
    _alert(
        "LoggingWalLarge",
        "warning",
        expr='logging_database_bytes{file="wal"} > 268435456',
        hold="10m",
        summary=f"the write-ahead log of {INSTANCE} has grown to {{{{ $value | humanize1024 }}}}B",
        description=(
            f"The write-ahead log of the database of {INSTANCE} has been larger than 256 MiB for"
            " 10 minutes, now {{ $value | humanize1024 }}B: a long-running reader keeps SQLite"
            " from a checkpoint, and every query gets slower."
        ),
    ),
)

_DISK_ALERTS = (
    _alert(
        "LoggingDiskFillsSoon",
        "warning",
        expr=(
            "logging_disk_free_bytes / logging_disk_size_bytes < 0.5"
            " and predict_linear(logging_disk_free_bytes[6h], 86400) / logging_disk_size_bytes < 0"
        ),
        hold="30m",
        summary=f"the disk of {INSTANCE} is full within a day",
        description=(
            "{{ $value | humanizePercentage }} of the disk under the prediction database of"
            f" {INSTANCE} is free, and at the pace of the last 6 hours none is within 24 hours."
        ),
    ),
    _alert(
        "LoggingDiskAlmostFull",
        "critical",
        expr="logging_disk_free_bytes / logging_disk_size_bytes < 0.1",
        hold="2m",
        summary=f"{{{{ $value | humanizePercentage }}}} of the disk of {INSTANCE} is free",
        description=(
            f"Only {{{{ $value | humanizePercentage }}}} of the disk under the prediction database"
            f" of {INSTANCE} is free (limit 10%). When it is full nothing is stored."
        ),
    ),
)

_REFUSAL_ALERTS = (
    _alert(
        "LoggingRequestsUnauthorized",
        "warning",
        expr='increase(logging_rejected_total{reason="unauthorized"}[5m]) > 2.5',
        hold="2m",
        summary=f"{INSTANCE} refuses requests for their token",
        description=(
            f"About {{{{ $value | humanize }}}} requests to {INSTANCE} in 5 minutes had no token"
            " or a wrong one: LOGGING_TOKEN differs between the services, or an unknown client"
            " calls."
        ),
    ),
    _alert(
        "LoggingPredictionConflicts",
        "warning",
        expr=grew("logging_conflicts_total", "15m", "logging_start_time_seconds"),
        hold="30s",
        summary=f"{INSTANCE} was sent other predictions under ids that it has stored",
        description=(
            f"About {{{{ $value | humanize }}}} predictions came to {INSTANCE} in 15 minutes with"
            " the device and the prediction_id of a stored one but other content. They are not"
            " stored: two devices share an EDGE_DEVICE_ID, or a client makes its ids anew."
        ),
    ),
)

_QUALITY_ALERTS = (
    _alert(
        "EscapeRateHigh",
        "warning",
        expr=(
            'logging_quality_escape_rate{bound="low"}'
            " > on (job, instance) group_left () logging_quality_escape_rate_limit"
        ),
        hold="10m",
        summary="version {{ $labels.model_version }} of {{ $labels.model_name }} passes defects",
        description=(
            "At least {{ $value | humanizePercentage }} of the defects got the verdict pass from"
            " version {{ $labels.model_version }} of {{ $labels.model_name }}, by what people say"
            " of the random sample: the whole 95% interval of the escape rate lies above"
            " MAX_ESCAPE_RATE."
        ),
    ),
)

LOGGING_RULES = (
    RuleFile(
        "logging-database",
        (
            Group(
                "commit-recordings",
                (
                    Recording(
                        "logging:commit_duration_seconds:p99_rate5m",
                        p99(LOGGING, "logging_commit_duration_seconds"),
                    ),
                ),
            ),
            Group("logging-database", _DATABASE_ALERTS),
        ),
    ),
    RuleFile("logging-disk", (Group("logging-disk", _DISK_ALERTS),)),
    RuleFile("logging-quality", (Group("logging-quality", _QUALITY_ALERTS),)),
    RuleFile("logging-readiness", (Group("logging-readiness", readiness_alerts(LOGGING)),)),
    RuleFile(
        "logging-requests",
        (
            request_recordings(LOGGING),
            Group("logging-requests", (*request_alerts(LOGGING), *_REFUSAL_ALERTS)),
        ),
    ),
)
