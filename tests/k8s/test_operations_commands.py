"""Every kubectl command of docs/operations.md, run by kubectl against the objects of production."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.k8s.api_server import Cluster, api_server
from tests.k8s.manifests import INFERENCE, LOGGING, Object, rendered, workload
from tests.k8s.test_operations_page import COMMANDS
from tests.support.servers import ROOT

# A server of the API and kubectl itself, for each command.
pytestmark = pytest.mark.slow

# What stands for a name of the reader's.
PLACEHOLDERS = {"NAME": "team-a", "PASSWORD": "secret", "NODE": "node-1"}
NOT_RUN = {
    "kubectl port-forward": "connects to a pod",
    "kubectl rollout undo": "needs the revisions that controllers keep",
    "OLD=": "runs in test_rotation.py",
    "printf ": "runs in test_rotation.py",
}
KUBECTL = [command for command in COMMANDS if "kubectl " in command]
RUN = [command for command in KUBECTL if not command.startswith(tuple(NOT_RUN))]


def pod(name: str, owner: str, kind: str) -> Object:
    """Return a running pod of a workload, with its temporary volumes."""
    item = workload(owner, rendered("production"))
    reference = {"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": "u"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "mlops",
            "labels": dict(item.labels),
            "ownerReferences": [{**reference, "controller": True}],
        },
        "spec": {**item.pod, "nodeName": PLACEHOLDERS["NODE"]},
        "status": {"phase": "Running"},
    }


def job(name: str, *conditions: str) -> Object:
    """Return a job with these conditions."""
    spec = workload("logging-backup", rendered("production")).spec["jobTemplate"]["spec"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "mlops"},
        "spec": {**spec, "selector": {"matchLabels": {"job-name": name}}},
        "status": {"conditions": [{"type": kind, "status": "True"} for kind in conditions]},
    }


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with the overlay `production`, its pods on one node, and a finished job."""
    with api_server(tmp_path) as found:
        known = {"NetworkPolicy", "ServiceAccount", "PodDisruptionBudget"}
        for item in rendered("production"):
            if item["kind"] not in known and "Admission" not in item["kind"]:
                found.put(item)
        for name in ("a", "b"):
            found.put(pod(f"{INFERENCE}-{name}", INFERENCE, "ReplicaSet"))
        found.put(pod(f"{LOGGING}-1", LOGGING, "StatefulSet"))
        for name in ("node-1", "team-a"):
            kind = "Node" if name == "node-1" else "Namespace"
            found.put({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": {}})
        backup = pod("backup-now-x", INFERENCE, "Job")
        backup["metadata"]["labels"] = {"job-name": "backup-now"}
        found.put(backup)
        found.put(job("backup-now", "SuccessCriteriaMet", "Complete"))
        yield found


def run(command: str, cluster: Cluster) -> "subprocess.CompletedProcess[str]":
    """Run a command as a reader would who has put in the names."""
    for placeholder, name in PLACEHOLDERS.items():
        command = command.replace(placeholder, name)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": str(cluster.config), "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.case(53)
@pytest.mark.parametrize("command", RUN)
def test_a_command_of_the_page_works(command: str, cluster: Cluster) -> None:
    """Each kubectl command of docs/operations.md is sent by kubectl, and succeeds."""
    command = command.partition(" > ")[0].partition(" | grep")[0]
    if command.startswith("kubectl create"):
        cluster.objects.pop(("namespaces", "", "mlops"), None)
        cluster.objects.pop(("jobs", "mlops", "backup-now"), None)
        # In the encoding that the API here reads.
        command += " --dry-run=client -o json | kubectl create -n mlops -f -"
    finished = run(command, cluster)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "warning" not in finished.stderr.lower(), finished.stderr


def test_few_commands_are_not_run() -> None:
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in KUBECTL), start
    assert len(RUN) > 25


@pytest.mark.case(53)
@pytest.mark.parametrize("conditions", [("SuccessCriteriaMet", "Complete"), ("Failed",)])
def test_the_wait_for_a_job_ends_with_the_job(
    conditions: tuple[str, ...], cluster: Cluster
) -> None:
    """`kubectl wait` of the page returns when the job has succeeded and when it has failed.

    While it runs it waits.
    """
    (made,) = [command for command in COMMANDS if command.startswith("kubectl create job")]
    (wait,) = [command for command in COMMANDS if command.startswith("kubectl wait -n mlops job/")]
    finished = run(f"{made} --dry-run=client -o yaml", cluster)
    assert finished.returncode == 0, finished.stderr
    running = yaml.safe_load(finished.stdout)
    assert running["metadata"]["ownerReferences"][0]["name"] == "logging-backup"
    cluster.put({**running, "metadata": {**running["metadata"], "namespace": "mlops"}})
    impatient = shlex.split(wait)
    impatient[-1] = "--timeout=1s"
    assert run(shlex.join(impatient), cluster).returncode == 1
    cluster.put(job("backup-now", *conditions))
    assert run(wait, cluster).returncode == 0


@pytest.mark.case(54)
def test_the_first_drain_ends_the_inference_pods_and_no_others(cluster: Cluster) -> None:
    """A node is drained by the page's commands: the inference pods go first, then the rest."""
    first, second = [command for command in COMMANDS if command.startswith("kubectl drain")]

    def left() -> set[str]:
        return {name.rpartition("-")[0] for kind, _, name in cluster.objects if kind == "pods"}

    assert run(first, cluster).returncode == 0
    assert left() == {LOGGING, "backup-now"}
    assert run(second, cluster).returncode == 0
    assert left() == set()
    without = second.replace(" --delete-emptydir-data", "")
    cluster.put(pod(f"{INFERENCE}-c", INFERENCE, "ReplicaSet"))
    refused = run(without, cluster)
    assert refused.returncode == 1
    assert "--delete-emptydir-data" in refused.stderr
