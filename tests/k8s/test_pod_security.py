"""Every pod meets the Pod Security Standard `restricted`, and the namespace demands it."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.k8s.manifests import OVERLAYS, Object, named, rendered, workload, workloads
from tests.k8s.pod_security import violations


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_meets_the_restricted_profile(overlay: str) -> None:
    """Deployments, StatefulSets and jobs alike."""
    assert {str(item): violations(item.pod) for item in workloads(rendered(overlay))} == {
        str(item): [] for item in workloads(rendered(overlay))
    }


def _container(**changes: object) -> Callable[[Object], None]:
    return lambda pod: pod["containers"][0]["securityContext"].update(changes)


def _pod(**changes: object) -> Callable[[Object], None]:
    return lambda pod: pod.update(changes)


def _without(*path: str) -> Callable[[Object], None]:
    def change(pod: Object) -> None:
        inner: Any = pod
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_pod(hostNetwork=True), "hostNetwork is set"),
        (_pod(hostPID=True), "hostPID is set"),
        (_pod(hostIPC=True), "hostIPC is set"),
        (_pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), "hostPath"),
        (_without("securityContext", "seccompProfile"), "no seccomp profile"),
        (_without("securityContext", "runAsNonRoot"), "may run as root"),
        (_container(runAsNonRoot=False), "may run as root"),
        (_container(runAsUser=0), "runs as user 0"),
        (_container(privileged=True), "is privileged"),
        (_container(allowPrivilegeEscalation=True), "privilege escalation"),
        (_container(capabilities={"drop": ["NET_RAW"]}), "does not drop all"),
        (_container(capabilities={"drop": ["ALL"], "add": ["SYS_PTRACE"]}), "adds capabilities"),
        (_container(seccompProfile={"type": "Unconfined"}), "no seccomp profile"),
        (_container(procMount="Unmasked"), "procMount"),
        (_container(seLinuxOptions={"role": "admin"}), "SELinux"),
        (
            lambda pod: pod["containers"][0]["ports"][0].update(hostPort=8000),
            "host port",
        ),
        (
            lambda pod: pod.update(initContainers=[{"name": "helper", "image": "x"}]),
            "helper allows privilege escalation",
        ),
        (
            lambda pod: pod["securityContext"].update(sysctls=[{"name": "kernel.msgmax"}]),
            "sysctl kernel.msgmax",
        ),
    ],
)
def test_each_control_of_the_profile_is_checked(
    change: Callable[[Object], None], said: str
) -> None:
    """The negative control: one thing made wrong, and the check names it."""
    pod = deepcopy(workload("inference-service", rendered("production")).pod)
    change(pod)
    assert any(said in violation for violation in violations(pod)), violations(pod)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_enforces_the_restricted_profile(overlay: str) -> None:
    """So does the API server, for pods that are not ours too."""
    labels = named("Namespace", "mlops", rendered(overlay))["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_cannot_write_to_their_image(overlay: str) -> None:
    """Beyond `restricted`: what is writable is a named volume."""
    for item in workloads(rendered(overlay)):
        for container in item.containers:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, str(item)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_has_a_token_for_the_api_server(overlay: str) -> None:
    """Each workload has its own account, which is good for nothing but a name."""
    for item in workloads(rendered(overlay)):
        account = item.pod["serviceAccountName"]
        assert account != "default"
        assert item.pod["automountServiceAccountToken"] is False, str(item)
        found = named("ServiceAccount", account, rendered(overlay))
        assert found["automountServiceAccountToken"] is False, account


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_two_services_do_not_share_an_account(overlay: str) -> None:
    """A right given to one later is not the other's."""
    accounts = [
        workload(name, rendered(overlay)).pod["serviceAccountName"]
        for name in ("inference-service", "logging-service")
    ]
    assert len(set(accounts)) == 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_gets_variables_made_from_services_names(overlay: str) -> None:
    """`MLFLOW_PORT=tcp://...`, made from the Service `mlflow`, is a setting to MLflow."""
    for item in workloads(rendered(overlay)):
        assert item.pod["enableServiceLinks"] is False, str(item)
