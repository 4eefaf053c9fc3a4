"""Every alert has all kinds of cases; no alert fires in a world where nothing is wrong."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from monitoring.catalogue import CLUSTER_LABELS
from monitoring.generate import RULES
from monitoring.prometheus.source import ALERTS
from monitoring.prometheus.source.watching import WATCHDOG
from tests.monitoring.promql import RECORDED, selectors
from tests.monitoring.promtool import GROUP_ORDER, Finished, promtool, write_yaml
from tests.monitoring.rule_world import world
from tests.monitoring.scenarios import SCENARIOS
from tests.monitoring.scenarios.story import Kind, Silence, Story
from tests.monitoring.scenarios.wave import Series


def _kinds(alert: str) -> set[Kind]:
    return {
        check.kind
        for scenario in SCENARIOS
        if scenario.alert == alert
        for case in scenario.cases()
        for check in case.checks
    }


def _counts_requests(expr: str) -> bool:
    """Return whether an expression reads the growth of a counter or a histogram."""
    for selector in selectors(expr):
        if selector.name in RECORDED:
            if _counts_requests(RECORDED[selector.name].expr):
                return True
        elif selector.function in ("rate", "increase") or selector.name.endswith("_count"):
            return True
    return False


@pytest.mark.parametrize("alert", ALERTS)
def test_every_kind_of_case_is_tested(alert: str) -> None:
    needed = {Kind.FIRES, Kind.HEALTHY, Kind.BEFORE_FOR, Kind.RESOLVES, Kind.TARGET_GONE}
    if alert == WATCHDOG:
        needed = {Kind.FIRES, Kind.BEFORE_FOR}
    if _counts_requests(ALERTS[alert].expr):
        # The others judge states; the idle world below shows them silent without traffic.
        needed.add(Kind.NO_TRAFFIC)
    assert needed <= _kinds(alert), f"missing: {needed - _kinds(alert)}"


def test_scenarios_are_about_alerts_that_exist() -> None:
    assert {scenario.alert for scenario in SCENARIOS} == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_of_the_services_is_tested_outside_a_cluster_as_well(alert: str) -> None:
    of_kubernetes = ("Kube", "ServingPod", "OutOfMemory", "Autoscaler", "Backup", "Contradicted")
    if alert != WATCHDOG and not any(word in alert for word in of_kubernetes):
        stories = [one for one in SCENARIOS if isinstance(one, Story) and one.alert == alert]
        slow = alert.endswith("BudgetBurnSlow")  # as BudgetBurnFast, from the same labels
        assert slow or any(story.local for story in stories)


def _run_world(directory: Path, series: Sequence[Series], firing: Sequence[str]) -> Finished:
    """Run all rules over a world; expect the Watchdog and these alerts alone after 40 minutes."""
    case = next(Silence("world", "", series, ("40m",)).cases())
    document = case.document("world")
    document["promql_expr_test"] = [
        {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": "40m",
            "exp_samples": [
                {"labels": f'{{alertname="{alert}"}}', "value": 1}
                for alert in sorted((WATCHDOG, *firing))
            ],
        }
    ]
    tests = {
        "rule_files": [str(path) for path in sorted(RULES.glob("*.yml"))],
        "evaluation_interval": "1m",
        "group_eval_order": GROUP_ORDER,
        "tests": [document],
    }
    return promtool("test", "rules", write_yaml(directory / "world.yml", tests))


def _outside_a_cluster(series: Sequence[Series]) -> list[Series]:
    own = (one for one in series if not one.metric.startswith(("kube_", "prober_")))
    return [one.without(*CLUSTER_LABELS) for one in own]


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("cluster", [False, True], ids=["local", "cluster"])
def test_no_alert_fires_in_a_healthy_world(busy: bool, cluster: bool, tmp_path: Path) -> None:
    series = world(busy=busy)
    finished = _run_world(tmp_path, series if cluster else _outside_a_cluster(series), ())
    assert finished.status == 0, finished.output


def test_only_the_absence_is_alerted_on_where_everything_is_gone(tmp_path: Path) -> None:
    series = [replace(one, wave=one.wave.cut(600)) for one in world(busy=True)]
    absent = (
        *("InferenceServiceDown", "LoggingServiceDown"),
        *("MonitoringAlertmanagerAbsent", "MonitoringPrometheusAbsent"),
    )
    finished = _run_world(tmp_path, series, absent)
    assert finished.status == 0, finished.output


def test_an_unhealthy_world_is_noticed(tmp_path: Path) -> None:
    series = [
        replace(one, wave=one.wave.times(0)) if one.metric == "logging_db_accessible" else one
        for one in world(busy=True)
    ]
    assert _run_world(tmp_path, series, ()).status == 1
    assert _run_world(tmp_path, series, ("LoggingDatabaseNotAccessible",)).status == 0
