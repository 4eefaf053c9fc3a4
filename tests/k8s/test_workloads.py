"""What a rollout, a node drain, an autoscaler and a full disk do to the pods."""

from decimal import Decimal

import pytest

from bentos.inference.state import InferenceState
from bentos.logging.state import LoggingState
from bentos.process.supervisor import TERMINATION_MESSAGE
from images.bentos import SOURCES, BuildOptions
from tests.k8s.manifests import (
    EXTENDED,
    INFERENCE,
    LOGGING,
    OVERLAYS,
    SQLITE_OVERLAYS,
    Workload,
    environment,
    named,
    objects_of,
    quantity,
    rendered,
    selects,
    workload,
    workloads,
)


def limits(item: Workload, resource: str) -> Decimal:
    """Return what all containers of a pod may use of a resource."""
    return sum(
        (quantity(container["resources"]["limits"][resource]) for container in item.containers),
        Decimal(0),
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_asks_for_what_it_uses_and_no_more_than_it_may(overlay: str) -> None:
    for item in workloads(rendered(overlay)):
        for container in item.containers:
            resources = container["resources"]
            for resource in ("cpu", "memory", "ephemeral-storage"):
                request = quantity(resources["requests"][resource])
                limit = quantity(resources["limits"][resource])
                assert Decimal(0) < request <= limit, f"{item}: {resource}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_temporary_volumes_fit_into_the_disk_limit(overlay: str) -> None:
    """A volume that filled up would evict the pod by its limit, not by the volume's own."""
    for item in workloads(rendered(overlay)):
        volumes = [volume for volume in item.pod.get("volumes", ()) if "emptyDir" in volume]
        sizes = []
        for volume in volumes:
            assert "sizeLimit" in volume["emptyDir"], f"{item}: {volume['name']} has no bound"
            sizes.append(quantity(volume["emptyDir"]["sizeLimit"]))
        assert sum(sizes) < limits(item, "ephemeral-storage"), str(item)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_volume_is_mounted_and_every_mount_has_a_volume(overlay: str) -> None:
    claims = {
        item["metadata"]["name"] for item in objects_of("PersistentVolumeClaim", rendered(overlay))
    }
    used = set()
    for item in workloads(rendered(overlay)):
        volumes = {volume["name"] for volume in item.pod.get("volumes", ())} | {
            claim["metadata"]["name"] for claim in item.spec.get("volumeClaimTemplates", ())
        }
        mounts = {
            mount["name"]
            for container in item.containers
            for mount in container.get("volumeMounts", ())
        }
        assert volumes == mounts, str(item)
        used |= {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in item.pod.get("volumes", ())
            if "persistentVolumeClaim" in volume
        }
    assert used == claims


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_the_backups_volume_holds_all_that_are_kept(overlay: str) -> None:
    """KEEP copies of the largest database, the one being written and the one restored from it."""
    objects = rendered(overlay)
    keep = int(environment(workload("logging-backup", objects).container, objects)["KEEP"])
    variables = environment(workload(LOGGING, objects).container, objects)
    largest = sum(int(variables[name]) for name in ("MAX_DATABASE_BYTES", "REVIEW_MAX_BYTES"))
    claim = named("PersistentVolumeClaim", "predictions-backups", objects)
    size = quantity(claim["spec"]["resources"]["requests"]["storage"])
    assert size >= (keep + 2) * largest


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if "outbox-claims" not in name])
def test_a_rollout_leaves_no_gap(overlay: str) -> None:
    spec = workload(INFERENCE, rendered(overlay)).spec
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }
    assert spec["minReadySeconds"] > 0


