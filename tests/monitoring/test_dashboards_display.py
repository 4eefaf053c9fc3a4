"""The dashboards by Grafana's own libraries: its schema's types, and the texts that it shows."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from monitoring.generate import DASHBOARDS
from monitoring.grafana.render.units import write
from tests.monitoring.dashboards_display import Case, faults
from tests.monitoring.dashboards_grafana import shown, type_errors
from tests.monitoring.dashboards_lint import charts

# The first test installs the libraries, 28 MB, and Node, 60 MB.
pytestmark = pytest.mark.slow

PATHS = sorted(DASHBOARDS.glob("*.json"))
TYPICAL = {
    "percentunit": (0.0, 0.0004, 0.123, 1.0),
    "s": (0.0, 0.00005, 0.0123, 1.5, 95.0),
    "bytes": (0.0, 1_536.0, 5e9),
    "dtdurations": (0.0, 61.0, 90_000.0),
    "bool_yes_no": (0.0, 1.0),
}


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def cases(name: str, dashboard: dict[str, Any]) -> list[Case]:
    """Return each panel with values that are usual for its unit."""
    hour_ago = (time.time() - 3_600) * 1_000
    found = []
    for panel in charts(dashboard):
        if panel.get("targets"):
            unit = panel["fieldConfig"]["defaults"]["unit"]
            usual = (hour_ago,) if unit == "dateTimeFromNow" else TYPICAL.get(unit, (0.0, 1.0))
            found.append(Case(name, panel, usual))
    return found


def test_every_dashboard_has_the_types_of_grafanas_schema() -> None:
    assert type_errors(PATHS) == []


def test_grafana_shows_every_value_with_its_unit_and_every_state_as_a_word() -> None:
    found = faults([case for path in PATHS for case in cases(path.stem, load(path))])
    assert found == []


def _panel(dashboard: dict[str, Any], title: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in dashboard["panels"] if each["title"] == title)
    return found


def _options(dashboard: dict[str, Any], title: str) -> dict[str, Any]:
    found: dict[str, Any] = _panel(dashboard, title)["fieldConfig"]["defaults"]
    return found


MISTYPED: Sequence[tuple[Callable[[dict[str, Any]], object], str]] = (
    (lambda it: it.update(refresh=30), "not assignable"),
    (lambda it: it.update(refreshes="30s"), "'\"refreshes\"' does not exist"),
    (lambda it: _panel(it, "Ready")["gridPos"].pop("h"), "missing"),
    (lambda it: _options(it, "Ready")["color"].update(mode="thresholdz"), "thresholdz"),
    (lambda it: _panel(it, "Up")["options"].update(colorMode="back"), "back"),
    (lambda it: _panel(it, "Up")["options"].update(colour="none"), "colour"),
    (lambda it: _options(it, "Defects")["custom"].update(drawStyle="wave"), "wave"),
    (lambda it: _options(it, "Defects")["custom"].update(lineWith=1), "lineWith"),
    (lambda it: it["templating"]["list"][1].update(definition="up"), "definition"),
)


def test_what_the_schema_does_not_have_is_found(tmp_path: Path) -> None:
    paths = []
    for number, (break_it, _) in enumerate(MISTYPED):
        dashboard = load(DASHBOARDS / "overview.json")
        break_it(dashboard)
        paths.append(tmp_path / f"broken{number}.json")
        paths[-1].write_text(json.dumps(dashboard))
    found = type_errors(paths)
    for path, (_, words) in zip(paths, MISTYPED, strict=True):
        assert any(words in each for each in found if each.startswith(f"{path.stem}_")), words


def _mapped(title: str) -> Callable[[dict[str, Any]], object]:
    return lambda it: _options(it, title)["mappings"][0]["options"].pop("0")


MISSHOWN: Sequence[tuple[Callable[[dict[str, Any]], object], str]] = (
    (lambda it: _options(it, "Latency, p99").update(unit="seconds"), "no unit 'seconds'"),
    (lambda it: _options(it, "Latency, p99").update(unit="none"), "its title says"),
    (lambda it: _options(it, "Free disk").update(unit="short"), "its title says"),
    (lambda it: _options(it, "Free disk").update(unit="percent"), "its title says"),
    (_mapped("Ready"), "the state 0.0 is shown as '0'"),
    (_mapped("Up"), "the state 0.0 is shown as '0'"),
    (lambda it: _options(it, "Model loaded").pop("mappings"), "both states have one colour"),
    (
        lambda it: _options(it, "Free disk")["thresholds"]["steps"][1].update(value=10),
        "the threshold 10 is 1000%",
    ),
    (
        lambda it: _options(it, "Latency, p99")["thresholds"]["steps"][2].update(value=250),
        "the threshold 250 is 4.17 mins",
    ),
    (
        lambda it: _options(it, "Stale instances")["thresholds"]["steps"][1].update(value=0.5),
        "the threshold 0.500 is no count",
    ),
)


def test_a_raw_number_a_raw_state_and_a_threshold_in_another_unit_are_found() -> None:
    broken = []
    for number, (break_it, _) in enumerate(MISSHOWN):
        dashboard = load(DASHBOARDS / "overview.json")
        break_it(dashboard)
        broken += cases(str(number), dashboard)
    found = faults(broken)
    for number, (_, fault) in enumerate(MISSHOWN):
        assert any(fault in each for each in found if each.startswith(f"{number}:")), fault


def test_values_in_another_unit_than_the_panels_are_found() -> None:
    dashboard = load(DASHBOARDS / "overview.json")
    percent = Case("overview", _panel(dashboard, "Free disk"), (25.8,))
    milliseconds = Case("overview", _panel(dashboard, "Latency, p99"), (4_000.0,))
    assert faults([percent]) == ["overview: Free disk: 25.8 is shown as '2580%'"]
    assert "1.11 hours" in faults([milliseconds])[0]


def test_the_pictures_show_the_texts_that_grafana_shows() -> None:
    values = (
        *(0.0, 1.0, 3.0, 0.00005, 0.0123, 0.123, 0.9995, 1.5, 52.13, 90.0, 999.0, 1_536.0),
        *(-1.92, 7_200.0, 12_345.0, 2_500_000.0, 3.0 * 2**30),
    )
    units = ("none", "short", "percentunit", "bytes", "s", "cps", "ops", "reqps", "bool_yes_no")
    plain: dict[str, Any] = {"thresholds": {"mode": "absolute", "steps": []}}
    configs = [
        plain | {"unit": unit} | ({} if decimals is None else {"decimals": decimals})
        for unit in units
        for decimals in (None, 0, 2)
    ]
    asked: list[tuple[dict[str, Any], Sequence[float]]] = [(each, values) for each in configs]
    asked.append((plain | {"unit": "dtdurations"}, (0.0, 1.0, 61.0, 7_200.0, 400_000.0, 7e6)))
    _, answers = shown(asked)
    for (config, given), answer in zip(asked, answers, strict=True):
        for value, found in zip(given, answer, strict=True):
            drawn = write(value, config["unit"], decimals=config.get("decimals"))
            assert drawn == found.text, (config, value)


def test_grafana_writes_no_number_for_what_is_none() -> None:
    config = {"unit": "s", "thresholds": {"mode": "absolute", "steps": []}, "noValue": "no data"}
    _, ((found,),) = shown([(config, [math.nan])])
    assert "NaN" in found.text or found.text == "no data"
