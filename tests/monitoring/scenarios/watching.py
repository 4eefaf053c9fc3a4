"""Scenarios of the alerts on the monitoring itself."""

from monitoring.prometheus.source.rule import MONITORING
from tests.monitoring.scenarios.story import Alarm, Scenario, Silence, Story
from tests.monitoring.scenarios.wave import ALWAYS, Series, gauge
from tests.monitoring.scenarios.world import INFERENCE, LOGGING, warning

_LOST = gauge((1, "5m"), (None, "25m"), (1, "1h"))
_PODS = (INFERENCE.up(ALWAYS), LOGGING.up(ALWAYS))


def _lost(alert: str, metric: str, program: str, *, cluster: bool = False) -> Story:
    return Story(
        alert,
        f"{program} is not scraped for 25 minutes",
        [Series(metric, {"job": "any", "instance": "10.0.1.9:80"}, _LOST), *_PODS],
        holds=("5m", "30m"),
        labels=warning({}, MONITORING),
        local=not cluster,
        outlasts_targets=not cluster,
    )


SCENARIOS: tuple[Scenario, ...] = (
    Alarm(
        "Watchdog", "nothing is wrong", _PODS, labels={"severity": "none", "service": MONITORING}
    ),
    _lost("MonitoringPrometheusAbsent", "prometheus_build_info", "Prometheus itself"),
    _lost("MonitoringAlertmanagerAbsent", "alertmanager_build_info", "Alertmanager"),
    _lost("MonitoringKubeStateMetricsAbsent", "kube_pod_info", "kube-state-metrics", cluster=True),
    Silence(
        "MonitoringKubeStateMetricsAbsent",
        "there is no cluster",
        [each.without("namespace", "pod") for each in _PODS],
        at=("30m",),
    ),
    Silence(
        "MonitoringKubeStateMetricsAbsent",
        "other services run in the cluster",
        [Series("up", {"job": "mlflow", "namespace": "mlops"}, ALWAYS)],
        at=("30m",),
    ),
)
