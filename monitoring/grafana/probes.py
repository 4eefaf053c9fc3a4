"""The probes dashboard: what the kubelet sees, against how long it waits."""

from monitoring.grafana import shared
from monitoring.grafana.dashboard import PROBES, TITLES, Dashboard, links_from, service_variables
from monitoring.grafana.panels import (
    BY_STATUS,
    FEW_ARE_ODD,
    READY_OR_NOT,
    ZERO_IS_GOOD,
    bars,
    gauge,
    heatmap,
    stat,
    states,
    timeseries,
    tone,
)
from monitoring.grafana.queries import RANGE, aggregate, buckets, increase, quantile, rate, series
from monitoring.grafana.schema import Panel, Row, Thresholds
from monitoring.timings import SERVICES

PROBE_DURATION = "probe_duration_seconds"
EVENT_LOOP_DELAY = "event_loop_delay_seconds"
HEALTH = 'probe="health"'
READY = 'probe="ready"'
KUBELET_ASKS = 'probe=~"health|ready"'
NOT_OK = 'status!="200"'
CONTAINERS = f'container=~"{"|".join(SERVICES)}"'

TIMEOUT_SECONDS = min(
    timing.timeout_seconds
    for service in SERVICES.values()
    for timing in (service.startup, service.readiness, service.liveness)
)
AGAINST_TIMEOUT = Thresholds("green", ((TIMEOUT_SECONDS / 2, "yellow"), (TIMEOUT_SECONDS, "red")))
SHARE_OF_TIMEOUT = Thresholds("green", ((0.5, "yellow"), (1, "red")))


def build() -> Dashboard:
    """Return the dashboard."""
    return Dashboard(
        uid=PROBES,
        title=TITLES[PROBES],
        description="How fast and with what verdict each probe is answered, against the time-outs "
        "of the manifests.",
        readers="Who tunes probes, or asks why pods leave rotation or restart.",
        variables=service_variables("probe_duration_seconds_count", "prober_probe_total"),
        links=links_from(PROBES),
        rows=(
            Row("Against the time-outs", "Will the kubelet lose patience?", _timeouts()),
            Row(
                "Latency",
                "How long do probes take, and do they wait before they are read?",
                _latency(),
            ),
            Row("Verdicts", "What do probes answer, and does anybody ask?", _verdicts()),
            Row(
                "Readiness and restarts", "Does readiness flap, does anything restart?", _restarts()
            ),
            Row(
                "What the kubelet saw (in a cluster)",
                "What did the kubelet decide, and how long did it wait?",
                _kubelet(),
            ),
        ),
    )


def _p99(probe: str) -> str:
    return quantile(0.99, PROBE_DURATION, probe, by="service")


def _timeouts() -> tuple[Panel, ...]:
    return (
        gauge(
            "Liveness: time-out used",
            f"p99 of /health over {TIMEOUT_SECONDS} s, the time-out in the manifests; at 100% the "
            "kubelet counts failures and restarts the container.",
            f"({_p99(HEALTH)}) / {TIMEOUT_SECONDS}",
            unit="percentunit",
            width=6,
            thresholds=SHARE_OF_TIMEOUT,
            alerts=("ServingProbeSlow",),
        ),
        gauge(
            "Readiness: time-out used",
            f"p99 of /ready over {TIMEOUT_SECONDS} s, the time-out in the manifests; at 100% the "
            "pod gets no more requests.",
            f"({_p99(READY)}) / {TIMEOUT_SECONDS}",
            unit="percentunit",
            width=6,
            thresholds=SHARE_OF_TIMEOUT,
            alerts=("ServingProbeSlow",),
        ),
        timeseries(
            "p99 of each probe",
            "The dashed lines are half of the manifests' time-out and the time-out itself.",
            quantile(0.99, PROBE_DURATION, by="service, probe"),
            unit="s",
            width=12,
            thresholds=AGAINST_TIMEOUT,
            alerts=("ServingProbeSlow",),
        ),
    )


