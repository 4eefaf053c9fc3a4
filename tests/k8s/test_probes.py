"""The three probes ask different things for different reasons, and give measured times room.

What a linter cannot know: which route depends on what, how long a load takes, how slow a probe
gets under load, how long a pod takes to drain.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from bentos.health.probes import HEALTH_PATH, READY_PATH
from bentos.inference.settings import InferenceSettings
from bentos.inference.state import inference_probes
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import logging_probes
from monitoring.timings import SERVICES
from tests.k8s.manifests import (
    INFERENCE,
    LOGGING,
    OVERLAYS,
    Object,
    environment,
    rendered,
    workload,
    workloads,
)
from tests.k8s.test_settings_of_manifests import settings_from

ROOT = Path(__file__).resolve().parents[2]
MEASUREMENTS = json.loads((ROOT / "docs" / "measurements.json").read_text())["services"]
KINDS = ("startup", "readiness", "liveness")
CASES = [(overlay, name, kind) for overlay in OVERLAYS for name in SERVICES for kind in KINDS]
SERVICE_CASES = [(overlay, name) for overlay in OVERLAYS for name in SERVICES]

# How much worse than measured things may get before a probe misjudges.
LOAD_MARGIN = 3.0
TIMEOUT_MARGIN = 3.0
GRACE_MARGIN_SECONDS = 5.0
# How long the last attempt to deliver predictions may take.
DELIVERY_TIMEOUT_SECONDS = 5.0


def probe(overlay: str, name: str, kind: str) -> Object:
    """Return a service's probe."""
    return dict(workload(name, rendered(overlay)).container[f"{kind}Probe"])


@pytest.mark.parametrize(("overlay", "name", "kind"), CASES)
def test_each_probe_has_the_timings_that_the_alerts_assume(
    overlay: str, name: str, kind: Any
) -> None:
    timing = SERVICES[name].probe(kind)
    found = probe(overlay, name, kind)
    assert found["periodSeconds"] == timing.period_seconds
    assert found["timeoutSeconds"] == timing.timeout_seconds
    assert found["failureThreshold"] == timing.failure_threshold


@pytest.mark.parametrize(("overlay", "name"), SERVICE_CASES)
def test_readiness_asks_ready_and_the_other_two_ask_health(overlay: str, name: str) -> None:
    """A start-up probe of /ready would have a pod restarted because MLflow is away."""
    paths = {kind: probe(overlay, name, kind)["httpGet"]["path"] for kind in KINDS}
    assert paths == {"startup": HEALTH_PATH, "readiness": READY_PATH, "liveness": HEALTH_PATH}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_two_probes_of_a_container_are_the_same(overlay: str) -> None:
    """Identical probes restart a pod at the moment they take it out of rotation."""
    for item in workloads(rendered(overlay)):
        for container in item.containers:
            probes = [container[f"{kind}Probe"] for kind in KINDS if f"{kind}Probe" in container]
            assert len({json.dumps(entry, sort_keys=True) for entry in probes}) == len(probes)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_server_has_all_three_probes_on_its_probe_port(overlay: str) -> None:
    """They name the port, so that its number stands in one place. MLflow has one port for all."""
    for item in workloads(rendered(overlay)):
        if item.kind == "CronJob":
            continue
        expected = "probes" if item.name in SERVICES else "http"
        for container in item.containers:
            assert expected in {port["name"] for port in container["ports"]}
            for kind in KINDS:
                assert container[f"{kind}Probe"]["httpGet"]["port"] == expected, str(item)


@pytest.mark.parametrize(("overlay", "name"), SERVICE_CASES)
def test_a_pod_leaves_rotation_before_it_is_restarted(overlay: str, name: str) -> None:
    def patience(kind: str) -> int:
        found = probe(overlay, name, kind)
        return int(found["periodSeconds"] * found["failureThreshold"])

    assert patience("readiness") < patience("liveness")


@pytest.mark.parametrize(("overlay", "name"), SERVICE_CASES)
def test_a_probe_ends_before_the_next_one_begins(overlay: str, name: str) -> None:
    """Probes that pile up are load of their own."""
    for kind in KINDS:
        found = probe(overlay, name, kind)
        assert found["timeoutSeconds"] <= found["periodSeconds"]


def test_liveness_of_inference_depends_on_no_dependency(tmp_path: Path) -> None:
    """Everything is away, nothing is loaded, every request fails and the pod shuts down.

    Readiness says so, and the route that would restart the pod does not.
    """
    probes = inference_probes(InferenceSettings(), tmp_path).probes(worker=1)
    for _ in range(100):
        probes.state.row.record(errors=1)
    probes.state.begin_shutdown()
    assert set(probes.is_ready().reasons) >= {
        "model_not_loaded",
        "mlflow_not_accessible",
        "high_error_rate",
        "shutting_down",
    }
    assert probes.live().passed