def test_a_rollout_with_claims_takes_one_pod_at_a_time() -> None:
    """A StatefulSet cannot start a second pod with the same claim first."""
    item = workload(INFERENCE, rendered(EXTENDED))
    assert item.kind == "StatefulSet"
    assert item.spec["updateStrategy"] == {"type": "RollingUpdate"}
    assert item.spec["minReadySeconds"] > 0
    assert {"strategy", "progressDeadlineSeconds"} & set(item.spec) == set()
    autoscaler = named("HorizontalPodAutoscaler", INFERENCE, rendered(EXTENDED))
    assert autoscaler["spec"]["scaleTargetRef"]["kind"] == "StatefulSet"


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if "outbox-claims" not in name])
def test_a_rollout_is_given_up_only_after_a_pod_could_have_started(overlay: str) -> None:
    """Otherwise a slow load would be called a failed rollout."""
    item = workload(INFERENCE, rendered(overlay))
    startup = item.container["startupProbe"]
    budget = startup["periodSeconds"] * startup["failureThreshold"]
    assert item.spec["progressDeadlineSeconds"] > budget + item.spec["minReadySeconds"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pods_are_spread_over_zones_and_nodes(overlay: str) -> None:
    """By preference: a cluster of one node still takes them all."""
    item = workload(INFERENCE, rendered(overlay))
    spread = {entry["topologyKey"]: entry for entry in item.pod["topologySpreadConstraints"]}
    assert set(spread) == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    for entry in spread.values():
        assert entry["whenUnsatisfiable"] == "ScheduleAnyway"
        assert selects(entry["labelSelector"], item.labels)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_number_of_replicas_has_one_owner(overlay: str) -> None:
    """With an autoscaler an apply must not set the number back; without one there is a number."""
    scaled = {
        item["spec"]["scaleTargetRef"]["name"]
        for item in objects_of("HorizontalPodAutoscaler", rendered(overlay))
    }
    for item in workloads(rendered(overlay)):
        if item.kind != "CronJob":
            assert ("replicas" in item.spec) != (item.name in scaled), str(item)


def test_production_survives_the_loss_of_a_pod_and_of_a_zone() -> None:
    autoscaler = named("HorizontalPodAutoscaler", INFERENCE, rendered("production"))
    assert autoscaler["spec"]["minReplicas"] >= 3
    assert autoscaler["spec"]["maxReplicas"] > autoscaler["spec"]["minReplicas"]


def test_the_autoscaler_gives_pods_up_slower_than_it_adds_them() -> None:
    """A new pod costs the load of a model."""
    behavior = named("HorizontalPodAutoscaler", INFERENCE, rendered("production"))["spec"][
        "behavior"
    ]
    down, up = behavior["scaleDown"], behavior["scaleUp"]
    assert down["stabilizationWindowSeconds"] >= 300 > up["stabilizationWindowSeconds"]
    assert down["selectPolicy"] == "Min"
    assert [policy["type"] for policy in down["policies"]] == ["Pods"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_the_autoscaler_measures_exists(overlay: str) -> None:
    known = {family.name for state in (InferenceState, LoggingState) for family in state.families()}
    for autoscaler in objects_of("HorizontalPodAutoscaler", rendered(overlay)):
        item = workload(autoscaler["spec"]["scaleTargetRef"]["name"], rendered(overlay))
        for metric in autoscaler["spec"]["metrics"]:
            if metric["type"] == "ContainerResource":
                container = metric["containerResource"]["container"]
                (resources,) = [c["resources"] for c in item.containers if c["name"] == container]
                # Utilization is a share of the request.
                assert metric["containerResource"]["name"] in resources["requests"]
            else:
                assert metric[metric["type"].lower()]["metric"]["name"] in known


def image_of(item: Workload) -> tuple[str, str]:
    """Return an image's name without registry and path, and its tag."""
    name, _, tag = item.container["image"].rpartition(":")
    return name.rpartition("/")[2], tag


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_images_are_those_that_containerize_makes(overlay: str) -> None:
    options = BuildOptions.from_environment({}, torch="cpu")
    made = {options.tag(source) for source in SOURCES}
    objects = rendered(overlay)
    used = [":".join(image_of(workload(name, objects))) for name in (INFERENCE, LOGGING)]
    assert set(used) == made
    assert used[0].startswith("inference_")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_image_floats(overlay: str) -> None:
    """`latest` would make two pods of one Deployment different."""
    for item in workloads(rendered(overlay)):
        _, tag = image_of(item)
        assert tag not in ("", "latest"), str(item)
        assert item.container["imagePullPolicy"] == "IfNotPresent", str(item)


def test_the_jobs_run_the_logging_services_own_image() -> None:
    """So that SQLite is the same one, and nothing else has to be pulled."""
    objects = rendered("production")
    service = workload(LOGGING, objects).container["image"]
    for name in ("logging-backup", "logging-restore"):
        assert workload(name, objects).container["image"] == service


@pytest.mark.case(52)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_describe_pod_shows_why_a_container_ended(overlay: str) -> None:
    """A container ends by liveness or for want of a worker: `describe pod` has its own message.

    The services write it where their manifest says; whatever else crashes shows its log's end.
    """
    for item in workloads(rendered(overlay)):
        for container in item.containers:
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError", str(item)
            if item.name in (INFERENCE, LOGGING):
                assert container["terminationMessagePath"] == str(TERMINATION_MESSAGE), str(item)
