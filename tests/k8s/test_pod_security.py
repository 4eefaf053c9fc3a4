"""Every pod meets the Pod Security Standard `restricted`, and the namespace demands it."""

import pytest

from tests.k8s.manifests import OVERLAYS, named, rendered, workload, workloads
from tests.k8s.pod_security import violations


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_meets_the_restricted_profile(overlay: str) -> None:
    assert {str(item): violations(item.pod) for item in workloads(rendered(overlay))} == {
        str(item): [] for item in workloads(rendered(overlay))
    }


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
