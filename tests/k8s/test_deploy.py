"""`python -m k8s.deploy`: what it refuses, what it keeps, and that it says why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from k8s.deploy import SecretReference, required_secrets, without_data
from tests.k8s.manifests import OVERLAYS, rendered
from tests.support.servers import ROOT, free_port


def deploy(*arguments: str, kubeconfig: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command with a kubeconfig of its own."""
    return subprocess.run(
        [sys.executable, "-m", "k8s.deploy", *arguments],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """Return a kubeconfig whose cluster does not answer."""
    path = tmp_path / "config"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: gone\n"
        "contexts: [{name: gone, context: {cluster: gone, user: gone}}]\n"
        f"clusters: [{{name: gone, cluster: {{server: 'http://127.0.0.1:{free_port()}'}}}}]\n"
        "users: [{name: gone, user: {}}]\n"
    )
    return path


@pytest.mark.parametrize("command", ["apply", "delete"])
def test_without_a_cluster_it_says_so_and_what_to_do(command: str, nowhere: Path) -> None:
    """Nothing but one clear message."""
    finished = deploy(command, "--overlay", "local", kubeconfig=nowhere)
    assert finished.returncode == 1
    assert "no Kubernetes cluster answers" in finished.stderr
    assert "kind create cluster" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_an_unknown_overlay_is_told_before_any_cluster_is_asked(nowhere: Path) -> None:
    """With those that there are."""
    finished = deploy("apply", "--overlay", "staging", kubeconfig=nowhere)
    assert finished.returncode == 1
    assert "no overlay 'staging'; there are local, production" in finished.stderr


def test_production_asks_for_the_token_and_local_does_not() -> None:
    """Pods without their Secret would wait in CreateContainerConfigError."""
    assert required_secrets(rendered("production")) == [SecretReference("logging-token", "token")]
    assert required_secrets(rendered("local")) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_taking_it_away_leaves_the_predictions(overlay: str) -> None:
    """Neither the volumes nor the namespace that they are in; everything else goes."""
    kinds = {item["kind"] for item in rendered(overlay)}
    assert {"PersistentVolumeClaim", "Namespace"} <= kinds
    assert {item["kind"] for item in without_data(rendered(overlay))} == kinds - {
        "PersistentVolumeClaim",
        "Namespace",
    }
