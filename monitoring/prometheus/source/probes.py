"""Alerts on the probes: slower than half their time-out, refused, or contradicting the service."""

from collections.abc import Iterator
from functools import partial

from monitoring.prometheus.source.promql import growth
from monitoring.prometheus.source.rule import (
    EITHER_SERVICE,
    INSTANCE,
    POD,
    Alert,
    Group,
    Recording,
    RuleFile,
)
from monitoring.timings import SERVICES, ProbeKind

_alert = partial(Alert, service="{{ $labels.job }}", dashboard="probes")

# What the services call the route that each kind of probe asks, in `probe_duration_seconds`.
_PROBED_ROUTES: tuple[tuple[str, ProbeKind], ...] = (("health", "liveness"), ("ready", "readiness"))
_KUBELET_PROBES: tuple[ProbeKind, ...] = ("startup", "readiness", "liveness")

# Half the time-out of every probe in the manifests, and a bucket of the histogram.
_LATE_SECONDS = (
    min(
        timings.probe(kind).timeout_seconds
        for timings in SERVICES.values()
        for kind in _KUBELET_PROBES
    )
    / 2
)
_OWN = f'job=~"{EITHER_SERVICE}"'
_KUBELET = f'container=~"{EITHER_SERVICE}"'


def _answers(matchers: str) -> str:
    """Return PromQL for probes answered in 5 minutes, the first of its status included."""
    return f"{growth(f'probe_duration_seconds_count{{{_OWN},{matchers}}}', '5m')} > 0"


def _late_beats(window: str) -> str:
    """Return PromQL for heartbeats of a target's event loop that came too late."""
    target = "namespace, pod, job, instance"
    name = "event_loop_delay_seconds"
    in_time = f'{name}_bucket{{{_OWN},le="{_LATE_SECONDS}"}}'
    return (
        f"sum by ({target}) (increase({name}_count{{{_OWN}}}[{window}]))"
        f" - sum by ({target}) (increase({in_time}[{window}]))"
    )


def _failed_probes(kind: str, window: str) -> str:
    """Return PromQL for a container's probes that the kubelet counted as failed."""
    total = f'prober_probe_total{{{_KUBELET},probe_type="{kind}",result!="successful"}}'
    return f"sum by (namespace, pod, container) {growth(total, window)}"


def _recordings() -> Iterator[Recording]:
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
        for route, kind in _PROBED_ROUTES:
            yield Recording(
                "probe:timeout_seconds",
                f"vector({timings.probe(kind).timeout_seconds})",
                {"job": service, "probe": route},
            )
        for kind in _KUBELET_PROBES:
            yield Recording(
                "kubelet_probe:timeout_seconds",
                f"vector({timings.probe(kind).timeout_seconds})",
                {"container": service, "probe_type": kind.capitalize()},
            )


PROBES = RuleFile(
    "probes",
    (
        Group("probe-recordings", tuple(_recordings())),
        Group(
            "probe-alerts",
            (
                _alert(
                    "ServingProbeSlow",
                    "warning",
                    expr=(
                        "probe:duration_seconds:p95_rate10m"
                        " > on (job, probe) group_left () 0.5 * probe:timeout_seconds"
                    ),
                    hold="2m",
                    summary=(
                        f"/{{{{ $labels.probe }}}} of {INSTANCE} takes"
                        " {{ $value | humanizeDuration }} (p95)"
                    ),
                    description=(
                        f"One probe of /{{{{ $labels.probe }}}} in twenty of {INSTANCE} has taken"
                        " {{ $value | humanizeDuration }} or more, over half of the probe's"
                        " timeoutSeconds: the kubelet will soon count it as failed."
                    ),
                ),
                _alert(
                    "ServingEventLoopBlocked",
                    "warning",
                    expr=f"{_late_beats('10m')} > 2.5",
                    hold="30s",
                    summary=f"the event loop of {INSTANCE} is blocked again and again",
                    description=(
                        f"About {{{{ $value | humanize }}}} times in 10 minutes the event loop of"
                        f" a worker of {INSTANCE} was blocked for more than {_LATE_SECONDS:g} s."
                        " Every request that came meanwhile waited as long; a worker that is"
                        " blocked for STALL_SECONDS makes the pod unready."
                    ),
                ),
                _alert(
                    "ServingLivenessFailing",
                    "critical",
                    expr=_answers('probe="health",status!="200"'),
                    hold="30s",
                    summary=f"/health of {INSTANCE} answers {{{{ $labels.status }}}}",
                    description=(
                        f"/health of {INSTANCE} was answered with {{{{ $labels.status }}}} about"
                        " {{ $value | humanize }} times in 5 minutes; the kubelet restarts the"
                        " container after three in a row."
                    ),
                ),
                _alert(
                    "ServingReadinessRefused",
                    "warning",
                    expr=_answers('probe="ready",status!~"200|503"'),
                    hold="30s",
                    summary=f"/ready of {INSTANCE} answers {{{{ $labels.status }}}}",
                    description=(
                        f"/ready of {INSTANCE} was answered with {{{{ $labels.status }}}} about"
                        " {{ $value | humanize }} times in 5 minutes. It means 200 or 503 only:"
                        " the probe itself failed, which takes the pod out of rotation."
                    ),
                ),
                _alert(
                    "ServingKubeletProbeSlow",
                    "warning",
                    service="{{ $labels.container }}",
                    expr=(
                        "kubelet_probe:duration_seconds:p95_rate10m"
                        " > on (container, probe_type) group_left ()"
                        " 0.5 * kubelet_probe:timeout_seconds"
                    ),
                    hold="2m",
                    summary=(
                        "the kubelet waits {{ $value | humanizeDuration }} (p95) for the"
                        f" {{{{ $labels.probe_type }}}} probe of {POD}"
                    ),
                    description=(
                        f"One successful {{{{ $labels.probe_type }}}} probe in twenty of {POD} has"
                        " taken the kubelet {{ $value | humanizeDuration }} or more, over half of"
                        " its timeoutSeconds. Against probe_duration_seconds this includes the"
                        " node, the network and the wait to be accepted."
                    ),
                ),
                _alert(
                    "ServingKubeletLivenessFailing",
                    "critical",
                    service="{{ $labels.container }}",
                    expr=f"{_failed_probes('Liveness', '10m')} > 1.5",
                    hold="30s",
                    summary=f"the kubelet sees liveness probes of {POD} fail",
                    description=(
                        f"About {{{{ $value | humanize }}}} liveness probes of {POD} have failed"
                        " in 10 minutes, by time-out, refusal or status; three in a row restart the"
                        " container."
                    ),
                ),
                _alert(
                    "ServingReadinessContradicted",
                    "warning",
                    service="{{ $labels.container }}",
                    expr=(
                        f"{_failed_probes('Readiness', '5m')} > 1.5"
                        " and on (namespace, pod)"
                        " (min_over_time(inference_ready[5m]) == 1"
                        " or min_over_time(logging_ready[5m]) == 1)"
                    ),
                    hold="2m",
                    summary=f"the kubelet finds {POD} unready, the service does not",
                    description=(
                        f"About {{{{ $value | humanize }}}} readiness probes of {POD} have failed"
                        " in 5 minutes although the service has called itself ready all the time:"
                        " probes time out, or something before the service answers them."
                    ),
                ),
            ),
        ),
    ),
)
