"""A load test's settings, its stages and its plan of probes."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from bentos.inference.settings import InferenceSettings
from loadtests.plan import kubelet_plan, prometheus_plan
from loadtests.settings import PREFIX, LoadTestSettings
from loadtests.shapes import Stage, clients_at, stages
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE, SERVICES
from tests.support.servers import ROOT


@pytest.fixture(autouse=True)
def no_settings_of_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LoadTestSettings(logging_token="x").environment():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("UI", raising=False)
    monkeypatch.chdir(ROOT)


def test_the_services_are_looked_for_at_their_own_default_ports() -> None:
    port = InferenceSettings.model_fields["inference_port"].default
    assert LoadTestSettings().inference_url == f"http://127.0.0.1:{port}"


def test_an_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_CLIENTS", "3")
    monkeypatch.setenv("LOADTEST_SHAPE", "spike")
    settings = LoadTestSettings.from_arguments(["--clients", "5"])
    assert (settings.clients, settings.shape) == (5, "spike")


@pytest.mark.parametrize(("value", "wanted"), [("1", True), ("0", False), ("", False)])
def test_make_loadtest_asks_for_the_page_by_a_variable(
    monkeypatch: pytest.MonkeyPatch, value: str, *, wanted: bool
) -> None:
    monkeypatch.setenv("UI", value)
    assert LoadTestSettings.from_arguments([]).ui is wanted


def test_another_process_reads_the_same_settings_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = LoadTestSettings.from_arguments(
        ["--logging-url", "none", "--logging-token", "secret", "--rate", "12.5", "--ui"]
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert LoadTestSettings() == settings


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("inference-url", "none"),
        ("inference-url", "https://example.org"),
        ("logging-url", "127.0.0.1:8001"),
        ("inference-probe-url", "https://example.org"),
        ("clients", "0"),
        ("rate", "-1"),
        ("shape", "square"),
        ("max-error-ratio", "1.5"),
        ("seconds", "0"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(option: str, value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        LoadTestSettings.from_arguments([f"--{option}", value])
    assert option.replace("-", "_") in str(caught.value)


@pytest.mark.parametrize("shape", ["steady", "steps", "spike", "soak"])
def test_every_shape_begins_idle_reaches_all_clients_and_takes_its_time(shape: str) -> None:
    plan = stages(LoadTestSettings(shape=shape, clients=8, idle_seconds=5, seconds=40))
    assert plan[0] == Stage(5, 0)
    assert max(stage.clients for stage in plan) == 8
    assert min(stage.clients for stage in plan[1:]) >= 1
    assert sum(stage.seconds for stage in plan) == pytest.approx(45)


def test_steps_only_ever_add_clients_and_a_spike_takes_them_back() -> None:
    steps = stages(LoadTestSettings(shape="steps", clients=16))
    assert [stage.clients for stage in steps] == [0, 4, 8, 12, 16]
    spike = stages(LoadTestSettings(shape="spike", clients=12))
    assert [stage.clients for stage in spike] == [0, 2, 12, 2]


def test_the_clients_of_a_moment_are_those_of_its_stage() -> None:
    plan = (Stage(5, 0), Stage(10, 4), Stage(10, 8))
    moments = (0, 4.9, 5, 14.9, 15, 24.9, 25)
    assert [clients_at(plan, moment) for moment in moments] == [0, 0, 4, 4, 8, 8, None]


def test_a_manual_load_has_no_stages_and_another_may_have_no_idle_one() -> None:
    assert stages(LoadTestSettings(shape="manual")) == ()
    assert stages(LoadTestSettings(idle_seconds=0, seconds=9, clients=2)) == (Stage(9, 2),)


@pytest.mark.parametrize("service", [INFERENCE_SERVICE, LOGGING_SERVICE])
def test_every_service_is_probed_at_its_manifests_period_and_more_densely(service: str) -> None:
    plans = [one for one in kubelet_plan(LoadTestSettings()) if one.target.service == service]
    timings = SERVICES[service]
    by_target = {
        (one.target.probe, one.target.cadence): one.schedule
        for one in plans
        if one.target.port == "probes"
    }
    assert by_target["readiness", "manifest"].interval_seconds == timings.readiness.period_seconds
    assert by_target["liveness", "manifest"].interval_seconds == timings.liveness.period_seconds
    assert by_target["readiness", "dense"].timeout_seconds == timings.readiness.timeout_seconds
    assert by_target["liveness", "dense"].interval_seconds == 0.1
    assert by_target["readiness", "dense"].url.endswith("/ready")
    assert by_target["liveness", "manifest"].url.endswith("/health")


@pytest.mark.parametrize("service", [INFERENCE_SERVICE, LOGGING_SERVICE])
def test_what_the_manifest_sends_goes_to_its_port_and_the_services_own_is_measured_beside_it(
    service: str,
) -> None:
    settings = LoadTestSettings(
        inference_url="http://10.0.0.5:9000", logging_url="http://[fd00::5]:9001"
    )
    hosts = {INFERENCE_SERVICE: "10.0.0.5", LOGGING_SERVICE: "[fd00::5]"}
    ports = {
        INFERENCE_SERVICE: {"probes": 8010, "http": 9000},
        LOGGING_SERVICE: {"probes": 8011, "http": 9001},
    }
    plans = [*kubelet_plan(settings), *prometheus_plan(settings)]
    asked: set[tuple[str, str]] = set()
    for one in plans:
        if one.target.service != service:
            continue
        port = ports[service][one.target.port]
        assert one.schedule.url == f"http://{hosts[service]}:{port}{one.target.path}"
        asked.add((one.target.port, one.target.cadence))
    assert asked == {
        ("probes", "manifest"),
        ("probes", "dense"),
        ("probes", "scrape"),
        ("http", "dense"),
        ("http", "scrape"),
    }


def test_the_probe_port_may_be_somewhere_else() -> None:
    settings = LoadTestSettings(logging_url="none", inference_probe_url="http://127.0.0.1:18010/")
    urls = {one.schedule.url for one in kubelet_plan(settings) if one.target.port == "probes"}
    assert urls == {"http://127.0.0.1:18010/ready", "http://127.0.0.1:18010/health"}


def test_the_probes_do_not_start_all_at_once() -> None:
    settings = LoadTestSettings()
    for plans in (kubelet_plan(settings), prometheus_plan(settings)):
        offsets = [one.schedule.offset_seconds for one in plans]
        assert len(set(offsets)) == len(offsets) > 1


def test_a_service_left_out_is_not_probed() -> None:
    plans = kubelet_plan(LoadTestSettings(logging_url="none"))
    assert {one.target.service for one in plans} == {INFERENCE_SERVICE}


def test_the_reports_folder_is_a_path() -> None:
    assert LoadTestSettings().reports == Path("reports/loadtest")


def test_the_page_names_every_limit_and_no_variable_that_is_not_there() -> None:
    page = (ROOT / "docs" / "load-testing.md").read_text(encoding="utf-8")
    named = set(re.findall(r"LOADTEST_[A-Z0-9_]*[A-Z0-9]", page))
    known = {f"{PREFIX}{name.upper()}" for name in LoadTestSettings.model_fields}
    assert named <= known
    assert {name for name in known if name.startswith(f"{PREFIX}MAX_")} <= named
