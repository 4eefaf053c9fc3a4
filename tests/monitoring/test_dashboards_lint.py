"""Every rule of Grafana's dashboard linter holds for every dashboard, and each can fail."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitoring.generate import DASHBOARDS
from tests.monitoring.dashboards_lint import RULES

PATHS = sorted(DASHBOARDS.glob("*.json"))
Damage = Callable[[dict[str, Any]], None]


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def chart(dashboard: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(
        panel for panel in dashboard["panels"] if panel["type"] == "timeseries"
    )
    return found


def variable(dashboard: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        each for each in dashboard["templating"]["list"] if each["name"] == name
    )
    return found


def set_expression(expression: str) -> Damage:
    def damage(dashboard: dict[str, Any]) -> None:
        chart(dashboard)["targets"][0]["expr"] = expression

    return damage


def ask_loki(expression: str) -> Damage:
    def damage(dashboard: dict[str, Any]) -> None:
        chart(dashboard)["targets"][0] |= {
            "datasource": {"type": "loki", "uid": "${datasource}"},
            "expr": expression,
        }

    return damage


def set_variable(name: str, /, **values: object) -> Damage:
    return lambda dashboard: variable(dashboard, name).update(values)


def set_panel(**values: object) -> Damage:
    return lambda dashboard: chart(dashboard).update(values)


CHOSEN = 'job=~"$job", instance=~"$instance"'

DAMAGES: dict[str, tuple[Damage, ...]] = {
    "template-datasource-rule": (
        set_variable("datasource", name="source"),
        set_variable("datasource", label="Prometheus"),
        set_variable("datasource", type="custom"),
    ),
    "template-job-rule": (
        set_variable("job", name="jobs"),
        set_variable("job", allValue=".*"),
        set_variable("job", multi=False),
        set_variable("job", label="job"),
        set_variable("job", datasource={"type": "prometheus", "uid": "abc"}),
    ),
    "template-instance-rule": (
        set_variable("instance", name="target"),
        set_variable("instance", type="custom"),
        set_variable("instance", allValue=""),
    ),
    "template-label-promql-rule": (
        set_variable("model", query="label_value(up, model)"),
        set_variable("model", query={"query": "label_values(up{, model)"}),
    ),
    "template-on-time-change-reload-rule": (set_variable("stage", refresh=1),),
    "panel-datasource-rule": (
        set_panel(datasource={"type": "prometheus", "uid": "abc"}),
        set_panel(targets=[{"expr": "up", "datasource": {"type": "prometheus", "uid": "abc"}}]),
    ),
    "panel-title-description-rule": (set_panel(title=""), set_panel(description="")),
    "panel-units-rule": (
        set_panel(fieldConfig={"defaults": {}, "overrides": []}),
        set_panel(fieldConfig={"defaults": {"unit": "seconds"}, "overrides": []}),
        set_panel(
            fieldConfig={
                "defaults": {"unit": "s"},
                "overrides": [{"properties": [{"id": "unit", "value": "qps"}]}],
            }
        ),
    ),
    "panel-no-targets-rule": (set_panel(targets=[]),),
    "target-logql-rule": (ask_loki("rate(app[$__auto])"), ask_loki('{app="a" |= "b"')),
    "target-logql-auto-rule": (ask_loki('rate({app="a"}[5m])'),),
    "target-promql-rule": (set_expression("sum(up"), set_expression(""), set_panel(type="graph")),
    "target-rate-interval-rule": (
        set_expression(f"rate(a_total{{{CHOSEN}}}[5m])"),
        set_expression(f"sum by (a) (irate(a_total{{{CHOSEN}}}[1m]))"),
    ),
    "target-job-rule": (
        set_expression('up{instance=~"$instance"}'),
        set_expression(f'up{{{CHOSEN}}} / up{{job="$job", instance=~"$instance"}}'),
    ),
    "target-instance-rule": (set_expression('up{job=~"$job", instance=~"a"}'),),
    "target-counter-agg-rule": (
        set_expression(f"a_total{{{CHOSEN}}}"),
        set_expression(f"sum(max_over_time(a_total{{{CHOSEN}}}[$__rate_interval]))"),
    ),
    "uneditable-dashboard": (lambda dashboard: dashboard.update(editable=True),),
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", RULES)
def test_rule_holds(rule: str, path: Path) -> None:
    assert RULES[rule](load(path)) == []


@pytest.mark.parametrize(
    ("rule", "damage"), [(rule, damage) for rule, damages in DAMAGES.items() for damage in damages]
)
def test_rule_finds_what_breaks_it(rule: str, damage: Damage) -> None:
    whole = load(DASHBOARDS / "inference.json")
    broken = copy.deepcopy(whole)
    damage(broken)
    assert broken != whole
    assert RULES[rule](broken)


def test_all_rules_of_the_linter_are_checked_and_can_fail() -> None:
    assert len(RULES) == 17
    assert DAMAGES.keys() == RULES.keys()


def test_there_are_five_dashboards() -> None:
    assert [path.stem for path in PATHS] == [
        "inference",
        "kubernetes",
        "logging",
        "overview",
        "probes",
    ]
