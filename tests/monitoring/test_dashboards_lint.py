"""The rules of Grafana's dashboard linter, `grafana/dashboard-linter`, for every dashboard.

The linter itself is a Go program that not every machine can get. Where these differ from its rules
they are stricter: every kind of panel with queries is checked, not six of them, and a counter is
recognised with matchers as well. Units are checked by Grafana's own library, in
test_dashboards_display.py; the two rules about Loki have nothing to check here.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.monitoring import promql
from tests.monitoring.dashboards import (
    PANELS_WITH_QUERIES,
    PANELS_WITHOUT_QUERIES,
    PATHS,
    Dashboard,
    charts,
    each_dashboard,
    load,
    queries,
    selector_of,
    variables,
)

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def selectors(dashboard: Dashboard) -> Iterator[tuple[str, promql.Selector]]:
    for title, query in queries(dashboard):
        for selector in promql.selectors(query):
            yield title, selector


def test_there_are_five_dashboards() -> None:
    names = [path.stem for path in PATHS]
    assert names == ["inference", "kubernetes", "logging", "overview", "probes"]


@each_dashboard
def test_the_data_source_is_a_variable_and_everything_uses_it(path: Path) -> None:
    dashboard = load(path)
    (source,) = variables(dashboard, "datasource")
    assert (source["name"], source["label"]) == ("datasource", "Data source")
    for panel in charts(dashboard):
        for one in (panel, *panel.get("targets", ())):
            assert one["datasource"] == DATASOURCE, panel["title"]
    for variable in variables(dashboard, "query"):
        assert variable["datasource"] == DATASOURCE, variable["name"]


@each_dashboard
@pytest.mark.parametrize("name", ["job", "instance"])
def test_several_jobs_and_instances_can_be_chosen_and_all_is_any(path: Path, name: str) -> None:
    (variable,) = (one for one in variables(load(path)) if one["name"] == name)
    expected = {"type": "query", "label": name.title(), "multi": True, "includeAll": True}
    assert (expected | {"allValue": ".+"}).items() <= variable.items()


@each_dashboard
def test_variables_are_labels_of_promql_and_asked_for_anew_with_the_time_range(path: Path) -> None:
    for variable in variables(load(path), "query"):
        promql.parse(selector_of(variable))
        assert variable["refresh"] == 2, variable["name"]


@each_dashboard
def test_a_panel_has_a_title_a_description_and_where_it_shows_a_query_one(path: Path) -> None:
    for panel in charts(load(path)):
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["type"] in PANELS_WITH_QUERIES | PANELS_WITHOUT_QUERIES, panel["title"]
        assert bool(panel["targets"]) == (panel["type"] in PANELS_WITH_QUERIES), panel["title"]


@each_dashboard
def test_every_selector_matches_the_chosen_jobs_and_instances(path: Path) -> None:
    chosen = {promql.Matcher(label, "=~", f"${label}") for label in ("job", "instance")}
    for title, selector in selectors(load(path)):
        assert chosen <= set(selector.matchers), f"{title}: {selector.name}"


@each_dashboard
def test_every_rate_follows_the_zoom_and_the_scrape_interval(path: Path) -> None:
    for title, selector in selectors(load(path)):
        if selector.function in ("rate", "irate", ""):
            assert selector.range in (None, promql.RATE_INTERVAL), f"{title}: {selector.name}"


@each_dashboard
def test_every_counter_is_counted(path: Path) -> None:
    for title, selector in selectors(load(path)):
        if selector.name.endswith("_total"):
            assert selector.function in ("rate", "irate", "increase"), f"{title}: {selector.name}"


@each_dashboard
def test_a_dashboard_cannot_be_edited_in_place_since_its_source_is_the_code(path: Path) -> None:
    assert load(path)["editable"] is False
