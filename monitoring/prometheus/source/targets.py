"""Alerts on what Prometheus can and cannot scrape."""

from monitoring.prometheus.source.rule import EITHER_SERVICE, INSTANCE, Alert, Group, RuleFile
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE


def _service_down(name: str, service: str, consequence: str) -> Alert:
    return Alert(
        name=name,
        severity="critical",
        service=service,
        expr=f'absent(up{{job="{service}"}} == 1)',
        hold="1m",
        summary=f"no target of {service} can be scraped",
        description=(
            f"For a minute Prometheus has known no target with job {service} that answers /metrics:"
            f" the service is stopped, unreachable or no longer discovered. {consequence}"
        ),
        dashboard="overview",
        labels={"job": service},
    )


def _metrics_absent(name: str, service: str, metric: str) -> Alert:
    return Alert(
        name=name,
        severity="critical",
        service=service,
        expr=f'up{{job="{service}"}} == 1 unless on (job, instance) {metric}',
        hold="2m",
        summary=f"{INSTANCE} is scraped but does not tell {metric}",
        description=(
            f"{INSTANCE} has answered /metrics for 2 minutes without {metric}: another program"
            f" answers on this port, or the service's metrics are broken. Alerts on {service} are"
            " blind to this target."
        ),
        dashboard="overview",
    )


TARGETS = RuleFile(
    "targets",
    (
        Group(
            "target-alerts",
            (
                _service_down("InferenceServiceDown", INFERENCE_SERVICE, "Nothing is predicted."),
                _service_down(
                    "LoggingServiceDown",
                    LOGGING_SERVICE,
                    "Predictions wait in the outboxes of the inference service.",
                ),
                Alert(
                    name="ServingTargetDown",
                    severity="warning",
                    service="{{ $labels.job }}",
                    expr=f'up{{job=~"{EITHER_SERVICE}"}} == 0',
                    hold="2m",
                    summary=f"{INSTANCE} of {{{{ $labels.job }}}} cannot be scraped",
                    description=(
                        f"Every scrape of {INSTANCE}, job {{{{ $labels.job }}}}, has failed for"
                        " 2 minutes: the process is gone, hangs, or the network is closed."
                    ),
                    dashboard="overview",
                ),
                _metrics_absent(
                    "InferenceMetricsAbsent", INFERENCE_SERVICE, "inference_model_loaded"
                ),
                _metrics_absent("LoggingMetricsAbsent", LOGGING_SERVICE, "logging_db_initialized"),
            ),
        ),
    ),
)