def _latency() -> tuple[Panel, ...]:
    return (
        heatmap(
            "Spread of /health",
            "Liveness probes by how long they took.",
            buckets(PROBE_DURATION, HEALTH),
            unit="s",
            width=6,
        ),
        heatmap(
            "Spread of /ready",
            "Readiness probes by how long they took.",
            buckets(PROBE_DURATION, READY),
            unit="s",
            width=6,
        ),
        timeseries(
            "Probes by instance, p99",
            "One slow instance hides in a total; here it does not.",
            quantile(0.99, PROBE_DURATION, KUBELET_ASKS, by="instance"),
            unit="s",
            width=6,
        ),
        timeseries(
            "Wait for the event loop, p99",
            "How late each instance's heartbeat was: what a probe waits before it is read, on top "
            "of its own time.",
            quantile(0.99, EVENT_LOOP_DELAY, by="instance"),
            unit="s",
            width=6,
            thresholds=AGAINST_TIMEOUT,
            alerts=("ServingEventLoopBlocked",),
        ),
    )


def _verdicts() -> tuple[Panel, ...]:
    count = f"{PROBE_DURATION}_count"
    return (
        timeseries(
            "Answers by probe and status",
            "Every probe that was answered. None at all means that nobody asks.",
            rate(count, KUBELET_ASKS, by="service, probe, status") + " > 0",
            unit="reqps",
            stacking="normal",
            overrides=BY_STATUS,
        ),
        timeseries(
            "Answers other than 200",
            "503 on /ready is a verdict. On /health, or with 429 or 504, it is a fault.",
            rate(count, KUBELET_ASKS, NOT_OK, by="service, probe, status") + " > 0",
            unit="reqps",
            stacking="normal",
            overrides=BY_STATUS,
            no_value="no answer other than 200",
            alerts=("ServingLivenessFailing", "ServingReadinessRefused"),
        ),
        bars(
            "Answers in the chosen time",
            "Probes by service, probe and status.",
            increase(count, KUBELET_ASKS, by="service, probe, status") + " > 0",
            unit="short",
            decimals=0,
        ),
    )


def _restarts() -> tuple[Panel, ...]:
    started = (series("inference_start_time_seconds"), series("logging_start_time_seconds"))
    ready = (series("inference_ready"), series("logging_ready"))
    answers = (shared.readiness("inference"), shared.readiness("logging"))
    return (
        states(
            "Ready",
            "What /ready answers, instance by instance; no answer at all is not ready.",
            *(aggregate("min", each, by="job, instance") for each in answers),
            mappings=READY_OR_NOT,
            alerts=("InferenceReadinessFlapping", "LoggingReadinessFlapping"),
        ),
        stat(
            "Changes of readiness",
            "How often readiness changed within the chosen time; more than a few is flapping.",
            *(aggregate("sum", f"changes({each}[{RANGE}])", by="job") for each in ready),
            unit="none",
            width=4,
            height=8,
            thresholds=Thresholds("green", ((3, "yellow"), (6, "red"))),
            alerts=("InferenceReadinessFlapping", "LoggingReadinessFlapping"),
        ),
        stat(
            "Restarts",
            "How often an instance came up anew within the chosen time.",
            *(aggregate("sum", f"changes({each}[{RANGE}])", by="job") for each in started),
            unit="none",
            width=4,
            height=8,
            thresholds=FEW_ARE_ODD,
            alerts=("InferenceRestartLoop", "LoggingRestartLoop"),
        ),
        timeseries(
            "Time since start",
            "A line that falls to zero is a restart.",
            *(f"time() - {aggregate('min', each, by='job, instance')}" for each in started),
            unit="dtdurations",
            width=4,
        ),
    )


def _kubelet() -> tuple[Panel, ...]:
    return (
        timeseries(
            "The kubelet's verdicts",
            "Probes of the services' containers by kind and result.",
            rate("prober_probe_total", CONTAINERS, by="container, probe_type, result"),
            unit="reqps",
            stacking="normal",
            overrides=(tone(".* successful", "green"), tone(".* (?!successful).*", "red")),
            no_value="no cluster",
            alerts=("ServingKubeletLivenessFailing",),
        ),
        stat(
            "Failed probes",
            "Probes that the kubelet judged failed within the chosen time.",
            increase("prober_probe_total", CONTAINERS, 'result!="successful"', by="probe_type"),
            unit="none",
            width=8,
            height=8,
            decimals=0,
            thresholds=ZERO_IS_GOOD,
            no_value="no cluster",
            alerts=("ServingKubeletLivenessFailing",),
        ),
        timeseries(
            "Time the kubelet waited, p99",
            "The service's own time and the way there and back; successes only.",
            quantile(0.99, "prober_probe_duration_seconds", CONTAINERS, by="container, probe_type"),
            unit="s",
            thresholds=AGAINST_TIMEOUT,
            no_value="no cluster",
            alerts=("ServingKubeletProbeSlow",),
        ),
    )
