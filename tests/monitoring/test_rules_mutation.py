"""Reverse each comparison, shift each threshold, drop each condition: an alert's cases notice."""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from monitoring.prometheus.source import ALERTS
from monitoring.prometheus.source.rule import Alert
from monitoring.prometheus.source.watching import WATCHDOG
from tests.monitoring.mutation import Mutant, mutants_of
from tests.monitoring.promtool import (
    PARALLEL,
    promtool,
    recordings_for,
    scenarios_of,
    write_yaml,
)

pytestmark = pytest.mark.slow

_NOTICED = re.compile(r'ALERTS\{alertname=\\?"(\w+__\d+)\\?"\}')

Round = tuple[list[Mutant], Future[tuple[list[Mutant], str]]]


def _survivors(alert: Alert, mutants: list[Mutant], directory: Path) -> tuple[list[Mutant], str]:
    """Run the alert's scenarios, one after the other, on the mutants that none has noticed so far.

    The first mutant is the unchanged alert. Return those left and promtool's output.
    """
    recordings = [rule.document() for rule in recordings_for(alert.expr)]
    output = ""
    for number, scenario in enumerate(scenarios_of(alert.name)):
        case = next(scenario.cases())
        rules = [mutant.document(alert) for mutant in mutants]
        groups = [
            {"name": "recordings", "rules": recordings},
            {"name": "mutants", "rules": rules},
        ]
        rules_path = write_yaml(directory / f"{alert.name}_{number}.rules.yml", {"groups": groups})
        document = {
            "rule_files": [rules_path.name],
            "evaluation_interval": case.interval,
            "group_eval_order": ["recordings", "mutants"],
            "tests": [case.document(*(mutant.name for mutant in mutants))],
        }
        path = write_yaml(directory / f"{alert.name}_{number}.yml", document)
        output += promtool("test", "rules", path).output
        noticed = set(_NOTICED.findall(output))
        mutants = [mutant for mutant in mutants if mutant.name not in noticed]
        if not mutants[1:]:
            break
    return mutants, output


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
            found[alert.name] = (mutants, pool.submit(_survivors, alert, mutants, directory))
        return found


# The Watchdog has no threshold that could be wrong.
@pytest.mark.parametrize("alert", [name for name in ALERTS if name != WATCHDOG])
def test_no_mutant_of_the_alert_passes_its_unit_tests(alert: str, rounds: dict[str, Round]) -> None:
    mutants, judged = rounds[alert]
    left, output = judged.result()
    assert len(mutants) >= 3
    assert mutants[0] in left, f"the alert itself fails:\n{output[:4000]}"
    survivors = left[1:]
    assert not survivors, "\n".join(f"{mutant.change}\n    {mutant.expr}" for mutant in survivors)
