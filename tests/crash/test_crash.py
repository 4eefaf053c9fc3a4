"""Power cuts: what was answered is there afterwards, whatever the disk had not yet taken."""

from pathlib import Path

import pytest

from tests.crash.enumeration import Recording
from tests.crash.recorder import CannotTrace, directories_without_sync, record
from tests.crash.workloads import NO_FSYNC, WORKLOADS

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
    """Power is cut in 300 of the moments of a recording: what was answered is stored, once."""
    outcome = recorded(name, tmp_path).cut(states=STATES)
    assert outcome.broken == []
    assert outcome.states >= STATES * 0.9


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_directory_that_is_made_is_on_disk_before_anything_is_answered(
    name: str, tmp_path: Path
) -> None:
    files = tmp_path / "made" / "files"
    others = tmp_path / "others"
    others.mkdir()
    trace = tmp_path / "trace"
    try:
        record(WORKLOADS[name].module, [files, others], trace, seconds=300.0)
    except CannotTrace as trouble:
        pytest.skip(str(trouble))
    unsynced = directories_without_sync(trace, others / "markers")
    assert not {files, files.parent} & unsynced


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_variant_without_fsync_is_caught(name: str, tmp_path: Path) -> None:
    recording = recorded(name, tmp_path, NO_FSYNC)
    assert recording.cut(states=STATES, stop_at_first=True).broken
