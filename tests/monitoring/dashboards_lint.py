"""The 17 rules of Grafana's dashboard linter, in code of our own.

The linter itself is a Go program that not every machine can get. Rules and names are those of
`grafana/dashboard-linter`; where ours differ they are stricter: every kind of panel with queries
is checked, not six of them; a unit is asked for even where values are shown as words; a counter
is recognised with matchers as well. Each rule returns what it found, nothing where it holds.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.monitoring import promql

# Units by category, as far as dashboards like ours go. Source: Grafana,
# packages/grafana-data/src/valueFormats/categories.ts.
_MISC = ("none", "string", "short", "percent", "percentunit", "sci", "locale", "hex", "hex0x")
_DATA = (
    *("bytes", "decbytes", "bits", "decbits", "kbytes", "deckbytes", "mbytes", "decmbytes"),
    *("gbytes", "decgbytes", "tbytes", "dectbytes", "pbytes", "decpbytes"),
)
_DATA_RATE = ("pps", "binBps", "Bps", "binbps", "bps", "KiBs", "KBs", "MiBs", "MBs", "GiBs", "GBs")
_DATE_AND_TIME = ("dateTimeAsIso", "dateTimeAsLocal", "dateTimeAsSystem", "dateTimeFromNow")
_TIME = (
    *("hertz", "ns", "µs", "ms", "s", "m", "h", "d", "dtdurationms", "dtdurations"),
    *("dthms", "dtdhms", "timeticks", "clockms", "clocks"),
)
_THROUGHPUT = (
    *("cps", "ops", "reqps", "rps", "wps", "iops", "mps"),
    *("cpm", "opm", "rpm", "wpm", "mpm"),
)
_BOOLEAN = ("bool", "bool_yes_no", "bool_on_off")

UNITS = frozenset((*_MISC, *_DATA, *_DATA_RATE, *_DATE_AND_TIME, *_TIME, *_THROUGHPUT, *_BOOLEAN))

Dashboard = Mapping[str, Any]
Rule = Callable[[Dashboard], list[str]]

PANELS_WITH_QUERIES = frozenset(
    {"bargauge", "gauge", "heatmap", "stat", "state-timeline", "table", "timeseries"}
)
PANELS_WITHOUT_QUERIES = frozenset({"alertlist", "row", "text"})
_QUERY_FUNCTION = re.compile(r"(label_values|label_names|metrics|query_result)\((.+)\)")
_LABEL_VALUES = re.compile(r"(?P<selector>.+),\s*(?P<label>[a-zA-Z_]\w*)")
_RATES = ("rate", "irate", "increase")


def panels(dashboard: Dashboard) -> Iterator[Mapping[str, Any]]:
    """Yield every panel, those inside collapsed rows included."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def charts(dashboard: Dashboard) -> Iterator[Mapping[str, Any]]:
    """Yield every panel that is more than a heading."""
    return (panel for panel in panels(dashboard) if panel["type"] != "row")


