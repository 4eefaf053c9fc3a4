"""Recording rules, objectives and alerts, one module an area."""

from monitoring.prometheus.source.inference import INFERENCE_RULES
from monitoring.prometheus.source.kubernetes import KUBERNETES
from monitoring.prometheus.source.logging import LOGGING_RULES
from monitoring.prometheus.source.objectives import OBJECTIVE_RULES
from monitoring.prometheus.source.probes import PROBES
from monitoring.prometheus.source.recordings import RECORDINGS
from monitoring.prometheus.source.rule import Alert
from monitoring.prometheus.source.targets import TARGETS

# Recordings first: a rule reads what was recorded before it in the same evaluation.
RULE_FILES = (
    RECORDINGS,
    OBJECTIVE_RULES,
    TARGETS,
    INFERENCE_RULES,
    LOGGING_RULES,
    PROBES,
    KUBERNETES,
)
ALERTS: dict[str, Alert] = {
    alert.name: alert for file in RULE_FILES for group in file.groups for alert in group.alerts
}
