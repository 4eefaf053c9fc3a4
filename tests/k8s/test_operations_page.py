"""docs/operations.md names what there is: objects, overlays, settings, timings, alerts."""

import re
from pathlib import Path

import mlflow.environment_variables

from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from bentos.process.settings import environment_names
from monitoring.prometheus.source import RULE_FILES
from monitoring.timings import SERVICES, ProbeKind
from tests.k8s.manifests import OVERLAYS, environment, named, rendered, workload

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
# Pages' own words in capitals, and what MLflow and the shell read.
MLFLOW_VARIABLES = {name for name in dir(mlflow.environment_variables) if name.isupper()}


def test_there_are_commands_to_check() -> None:
    """The regular expression above still finds them."""
    assert len(COMMANDS) > 30
    assert any(command.startswith("kubectl ") for command in COMMANDS)


def test_every_object_that_a_command_names_exists() -> None:
    """In one of the overlays, of the kind that the command says."""
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
    assert checked > 15


def test_every_kubectl_command_says_the_namespace() -> None:
    """Whoever copies one must not change another namespace."""
    for command in COMMANDS:
        first = command.split(" | ")[0].removesuffix(" &")
        cluster_wide = ("kubectl create namespace", "kubectl label namespace")
        if first.startswith("kubectl ") and not first.startswith(cluster_wide):
            assert " -n mlops" in first, command


def test_the_overlays_are_those_there_are() -> None:
    """Each with what it is for."""
    listed = re.findall(r"^\| `([a-z-]+)` \|", TEXT, re.MULTILINE)
    assert sorted(listed) == sorted(OVERLAYS)


def test_every_setting_that_is_named_exists() -> None:
    """A renamed setting must not live on here."""
    known = environment_names(InferenceSettings) | environment_names(LoggingSettings)
    for name in set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", TEXT)):
        assert name in known | MLFLOW_VARIABLES | {"OMP_NUM_THREADS"}, name


def test_the_numbers_are_the_manifests() -> None:
    """Patience of the probes, time to drain, autoscaler, backups."""
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
    objects = rendered("production")
    container = workload("inference-service", objects).container
    drain = float(environment(container, objects)["DRAIN_SECONDS"])
    stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert f"serves on for {drain + stop:g} s" in TEXT
    scaler = named("HorizontalPodAutoscaler", "inference-service", objects)["spec"]
    target = scaler["metrics"][0]["containerResource"]["target"]["averageUtilization"]
    assert (
        f"keeps {scaler['minReplicas']} to {scaler['maxReplicas']} inference pods at {target}%"
        in (TEXT)
    )
    backup = named("CronJob", "logging-backup", objects)["spec"]
    minute, hour = backup["schedule"].split()[:2]
    assert f"daily at {int(hour):02}:{int(minute):02} UTC" in TEXT
    keep = environment(workload("logging-backup", objects).container, objects)["KEEP"]
    assert keep == "7"
    assert "keeps the newest seven" in TEXT
    assert backup["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] == 7 * 24 * 3600


def test_every_alert_is_listed_with_its_severity_and_its_page() -> None:
    """And none that there is not."""
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
    """Runbooks have tests of their own."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "runbooks/" not in link]
    assert links
    for link in links:
        assert (PAGE.parent / link).exists(), link
