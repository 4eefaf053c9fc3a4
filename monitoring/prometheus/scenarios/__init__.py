"""Scenarios of every alert, one module an area, as sources of promtool's unit tests."""

from monitoring.prometheus.scenarios import (
    event_loop,
    inference_model,
    inference_outbox,
    inference_readiness,
    inference_requests,
    kubernetes,
    logging_database,
    logging_readiness,
    logging_requests,
    objectives,
    probes_answers,
    probes_slow,
    targets,
)
from monitoring.prometheus.scenarios.story import Silence, Story

Scenario = Story | Silence

SCENARIOS: tuple[Scenario, ...] = (
    *objectives.SCENARIOS,
    *targets.SCENARIOS,
    *inference_model.SCENARIOS,
    *inference_readiness.SCENARIOS,
    *inference_requests.SCENARIOS,
    *inference_outbox.SCENARIOS,
    *logging_database.SCENARIOS,
    *logging_readiness.SCENARIOS,
    *logging_requests.SCENARIOS,
    *probes_slow.SCENARIOS,
    *event_loop.SCENARIOS,
    *probes_answers.SCENARIOS,
    *kubernetes.SCENARIOS,
)
