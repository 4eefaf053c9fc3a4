"""Recording rules that alerts, dashboards and autoscalers share."""

from collections.abc import Iterator

from monitoring.prometheus.source.rule import (
    DEPLOYMENT,
    EITHER_SERVICE,
    STORE,
    Group,
    Recording,
)
from monitoring.timings import SERVICES, ProbeKind

# What the services call the route that each kind of probe asks, in `probe_duration_seconds`.
PROBED_ROUTES: tuple[tuple[str, ProbeKind], ...] = (("health", "liveness"), ("ready", "readiness"))
KUBELET_PROBES: tuple[ProbeKind, ...] = ("startup", "readiness", "liveness")


def _total(metric: str, operation: str, by: str, matchers: str = "") -> str:
    selector = f"{metric}{{{matchers}}}" if matchers else metric
    return f"sum by ({by}) ({operation}({selector}[5m]))"


def _inference() -> Iterator[Recording]:
    predictions = _total("inference_predictions_total", "rate", DEPLOYMENT)
    errors = _total("inference_errors_total", "rate", DEPLOYMENT)
    refused = _total("inference_rejected_total", "rate", DEPLOYMENT, 'reason="queue_full"')
    yield Recording("inference:predictions:rate5m", predictions)
    yield Recording(
        "inference:outcomes:increase5m",
        f"{_total('inference_predictions_total', 'increase', DEPLOYMENT)}"
        f" + {_total('inference_errors_total', 'increase', DEPLOYMENT)}",
    )
    yield Recording("inference:errors:ratio_rate5m", f"{errors} / ({predictions} + {errors})")
    yield Recording(
        "inference:queue_full:ratio_rate5m",
        f"{refused} / ({predictions} + {errors} + {refused})",
    )
    yield Recording(
        "inference:prediction_duration_seconds:p99_rate5m",
        "histogram_quantile(0.99, "
        + _total("inference_prediction_duration_seconds_bucket", "rate", f"{DEPLOYMENT}, le")
        + ")",
    )


def _logging() -> Iterator[Recording]:
    batches = _total("logging_batches_total", "rate", STORE)
    errors = _total("logging_errors_total", "rate", STORE)
    refused = _total("logging_rejected_total", "rate", STORE, 'reason="queue_full"')
    yield Recording(
        "logging:predictions:rate5m", _total("logging_predictions_total", "rate", STORE)
    )
    yield Recording(
        "logging:outcomes:increase5m",
        f"{_total('logging_batches_total', 'increase', STORE)}"
        f" + {_total('logging_errors_total', 'increase', STORE)}",
    )
    yield Recording("logging:errors:ratio_rate5m", f"{errors} / ({batches} + {errors})")
    yield Recording(
        "logging:queue_full:ratio_rate5m", f"{refused} / ({batches} + {errors} + {refused})"
    )


def _commits() -> Iterator[Recording]:
    yield Recording(
        "logging:commit_duration_seconds:p99_rate5m",
        "histogram_quantile(0.99, "
        + _total("logging_commit_duration_seconds_bucket", "rate", f"{STORE}, le")
        + ")",
    )


def _probes() -> Iterator[Recording]:
    target = "namespace, pod, job, instance, probe"
    container = "namespace, pod, container, probe_type"
    yield Recording(
        "probe:duration_seconds:p95_rate10m",
        f"histogram_quantile(0.95, sum by ({target}, le)"
        f' (rate(probe_duration_seconds_bucket{{job=~"{EITHER_SERVICE}"}}[10m])))',
    )
    yield Recording(
        "kubelet_probe:duration_seconds:p95_rate10m",
        f"histogram_quantile(0.95, sum by ({container}, le)"
        f' (rate(prober_probe_duration_seconds_bucket{{container=~"{EITHER_SERVICE}"}}[10m])))',
    )
    for service, timings in SERVICES.items():
        for route, kind in PROBED_ROUTES:
            yield Recording(
                "probe:timeout_seconds",
                f"vector({timings.probe(kind).timeout_seconds})",
                {"job": service, "probe": route},
            )
        for kind in KUBELET_PROBES:
            yield Recording(
                "kubelet_probe:timeout_seconds",
                f"vector({timings.probe(kind).timeout_seconds})",
                {"container": service, "probe_type": kind.capitalize()},
            )


INFERENCE_RECORDINGS = Group("inference-recordings", tuple(_inference()))
COMMIT_RECORDINGS = Group("commit-recordings", tuple(_commits()))
LOGGING_RECORDINGS = Group("logging-recordings", tuple(_logging()))
PROBE_RECORDINGS = Group("probe-recordings", tuple(_probes()))
