"""The dashboards by Grafana's own libraries: its schema's types, and the texts that it shows."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from monitoring.generate import DASHBOARDS
from monitoring.grafana.render.units import write
from tests.monitoring.dashboards import PATHS, charts, load
from tests.monitoring.dashboards_display import Case, faults
from tests.monitoring.dashboards_grafana import shown, type_errors

# The first test installs the libraries, 28 MB, and Node, 60 MB.
pytestmark = pytest.mark.slow

TYPICAL = {
    "percentunit": (0.0, 0.0004, 0.123, 1.0),
    "s": (0.0, 0.00005, 0.0123, 1.5, 95.0),
    "bytes": (0.0, 1_536.0, 5e9),
    "dtdurations": (0.0, 61.0, 90_000.0),
    "bool_yes_no": (0.0, 1.0),
}


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


def test_an_option_a_unit_and_a_threshold_that_grafana_does_not_have_are_found(
    tmp_path: Path,
) -> None:
    dashboard = load(DASHBOARDS / "overview.json")
    by_title = {panel["title"]: panel for panel in dashboard["panels"]}
    by_title["Up"]["options"]["colour"] = "none"
    by_title["Latency, p99"]["fieldConfig"]["defaults"]["unit"] = "seconds"
    by_title["Free disk"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] = 10
    by_title["Ready"]["fieldConfig"]["defaults"]["mappings"][0]["options"].pop("0")
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(dashboard))
    (mistyped,) = type_errors([path])
    assert "colour" in mistyped
    found = "\n".join(faults(cases("broken", dashboard)))
    for fault in (
        "Latency, p99: Grafana has no unit 'seconds'",
        "Free disk: the threshold 10 is 1000%",
        "Ready: the state 0.0 is shown as '0'",
    ):
        assert fault in found


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
