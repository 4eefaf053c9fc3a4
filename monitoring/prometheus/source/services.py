"""Rules that both services have: one definition, and an instance for each service."""

from dataclasses import dataclass
from functools import partial

from monitoring.prometheus.source.promql import missing
from monitoring.prometheus.source.rule import (
    DEPLOYMENT,
    EITHER_SERVICE,
    IN_NAMESPACE,
    INSTANCE,
    MODEL,
    STORE,
    Alert,
    Dashboard,
    Group,
    Recording,
    RuleFile,
)
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the shared rules need to know about a service.

    `prefix` begins its metrics' names and is its dashboard. `pods` are the labels that all of its
    pods have in common. `subject` is how texts name what it serves. `answered` counts the requests
    that succeeded. `always` is a gauge that every pod exposes.
    """

    name: str
    title: str
    prefix: Dashboard
    pods: str
    subject: str
    answered: str
    always: str
    when_down: str
    when_restarted: str
    when_overloaded: str

    def rate5m(self, metric: str, matchers: str = "") -> str:
        """Return PromQL for the rate of one of the service's counters, all pods together."""
        return _sum("rate", metric, self.pods, matchers)

    def increase5m(self, metric: str) -> str:
        """Return PromQL for the growth of one of the service's counters, all pods together."""
        return _sum("increase", metric, self.pods)


INFERENCE = Service(
    name=INFERENCE_SERVICE,
    title="Inference",
    prefix="inference",
    pods=DEPLOYMENT,
    subject=MODEL,
    answered="inference_predictions_total",
    always="inference_model_loaded",
    when_down="Nothing is predicted.",
    when_restarted="each start unloads the model and fails the requests in flight",
    when_overloaded="there is more traffic than the pods can predict",
)
LOGGING = Service(
    name=LOGGING_SERVICE,
    title="Logging",
    prefix="logging",
    pods=STORE,
    subject="the logging service",
    answered="logging_batches_total",
    always="logging_db_initialized",
    when_down="Predictions wait in the outboxes of the inference service.",
    when_restarted="no prediction is stored between a stop and the next start",
    when_overloaded="predictions come faster than the disk takes them",
)
BOTH = (INFERENCE, LOGGING)


def _sum(function: str, metric: str, by: str, matchers: str = "") -> str:
    selector = f"{metric}{{{matchers}}}" if matchers else metric
    return f"sum by ({by}) ({function}({selector}[5m]))"


def p99(service: Service, histogram: str) -> str:
    """Return PromQL for the 99th percentile of a histogram over 5 minutes, all pods together."""
    return f"histogram_quantile(0.99, {_sum('rate', f'{histogram}_bucket', f'{service.pods}, le')})"


def request_recordings(service: Service, *others: Recording) -> Group:
    """Return rates and ratios of a service's requests, and further recordings of its group."""
    prefix = service.prefix
    answered = service.rate5m(service.answered)
    errors = service.rate5m(f"{prefix}_errors_total")
    refused = service.rate5m(f"{prefix}_rejected_total", 'reason="queue_full"')
    return Group(
        f"{prefix}-recordings",
        (
            Recording(
                f"{prefix}:predictions:rate5m", service.rate5m(f"{prefix}_predictions_total")
            ),
            Recording(
                f"{prefix}:outcomes:increase5m",
                f"{service.increase5m(service.answered)}"
                f" + {service.increase5m(f'{prefix}_errors_total')}",
            ),
            Recording(f"{prefix}:errors:ratio_rate5m", f"{errors} / ({answered} + {errors})"),
            Recording(
                f"{prefix}:queue_full:ratio_rate5m",
                f"{refused} / ({answered} + {errors} + {refused})",
            ),
            *others,
        ),
    )


def request_alerts(service: Service) -> tuple[Alert, ...]:
    """Return the alerts on requests that fail or find the queue full."""
    percent = "{{ $value | humanizePercentage }}"
    alert = partial(Alert, service=service.name, dashboard=service.prefix)
    return (
        alert(
            f"{service.title}HighErrorRate",
            "critical",
            expr=(
                f"{service.prefix}:errors:ratio_rate5m > 0.05"
                f" and {service.prefix}:outcomes:increase5m >= 20"
            ),
            hold="2m",
            summary=f"{percent} of requests to {service.subject} fail{IN_NAMESPACE}",
            description=(
                f"{percent} of the requests to {service.subject} in the last 5 minutes failed for"
                " the service's fault (limit 5%); refused input is not counted. Above 50% a pod"
                " takes itself out of rotation."
            ),
        ),
        alert(
            f"{service.title}QueueFull",
            "warning",
            expr=f"{service.prefix}:queue_full:ratio_rate5m > 0.05",
            hold="5m",
            summary=f"{percent} of requests to {service.subject} get 429{IN_NAMESPACE}",
            description=(
                f"{percent} of the requests to {service.subject} in the last 5 minutes found the"
                f" queue full (limit 5%): {service.when_overloaded}."
            ),
        ),
    )


