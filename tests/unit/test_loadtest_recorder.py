"""What a load test observes and how it gets from workers to the verdict."""

import json
from pathlib import Path

import pytest

from loadtests.recorder import Recorder, read_observations
from loadtests.samples import Change, Observations, ProbeSample, percentile


def sample(at: float, *, status: int = 200, error: str = "") -> ProbeSample:
    return ProbeSample(
        service="inference-service",
        port="probes",
        path="/ready",
        probe="readiness",
        cadence="dense",
        intended=at,
        delay=0.000_012_345_678_9,
        latency=0.001_234_567_891_2,
        status=status,
        error=error,
    )


def test_what_was_written_is_read_again_unrounded(tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.clients(0)
    recorder.clients(16)
    recorder.probe(sample(1_700_000_000.123456, status=0, error='no answer, "really"'))
    recorder.probe(sample(1_600_000_000.1))
    recorder.request("POST /predict", "succeeded")
    recorder.request("POST /predict", "succeeded")
    recorder.request("POST /predict", "rejected")
    recorder.write(tmp_path / "reports")
    observations = read_observations(tmp_path / "reports")
    assert observations.samples == sorted(recorder.samples, key=lambda one: one.intended)
    assert [change.clients for change in observations.changes] == [0, 16]
    assert observations.outcomes == {"POST /predict": {"succeeded": 2, "rejected": 1}}


def test_a_run_that_wrote_nothing_has_no_observations(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_observations(tmp_path)


def test_a_worker_hands_its_observations_over_once() -> None:
    worker, master = Recorder(), Recorder()
    worker.probe(sample(1.0))
    worker.request("POST /predict", "failed")
    for _ in range(2):
        report: dict[str, object] = {"stats": {}}
        worker.drain(report)
        master.merge(json.loads(json.dumps(report)))
    master.merge({"stats": {}})
    assert master.samples == [sample(1.0)]
    assert master.count() == master.count("failed") == 1
    assert worker.samples == []


def test_requests_are_counted_by_what_became_of_them() -> None:
    recorder = Recorder()
    for outcome in ("succeeded", "failed", "dropped", "rejected", "failed"):
        recorder.request("POST /log", outcome)
    assert recorder.count() == 5
    assert recorder.count("failed", "dropped") == 3


def observations(*changes: Change) -> Observations:
    return Observations(samples=[], changes=changes, outcomes={}, ended_at=100.0)


def test_a_moment_is_loaded_while_there_are_clients() -> None:
    run = observations(Change(10, 0), Change(20, 16), Change(30, 0))
    moments = (5, 10, 19.9, 20, 29.9, 30)
    phases = ["idle", "idle", "idle", "loaded", "loaded", "idle"]
    assert [run.phase(moment) for moment in moments] == phases


def test_a_run_without_stages_is_loaded_throughout() -> None:
    assert observations().phase(5) == "loaded"


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_a_percentile_is_a_value_that_was_observed(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
