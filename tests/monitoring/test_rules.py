"""The rule files and their unit tests are what their sources make, and promtool passes them."""

from pathlib import Path

import pytest
import yaml

from monitoring.prometheus.generate import generated
from monitoring.prometheus.scenarios.story import Check, Kind, Silence
from monitoring.prometheus.scenarios.wave import counter, gauge
from monitoring.prometheus.scenarios.world import inference
from tests.monitoring.promtool import (
    PROMETHEUS,
    Finished,
    promtool,
    unit_tests_of,
    write_yaml,
)

UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))


@pytest.fixture(scope="module")
def results() -> dict[Path, Finished]:
    return unit_tests_of(UNIT_TESTS)


@pytest.mark.parametrize("path", sorted(generated()), ids=str)
def test_a_committed_file_is_what_its_source_makes(path: Path) -> None:
    assert (PROMETHEUS / path).read_text() == generated()[path], "run make render"


def test_no_file_is_left_from_a_source_that_is_gone() -> None:
    assert {path.relative_to(PROMETHEUS) for path in (*RULES, *UNIT_TESTS)} == set(generated())


def test_promtool_finds_nothing_in_the_rules() -> None:
    finished = promtool("check", "rules", *RULES)
    assert finished.status == 0, finished.output


@pytest.mark.slow
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_promtool_passes_the_unit_tests(path: Path, results: dict[Path, Finished]) -> None:
    assert results[path].status == 0, results[path].output[:8000]


def test_promtool_finds_nothing_in_the_local_configuration() -> None:
    finished = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert finished.status == 0, finished.output
    assert f"{len(RULES)} rule files found" in finished.output


def test_a_gauge_keeps_its_level_through_a_phase() -> None:
    wave = gauge((1, "1m"), (0, "30s"), (None, "30s"), (2, "1h"))
    assert wave.notation("15s", 150) == "1x3 0x1 stale _x1 2x2"


def test_a_counter_grows_through_a_phase_and_begins_anew_after_its_loss() -> None:
    wave = counter((1, "1m"), (0, "30s"), (None, "15s"), (2, "1h"), start=7)
    assert wave.notation("15s", 135) == "7+15x3 52x1 stale 0+30x2"


def test_a_wave_that_is_cut_ends_stale() -> None:
    wave = gauge(((0, 8), "2m"), (5, "1h")).cut(60)
    assert wave.notation("15s", 120) == "0+1x3 stale _x4"


def test_a_counter_that_was_printed_is_no_reset(tmp_path: Path) -> None:
    tenths = counter((0.1, "20m"), (0.7, "20m"), (0, "20m"))
    case = next(
        Silence("X", "", [inference("inference_predictions_total", tenths)], ("59m",)).cases()
    )
    document = case.document("X")
    document["promql_expr_test"] = [
        {"expr": "resets(inference_predictions_total[1h])", "eval_time": "59m", "exp_samples": [_0]}
    ]
    path = write_yaml(tmp_path / "test.yml", {"tests": [document], "evaluation_interval": "1h"})
    finished = promtool("test", "rules", path)
    assert finished.status == 0, finished.output


_0 = {
    "labels": '{instance="10.0.0.1:8000", job="inference-service", model="steel-defects", '
    'namespace="mlops", pod="inference-service-7d4b9c-x2x7q", stage="production"}',
    "value": 0,
}


def test_a_case_that_expects_too_little_fails(tmp_path: Path) -> None:
    rules = {"groups": [{"name": "g", "rules": [{"alert": "X", "expr": "vector(1)"}]}]}
    write_yaml(tmp_path / "rules.yml", rules)
    case = next(Silence("X", "it fires all the same", [], ("1m",), Kind.HEALTHY).cases())
    assert case.checks == (Check(Kind.HEALTHY, 60),)
    document = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "15s",
        "tests": [case.document("X")],
    }
    finished = promtool("test", "rules", write_yaml(tmp_path / "test.yml", document))
    assert finished.status == 1, finished.output
    assert 'alertname="X", alertstate="firing"' in finished.output


def test_every_unit_test_is_named_after_its_alert() -> None:
    for path in UNIT_TESTS:
        for group in yaml.safe_load(path.read_text())["tests"]:
            alert = group["name"].partition(":")[0]
            assert all(alert in test["expr"] for test in group["promql_expr_test"])
