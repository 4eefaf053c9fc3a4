"""SQLite has one writer: a second replica of the logging service cannot come up by mistake."""

from collections.abc import Mapping
from typing import Any

import pytest
from celpy import Environment
from celpy.adapter import json_to_cel

from tests.k8s.manifests import (
    LOGGING,
    SQLITE_OVERLAYS,
    Object,
    named,
    objects_of,
    rendered,
    selects,
    workload,
    workloads,
)

POLICY = "mlops-logging-service-single-writer"


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_there_is_one_replica_and_no_deployment_could_make_two(overlay: str) -> None:
    """A StatefulSet ends a pod before it starts the next; a Deployment overlaps them."""
    item = workload(LOGGING, rendered(overlay))
    assert item.kind == "StatefulSet"
    assert item.spec["replicas"] == 1
    assert item.spec["updateStrategy"]["type"] == "RollingUpdate"


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_no_autoscaler_targets_a_workload_with_state(overlay: str) -> None:
    """Only the inference service scales; with claims each of its pods has a volume of its own."""
    for autoscaler in objects_of("HorizontalPodAutoscaler", rendered(overlay)):
        target = autoscaler["spec"]["scaleTargetRef"]
        item = workload("inference-service", rendered(overlay))
        assert (target["kind"], target["name"]) == (item.kind, item.name)


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_a_second_replica_would_ask_for_the_same_volume(overlay: str) -> None:
    """A claim made from a template would be an empty second database instead."""
    item = workload(LOGGING, rendered(overlay))
    assert "volumeClaimTemplates" not in item.spec
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in item.pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == {"predictions"}


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_no_two_writers_can_run_at_once(overlay: str) -> None:
    """The volume keeps them on one node, the anti-affinity off it."""
    claim = named("PersistentVolumeClaim", "predictions", rendered(overlay))
    assert claim["spec"]["accessModes"] in (["ReadWriteOnce"], ["ReadWriteOncePod"])
    item = workload(LOGGING, rendered(overlay))
    terms = item.pod["affinity"]["podAntiAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert any(
        term["topologyKey"] == "kubernetes.io/hostname"
        and selects(term["labelSelector"], item.labels)
        for term in terms
    )


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_only_the_logging_service_and_its_jobs_use_the_database(overlay: str) -> None:
    """The backup where the writer is, since the volume is attached there; the restore alone."""
    users = {
        item.name: item
        for item in workloads(rendered(overlay))
        for volume in item.pod.get("volumes", ())
        if volume.get("persistentVolumeClaim", {}).get("claimName") == "predictions"
    }
    assert set(users) == {LOGGING, "logging-backup", "logging-restore"}
    writer = users[LOGGING]
    terms = users["logging-backup"].pod["affinity"]["podAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert [
        (term["topologyKey"], selects(term["labelSelector"], writer.labels)) for term in terms
    ] == [("kubernetes.io/hostname", True)]
    assert users["logging-restore"].spec["suspend"] is True


def evaluate(expression: str, item: Object) -> bool:
    """Return what a CEL interpreter makes of an admission policy's expression."""
    environment = Environment()
    program = environment.program(environment.compile(expression))
    return bool(program.evaluate({"object": json_to_cel(item)}))


def refused(item: Object, policy: Object) -> bool:
    """Tell whether an admission policy denies an object of a kind that it looks at."""
    spec = policy["spec"]
    if not all(evaluate(entry["expression"], item) for entry in spec["matchConditions"]):
        return False
    return not all(evaluate(entry["expression"], item) for entry in spec["validations"])


def scaled(name: str, replicas: int | None) -> Object:
    """Return the Scale or StatefulSet that asks for so many replicas."""
    spec = {} if replicas is None else {"replicas": replicas}
    return {"metadata": {"name": name, "namespace": "mlops"}, "spec": spec}


@pytest.mark.parametrize(
    ("item", "denied"),
    [
        (scaled(LOGGING, 2), True),
        (scaled(LOGGING, 10), True),
        (scaled(LOGGING, 1), False),
        (scaled(LOGGING, 0), False),
        (scaled(LOGGING, None), False),
        (scaled("mlflow", 2), False),
    ],
)
@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_the_api_server_refuses_a_second_replica(overlay: str, item: Object, denied: bool) -> None:
    """The policy's own expressions, evaluated; scaling to 0 for a restore stays possible."""
    assert refused(item, named("ValidatingAdmissionPolicy", POLICY, rendered(overlay))) == denied


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_the_policy_takes_the_very_manifest(overlay: str) -> None:
    """It must not refuse what is deployed with it."""
    manifest = named("StatefulSet", LOGGING, rendered(overlay))
    assert not refused(manifest, named("ValidatingAdmissionPolicy", POLICY, rendered(overlay)))


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_the_policy_sees_every_way_to_scale(overlay: str) -> None:
    """`kubectl apply` and `edit` send the StatefulSet, `kubectl scale` and autoscalers a Scale."""
    policy = named("ValidatingAdmissionPolicy", POLICY, rendered(overlay))
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert {"statefulsets", "statefulsets/scale"} <= set(rule["resources"])
    assert {"CREATE", "UPDATE"} <= set(rule["operations"])
    assert policy["spec"]["failurePolicy"] == "Fail"
    binding = named("ValidatingAdmissionPolicyBinding", POLICY, rendered(overlay))
    assert binding["spec"]["policyName"] == POLICY
    assert binding["spec"]["validationActions"] == ["Deny"]
    namespace: Mapping[str, Any] = binding["spec"]["matchResources"]["namespaceSelector"]
    assert selects(namespace, {"kubernetes.io/metadata.name": "mlops"})
    assert not selects(namespace, {"kubernetes.io/metadata.name": "default"})
