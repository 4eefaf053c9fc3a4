"""Scenarios of every alert, one module an area, as sources of promtool's unit tests."""

from collections.abc import Mapping, Sequence

from monitoring.prometheus.scenarios import (
    inference,
    kubernetes,
    logging,
    objectives,
    probes,
    targets,
)
from monitoring.prometheus.scenarios.story import Silence, Story

Scenario = Story | Silence

# By the rule file whose alerts they are about.
SCENARIOS: Mapping[str, Sequence[Scenario]] = {
    **objectives.SCENARIOS,
    "targets": targets.SCENARIOS,
    "inference": inference.SCENARIOS,
    "logging": logging.SCENARIOS,
    "probes": probes.SCENARIOS,
    "kubernetes": kubernetes.SCENARIOS,
}