def test_liveness_of_inference_reports_a_stuck_model(tmp_path: Path) -> None:
    """The negative control: liveness is not merely always true."""
    probes = inference_probes(InferenceSettings(), tmp_path).probes(worker=1)
    probes.state.row.set("model_busy_since", 1.0)
    assert probes.live().reason == "model_thread_stuck"


def test_liveness_of_logging_depends_on_no_database(tmp_path: Path) -> None:
    probes = logging_probes(LoggingSettings(), tmp_path).probes(worker=1)
    for _ in range(100):
        probes.state.row.record(errors=1)
    probes.state.begin_shutdown()
    assert set(probes.is_ready().reasons) >= {
        "database_not_initialized",
        "database_not_accessible",
        "high_error_rate",
        "shutting_down",
    }
    assert probes.live().passed


def test_liveness_of_logging_passes_while_the_writer_waits_for_a_hanging_disk(
    tmp_path: Path,
) -> None:
    """A restarted pod would wait for the same disk."""
    probes = logging_probes(LoggingSettings(), tmp_path).probes(worker=1)
    probes.state.row.set("writing_since", 1.0)
    assert probes.live().passed


def test_liveness_of_logging_reports_a_stalled_event_loop(tmp_path: Path) -> None:
    probes = logging_probes(LoggingSettings(), tmp_path).probes(worker=1)
    probes.state.row.set("heartbeat", 1.0)
    assert probes.live().reason == "event_loop_stalled"


@pytest.mark.parametrize(("overlay", "name"), SERVICE_CASES)
def test_the_startup_budget_is_longer_than_the_measured_start_and_load(
    overlay: str, name: str
) -> None:
    """By a margin for slower machines, colder disks and larger models."""
    found = probe(overlay, name, "startup")
    budget = found["periodSeconds"] * found["failureThreshold"]
    measured = MEASUREMENTS[name]
    assert measured["start_to_ready_seconds"] >= measured["start_to_health_seconds"] > 0
    assert budget > LOAD_MARGIN * measured["start_to_ready_seconds"]


@pytest.mark.parametrize(("overlay", "name", "kind"), CASES)
def test_the_timeout_is_above_the_measured_slowest_probe_under_load(
    overlay: str, name: str, kind: str
) -> None:
    """The 99.9th percentile while the service is saturated, with a margin."""
    route = probe(overlay, name, kind)["httpGet"]["path"].removeprefix("/")
    p999 = MEASUREMENTS[name]["probe_p999_seconds_under_load"][route]
    assert p999 > 0
    assert probe(overlay, name, kind)["timeoutSeconds"] > TIMEOUT_MARGIN * p999


def pre_stop_seconds(container: Object) -> float:
    """Return how long SIGTERM is put off."""
    return float(
        container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_grace_period_of_inference_is_longer_than_its_slowest_end(overlay: str) -> None:
    item = workload(INFERENCE, rendered(overlay))
    settings = settings_from(environment(item.container, rendered(overlay)), InferenceSettings)
    slowest = (
        pre_stop_seconds(item.container)
        + settings.drain_seconds
        + settings.shutdown_seconds  # requests in flight
        + settings.shutdown_seconds  # what waits for the model
        + settings.shutdown_seconds / 2  # the outbox
        + DELIVERY_TIMEOUT_SECONDS
    )
    assert item.pod["terminationGracePeriodSeconds"] >= slowest + GRACE_MARGIN_SECONDS


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_grace_period_of_logging_is_longer_than_its_slowest_end(overlay: str) -> None:
    item = workload(LOGGING, rendered(overlay))
    settings = settings_from(environment(item.container, rendered(overlay)), LoggingSettings)
    slowest = (
        pre_stop_seconds(item.container)
        + settings.drain_seconds
        + settings.shutdown_seconds  # requests in flight
        + settings.shutdown_seconds  # what waits to be stored
    )
    assert item.pod["terminationGracePeriodSeconds"] >= slowest + GRACE_MARGIN_SECONDS


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_inference_pod_serves_on_while_the_proxies_learn_that_it_goes(overlay: str) -> None:
    item = workload(INFERENCE, rendered(overlay))
    settings = settings_from(environment(item.container, rendered(overlay)), InferenceSettings)
    assert pre_stop_seconds(item.container) >= 3
    assert settings.drain_seconds >= 3


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_request_that_is_taken_is_finished(overlay: str) -> None:
    for name, kind in ((INFERENCE, InferenceSettings), (LOGGING, LoggingSettings)):
        item = workload(name, rendered(overlay))
        settings = settings_from(environment(item.container, rendered(overlay)), kind)
        assert settings.shutdown_seconds >= settings.request_timeout_seconds
