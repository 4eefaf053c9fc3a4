"""Prometheus's configuration for compose.yaml, derived from the one for services on this machine.

    python -m compose.prometheus

writes compose/prometheus.yml. It differs in hosts alone: in the stack's network a container is
found by its name, and a scrape job has the name of the container that it scrapes.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from monitoring.stack import PROMETHEUS_CONFIG

PATH = Path(__file__).with_suffix(".yml")
_ALERTMANAGER = "alertmanager"
_HEADER = (
    "# Generated from monitoring/prometheus/prometheus.yml by `python -m compose.prometheus`.\n"
)


def configuration() -> dict[str, Any]:
    """Return the configuration with the hosts of the stack's network."""
    config = dict(yaml.safe_load(PROMETHEUS_CONFIG.read_text(encoding="utf-8")))
    for scrape in config["scrape_configs"]:
        scrape["static_configs"] = _moved(scrape["static_configs"], scrape["job_name"])
    for alertmanager in config["alerting"]["alertmanagers"]:
        alertmanager["static_configs"] = _moved(alertmanager["static_configs"], _ALERTMANAGER)
    return config


def _moved(entries: Sequence[dict[str, Any]], host: str) -> list[dict[str, Any]]:
    """Return the entries with every target on this host, at the port it has."""
    return [
        {**entry, "targets": [f"{host}:{target.rpartition(':')[2]}" for target in entry["targets"]]}
        for entry in entries
    ]


def rendered() -> str:
    """Return the file's text."""
    return _HEADER + yaml.safe_dump(configuration(), sort_keys=False)


def main() -> int:
    """Write the file."""
    PATH.write_text(rendered(), encoding="utf-8")
    print(PATH.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
