"""Alerts on the monitoring itself: what watches the services may be away as well."""

from functools import partial

from monitoring.prometheus.source.rule import EITHER_SERVICE, MONITORING, Alert, Group, RuleFile

_alert = partial(Alert, service=MONITORING, dashboard="overview")

# Always fires. Its route leads to a receiver outside, which raises the alarm when it gets nothing.
WATCHDOG = "Watchdog"


def _absent(name: str, program: str, expr: str, consequence: str) -> Alert:
    return _alert(
        name,
        "warning",
        expr=expr,
        hold="10m",
        summary=f"{program} is not scraped",
        description=(
            f"Prometheus has had no metrics of {program} for 10 minutes: it is down, or nothing"
            f" scrapes it. {consequence}"
        ),
    )


MONITORING_RULES = RuleFile(
    "monitoring",
    (
        Group(
            "monitoring-alerts",
            (
                _alert(
                    WATCHDOG,
                    "none",
                    expr="vector(1)",
                    hold="30s",
                    summary="alerts are evaluated and delivered",
                    description=(
                        "This alert always fires. When its receiver gets it no more, Prometheus,"
                        " Alertmanager or the connection between them is broken: no alert arrives."
                    ),
                ),
                _absent(
                    "MonitoringPrometheusAbsent",
                    "Prometheus itself",
                    "absent(prometheus_build_info)",
                    "Where a second Prometheus evaluates these rules, the first one is gone.",
                ),
                _absent(
                    "MonitoringAlertmanagerAbsent",
                    "Alertmanager",
                    "absent(alertmanager_build_info)",
                    "Alerts fire and nobody is notified.",
                ),
                _absent(
                    "MonitoringKubeStateMetricsAbsent",
                    "kube-state-metrics",
                    # Outside a cluster there is none, and targets have no namespace.
                    f'absent(kube_pod_info) and on () up{{job=~"{EITHER_SERVICE}",namespace!=""}}',
                    "Alerts on pods, restarts, backups and the autoscaler cannot fire.",
                ),
            ),
        ),
    ),
)
