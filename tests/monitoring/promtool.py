"""promtool and amtool, run in tests."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from local.process import find_program
from monitoring.generate import ROOT, RULES
from monitoring.prometheus.source import ALERTS, RULE_FILES
from monitoring.prometheus.source.rule import Recording, RuleFile, to_yaml
from tests.monitoring.promql import Selector, selectors
from tests.monitoring.scenarios import SCENARIOS
from tests.monitoring.scenarios.story import Case, Scenario

PROMETHEUS = ROOT / "monitoring" / "prometheus"
PARALLEL = 2
GROUP_ORDER = [group.name for file in RULE_FILES for group in file.groups]
_RECORDINGS = [
    recording for file in RULE_FILES for group in file.groups for recording in group.recordings
]
# promtool spends a quarter of its time on collecting garbage unless it may keep more of it.
_ENVIRONMENT = {**os.environ, "GOGC": "400"}


@dataclass(frozen=True)
class Finished:
    """How a program ended and all that it wrote."""

    status: int
    output: str


def run(names: Sequence[str], *arguments: str | Path) -> Finished:
    """Run a program; StepError where it is not installed."""
    program = find_program(names, "apt-get install prometheus prometheus-alertmanager")
    command = [program, *(str(argument) for argument in arguments)]
    finished = subprocess.run(
        command, capture_output=True, text=True, check=False, env=_ENVIRONMENT
    )
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


def recordings_for(expr: str) -> list[Recording]:
    """Return the recordings that an expression reads, and those that they read, in their order."""
    wanted: set[int] = set()
    unread = [expr]
    while unread:
        for selector in selectors(unread.pop()):
            for index in _read_by(selector):
                if index not in wanted:
                    wanted.add(index)
                    unread.append(_RECORDINGS[index].expr)
    return [_RECORDINGS[index] for index in sorted(wanted)]


def _read_by(selector: Selector) -> Iterator[int]:
    chosen = {matcher.label: matcher.value for matcher in selector.matchers}
    for index, recording in enumerate(_RECORDINGS):
        fits = all(recording.labels.get(name, value) == value for name, value in chosen.items())
        if recording.record == selector.name and fits:
            yield index


def write_tests(directory: Path, alert: str, cases: Sequence[Case]) -> list[Path]:
    """Write promtool's unit tests of an alert, a file for each interval of evaluation.

    They read a copy of the committed rule file that has no rules but this alert and the recordings
    that it reads: evaluating all rules over every case takes ten times as long.
    """
    (file,) = (file for file in RULE_FILES if alert in _alerts(file))
    wanted = [{"alert": alert}, *_identities(recordings_for(ALERTS[alert].expr))]
    groups = []
    for group in yaml.safe_load((RULES / f"{file.name}.yml").read_text())["groups"]:
        rules = [rule for rule in group["rules"] if _identity(rule) in wanted]
        if rules:
            groups.append({**group, "rules": rules})
    write_yaml(directory / f"{alert}.rules.yml", {"groups": groups})
    paths = []
    for interval in sorted({case.interval for case in cases}):
        document = {
            "rule_files": [f"{alert}.rules.yml"],
            "evaluation_interval": interval,
            # Without it promtool takes the groups in an order of chance.
            "group_eval_order": [group["name"] for group in groups],
            "tests": [case.document() for case in cases if case.interval == interval],
        }
        paths.append(write_yaml(directory / f"{alert}_{interval}.yml", document))
    return paths


def _alerts(file: RuleFile) -> list[str]:
    return [alert.name for group in file.groups for alert in group.alerts]


def _identity(rule: dict[str, object]) -> dict[str, object]:
    """Return what tells a rule of a file from the others."""
    if "alert" in rule:
        return {"alert": rule["alert"]}
    return {"record": rule["record"], "labels": rule.get("labels", {})}


def _identities(recordings: Sequence[Recording]) -> list[dict[str, object]]:
    return [{"record": one.record, "labels": dict(one.labels)} for one in recordings]


def write_yaml(path: Path, document: object) -> Path:
    """Write a document and return its path."""
    path.write_text(to_yaml(document))
    return path
