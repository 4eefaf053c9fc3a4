"""The metrics that both services show, and that Prometheus's own tools find nothing in them."""

import ast
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from bentos.health.probes import Probes
from bentos.health.values import Family
from bentos.inference.model.spec import ModelIdentity, ModelSpec, ServedModel
from bentos.inference.settings import InferenceSettings
from bentos.inference.state import InferenceState, inference_probes
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import LoggingState, logging_probes
from tests.support.servers import ROOT
from tests.support.tools import promtool_findings

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


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.fixture
def inference(tmp_path: Path) -> Probes:
    return inference_probes(InferenceSettings(), _made(tmp_path / "inference")).probes(worker=1)


@pytest.fixture
def logging(tmp_path: Path) -> Probes:
    return logging_probes(LoggingSettings(), _made(tmp_path / "logging")).probes(worker=1)


@pytest.fixture(params=["inference", "logging"])
def probes(request: pytest.FixtureRequest) -> Probes:
    found: Probes = request.getfixturevalue(request.param)
    return found


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_the_services_show_what_the_contract_promises(inference: Probes, logging: Probes) -> None:
    families = {one.name: one for one in (*inference.state.families(), *logging.state.families())}
    promised = {name: (families[name].kind, set(families[name].labels)) for name in CONTRACT}
    assert promised == CONTRACT


def test_every_metric_has_one_name_and_an_explanation(probes: Probes) -> None:
    families = probes.state.families()
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.help.endswith(".")
        assert bool(family.buckets) == (family.kind == "histogram")
        assert list(family.buckets) == sorted(set(family.buckets))
        assert family.name.endswith("_total") == (family.kind == "counter")


def test_counters_stand_at_zero_from_the_start(probes: Probes) -> None:
    found = samples(probes.metrics().body)
    counters = {family.name for family in probes.state.families() if family.kind == "counter"}
    assert counters == {name for name, _ in found if name in counters}
    for (name, _), value in found.items():
        if name in counters:
            assert value == 0.0


def test_the_errors_of_every_reason_stand_at_zero_from_the_start(inference: Probes) -> None:
    found = samples(inference.metrics().body)
    for reason in ("model_failure", "timeout", "internal_error"):
        labels = {"model": "steel-defects", "stage": "production", "reason": reason}
        assert found["inference_errors_total", frozenset(labels.items())] == 0.0


def test_no_series_comes_twice(probes: Probes) -> None:
    lines = [line for line in probes.metrics().body.decode().splitlines() if line[0] != "#"]
    series = [line.rpartition(" ")[0] for line in lines]
    assert len(set(series)) == len(series)


def test_promtool_finds_nothing(probes: Probes) -> None:
    state = probes.state
    if isinstance(state, InferenceState):
        state.confidence['a "quoted"\nname\\'].observe(0.5)
        spec = ModelSpec((2,), "float32", ("good", "bad"), (False, True))
        state.model_is(ServedModel(ModelIdentity("steel", "production", "7"), spec))
    text = probes.metrics().body
    exposed = {one.name for one in text_string_to_metric_families(text.decode())}
    assert {family.name.removesuffix("_total") for family in probes.state.families()} == exposed
    assert promtool_findings(text) == ""


def test_openmetrics_says_the_same_and_names_the_trace_of_an_observation(probes: Probes) -> None:
    state = probes.state
    if isinstance(state, InferenceState):
        state.duration.observe(0.003, "0af7651916cd43dd8448eb211c80319c")
    plain = samples(probes.metrics().body)
    answer = probes.metrics(openmetrics=True)
    families = [*parse_openmetrics(answer.body.decode())]  # type: ignore[no-untyped-call]
    assert answer.content_type.startswith("application/openmetrics-text")
    found = [one for family in families for one in family.samples]
    assert {(one.name, frozenset(one.labels.items())) for one in found} == set(plain)
    exemplars = [(one.labels["le"], one.exemplar) for one in found if one.exemplar]
    if isinstance(state, InferenceState):
        ((upper, exemplar),) = exemplars
        assert (upper, exemplar.value) == ("0.005", 0.003)
        assert exemplar.labels == {"trace_id": "0af7651916cd43dd8448eb211c80319c"}


def test_labels_that_the_metrics_have_are_those_that_are_declared(probes: Probes) -> None:
    declared: dict[str, Family] = {
        family.name.removesuffix("_total"): family for family in probes.state.families()
    }
    for family in text_string_to_metric_families(probes.metrics().body.decode()):
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(declared[family.name].labels)


def test_every_reason_that_the_inference_service_gives_is_declared(inference: Probes) -> None:
    """A reason that is not declared would be counted as `other`, or be a KeyError."""
    given = {
        reason
        for room in ("edge", "inference")
        for path in (ROOT / "bentos" / room).rglob("*.py")
        for reason in reasons_in(path)
    }
    state: InferenceState = inference.state  # type: ignore[assignment]
    undeclared = {one for one in given if one not in state.errors and one not in state.rejected}
    # Of a path that nobody has, which is no request to the service; and of heat maps, which are
    # counted by outcome.
    assert undeclared == {"not_found", "explain_busy", "explain_starting", "model_replaced"}
    assert {"bad_input", "queue_full", "model_failure"} <= given


def reasons_in(path: Path) -> Iterator[str]:
    """Yield the reasons of the errors that a module raises."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "ServiceError"
            and isinstance(node.args[1], ast.Constant)
        ):
            yield str(node.args[1].value)


def test_a_database_whose_check_does_not_end_is_not_accessible_in_metrics_as_in_ready(
    tmp_path: Path,
) -> None:
    now = [time.monotonic()]
    state = LoggingState(tmp_path, clock=lambda: now[0])
    plan = logging_probes(LoggingSettings(), tmp_path)
    probes = Probes(state, liveness=[], readiness=plan.readiness, describe=plan.describe)

    def said() -> tuple[float, bool]:
        (accessible,) = (
            value
            for (name, _), value in samples(probes.metrics().body).items()
            if name == "logging_db_accessible"
        )
        return accessible, "database_not_accessible" in probes.is_ready().reasons

    assert said() == (0.0, True)
    state.database_works()
    assert said() == (1.0, False)
    now[0] += 60
    assert said() == (0.0, True)
    assert state.db_initialized.value == 1
    now[0] -= 60
    state.database_fails("busy")
    assert said() == (0.0, True)
