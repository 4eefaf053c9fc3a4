"""Grafana shows the dashboards without a click: its provisioning fits them and the stack."""

import re
from typing import Any

import pytest
import yaml

from monitoring.generate import DASHBOARDS
from monitoring.prometheus.source.rule import SCRAPE_INTERVAL_SECONDS
from monitoring.stack import PROVISIONING, grafana_environment, options_of

FILES = sorted(PROVISIONING.glob("*/*.yaml"))


def load(kind: str) -> dict[str, Any]:
    (path,) = (PROVISIONING / kind).glob("*.yaml")
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def test_the_default_data_source_is_prometheus_and_knows_the_scrape_interval() -> None:
    sources = load("datasources")["datasources"]
    (default,) = (source for source in sources if source.get("isDefault"))
    assert default["type"] == "prometheus"
    assert default["jsonData"]["timeInterval"] == f"{SCRAPE_INTERVAL_SECONDS}s"


def test_the_alert_list_has_its_rules_and_its_alertmanager() -> None:
    sources = {source["type"]: source for source in load("datasources")["datasources"]}
    assert sources["prometheus"]["jsonData"]["manageAlerts"]
    assert sources["alertmanager"]["jsonData"]["implementation"] == "prometheus"


def test_dashboards_are_read_from_the_folder_of_the_committed_files() -> None:
    (provider,) = load("dashboards")["providers"]
    environment = grafana_environment(options_of([]))
    variable = provider["options"]["path"].removeprefix("$")
    assert environment[variable] == str(DASHBOARDS)
    assert not provider["allowUiUpdates"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_stack_sets_every_variable_that_the_files_use(path: Any) -> None:
    document = "\n".join(
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.lstrip().startswith("#")
    )
    used = set(re.findall(r"\$(?:\{)?([A-Z_]+)", document))
    assert used
    assert used <= grafana_environment(options_of([])).keys()
