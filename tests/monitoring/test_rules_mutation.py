"""Reverse each comparison, shift each threshold, drop each condition: an alert's cases notice."""

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from monitoring.prometheus.source import ALERTS, RULE_FILES
from monitoring.prometheus.source.rule import Alert, Recording
from monitoring.prometheus.source.watching import WATCHDOG
from tests.monitoring.mutation import Mutant, mutants_of
from tests.monitoring.promql import Selector, selectors
from tests.monitoring.promtool import PARALLEL, Finished, promtool, scenarios_of, write_yaml

pytestmark = pytest.mark.slow

_RECORDINGS = [
    recording for file in RULE_FILES for group in file.groups for recording in group.recordings
]
_NOTICED = re.compile(r'ALERTS\{alertname=\\?"(\w+__\d+)\\?"\}')

Round = tuple[list[Mutant], Future[Finished]]


def _needed(expr: str) -> list[Recording]:
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


def _judge(alert: Alert, mutants: list[Mutant], directory: Path) -> Finished:
    """Run the alert's scenarios on every mutant, in one run of promtool for each interval."""
    groups = [
        {"name": "recordings", "rules": [rule.document() for rule in _needed(alert.expr)]},
        {"name": "mutants", "rules": [mutant.document(alert) for mutant in mutants]},
    ]
    rules = write_yaml(directory / f"{alert.name}.yml", {"groups": groups})
    cases = [next(scenario.cases()) for scenario in scenarios_of(alert.name)]
    outputs = []
    for interval in sorted({case.interval for case in cases}):
        tests = []
        for case in cases:
            if case.interval == interval:
                document = case.document(alert.name)
                document["promql_expr_test"] = [
                    test
                    for mutant in mutants
                    for test in case.document(mutant.name)["promql_expr_test"]  # type: ignore[attr-defined]
                ]
                tests.append(document)
        document = {
            "rule_files": [rules.name],
            "evaluation_interval": interval,
            "group_eval_order": ["recordings", "mutants"],
            "tests": tests,
        }
        path = write_yaml(directory / f"{alert.name}_{interval}.yml", document)
        outputs.append(promtool("test", "rules", path))
    return Finished(max(one.status for one in outputs), "".join(one.output for one in outputs))


@pytest.fixture(scope="module")
def rounds(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Round]:
    wanted = {
        str(item.callspec.params["alert"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    }
    directory = tmp_path_factory.mktemp("mutants")
    with ThreadPoolExecutor(PARALLEL) as pool:
        found: dict[str, Round] = {}
        for alert in (ALERTS[name] for name in sorted(wanted)):
            mutants = mutants_of(alert)
            found[alert.name] = (mutants, pool.submit(_judge, alert, mutants, directory))
        return found


# The Watchdog has no threshold that could be wrong.
@pytest.mark.parametrize("alert", [name for name in ALERTS if name != WATCHDOG])
def test_no_mutant_of_the_alert_passes_its_unit_tests(alert: str, rounds: dict[str, Round]) -> None:
    mutants, judged = rounds[alert]
    output = judged.result().output
    noticed = set(_NOTICED.findall(output))
    assert mutants[0].name not in noticed, f"the alert itself fails:\n{output[:4000]}"
    survivors = [mutant for mutant in mutants[1:] if mutant.name not in noticed]
    assert len(mutants) >= 3
    assert not survivors, "\n".join(f"{mutant.change}\n    {mutant.expr}" for mutant in survivors)
