"""`python -m k8s.deploy` and `python -m k8s.jobs`: what they ask of a cluster, in which order."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.deploy import SecretReference, required_secrets, without_data
from k8s.render import kubectl
from tests.k8s.manifests import EXTENDED, OVERLAYS, named, rendered, workload
from tests.support.servers import ROOT, free_port

# kubectl renders an overlay for each test.
pytestmark = pytest.mark.slow

# Renders with the real kubectl. Of what would go to a cluster it writes down a line and says what
# the test told it: no cluster can run here.
_RECORDING_KUBECTL = """
import json, os, subprocess, sys, pathlib
words = sys.argv[1:]
if words[0] == "kustomize":
    sys.exit(subprocess.run([os.environ["REAL_KUBECTL"], *words]).returncode)
fed = sys.stdin.read() if "-" in words else ""
with open(os.environ["RECORD"], "a") as record:
    print(json.dumps([words, fed]), file=record)
answers = pathlib.Path(os.environ["ANSWERS"])
for start, (status, lines) in json.loads(answers.read_text()).items():
    if " ".join(words).startswith(start):
        if len(lines) > 1:
            kept = json.loads(answers.read_text())
            kept[start] = [status, lines[1:]]
            answers.write_text(json.dumps(kept))
        print(lines[0])
        sys.exit(status)
"""
PODS = {"get pods": (0, ["pod/inference-service-a\npod/inference-service-b"])}


def run(
    module: str, *arguments: str, environment: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run one of the two commands."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass
class Cluster:
    """A kubectl that records; `answers` gives exit status and outputs to the words they follow."""

    directory: Path
    answers: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def run(
        self, *arguments: str, module: str = "k8s.deploy"
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command against it."""
        program = self.directory / "kubectl"
        program.write_text(f"#!{sys.executable}\n{_RECORDING_KUBECTL}")
        program.chmod(0o755)
        answers = self.directory / "answers.json"
        answers.write_text(json.dumps(self.answers))
        environment = {
            "PATH": f"{self.directory}:{os.environ['PATH']}",
            "REAL_KUBECTL": kubectl(),
            "RECORD": str(self.directory / "record"),
            "ANSWERS": str(answers),
        }
        return run(module, *arguments, environment=environment)

    @property
    def calls(self) -> list[tuple[list[str], list[dict[str, Any]]]]:
        """What reached the cluster: words, and the objects that were sent."""
        record = self.directory / "record"
        lines = record.read_text().splitlines() if record.exists() else []
        return [
            (words, [item for item in yaml.safe_load_all(fed) if item])
            for words, fed in map(json.loads, lines)
        ]

    @property
    def deletions(self) -> list[tuple[list[str], set[str]]]:
        """The deletions, with the names of what was deleted."""
        return [
            (words, {f"{item['kind']}/{item['metadata']['name']}" for item in objects})
            for words, objects in self.calls
            if words[0] == "delete"
        ]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def backlog(*rows: int) -> tuple[int, list[str]]:
    """Return what the metrics of pods say, one after the other."""
    return 0, [f'inference_log_backlog{{model="m",stage="s"}} {count}.0' for count in rows]


@pytest.mark.parametrize("command", ["apply", "delete"])
def test_without_a_cluster_it_says_so_and_what_to_do(command: str, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: gone\n"
        "contexts: [{name: gone, context: {cluster: gone, user: gone}}]\n"
        f"clusters: [{{name: gone, cluster: {{server: 'http://127.0.0.1:{free_port()}'}}}}]\n"
        "users: [{name: gone, user: {}}]\n"
    )
    environment = {"KUBECONFIG": str(config)}
    finished = run("k8s.deploy", command, "--overlay", "local", environment=environment)
    assert finished.returncode == 1
    assert "no Kubernetes cluster answers" in finished.stderr
    assert "kind create cluster" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_an_unknown_overlay_is_refused_before_any_cluster_is_asked(cluster: Cluster) -> None:
    finished = cluster.run("apply", "--overlay", "staging")
    assert finished.returncode == 1
    assert "no overlay 'staging'; there are local, production" in finished.stderr
    assert cluster.calls == []


