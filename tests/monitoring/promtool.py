"""promtool and amtool, run in tests."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local.process import find_program
from monitoring.generate import ROOT, RULES
from monitoring.prometheus.source import RULE_FILES
from monitoring.prometheus.source.rule import RuleFile, to_yaml
from tests.monitoring.scenarios import SCENARIOS
from tests.monitoring.scenarios.story import Case, Scenario

PROMETHEUS = ROOT / "monitoring" / "prometheus"
PARALLEL = 2
GROUP_ORDER = [group.name for file in RULE_FILES for group in file.groups]


@dataclass(frozen=True)
class Finished:
    """How a program ended and all that it wrote."""

    status: int
    output: str


def run(names: Sequence[str], *arguments: str | Path) -> Finished:
    """Run a program; StepError where it is not installed."""
    program = find_program(names, "apt-get install prometheus prometheus-alertmanager")
    command = [program, *(str(argument) for argument in arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return Finished(finished.returncode, finished.stdout + finished.stderr)


def promtool(*arguments: str | Path) -> Finished:
    """Run promtool."""
    return run(("promtool",), *arguments)


def amtool(*arguments: str | Path) -> Finished:
    """Run amtool."""
    return run(("amtool",), *arguments)


def scenarios_of(alert: str) -> list[Scenario]:
    """Return every scenario of an alert."""
    return [scenario for scenario in SCENARIOS if scenario.alert == alert]


def cases_of(file: RuleFile) -> dict[str, list[Case]]:
    """Return every case of a rule file's alerts, by the interval at which it is evaluated."""
    alerts = {alert.name for group in file.groups for alert in group.alerts}
    found: dict[str, list[Case]] = {}
    for scenario in SCENARIOS:
        if scenario.alert in alerts:
            found.setdefault(scenario.interval, []).extend(scenario.cases())
    return found


def unit_tests(file: RuleFile, interval: str) -> dict[str, object]:
    """Return promtool's unit tests of a committed rule file, those of one interval."""
    return {
        "rule_files": [str(RULES / f"{file.name}.yml")],
        "evaluation_interval": interval,
        # Without it promtool takes the groups in an order of chance.
        "group_eval_order": [group.name for group in file.groups],
        "tests": [case.document() for case in cases_of(file)[interval]],
    }


def write_yaml(path: Path, document: object) -> Path:
    """Write a document and return its path."""
    path.write_text(to_yaml(document))
    return path
