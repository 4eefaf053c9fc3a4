"""docs/operations.md names what there is: objects, overlays, settings, timings, alerts."""

import re
from decimal import Decimal
from pathlib import Path

import mlflow.environment_variables
import pytest

from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from bentos.process.settings import environment_names
from k8s.render import overlay_names
from monitoring.prometheus.source import RULE_FILES
from monitoring.timings import SERVICES, ProbeKind
from tests.k8s.manifests import OPTIONAL, OVERLAYS, environment, named, rendered, workload
from tests.k8s.test_settings_of_manifests import MAY_FILL_A_VOLUME

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
TEXT = PAGE.read_text()
COMMANDS = re.findall(r"^ *\$ (.+)$", TEXT, re.MULTILINE)
KINDS = {
    "deployment": "Deployment",
    "statefulset": "StatefulSet",
    "cronjob": "CronJob",
    "service": "Service",
    "hpa": "HorizontalPodAutoscaler",
    "pvc": "PersistentVolumeClaim",
}
OBJECTS = rendered("production")
MLFLOW_VARIABLES = {name for name in dir(mlflow.environment_variables) if name.isupper()}


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 30
    assert any(command.startswith("kubectl ") for command in COMMANDS)


def test_every_object_that_a_command_names_exists() -> None:
    known = {
        (item["kind"], item["metadata"]["name"])
        for overlay in OVERLAYS
        for item in rendered(overlay)
    }
    pattern = re.compile(rf"\b({'|'.join(KINDS)})[/ ]([a-z][a-z0-9-]+)")
    checked = 0
    for command in COMMANDS:
        for kind, name in pattern.findall(command):
            assert (KINDS[kind], name) in known, command
            checked += 1
    assert checked > 10


def test_every_kubectl_command_says_the_namespace() -> None:
    """Whoever copies one must not change another namespace."""
    elsewhere = (
        *("kubectl create namespace", "kubectl label namespace", "kubectl kustomize"),
        *("kubectl drain", "kubectl uncordon"),
    )
    for command in COMMANDS:
        for part in re.findall(r"kubectl [^|)]*", command):
            if not part.startswith(elsewhere):
                assert " -n mlops" in part, command


def test_the_overlays_are_those_there_are() -> None:
    table = TEXT[TEXT.index("| overlay | for |") :].partition("\n\n")[0]
    listed = re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)
    assert sorted(listed) == overlay_names()


def test_the_components_that_may_be_added_are_those_there_are() -> None:
    """Those of an overlay are described where they are; these are for the operator."""
    listed = re.findall(r"^\| `../../components/([a-z0-9-]+)` \|", TEXT, re.MULTILINE)
    assert sorted(listed) == sorted(OPTIONAL)


def test_the_ports_are_the_manifests() -> None:
    for name in SERVICES:
        ports = [port["containerPort"] for port in workload(name, OBJECTS).container["ports"]]
        assert f"| `{name}` | {ports[0]} | {ports[1]} |" in TEXT


def test_the_share_of_the_claim_leaves_room_for_a_restore() -> None:
    assert "It may be 40% of the claim" in TEXT
    assert Decimal("0.4") <= MAY_FILL_A_VOLUME / 2


@pytest.mark.case(53)
def test_no_command_shows_less_than_a_reader_expects() -> None:
    """`kubectl logs -l` without `--tail=-1` shows ten lines a pod; `-f` right after the job fails.

    Each command is looked at: it shows whole logs, and follows none of a container that is being
    created.
    """
    logs = [command for command in COMMANDS if command.startswith("kubectl logs")]
    assert logs
    for command in logs:
        assert " -f" not in command, command
        assert (" -l " not in command) or " --tail=-1" in command, command
    for made in (command for command in COMMANDS if command.startswith("kubectl create job")):
        name = made.split()[-1]
        waits = [line for line in COMMANDS if line.startswith(f"kubectl wait -n mlops job/{name} ")]
        assert waits, f"nothing waits for job/{name}"
        assert "jsonpath='{.status.conditions[0].type}'" in waits[0]
        assert COMMANDS.index(waits[0]) > COMMANDS.index(made)