def test_production_asks_for_the_tokens_and_local_does_not() -> None:
    """Pods without their Secret would wait in ContainerCreating for ever."""
    assert required_secrets(rendered("production")) == [SecretReference("logging-tokens", "tokens")]
    assert required_secrets(rendered("local")) == []
    assert SecretReference("predict-tokens", "tokens") in required_secrets(rendered(EXTENDED))


def test_a_missing_secret_ends_it_with_the_command_that_makes_it(cluster: Cluster) -> None:
    finished = cluster.run("apply", "--overlay", "production")
    assert finished.returncode == 1
    assert "kubectl create secret generic logging-tokens -n mlops" in finished.stderr
    applied = [objects for words, objects in cluster.calls if words[0] == "apply"]
    assert [[item["kind"] for item in objects] for objects in applied] == [["Namespace"]]


def test_the_inference_service_is_waited_for_last(cluster: Cluster) -> None:
    """Its pods need the registry and the logging service."""
    finished = cluster.run("apply", "--overlay", "local")
    assert finished.returncode == 0, finished.stderr
    waits = [words[2] for words, _ in cluster.calls if words[:2] == ["rollout", "status"]]
    assert set(waits[:-1]) == {"statefulset/logging-service", "statefulset/mlflow"}
    assert waits[-1] == "deployment/inference-service"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_taking_it_away_leaves_the_predictions(overlay: str) -> None:
    kinds = {item["kind"] for item in rendered(overlay)}
    assert {"PersistentVolumeClaim", "Namespace"} <= kinds or overlay == "scale"
    assert {item["kind"] for item in without_data(rendered(overlay))} == kinds - {
        "PersistentVolumeClaim",
        "Namespace",
    }


@pytest.mark.case(55)
def test_undeploy_ends_the_inference_service_before_the_logging_service(cluster: Cluster) -> None:
    """`make undeploy`: the inference pods end first and deliver, while everything else still runs.

    kubectl waits for the pods, and the policies by which they reach the logging service stay.
    """
    cluster.answers = {**PODS, "exec": backlog(5_000, 0, 10, 0)}
    finished = cluster.run("delete", "--overlay", "production")
    assert finished.returncode == 0, finished.stderr
    (first, ended), (_, rest) = cluster.deletions
    assert ended == {
        "Deployment/inference-service",
        "HorizontalPodAutoscaler/inference-service",
    }
    assert "--cascade=foreground" in first
    assert {"StatefulSet/logging-service", "NetworkPolicy/inference-service"} <= rest
    # Two pods were asked twice: the first time 5,000 predictions waited.
    assert sum(words[0] == "exec" for words, _ in cluster.calls) == 4
    assert "5,000 predictions are still to be delivered" in finished.stdout


@pytest.mark.case(55)
@pytest.mark.parametrize("answer", [(1, ["error: container not found"]), None])
def test_undeploy_deletes_no_outbox_of_which_it_knows_nothing(
    answer: tuple[int, list[str]] | None, cluster: Cluster
) -> None:
    """`make undeploy` while a pod cannot be asked: nothing is deleted unless that is asked for."""
    cluster.answers = {**PODS, "exec": answer or backlog(7)}
    finished = cluster.run("delete", "--overlay", "production")
    if answer is None:  # the positive control
        assert finished.returncode == 0, finished.stderr
        return
    assert finished.returncode == 1
    assert "an unknown number of predictions" in finished.stderr
    assert cluster.deletions == []
    assert cluster.run("delete", "--overlay", "production", "--lose-outboxes").returncode == 0
    assert len(cluster.deletions) == 2


