"""Recording rules, objectives and alerts, one module an area."""

from monitoring.prometheus.source.inference import INFERENCE_RULES
from monitoring.prometheus.source.kubernetes import KUBERNETES
from monitoring.prometheus.source.logging import LOGGING_RULES
from monitoring.prometheus.source.objectives import OBJECTIVE_RULES
from monitoring.prometheus.source.probes import PROBES
from monitoring.prometheus.source.rule import Alert
from monitoring.prometheus.source.services import TARGETS
from monitoring.prometheus.source.watching import MONITORING_RULES

RULE_FILES = (
    *OBJECTIVE_RULES,
    TARGETS,
    *INFERENCE_RULES,
    *LOGGING_RULES,
    PROBES,
    KUBERNETES,
    MONITORING_RULES,
)
ALERTS: dict[str, Alert] = {
    alert.name: alert for file in RULE_FILES for group in file.groups for alert in group.alerts
}
