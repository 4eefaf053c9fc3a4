"""What every alert is tested with: series over time, and the states the alert then goes through.

A wave is how one series runs. A story leads an alert from health through pending and firing to its
end; a silence shows series over which the alert stays quiet; an alarm fires from the first
evaluation on. Each becomes one to three cases, and each case one test group of promtool, which
reads the committed rule files.
"""

from tests.monitoring.scenarios import (
    inference_model,
    inference_outbox,
    kubernetes,
    logging_store,
    objectives,
    probes,
    services,
    watching,
)
from tests.monitoring.scenarios.story import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    *objectives.SCENARIOS,
    *services.SCENARIOS,
    *inference_model.SCENARIOS,
    *inference_outbox.SCENARIOS,
    *logging_store.SCENARIOS,
    *probes.SCENARIOS,
    *kubernetes.SCENARIOS,
    *watching.SCENARIOS,
)
