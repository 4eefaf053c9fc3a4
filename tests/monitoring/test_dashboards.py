"""The dashboards name only what exists, and are laid out without gaps."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from monitoring.catalogue import CLUSTER_METRICS, INFERENCE_FAMILIES, LOGGING_FAMILIES
from monitoring.generate import DASHBOARDS, ROOT
from monitoring.grafana.kubernetes_resources import CLAIMS
from monitoring.grafana.objectives import bad_share
from monitoring.grafana.queries import series
from monitoring.grafana.schema import runbook
from monitoring.prometheus.source import ALERTS
from monitoring.prometheus.source.objectives import OBJECTIVES, Objective
from monitoring.timings import INFERENCE_SERVICE, SERVICES
from tests.monitoring import promql
from tests.monitoring.dashboards import (
    PATHS,
    charts,
    each_dashboard,
    load,
    queries,
    selector_of,
    variables,
)
from tests.monitoring.promtool import promtool, write_yaml

OWN = {family.name: family for family in (*INFERENCE_FAMILIES, *LOGGING_FAMILIES)}
COUNTING = ("rate", "irate", "increase")


def misused(query: str) -> list[str]:
    """Return counters that are not counted and gauges that are."""
    wrong = []
    selectors = promql.selectors(query)
    lifetimes = {
        selector.name.removesuffix("_sum")
        for selector in selectors
        if selector.name.endswith("_sum") and not selector.function
    } & {
        selector.name.removesuffix("_count")
        for selector in selectors
        if selector.name.endswith("_count") and not selector.function
    }
    for selector in selectors:
        for name in selector.metrics:
            known = promql.family(name)
            base = re.sub(r"_(sum|count)$", "", name)
            counts = known is not None and (known.kind == "counter" or name != known.name)
            if counts and selector.function not in COUNTING and base not in lifetimes:
                wrong.append(f"{name} is a counter and not under rate or increase")
            if not counts and selector.function in COUNTING:
                wrong.append(f"{name} is no counter and under {selector.function}")
            if name.endswith("_bucket") and 'le="' not in query and "le" not in selector.grouping:
                wrong.append(f"{name} is not summed by le")
    return wrong


@each_dashboard
def test_queries_name_only_metrics_and_labels_of_the_catalogue(path: Path) -> None:
    dashboard = load(path)
    asked = [query for _, query in queries(dashboard)]
    asked += [selector_of(variable) for variable in variables(dashboard, "query")]
    assert [finding for query in asked for finding in promql.unknown_names(query)] == []


@each_dashboard
def test_counters_are_counted_and_gauges_are_not(path: Path) -> None:
    assert [finding for _, query in queries(load(path)) for finding in misused(query)] == []


@each_dashboard
def test_legends_and_columns_name_labels_that_the_query_keeps(path: Path) -> None:
    for panel in charts(load(path)):
        for target in panel["targets"]:
            kept = frozenset[str]().union(
                *(selector.grouping for selector in promql.selectors(target["expr"]))
            )
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            if panel["type"] == "table":
                shown |= set(panel["transformations"][0]["options"]["include"]["names"])
                shown -= {"Value"}
            assert shown <= kept, (panel["title"], target["expr"])


@each_dashboard
def test_panels_have_unique_numbers_and_do_not_overlap(path: Path) -> None:
    placed = load(path)["panels"]
    assert len({panel["id"] for panel in placed}) == len(placed)
    cells: set[tuple[int, int]] = set()
    for panel in placed:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken = set(
            itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
        )
        assert not taken & cells, panel["title"]
        cells |= taken


@each_dashboard
def test_every_line_of_panels_is_as_wide_as_the_dashboard(path: Path) -> None:
    lines: dict[int, int] = {}
    for panel in load(path)["panels"]:
        at = panel["gridPos"]
        lines[at["y"]] = lines.get(at["y"], 0) + at["w"]
    assert set(lines.values()) == {24}, lines


@each_dashboard
def test_titles_are_unique_within_a_row(path: Path) -> None:
    row: list[str] = []
    for panel in load(path)["panels"]:
        if panel["type"] == "row":
            row = []
            continue
        assert panel["title"] not in row
        row.append(panel["title"])


@each_dashboard
def test_variables_are_defined_and_used(path: Path) -> None:
    dashboard = load(path)
    defined = {variable["name"] for variable in variables(dashboard)}
    used = {name for _, query in queries(dashboard) for name in promql.variables(query)}
    used.add("datasource")
    assert used == defined


@each_dashboard
def test_variables_choose_data_source_namespace_job_model_stage_and_instance(path: Path) -> None:
    defined = [variable["name"] for variable in variables(load(path))]
    assert [name for name in defined if name != "workload"] == [
        "datasource",
        "namespace",
        "job",
        "model",
        "stage",
        "instance",
    ]


@each_dashboard
def test_everything_chosen_also_matches_series_without_namespace_model_or_stage(path: Path) -> None:
    patterns = {
        variable["name"]: variable["allValue"] for variable in variables(load(path), "query")
    }
    for name in ("namespace", "model", "stage"):
        assert re.fullmatch(patterns[name], "")


@each_dashboard
def test_thresholds_rise(path: Path) -> None:
    for panel in charts(load(path)):
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        values = [step["value"] for step in steps]
        assert values[0] is None
        assert values[1:] == sorted(set(values[1:])), panel["title"]


def test_dashboards_link_to_one_another_with_what_was_chosen() -> None:
    dashboards = [load(path) for path in PATHS]
    uids = {dashboard["uid"] for dashboard in dashboards}
    assert len(uids) == len(PATHS)
    for dashboard in dashboards:
        linked = set()
        for link in dashboard["links"]:
            found = re.fullmatch(r"/d/([a-z-]+)\?(.+)", link["url"])
            assert found is not None
            linked.add(found[1])
            carried = set(re.findall(r"\$\{(\w+):queryparam\}", found[2]))
            target = next(each for each in dashboards if each["uid"] == found[1])
            assert carried <= {each["name"] for each in variables(target)}
            assert link["keepTime"]
        assert linked == uids - {dashboard["uid"]}


@each_dashboard
def test_panels_link_to_runbooks_that_exist(path: Path) -> None:
    links = [link for panel in charts(load(path)) for link in panel.get("links", ())]
    assert links
    for link in links:
        alert = link["title"].removeprefix("Runbook: ")
        assert link["url"] == ALERTS[alert].links["runbook_url"]
        assert (ROOT / "docs" / "runbooks" / f"{alert}.md").is_file()


def test_a_runbook_of_an_unknown_alert_is_refused() -> None:
    with pytest.raises(KeyError):
        runbook("NoSuchAlert")


def test_dashboards_that_alerts_name_exist() -> None:
    assert {f"{alert.dashboard}.json" for alert in ALERTS.values()} == {path.name for path in PATHS}
    for alert in ALERTS.values():
        uid = load(DASHBOARDS / f"{alert.dashboard}.json")["uid"]
        assert alert.links["dashboard"] == f"/d/{uid}"


@pytest.mark.parametrize(
    ("metric", "matcher"),
    [("inference_unknown", 'reason="a"'), ("inference_ready", 'reason="a"'), ("up", "reason")],
)
def test_a_selector_of_an_unknown_metric_or_label_is_refused(metric: str, matcher: str) -> None:
    with pytest.raises(KeyError):
        series(metric, matcher)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_the_overview_counts_for_an_objective_what_the_rules_count(objective: Objective) -> None:
    def counted(expression: str) -> set[tuple[str, frozenset[promql.Matcher]]]:
        return {
            (selector.name, frozenset(each for each in selector.matchers if "$" not in each.value))
            for selector in promql.selectors(expression)
        }

    rules = f"({objective.bad}) / ({objective.total})".replace("{window}", "1h")
    assert counted(bad_share(objective, "1h")) == counted(rules)


def test_an_objective_written_in_another_way_is_refused() -> None:
    with pytest.raises(ValueError, match="not understood"):
        bad_share(replace(OBJECTIVES[0], bad="sum(rate(inference_errors_total[{window}]))"), "1h")


def test_the_kubernetes_dashboard_selects_the_workloads_and_volumes_of_the_manifests() -> None:
    documents = [
        document
        for path in (ROOT / "k8s").rglob("*.yaml")
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if isinstance(document, dict) and "mlflow" not in path.parts
    ]
    named = {(each.get("kind"), each.get("metadata", {}).get("name")) for each in documents}
    workloads = {name for kind, name in named if kind in ("Deployment", "StatefulSet")}
    assert set(SERVICES) <= workloads
    assert ("HorizontalPodAutoscaler", INFERENCE_SERVICE) in named
    claims = {name for kind, name in named if kind == "PersistentVolumeClaim"}
    assert claims
    assert all(re.fullmatch(f".*({CLAIMS}).*", claim) for claim in claims), claims


@pytest.mark.parametrize("page", ["README.md", "docs/dashboards.md"])
def test_pictures_that_a_page_shows_exist_and_are_small(page: str) -> None:
    path = ROOT / page
    shown = set(re.findall(r"!\[[^]]*\]\(([^)]+\.png)\)", path.read_text()))
    names = {Path(each).name for each in shown}
    assert {f"{each.stem}.png" for each in PATHS} <= names
    for each in shown:
        assert (path.parent / each).stat().st_size < 200_000, each


def test_every_metric_of_the_services_is_on_a_dashboard() -> None:
    shown = {
        known.name
        for path in PATHS
        for _, query in queries(load(path))
        for selector in promql.selectors(query)
        for name in selector.metrics
        if (known := promql.family(name)) is not None
    }
    assert OWN.keys() - shown == set()
    assert CLUSTER_METRICS - shown == set()


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ({"database": "0+600x60", "wal": "4000x60"}, 100),
        ({"database": "9000x60", "wal": "4000x30 0x29"}, None),
    ],
    ids=["while it stores", "after it has ended"],
)
def test_the_bytes_of_a_prediction_are_none_where_the_files_shrank(
    sizes: dict[str, str], shown: int | None, tmp_path: Path
) -> None:
    (panel,) = (
        one
        for one in charts(load(DASHBOARDS / "logging.json"))
        if one["title"] == "Bytes a prediction"
    )
    (target,) = panel["targets"]
    labels = 'namespace="", job="logging-service", instance="a", service="logging-service"'
    files = [
        {"series": f'logging_database_bytes{{{labels}, file="{file}"}}', "values": values}
        for file, values in sizes.items()
    ]
    stored = {"series": f"logging_predictions_total{{{labels}}}", "values": "0+6x60"}
    expr = re.sub(r"\$(?!__)\w+", ".*", promql.fill_in_built_in(target["expr"]))
    case = {
        "interval": "1m",
        "input_series": [*files, stored],
        "promql_expr_test": [
            {
                "expr": f"round({expr})",
                "eval_time": "1h",
                "exp_samples": [] if shown is None else [{"labels": "{}", "value": shown}],
            }
        ],
    }
    finished = promtool("test", "rules", write_yaml(tmp_path / "test.yml", {"tests": [case]}))
    assert finished.status == 0, finished.output
