"""Power cuts: what was answered is there afterwards, whatever the disk had not yet taken."""

from pathlib import Path

import pytest

from tests.crash.enumeration import Recording
from tests.crash.recorder import CannotTrace
from tests.crash.workloads import VARIANTS, WORKLOADS

pytestmark = pytest.mark.slow
STATES = 300


def recorded(name: str, directory: Path, *options: str) -> Recording:
    try:
        return Recording(WORKLOADS[name], directory, *options)
    except CannotTrace as trouble:
        pytest.skip(str(trouble))


@pytest.mark.case(22)
@pytest.mark.parametrize("name", WORKLOADS)
def test_what_was_promised_outlives_a_power_cut(name: str, tmp_path: Path) -> None:
    """Power is cut in 300 of the moments of a recording: what was answered is stored, once.

    The directories of the files are made by the workload, and a name that is not synced may go.
    """
    outcome = recorded(name, tmp_path).cut(states=STATES)
    assert outcome.broken == []
    assert outcome.states >= STATES * 0.9


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_variant_that_leaves_syncing_to_the_system_is_caught(
    name: str, variant: str, tmp_path: Path
) -> None:
    recording = recorded(name, tmp_path, variant)
    assert recording.cut(states=STATES, stop_at_first=True).broken