@pytest.mark.case(54)
def test_a_drain_takes_the_inference_pods_first() -> None:
    """A node is drained: its inference pods end and deliver while the logging service still runs.

    A drain without --delete-emptydir-data does nothing, so the page says what it deletes.
    """
    first, second = [command for command in COMMANDS if command.startswith("kubectl drain")]
    labels = workload("inference-service", OBJECTS).labels
    selector = first.rpartition("--pod-selector=")[2]
    assert labels[selector.partition("=")[0]] == selector.partition("=")[2]
    for command in (first, second):
        assert "--ignore-daemonsets" in command
        assert "--delete-emptydir-data" in command
    assert "--pod-selector" not in second
    assert "it deletes outboxes" in " ".join(TEXT.split())


def test_every_setting_that_is_named_exists() -> None:
    """A renamed setting must not live on here."""
    known = environment_names(InferenceSettings) | environment_names(LoggingSettings)
    for name in set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", TEXT)):
        assert name in known | MLFLOW_VARIABLES | {"OMP_NUM_THREADS", "BENTOML_CONFIG"}, name


@pytest.mark.parametrize(
    "setting", ["OUTBOX_MAX_BYTES", "MAX_DATABASE_BYTES", "RETENTION_DAYS", "TORCH_THREADS"]
)
def test_the_settings_that_an_operator_has_to_weigh_are_explained(setting: str) -> None:
    assert f"`{setting}`" in TEXT


def test_the_numbers_are_the_manifests() -> None:
    inference, logging = (SERVICES[name] for name in ("inference-service", "logging-service"))
    minutes = [timings.startup.patience_seconds / 60 for timings in (inference, logging)]
    assert f"{minutes[0]:g} minutes (inference), {minutes[1]:g} minute (logging)" in TEXT
    consequences: tuple[tuple[ProbeKind, str], ...] = (
        ("readiness", "| `/ready` | no requests, until it succeeds once"),
        ("liveness", "| `/health` | the container is restarted"),
    )
    for kind, consequence in consequences:
        patience = {timings.probe(kind).patience_seconds for timings in (inference, logging)}
        assert f"| {kind} {consequence} | {patience.pop()} s |" in TEXT
        assert not patience
    objects = OBJECTS
    container = workload("inference-service", objects).container
    drain = float(environment(container, objects)["DRAIN_SECONDS"])
    stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert f"ends serves on for {drain + stop:g} s" in " ".join(TEXT.split())
    scaler = named("HorizontalPodAutoscaler", "inference-service", objects)["spec"]
    target = scaler["metrics"][0]["containerResource"]["target"]["averageUtilization"]
    pods = f"{scaler['minReplicas']} to {scaler['maxReplicas']}"
    assert f"keeps {pods} inference pods at {target}%" in TEXT
    backup = named("CronJob", "logging-backup", objects)["spec"]
    minute, hour = backup["schedule"].split()[:2]
    assert f"daily at {int(hour):02}:{int(minute):02} UTC" in TEXT
    keep = environment(workload("logging-backup", objects).container, objects)["KEEP"]
    assert keep == "7"
    assert "the newest seven are kept" in " ".join(TEXT.split())
    assert backup["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] == 7 * 24 * 3600


def test_every_alert_is_listed_with_its_severity_and_its_page() -> None:
    listed = re.findall(
        r"^\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| (\w+) \| .+ \|$", TEXT, re.MULTILINE
    )
    alerts = {
        alert.name: alert.severity
        for file in RULE_FILES
        for group in file.groups
        for alert in group.alerts
    }
    assert {name: severity for name, _, severity in listed} == alerts
    assert all(name == page for name, page, _ in listed)
    assert len(listed) == len(alerts)


def test_every_other_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "runbooks/" not in link]
    headings = {
        "#" + re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    }
    assert links
    for link in links:
        assert link in headings or (PAGE.parent / link).exists(), link
