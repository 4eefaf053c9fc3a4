"""Scenarios of every alert, one module an area, as sources of promtool's unit tests."""

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

SCENARIOS: tuple[Scenario, ...] = (
    *objectives.SCENARIOS,
    *targets.SCENARIOS,
    *inference.SCENARIOS,
    *logging.SCENARIOS,
    *probes.SCENARIOS,
    *kubernetes.SCENARIOS,
)