def readiness_alerts(service: Service) -> tuple[Alert, ...]:
    """Return the alerts on readiness, workers and restarts."""
    alert = partial(Alert, service=service.name, dashboard=service.prefix)
    return (
        alert(
            f"{service.title}NotReady",
            "critical",
            expr=f"max by ({service.pods}) ({service.prefix}_ready) == 0",
            hold="2m",
            summary=f"no pod of {service.subject} is ready{IN_NAMESPACE}",
            description=(
                f"For 2 minutes /ready of every pod of {service.subject} has answered 503: in a"
                f" cluster no request reaches them. {service.prefix}_unready gives the reason."
            ),
        ),
        alert(
            f"{service.title}ReadinessFlapping",
            "warning",
            expr=f"changes({service.prefix}_ready[15m]) > 5",
            hold="1m",
            summary=f"readiness of {INSTANCE} flaps",
            description=(
                f"{INSTANCE} has changed between ready and not ready {{{{ $value }}}} times in 15"
                " minutes; each change moves its traffic to other pods, if there are any, and back."
            ),
        ),
        alert(
            f"{service.title}WorkersMissing",
            "warning",
            expr=f"{service.prefix}_workers - {service.prefix}_workers_alive > 0",
            hold="1m",
            summary=f"{{{{ $value }}}} workers of {INSTANCE} are dead",
            description=(
                f"For a minute {{{{ $value }}}} worker processes of {INSTANCE} have been missing."
                " The pod is not ready, and its liveness probe restarts it unless the worker"
                " returns."
            ),
        ),
        alert(
            f"{service.title}RestartLoop",
            "critical",
            expr=f"changes({service.prefix}_start_time_seconds[30m]) > 2",
            hold="1m",
            summary=f"{INSTANCE} keeps restarting",
            description=(
                f"{INSTANCE} has started {{{{ $value }}}} times in 30 minutes;"
                f" {service.when_restarted}."
            ),
        ),
    )


def _service_down(service: Service) -> Alert:
    name = service.name
    return Alert(
        f"{service.title}ServiceDown",
        "critical",
        service=name,
        expr=missing(f'up{{job="{name}"}}', "namespace, job", condition="== 1"),
        hold="1m",
        summary=f"no target of {name} can be scraped{IN_NAMESPACE}",
        description=(
            f"For a minute Prometheus has had no target with job {name}{IN_NAMESPACE} that answers"
            " /metrics on its probe port: the service is stopped, unreachable or no longer"
            f" discovered. {service.when_down}"
        ),
        dashboard="overview",
        labels={"job": name},
    )


def _metrics_absent(service: Service) -> Alert:
    return Alert(
        f"{service.title}MetricsAbsent",
        "critical",
        service=service.name,
        expr=f'up{{job="{service.name}"}} == 1 unless on (job, instance) {service.always}',
        hold="2m",
        summary=f"{INSTANCE} is scraped but exposes no {service.always}",
        description=(
            f"{INSTANCE} has answered /metrics for 2 minutes without {service.always}: another"
            " program answers on this port, or the service's metrics are broken. Alerts on"
            f" {service.name} do not see this target."
        ),
        dashboard="overview",
    )


_TARGET_DOWN = Alert(
    "ServingTargetDown",
    "warning",
    service="{{ $labels.job }}",
    expr=f'up{{job=~"{EITHER_SERVICE}"}} == 0',
    hold="2m",
    summary=f"{INSTANCE} of {{{{ $labels.job }}}} cannot be scraped",
    description=(
        f"Every scrape of {INSTANCE}, job {{{{ $labels.job }}}}, has failed for 2 minutes: the"
        " probe process or the whole pod is gone, or the network is closed."
    ),
    dashboard="overview",
)

TARGETS = RuleFile(
    "targets",
    (
        Group(
            "target-alerts",
            (
                *(_service_down(service) for service in BOTH),
                _TARGET_DOWN,
                *(_metrics_absent(service) for service in BOTH),
            ),
        ),
    ),
)
