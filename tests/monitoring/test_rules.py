"""The generated files are what their sources make, and promtool passes every alert's cases."""

from pathlib import Path

import pytest

from monitoring.generate import DASHBOARDS, ROOT, RULES, generated
from monitoring.prometheus.source import ALERTS, RULE_FILES
from monitoring.prometheus.source.objectives import OBJECTIVES, PERIOD
from monitoring.prometheus.source.rule import seconds
from tests.monitoring.promtool import (
    PROMETHEUS,
    promtool,
    scenarios_of,
    write_tests,
    write_yaml,
)
from tests.monitoring.scenarios.story import Silence
from tests.monitoring.scenarios.wave import counter
from tests.monitoring.scenarios.world import INFERENCE


@pytest.mark.parametrize("path", sorted(generated()), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_committed_file_is_what_its_source_makes(path: Path) -> None:
    assert path.read_text() == generated()[path], "run make render"


def test_no_file_is_left_from_a_source_that_is_gone() -> None:
    present = {*RULES.glob("*"), *DASHBOARDS.glob("*")}
    assert present <= generated().keys()


def test_promtool_finds_nothing_in_the_rules() -> None:
    finished = promtool("check", "rules", *RULES.glob("*.yml"))
    assert finished.status == 0, finished.output


@pytest.mark.slow
@pytest.mark.parametrize("alert", ALERTS)
def test_promtool_passes_every_case(alert: str, tmp_path: Path) -> None:
    cases = [case for scenario in scenarios_of(alert) for case in scenario.cases()]
    finished = promtool("test", "rules", *write_tests(tmp_path, alert, cases))
    assert finished.status == 0, finished.output[:8000]


def test_promtool_finds_nothing_in_the_local_configuration() -> None:
    finished = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert finished.status == 0, finished.output
    assert f"{len(RULE_FILES)} rule files found" in finished.output


def _run(directory: Path, alert: str, *whats: str) -> None:
    """Run the cases of an alert's scenarios, those that are named; AssertionError if one fails."""
    scenarios = [scenario for scenario in scenarios_of(alert) if scenario.what in whats]
    assert len(scenarios) == len(whats)
    cases = [case for scenario in scenarios for case in scenario.cases()]
    finished = promtool("test", "rules", *write_tests(directory, alert, cases))
    assert finished.status == 0, finished.output


@pytest.mark.slow
@pytest.mark.case(41)
def test_failures_that_a_new_counter_begins_with_fire(tmp_path: Path) -> None:
    """Three liveness probes fail within one scrape, so that the counter begins at 3: it fires."""
    _run(
        tmp_path,
        "ServingKubeletLivenessFailing",
        "three liveness probes fail within one scrape",
        "the kubelet was never scraped before and has counted failures",
    )
    for alert in ("ServingLivenessFailing", "ServingReadinessRefused"):
        _run(tmp_path, alert, "three answers within one scrape")
    _run(
        tmp_path,
        "ServingPodRestarting",
        "a pod has restarted three times before it is first seen",
        "kube-state-metrics was never scraped before and counts old restarts",
    )
    _run(tmp_path, "InferencePredictionsDropped", "a new pod has dropped one before it is scraped")


@pytest.mark.slow
@pytest.mark.case(42)
def test_a_pod_that_a_shutdown_of_its_node_has_left_is_silent(tmp_path: Path) -> None:
    """A node shuts down and leaves a pod in phase Failed: ServingPodNotReady is silent."""
    _run(
        tmp_path,
        "ServingPodNotReady",
        "a shutdown of the node has left a failed pod",
        "a running pod is unready",
        "the node is lost",
    )


@pytest.mark.slow
@pytest.mark.case(43)
def test_a_service_that_is_gone_in_one_namespace_fires(tmp_path: Path) -> None:
    """Production stops while staging runs in another namespace: it fires for production."""
    what = "the only target stops answering, staging runs in another namespace"
    for title in ("Inference", "Logging"):
        _run(tmp_path, f"{title}ServiceDown", what)
    for title in ("Availability", "Latency"):
        _run(
            tmp_path,
            f"Inference{title}ObjectiveAbsent",
            "its metrics are gone for half an hour, staging still has them",
        )


@pytest.mark.slow
@pytest.mark.case(44)
def test_a_check_of_mlflow_is_stale_by_the_pace_that_was_set(tmp_path: Path) -> None:
    """With MODEL_POLL_SECONDS=300 a check of MLflow is stale after half an hour, not a minute."""
    for poll in (5, 300):
        _run(tmp_path, "InferenceMlflowCheckStale", f"the watcher hangs, MODEL_POLL_SECONDS={poll}")


@pytest.mark.slow
@pytest.mark.case(45)
def test_what_watches_is_watched(tmp_path: Path) -> None:
    """Prometheus, Alertmanager, kube-state-metrics are away, an outbox nearly full: alerts fire."""
    _run(tmp_path, "Watchdog", "nothing is wrong")
    for alert, program in (
        ("MonitoringPrometheusAbsent", "Prometheus itself"),
        ("MonitoringAlertmanagerAbsent", "Alertmanager"),
        ("MonitoringKubeStateMetricsAbsent", "kube-state-metrics"),
    ):
        _run(tmp_path, alert, f"{program} is not scraped for 25 minutes")
    _run(tmp_path, "InferenceOutboxNearlyFull", "the outbox fills to 81% and is worked off")


@pytest.mark.case(46)
def test_rules_over_the_objectives_period_are_evaluated_at_a_slower_pace() -> None:
    """`[30d]` was evaluated every 15 s: it has a group of its own, every 2 minutes."""
    for group in (group for file in RULE_FILES for group in file.groups):
        over_period = [rule for rule in group.rules if f"[{PERIOD}]" in rule.expr]
        if over_period:
            # What is derived from their records is in the same group, and nothing else.
            assert all(PERIOD in rule.expr for rule in group.rules)
            # A series without a sample for 5 minutes counts as gone.
            assert 60 <= seconds(group.interval) < 300
    names = {group.name for file in RULE_FILES for group in file.groups if group.interval}
    assert names == {f"{objective.name}-period" for objective in OBJECTIVES}


def test_no_phase_of_a_counter_begins_below_the_end_of_the_last(tmp_path: Path) -> None:
    tenths = counter((0.1, "20m"), (0.7, "20m"), (0, "20m"))
    series = INFERENCE.series("inference_predictions_total", tenths)
    (case,) = Silence("X", "", [series], ("59m",)).cases()
    document = case.document("X")
    labels = ", ".join(f'{name}="{value}"' for name, value in sorted(series.labels.items()))
    document["promql_expr_test"] = [
        {
            "expr": "resets(inference_predictions_total[1h])",
            "eval_time": "59m",
            "exp_samples": [{"labels": f"{{{labels}}}", "value": 0}],
        }
    ]
    path = write_yaml(tmp_path / "test.yml", {"tests": [document], "evaluation_interval": "1h"})
    finished = promtool("test", "rules", path)
    assert finished.status == 0, finished.output
