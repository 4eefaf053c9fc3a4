"""Faults are told by the probes, named by their reason, and over soon after. All: `make faults`."""

from pathlib import Path

import pytest

from tests.faults.faults import FAULTS
from tests.faults.run import run
from tests.faults.world import fault_world
from tests.support.models import ModelStore


@pytest.mark.slow
@pytest.mark.serial
def test_what_breaks_is_told_with_its_reason_alerted_on_and_over_without_a_restart(
    model_store: ModelStore, tmp_path: Path
) -> None:
    """MLflow fails, the model's process is killed, a token changed, a database locked and full."""
    chosen = [fault for fault in FAULTS if fault.short]
    assert len(chosen) >= 5
    with fault_world(tmp_path, model_store) as (world, alerts):
        rows = run(world, alerts, chosen)
    assert {row.fault.name: row.wrong for row in rows if row.wrong} == {}


def test_every_fault_has_a_name_of_its_own_and_says_what_is_expected() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 40
    for fault in FAULTS:
        assert fault.reasons or not fault.unhealthy, fault.name
