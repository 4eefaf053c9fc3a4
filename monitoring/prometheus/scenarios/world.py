"""The series that scenarios are made of: those of one pod of each service."""

from collections.abc import Mapping

from monitoring.prometheus.scenarios.wave import Series, Wave
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

_CLUSTER = {"namespace": "mlops"}
MODEL = {"model": "steel-defects", "stage": "production"}

INFERENCE_DEPLOYMENT = {**_CLUSTER, "job": INFERENCE_SERVICE, **MODEL}
INFERENCE_TARGET = {
    **_CLUSTER,
    "job": INFERENCE_SERVICE,
    "instance": "10.0.0.1:8000",
    "pod": "inference-service-7d4b9c-x2x7q",
}
OTHER_TARGET = {
    **_CLUSTER,
    "job": INFERENCE_SERVICE,
    "instance": "10.0.0.2:8000",
    "pod": "inference-service-7d4b9c-k8v4m",
}
LOGGING_TARGET = {
    **_CLUSTER,
    "job": LOGGING_SERVICE,
    "instance": "10.0.0.3:8001",
    "pod": "logging-service-0",
}
LOGGING_STORE = {**_CLUSTER, "job": LOGGING_SERVICE, "service": LOGGING_SERVICE}
INFERENCE_POD = {"namespace": "mlops", "pod": INFERENCE_TARGET["pod"]}
LOGGING_POD = {"namespace": "mlops", "pod": LOGGING_TARGET["pod"]}

# How the alerts' texts name these targets.
INFERENCE_PLACE = "10.0.0.1:8000 (pod inference-service-7d4b9c-x2x7q)"
LOGGING_PLACE = "10.0.0.3:8001 (pod logging-service-0)"


def inference(metric: str, wave: Wave, **labels: str) -> Series:
    """Return a series of the inference service's first pod."""
    return Series(metric, {**INFERENCE_TARGET, **MODEL, **labels}, wave)


def other_inference(metric: str, wave: Wave, **labels: str) -> Series:
    """Return a series of the inference service's second pod."""
    return Series(metric, {**OTHER_TARGET, **MODEL, **labels}, wave)


def logging(metric: str, wave: Wave, **labels: str) -> Series:
    """Return a series of the logging service's pod."""
    return Series(metric, {**LOGGING_TARGET, "service": LOGGING_SERVICE, **labels}, wave)


def up(target: Mapping[str, str], wave: Wave) -> Series:
    """Return what Prometheus says of a target's scrapes."""
    return Series("up", target, wave)


def probe(metric: str, target: Mapping[str, str], wave: Wave, **labels: str) -> Series:
    """Return a series of `probe_duration_seconds` of a target."""
    return Series(metric, {**target, "service": target["job"], **labels}, wave)


def kubernetes(metric: str, pod: Mapping[str, str], wave: Wave, **labels: str) -> Series:
    """Return a series of kube-state-metrics or the kubelet about a pod."""
    return Series(metric, {**pod, **labels}, wave)


def critical(labels: Mapping[str, str], service: str) -> dict[str, str]:
    """Return an alert's labels that page."""
    return {**labels, "severity": "critical", "service": service}


def warning(labels: Mapping[str, str], service: str) -> dict[str, str]:
    """Return an alert's labels that make a ticket."""
    return {**labels, "severity": "warning", "service": service}
