"""Killed, cut off and full: what was acknowledged is stored, once. In full: `make chaos`."""

from pathlib import Path

import pytest

from tests.chaos.faults import faults
from tests.chaos.run import run, world
from tests.support.models import ModelStore


@pytest.mark.slow
@pytest.mark.case(13)
def test_what_is_acknowledged_is_stored_once_whatever_is_killed_cut_or_full(
    model_store: ModelStore, tmp_path: Path
) -> None:
    """Services are killed, connections cut, disks filled: what was answered 200 is stored once."""
    plan = [(fault, fault.short) for fault in faults(away_seconds=0.0) if fault.short]
    with world(tmp_path, model_store) as services:
        # Few clients: other tests run beside this one.
        rows = run(services, plan, seed=1, clients=4)
    assert {row.fault: row.wrong for row in rows if row.wrong} == {}