def targets(dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    """Yield the title of the panel and the query of every target."""
    for panel in charts(dashboard):
        for target in panel.get("targets", ()):
            yield panel.get("title", ""), target.get("expr", "")


def variables(dashboard: Dashboard, kind: str = "") -> list[Mapping[str, Any]]:
    """Return the dashboard's variables, those of one type where it is given."""
    return [
        variable
        for variable in dashboard["templating"]["list"]
        if not kind or variable["type"] == kind
    ]


def variable_query(variable: Mapping[str, Any]) -> str:
    """Return the query of a variable, which may stand in an object."""
    query = variable["query"]
    return str(query["query"] if isinstance(query, Mapping) else query)


def selector_of(query: str) -> str:
    """Return the selector of a `label_values(selector, label)` query; ValueError for others."""
    function = _QUERY_FUNCTION.fullmatch(query)
    if function is None:
        raise ValueError(f"not a variable's query: {query}")
    found = _LABEL_VALUES.fullmatch(function[2])
    return found["selector"] if function[1] == "label_values" and found else function[2]


def _templated(datasource: object, dashboard: Dashboard) -> bool:
    uid = datasource.get("uid") if isinstance(datasource, Mapping) else datasource
    names = [variable["name"] for variable in variables(dashboard, "datasource")]
    return any(uid in (f"${name}", f"${{{name}}}") for name in names)


def template_datasource(dashboard: Dashboard) -> list[str]:
    """There is a data source variable, named and labelled as readers expect it."""
    sources = variables(dashboard, "datasource")
    if not sources:
        return ["no data source variable"]
    return [
        f"data source variable {source['name']} labelled {source['label']}"
        for source in sources
        if (source["name"], source["label"])
        not in (("datasource", "Data source"), ("prometheus_datasource", "Prometheus data source"))
    ]


def _template(dashboard: Dashboard, name: str) -> list[str]:
    found = [variable for variable in variables(dashboard) if variable["name"] == name]
    if not found:
        return [f"no variable {name}"]
    variable = found[0]
    expected = {
        "type": "query",
        "label": name.title(),
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
    }
    wrong = [
        f"variable {name}: {key} is {variable.get(key)!r}"
        for key, value in expected.items()
        if variable.get(key) != value
    ]
    if not _templated(variable.get("datasource"), dashboard):
        wrong.append(f"variable {name} does not use the data source variable")
    return wrong


def template_job(dashboard: Dashboard) -> list[str]:
    """There is a job variable over the data source: several may be chosen, all is `.+`."""
    return _template(dashboard, "job")


def template_instance(dashboard: Dashboard) -> list[str]:
    """There is an instance variable over the data source: several may be chosen, all is `.+`."""
    return _template(dashboard, "instance")


def template_label_promql(dashboard: Dashboard) -> list[str]:
    """Every variable's query is one of Grafana's functions over valid PromQL."""
    wrong = []
    for variable in variables(dashboard, "query"):
        query = variable_query(variable)
        try:
            promql.parse(selector_of(query))
        except ValueError as error:
            wrong.append(f"variable {variable['name']}: {query}: {error}")
    return wrong


def template_on_time_change_reload(dashboard: Dashboard) -> list[str]:
    """Every variable's values are asked for anew when the time range changes."""
    return [
        f"variable {variable['name']}: refresh is {variable['refresh']}"
        for variable in variables(dashboard, "query")
        if variable["refresh"] != 2
    ]


def panel_datasource(dashboard: Dashboard) -> list[str]:
    """Every panel and every target of it uses the data source variable."""
    return [
        f"{panel['title']}: data source {source}"
        for panel in charts(dashboard)
        for source in (
            panel.get("datasource"),
            *(target.get("datasource") for target in panel.get("targets", ())),
        )
        if not _templated(source, dashboard)
    ]


def panel_title_description(dashboard: Dashboard) -> list[str]:
    """Every panel has a title and a description."""
    return [
        f"panel {panel['id']}: title {panel.get('title')!r}"
        for panel in charts(dashboard)
        if not panel.get("title") or not panel.get("description")
    ]


def panel_units(dashboard: Dashboard) -> list[str]:
    """Every panel, and every override of a unit, has a unit that Grafana knows."""
    wrong = []
    for panel in charts(dashboard):
        config = panel.get("fieldConfig", {})
        units = [config.get("defaults", {}).get("unit")]
        units += [
            option["value"]
            for override in config.get("overrides", ())
            for option in override["properties"]
            if option["id"] == "unit"
        ]
        wrong += [f"{panel['title']}: unit {unit!r}" for unit in units if unit not in UNITS]
    return wrong


def panel_no_targets(dashboard: Dashboard) -> list[str]:
    """Every panel that shows a query's result has a query."""
    return [
        f"{panel['title']}: no targets"
        for panel in charts(dashboard)
        if panel["type"] not in PANELS_WITHOUT_QUERIES and not panel.get("targets")
    ]


def _loki(dashboard: Dashboard) -> list[tuple[str, str]]:
    if any(source["query"] == "loki" for source in variables(dashboard, "datasource")):
        return list(targets(dashboard))
    return [
        (panel.get("title", ""), target.get("expr", ""))
        for panel in charts(dashboard)
        for target in panel.get("targets", ())
        if isinstance(target.get("datasource"), Mapping)
        and target["datasource"].get("type") == "loki"
    ]


def target_logql(dashboard: Dashboard) -> list[str]:
    """Every query to Loki has a stream selector with balanced brackets and quotes."""
    return [
        f"{title}: {query}"
        for title, query in _loki(dashboard)
        if not re.search(r'\{\s*\w+\s*(=~|!~|!=|=)\s*"[^"]*".*?\}', query)
        or any(query.count(a) != query.count(b) for a, b in ("{}", "()", "[]"))
        or query.count('"') % 2
    ]


def target_logql_auto(dashboard: Dashboard) -> list[str]:
    """Every range of a query to Loki is `$__auto`."""
    return [
        f"{title}: [{length}]"
        for title, query in _loki(dashboard)
        for length in re.findall(r"\[([^\]]+)\]", query)
        if length != "$__auto"
    ]


def target_promql(dashboard: Dashboard) -> list[str]:
    """Every query is PromQL; panels of an unknown kind do not pass unseen."""
    wrong = [
        f"{panel['title']}: unknown panel type {panel['type']}"
        for panel in panels(dashboard)
        if panel["type"] not in PANELS_WITH_QUERIES | PANELS_WITHOUT_QUERIES
    ]
    for title, query in targets(dashboard):
        try:
            promql.parse(query)
        except ValueError as error:
            wrong.append(f"{title}: {query}: {error}")
    return wrong


def _selectors(dashboard: Dashboard) -> Iterator[tuple[str, promql.Selector]]:
    for title, query in targets(dashboard):
        try:
            found = promql.selectors(query)
        except ValueError:
            continue  # that is target-promql-rule's finding
        for selector in found:
            yield title, selector


def target_rate_interval(dashboard: Dashboard) -> list[str]:
    """Every rate is over `$__rate_interval`, which follows zoom and scrape interval."""
    return [
        f"{title}: {selector.function}({selector.name}[{selector.range}])"
        for title, selector in _selectors(dashboard)
        if selector.range is not None
        and selector.range != promql.RATE_INTERVAL
        and selector.function in ("rate", "irate", "")
    ]


def _matched(dashboard: Dashboard, label: str) -> list[str]:
    wanted = promql.Matcher(label, "=~", f"${label}")
    return [
        f"{title}: {selector.name} without {label}"
        for title, selector in _selectors(dashboard)
        if wanted not in selector.matchers
    ]


def target_job(dashboard: Dashboard) -> list[str]:
    """Every selector matches the chosen jobs."""
    return _matched(dashboard, "job")


def target_instance(dashboard: Dashboard) -> list[str]:
    """Every selector matches the chosen instances."""
    return _matched(dashboard, "instance")


def target_counter_agg(dashboard: Dashboard) -> list[str]:
    """Every counter stands under rate, irate or increase."""
    return [
        f"{title}: {selector.name} is not aggregated"
        for title, selector in _selectors(dashboard)
        if selector.name.endswith("_total") and selector.function not in _RATES
    ]


def uneditable(dashboard: Dashboard) -> list[str]:
    """The dashboard cannot be edited in place: its source is the code."""
    return [] if dashboard.get("editable") is False else ["editable"]


RULES: Mapping[str, Rule] = {
    "template-datasource-rule": template_datasource,
    "template-job-rule": template_job,
    "template-instance-rule": template_instance,
    "template-label-promql-rule": template_label_promql,
    "template-on-time-change-reload-rule": template_on_time_change_reload,
    "panel-datasource-rule": panel_datasource,
    "panel-title-description-rule": panel_title_description,
    "panel-units-rule": panel_units,
    "panel-no-targets-rule": panel_no_targets,
    "target-logql-rule": target_logql,
    "target-logql-auto-rule": target_logql_auto,
    "target-promql-rule": target_promql,
    "target-rate-interval-rule": target_rate_interval,
    "target-job-rule": target_job,
    "target-instance-rule": target_instance,
    "target-counter-agg-rule": target_counter_agg,
    "uneditable-dashboard": uneditable,
}