def cron_job(name: str) -> str:
    """Return a CronJob as the API server gives it."""
    found = named("CronJob", name, rendered("production"))
    return json.dumps(found | {"metadata": {**found["metadata"], "uid": "the-uid"}})


def ended(*conditions: str) -> str:
    """Return a job with these conditions."""
    return json.dumps(
        {"status": {"conditions": [{"type": kind, "status": "True"} for kind in conditions]}}
    )


@pytest.mark.case(53)
def test_a_restore_is_waited_for_and_its_log_is_nobodys(cluster: Cluster) -> None:
    """A restore by name: the command returns when it has ended, and a later job deletes no trace.

    The job has the CronJob's pod with another BACKUP, and no owner whose history it counts in.
    """
    cluster.answers = {
        "get cronjob": (0, [cron_job("logging-restore")]),
        "get job": (0, [ended(), ended("SuccessCriteriaMet"), ended("Complete")]),
        "logs": (0, ['{"message": "restored"}']),
    }
    finished = cluster.run("logging-restore", "BACKUP=predictions-1.db", module="k8s.jobs")
    assert finished.returncode == 0, finished.stderr
    assert '{"message": "restored"}' in finished.stdout
    ((_, (job,)),) = [call for call in cluster.calls if call[0][0] == "create"]
    assert "ownerReferences" not in job["metadata"]
    assert job["metadata"]["namespace"] == "mlops"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    expected = workload("logging-restore", rendered("production")).container
    assert container["command"] == expected["command"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert variables == {
        "DATABASE_PATH": "/var/lib/predictions/predictions.db",
        "REVIEW_DATABASE": "/var/lib/predictions/review/review.db",
        "BACKUP": "predictions-1.db",
    }


@pytest.mark.case(53)
def test_a_backup_made_by_hand_counts_as_one_of_the_cron_jobs(cluster: Cluster) -> None:
    """A backup by hand after daily ones failed: LoggingBackupOverdue looks at the CronJob's."""
    cluster.answers = {
        "get cronjob": (0, [cron_job("logging-backup")]),
        "get job": (0, [ended("Complete")]),
    }
    assert cluster.run("logging-backup", module="k8s.jobs").returncode == 0
    ((_, (job,)),) = [call for call in cluster.calls if call[0][0] == "create"]
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("CronJob", "logging-backup", "the-uid")


def test_a_job_that_failed_fails_the_command_and_shows_its_log(cluster: Cluster) -> None:
    """An unsuccessful restore must not be followed by a scaling up."""
    cluster.answers = {
        "get cronjob": (0, [cron_job("logging-restore")]),
        "get job": (0, [ended("FailureTarget", "Failed")]),
        "logs": (0, ["no backup"]),
    }
    finished = cluster.run("logging-restore", module="k8s.jobs")
    assert finished.returncode == 1
    assert "no backup" in finished.stdout


def test_a_misspelt_variable_starts_no_job(cluster: Cluster) -> None:
    """The newest backup would be restored in place of the one that was meant."""
    cluster.answers = {"get cronjob": (0, [cron_job("logging-restore")])}
    finished = cluster.run("logging-restore", "BACK_UP=predictions-1.db", module="k8s.jobs")
    assert finished.returncode == 1
    assert "there are DATABASE_PATH, REVIEW_DATABASE, BACKUP" in finished.stderr
    assert not any(words[0] == "create" for words, _ in cluster.calls)


@pytest.mark.case(53)
@pytest.mark.parametrize("name", ["logging-backup", "logging-restore"])
def test_the_record_of_a_job_outlives_later_ones(name: str) -> None:
    """Four backups by hand, two failed restores: the first one's record is still there.

    It is deleted after a week, not when the next ones have run.
    """
    spec = named("CronJob", name, rendered("production"))["spec"]
    assert spec["successfulJobsHistoryLimit"] >= 14
    assert spec["failedJobsHistoryLimit"] >= 14
    assert spec["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] == 7 * 24 * 3600
