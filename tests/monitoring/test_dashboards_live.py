"""Every query of every dashboard runs against a real Prometheus and returns data.

The services are the real ones, driven without a pause, with one worker and with two. The
exporters of a cluster are simulated, with their documented names and labels.
"""

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monitoring.catalogue import INFERENCE_FAMILIES, LOGGING_FAMILIES
from monitoring.grafana.render.__main__ import main
from monitoring.grafana.render.client import Period, Prometheus, Series
from monitoring.grafana.render.figure import place
from monitoring.grafana.render.interpolation import choose, interpolate, options
from monitoring.grafana.render.panel import PanelView
from tests.monitoring.dashboards import PATHS, load
from tests.monitoring.dashboards_display import Case, faults
from tests.monitoring.live_world import (
    SCRAPE_SECONDS,
    DemoModel,
    World,
    live_world,
    train_demo_model,
)
from tests.support.servers import wait_until

pytestmark = pytest.mark.slow

RANGE_SECONDS = 15
# Longer than the services took to start. Panels of what is rare show what happened then.
SINCE_START_SECONDS = 300
# "No data" and what needs no colour, tables and plain numbers, are written in greys.
COLOURED = frozenset({"timeseries", "heatmap", "state-timeline", "bargauge", "gauge"})
PATIENCE_SECONDS = 90.0
# Without a cluster the services' own series have no namespace; see the Kubernetes dashboard for
# those that have.
VARIABLES_OF_A_CLUSTER = {
    ("inference", "namespace"),
    ("logging", "namespace"),
    ("overview", "namespace"),
}


@pytest.fixture(scope="module")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> DemoModel:
    return train_demo_model(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module", params=[1, 2], ids=["one-worker", "two-workers"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo_model: DemoModel
) -> Iterator[World]:
    with live_world(tmp_path_factory.mktemp("world"), demo_model, workers=request.param) as running:
        yield running


def dashboards() -> Iterator[tuple[str, dict[str, Any]]]:
    return ((path.stem, load(path)) for path in PATHS)


def now(*, seconds: int = RANGE_SECONDS) -> Period:
    end = time.time()
    return Period(end - seconds, end, 1)


def shown_values(panel: dict[str, Any], series: Series) -> tuple[float, ...]:
    """Return the numbers that a panel writes in its unit: a heatmap's are its buckets' bounds."""
    return (float(series.labels["le"]),) if panel["type"] == "heatmap" else series.values


def has_data(found: list[Series]) -> bool:
    return any(math.isfinite(value) for series in found for value in series.values)


def test_every_query_of_every_panel_returns_data(world: World) -> None:
    prometheus = Prometheus(world.prometheus)
    waiting = [
        (name, panel["title"], dashboard, target)
        for name, dashboard in dashboards()
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]

    def all_have_data() -> bool:
        period = now()
        for each in list(waiting):
            _, _, dashboard, target = each
            values = choose(dashboard, prometheus, period, scrape_interval=SCRAPE_SECONDS)
            expr = interpolate(target["expr"], values)
            rare = now(seconds=SINCE_START_SECONDS) if expr.endswith("> 0") else period
            found = (
                prometheus.instant(expr, period.end)
                if target["instant"]
                else prometheus.over(expr, rare)
            )
            if has_data(found):
                waiting.remove(each)
        return not waiting

    wait_until(
        all_have_data,
        "data for every panel",
        seconds=PATIENCE_SECONDS,
        describe=lambda: "\n".join(
            f"{name}: {title}: {target['expr']}" for name, title, _, target in waiting
        ),
    )


@pytest.mark.parametrize("world", [1], indirect=True, ids=["one-worker"])
def test_grafana_shows_what_the_services_measure_with_units_and_states_as_words(
    world: World,
) -> None:
    prometheus = Prometheus(world.prometheus)
    cases = []
    for name, dashboard in dashboards():
        period = now()
        values = choose(dashboard, prometheus, period, scrape_interval=SCRAPE_SECONDS)
        for panel in dashboard["panels"]:
            if not panel.get("targets"):
                continue
            found = {
                round(value, 6)
                for each in PanelView(panel).ask(prometheus, period, values)
                for value in shown_values(panel, each.series)
                if math.isfinite(value)
            }
            cases.append(Case(name, panel, tuple(sorted(found))))
    assert sum(len(case.values) for case in cases) > 500
    assert faults(cases) == []


def test_a_query_of_a_metric_that_nobody_tells_returns_no_data(world: World) -> None:
    prometheus = Prometheus(world.prometheus)
    assert has_data(prometheus.over("inference_ready", now()))
    assert not has_data(prometheus.over("inference_ready_or_so", now()))
    assert not has_data(prometheus.over("0 / (inference_ready * 0)", now()))


def test_every_variable_offers_values(world: World) -> None:
    prometheus = Prometheus(world.prometheus)
    for name, dashboard in dashboards():
        period = now()
        values = choose(dashboard, prometheus, period, scrape_interval=SCRAPE_SECONDS)
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "datasource":
                continue
            offered = options(variable, prometheus, period, values)
            assert bool(offered) != ((name, variable["name"]) in VARIABLES_OF_A_CLUSTER), (
                name,
                variable["name"],
                offered,
            )


@pytest.mark.parametrize("world", [1], indirect=True, ids=["one-worker"])
def test_every_dashboard_is_drawn_with_its_panels_in_colour(world: World, tmp_path: Path) -> None:
    options = ["--prometheus", world.prometheus, "--out", str(tmp_path)]
    options += ["--last", f"{RANGE_SECONDS}s", "--scrape-interval", f"{SCRAPE_SECONDS}s"]
    assert main(options) == 0
    for name, dashboard in dashboards():
        path = tmp_path / f"{name}.png"
        assert path.stat().st_size < 400_000
        picture = np.asarray(Image.open(path).convert("RGB"), dtype=np.int16)
        for panel in dashboard["panels"]:
            rare = all(target["expr"].endswith("> 0") for target in panel.get("targets", ()))
            if panel["type"] not in COLOURED or rare:
                continue
            box = place(panel["gridPos"])
            part = picture[
                round(box.y) : round(box.y + box.height), round(box.x) : round(box.x + box.width)
            ]
            vivid = (part.max(axis=2) - part.min(axis=2)) > 60
            assert vivid.sum() > 10, (name, panel["title"])


@pytest.mark.parametrize("service", ["inference", "logging"])
def test_the_scraped_metrics_and_labels_are_those_of_the_catalogue(
    world: World, service: str
) -> None:
    server, families = {
        "inference": (world.inference, INFERENCE_FAMILIES),
        "logging": (world.logging, LOGGING_FAMILIES),
    }[service]
    text = server.get("/metrics").text
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, flags=re.MULTILINE))
    known = {family.name: family.kind for family in families}
    assert types == known
    for family in families:
        samples = rf"^{family.name}(?:_bucket|_sum|_count)?\{{(.*)\}} "
        for labels in re.findall(samples, text, flags=re.MULTILINE):
            found = set(re.findall(r'(\w+)="', labels)) - {"le"}
            assert found == set(family.labels), family.name
