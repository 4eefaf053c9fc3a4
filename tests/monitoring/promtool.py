"""promtool and amtool, run in tests."""

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from local.process import find_program
from monitoring.prometheus.scenarios import SCENARIOS, Scenario
from monitoring.prometheus.source import RULE_FILES

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "monitoring" / "prometheus"
PARALLEL = 2


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


def unit_tests_of(paths: Sequence[Path]) -> dict[Path, Finished]:
    """Run files of promtool unit tests, a few at a time."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        results = pool.map(lambda path: promtool("test", "rules", path), paths)
        return dict(zip(paths, results, strict=True))


def scenarios_of(alert: str) -> list[Scenario]:
    """Return every scenario of an alert."""
    return [scenario for scenario in SCENARIOS if scenario.alert == alert]


def write_yaml(path: Path, document: object) -> Path:
    """Write a document and return its path."""
    path.write_text(yaml.safe_dump(document, sort_keys=False, width=10_000))
    return path


GROUP_ORDER = [group.name for file in RULE_FILES for group in file.groups]
