"""compose.yaml as it is written: what each container may do, and that it fits the repository."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from compose.stack import Ports, parts_of
from local.process import ROOT, find_program
from monitoring.generate import COMPOSE as CONFIGURATION
from monitoring.stack import PROMETHEUS_CONFIG
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

FILE = ROOT / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = "demo-model"
SERVERS = sorted(SERVICES.keys() - {ONE_SHOT})
# Of these users' images: the services and MLflow's, Prometheus's and Alertmanager's, Grafana's.
USERS = {"1034:1034", "65534:65534", "472:0"}


def published(service: str) -> dict[int, tuple[str, str, int]]:
    """Return a service's ports: the address, the variable and its default for each port inside."""
    found = {}
    for entry in SERVICES[service].get("ports", []):
        match = re.fullmatch(r"([\d.]+):\$\{(\w+):-(\d+)\}:(\d+)", entry)
        assert match, f"{entry} is no address, variable and port"
        address, variable, default, inside = match.groups()
        found[int(inside)] = (address, variable, int(default))
    return found


def default(settings: type[Any], field: str) -> int:
    return int(settings.model_fields[field].default)


def test_the_file_follows_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    finished = subprocess.run([*command, FILE], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] in USERS
    assert service["mem_limit"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_writes_to_named_volumes_and_reads_the_repository(name: str) -> None:
    for entry in SERVICES[name].get("volumes", []):
        source, _, rest = entry.partition(":")
        if source in COMPOSE["volumes"]:
            continue
        assert source.startswith("./")
        assert (ROOT / source).exists()
        # Without `z` SELinux keeps containers from reading it.
        assert rest.endswith(":ro,z")


def test_the_registry_the_outbox_the_database_and_prometheus_are_on_volumes() -> None:
    assert {"registry", "outbox", "predictions", "prometheus"} <= COMPOSE["volumes"].keys()
    for volume in COMPOSE["volumes"]:
        entries = [entry for one in SERVICES.values() for entry in one.get("volumes", [])]
        assert len([entry for entry in entries if entry.startswith(f"{volume}:")]) == 1


@pytest.mark.parametrize("name", SERVERS)
def test_a_port_is_this_machine_s_alone_and_can_be_chosen(name: str) -> None:
    assert published(name)
    for address, variable, number in published(name).values():
        assert address == "127.0.0.1"
        assert Ports.model_fields[variable.lower()].default == number


def test_make_up_knows_every_port_and_every_container() -> None:
    variables = {variable for name in SERVERS for _, variable, _ in published(name).values()}
    assert variables == {name.upper() for name in Ports.model_fields}
    assert {part.service for part in parts_of(Ports())} == SERVICES.keys()


@pytest.mark.parametrize(
    ("name", "port"),
    [
        (INFERENCE_SERVICE, default(InferenceSettings, "inference_port")),
        (INFERENCE_SERVICE, default(InferenceSettings, "probe_port")),
        (LOGGING_SERVICE, default(LoggingSettings, "logging_port")),
        (LOGGING_SERVICE, default(LoggingSettings, "probe_port")),
    ],
)
def test_a_service_s_ports_are_those_of_its_settings(name: str, port: int) -> None:
    assert published(name)[port][2] == port


@pytest.mark.parametrize("name", SERVERS)
def test_a_health_check_asks_a_port_that_is_published(name: str) -> None:
    command = " ".join(SERVICES[name]["healthcheck"]["test"])
    assert any(str(port) in command for port in published(name))


@pytest.mark.parametrize(
    ("name", "settings"),
    [(INFERENCE_SERVICE, InferenceSettings), (LOGGING_SERVICE, LoggingSettings)],
)
def test_a_service_s_health_check_asks_the_probe_port(name: str, settings: type[Any]) -> None:
    assert SERVICES[name]["healthcheck"]["test"][-2:] == [
        str(default(settings, "probe_port")),
        "/ready",
    ]


def test_the_model_that_is_trained_is_the_one_that_is_served_and_waited_for() -> None:
    names = ("MLFLOW_TRACKING_URI", "MODEL_NAME", "MODEL_STAGE")
    trained, served = (SERVICES[name]["environment"] for name in (ONE_SHOT, INFERENCE_SERVICE))
    assert [trained[name] for name in names] == [served[name] for name in names]
    fields = InferenceSettings.model_fields
    assert served["MODEL_NAME"] == fields["model_name"].default
    assert served["MODEL_STAGE"] == fields["model_stage"].default


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_an_image_has_a_version(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].rpartition(":")
    assert re.search(r"\d", tag)
    assert "latest" not in tag


def test_images_of_this_repository_have_its_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in (INFERENCE_SERVICE, LOGGING_SERVICE, ONE_SHOT):
        assert SERVICES[name]["image"].endswith(f":${{VERSION:-{project}}}")
    lock = (ROOT / "requirements" / "dev.txt").read_text()
    locked = re.search(r"^mlflow==([\d.]+)", lock, re.MULTILINE)
    assert locked
    assert SERVICES["mlflow"]["image"].endswith(f":{locked[1]}")


def test_prometheus_finds_containers_by_name_and_services_by_their_probe_ports() -> None:
    config = yaml.safe_load(CONFIGURATION.read_text())
    targets = {
        scrape["job_name"]: [
            target for entry in scrape["static_configs"] for target in entry["targets"]
        ]
        for scrape in config["scrape_configs"]
    }
    for name, settings in (
        (INFERENCE_SERVICE, InferenceSettings),
        (LOGGING_SERVICE, LoggingSettings),
    ):
        assert targets[name] == [f"{name}:{default(settings, 'probe_port')}"]
    (alertmanager,) = config["alerting"]["alertmanagers"]
    assert alertmanager["static_configs"][0]["targets"] == ["alertmanager:9093"]
    hosts = {target.partition(":")[0] for found in targets.values() for target in found}
    assert hosts <= SERVICES.keys()
    local = yaml.safe_load(PROMETHEUS_CONFIG.read_text())
    for key in local.keys() - {"scrape_configs", "alerting"}:
        assert config[key] == local[key]


def test_promtool_accepts_prometheus_s_configuration(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(CONFIGURATION.read_text())
    (tmp_path / "rules").symlink_to(PROMETHEUS_CONFIG.parent / "rules")
    program = find_program(("promtool",), "apt-get install prometheus")
    command = [program, "check", "config", str(tmp_path / "prometheus.yml")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
