"""The metric families of the kit and of both services."""

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bentos.inference.exposition import InferenceMetrics
from prometheus_client.parser import text_string_to_metric_families

from bentos.health import probes
from bentos.health.checks import Verdict
from bentos.health.metrics import (
    EVENT_LOOP_DELAY,
    HTTP_REQUESTS,
    PROBE_DURATION,
    SHARED_FAMILIES,
    Family,
    Metrics,
    unready_samples,
)
from bentos.inference import metrics as inference
from bentos.inference.state import InferenceState
from bentos.logging import metrics as logging_metrics
from tests.support.processes import child
from tests.support.servers import ROOT

COUNTER = Family("work_done_total", "counter", "Work done.", ("service",))
GAUGE = Family("work_waiting", "gauge", "Work waiting.", ("service",))
DURATION = Family("work_duration_seconds", "histogram", "Time of work.", ("service",), (0.1, 1.0))
LABELS = {"model": "steel", "stage": "production"}

# Names, types and labels that dashboards and alerts of users rely on.
CONTRACT = {
    "inference_model_loaded": ("gauge", {"model", "stage"}),
    "inference_mlflow_accessible": ("gauge", {"model", "stage"}),
    "inference_predictions_total": ("counter", {"model", "stage"}),
    "inference_errors_total": ("counter", {"model", "stage", "reason"}),
    "inference_prediction_duration_seconds": ("histogram", {"model", "stage"}),
    "inference_batch_size": ("histogram", {"model", "stage"}),
    "inference_confidence": ("histogram", {"model", "stage", "class_name"}),
    "inference_model_info": ("gauge", {"model", "stage", "version"}),
    "inference_log_backlog": ("gauge", {"model", "stage"}),
    "inference_log_delivered_total": ("counter", {"model", "stage"}),
    "inference_log_dropped_total": ("counter", {"model", "stage"}),
    "logging_db_initialized": ("gauge", {"service"}),
    "logging_predictions_total": ("counter", {"service"}),
    "logging_defects_total": ("counter", {"service"}),
    "logging_errors_total": ("counter", {"service"}),
    "probe_duration_seconds": ("histogram", {"service", "probe", "status"}),
}


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(text: bytes, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


def lint(text: bytes) -> str:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    found = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    return found.stdout.decode() + found.stderr.decode()


def inference_metrics(directory: Path) -> tuple[InferenceState, InferenceMetrics]:
    state = InferenceState(directory, worker=1, workers=1)
    exposition = InferenceMetrics(
        directory / "metrics", state, model=LABELS["model"], stage=LABELS["stage"]
    )
    exposition.feed_readiness(lambda: Verdict(reasons=("model_not_loaded",)))
    return state, exposition


def test_the_catalogues_hold_what_the_contract_promises() -> None:
    families = {f.name: f for f in (*inference.FAMILIES, *logging_metrics.FAMILIES)}
    promised = {name: (families[name].kind, set(families[name].labels)) for name in CONTRACT}
    assert promised == CONTRACT


@pytest.mark.parametrize("catalogue", [inference.FAMILIES, logging_metrics.FAMILIES])
def test_a_catalogue_names_everything_once_and_explains_it(catalogue: tuple[Family, ...]) -> None:
    assert len({family.name for family in catalogue}) == len(catalogue)
    for family in catalogue:
        assert family.help.endswith(".")
        assert bool(family.buckets) == (family.kind == "histogram")
        assert list(family.buckets) == sorted(set(family.buckets))
        assert family.name.endswith("_total") == (family.kind == "counter")


def test_every_family_of_the_inference_service_is_fed(tmp_path: Path) -> None:
    _, exposition = inference_metrics(tmp_path)
    assert exposition.unread == frozenset()


def test_a_family_that_nothing_feeds_is_told(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, (COUNTER, GAUGE, DURATION))
    assert metrics.unread == {COUNTER.name, GAUGE.name}
    metrics.value(COUNTER.name, {"service": "s"}, lambda: 1.0)
    assert metrics.unread == {GAUGE.name}


def test_a_name_outside_the_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Metrics(tmp_path, (COUNTER,)).value("work_lost_total", {}, lambda: 1.0)


def test_counters_stand_at_zero_from_the_start(tmp_path: Path) -> None:
    _, exposition = inference_metrics(tmp_path)
    told = samples(exposition.exposition())
    counters = {family.name for family in inference.FAMILIES if family.kind == "counter"}
    seen = {name for name, _ in told}
    assert counters - {HTTP_REQUESTS.name} <= seen  # whose routes the door knows
    for reason in inference.ERROR_REASONS:
        labels = frozenset({**LABELS, "reason": reason}.items())
        assert told["inference_errors_total", labels] == 0.0


def test_what_the_state_counts_is_what_the_metrics_tell(tmp_path: Path) -> None:
    state, exposition = inference_metrics(tmp_path)
    state.record_predictions(3, 1.0)
    state.record_error("model_failure")
    state.record_refusal("bad_input")
    state.row.set("log_backlog", 7)
    text = exposition.exposition()
    assert value(text, "inference_predictions_total", **LABELS) == 3
    assert value(text, "inference_errors_total", **LABELS, reason="model_failure") == 1
    assert value(text, "inference_rejected_total", **LABELS, reason="bad_input") == 1
    assert value(text, "inference_log_backlog", **LABELS) == 7
    assert value(text, "inference_unready", **LABELS, reason="model_not_loaded") == 1
    assert value(text, "inference_unready", **LABELS, reason="shutting_down") == 0
    assert value(text, "inference_ready", **LABELS) == 0


def test_classes_that_were_not_predicted_yet_stand_at_zero(tmp_path: Path) -> None:
    _, exposition = inference_metrics(tmp_path)
    exposition.know_classes(("good", 'a "quoted"\nname\\'))
    text = exposition.exposition()
    assert value(text, "inference_confidence_count", **LABELS, class_name="good") == 0
    assert lint(text) == ""


def test_promtool_finds_nothing_in_the_inference_services_metrics(tmp_path: Path) -> None:
    _, exposition = inference_metrics(tmp_path)
    exposition.know_classes(("good",))
    exposition.loaded(succeeded=True, seconds=1.0)
    exposition.model_called(inputs=3, seconds=0.01)
    exposition.counters[HTTP_REQUESTS.name].labels("svc", "/predict", "200").inc()
    exposition.histograms[PROBE_DURATION.name].labels("svc", "ready", "200").observe(0.001)
    exposition.histograms[EVENT_LOOP_DELAY.name].labels("svc").observe(0.001)
    text = exposition.exposition()
    told = {name for name, _ in samples(text)}
    for family in inference.FAMILIES:
        assert any(name.startswith(family.name) for name in told | {"inference_model_info"})
    assert lint(text) == ""


def test_promtool_would_find_something() -> None:
    assert "lint" not in lint(b"# HELP good_total Fine.\n# TYPE good_total counter\ngood_total 1\n")
    assert lint(b"# TYPE bad counter\nbad 1\n") != ""


def test_every_reason_for_being_unready_has_a_sample() -> None:
    told = unready_samples({"a": "b"}, ("one", "two"), Verdict(reasons=("two",)))
    assert told == [({"a": "b", "reason": "one"}, 0.0), ({"a": "b", "reason": "two"}, 1.0)]


def work(directory: Path, seconds: float) -> bytes:
    """Run in a worker's process: observe, and tell the metrics of the pod."""
    metrics = Metrics(directory, (*SHARED_FAMILIES, DURATION))
    metrics.histograms[DURATION.name].labels("s").observe(seconds)
    metrics.counters[HTTP_REQUESTS.name].labels("s", "/task", "200").inc()
    return metrics.exposition()


@pytest.fixture
def several_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let child processes import prometheus-client in its multi-process mode, as workers do."""
    elsewhere = tmp_path / "bentoml"
    elsewhere.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(elsewhere))
    yield tmp_path / "pod"
    # A second service under the same BENTOML_HOME empties that directory: nothing may lie there.
    assert list(elsewhere.iterdir()) == []


def test_histograms_and_requests_are_the_pods_and_outlive_their_worker(
    several_workers: Path,
) -> None:
    def count(text: bytes) -> tuple[float, float]:
        return (
            value(text, f"{DURATION.name}_count", service="s"),
            value(text, HTTP_REQUESTS.name, service="s", route="/task", status="200"),
        )

    with child(work, several_workers, 0.05) as one:
        assert count(one.result) == (1, 1)
        one.kill()
    with child(work, several_workers, 0.5) as two, child(work, several_workers, 5.0) as three:
        assert count(two.result) == (2, 2)
        assert count(three.result) == (3, 3)
        assert b"pid=" not in three.result
        told = value(three.result, f"{DURATION.name}_bucket", service="s", le="0.1")
        assert told == 1
        assert lint(three.result) == ""


def reserve(directory: Path) -> list[tuple[int, int]]:
    """Run in a worker's process: return size and blocks' bytes of its files once reserved."""
    metrics = Metrics(directory, (*SHARED_FAMILIES, DURATION))
    metrics.histograms[DURATION.name].labels("s")
    metrics.counters[HTTP_REQUESTS.name].labels("s", "/task", "200")
    found = sorted(directory.glob("*.db"))
    assert any(path.stat().st_blocks * 512 < path.stat().st_size for path in found), "no hole"
    metrics.reserve()
    return [(path.stat().st_size, path.stat().st_blocks * 512) for path in found]


def test_the_files_have_no_hole_that_a_full_disk_could_not_fill(several_workers: Path) -> None:
    with child(reserve, several_workers) as worker:
        assert len(worker.result) == 2
        for size, blocks in worker.result:
            assert blocks >= size > 0


def test_every_reason_that_the_code_gives_is_declared() -> None:
    """An undeclared reason would be a KeyError while an error is being answered."""
    declared = {*inference.ERROR_REASONS, *inference.REFUSAL_REASONS}
    given = set()
    for package in ("health", "inference"):
        for path in (ROOT / "bentos" / package).glob("*.py"):
            given |= set(reasons_in(path))
    # Of a probe and of a path that nobody has: neither is a request to the service.
    assert given - declared == {"metrics_failed", "not_found"}
    assert {"bad_input", "queue_full", "model_failure"} <= given


def reasons_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "ServiceError"
            and isinstance(node.args[1], ast.Constant)
        ):
            yield str(node.args[1].value)


def test_the_reasons_of_unreadiness_are_those_that_the_metrics_tell() -> None:
    source = (ROOT / "bentos" / "inference" / "app.py").read_text()
    assert probes.READY_PATH == "/ready"
    for reason in inference.UNREADY_REASONS:
        assert f'"{reason}"' in source or f"checks.{reason}(" in source
