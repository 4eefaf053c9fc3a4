"""The overlays render to objects that belong together and can be applied."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from k8s import render
from k8s.render import RenderError, render_overlay
from tests.k8s.manifests import NAMESPACE, OVERLAYS, environment, objects_of, rendered, workloads

CLUSTER_SCOPED = {
    "Namespace",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def test_an_unknown_overlay_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(RenderError, match="local, production"):
        render_overlay("prodution")


def test_local_and_production_are_there() -> None:
    assert {"local", "production"} <= set(OVERLAYS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_stands_in_the_namespace_or_belongs_to_the_cluster(overlay: str) -> None:
    """kustomize puts a namespace on cluster-wide objects too, where it is let."""
    for item in rendered(overlay):
        namespace = item["metadata"].get("namespace")
        expected = None if item["kind"] in CLUSTER_SCOPED else NAMESPACE
        assert namespace == expected, f"{item['kind']}/{item['metadata']['name']}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_object_is_there_twice(overlay: str) -> None:
    """`kubectl apply` would let the last one win."""
    keys = [(item["kind"], item["metadata"]["name"]) for item in rendered(overlay)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_immutable_and_named_after_their_content(overlay: str) -> None:
    """A changed setting is a new ConfigMap, so pods roll, and a rollback finds the old one."""
    used = {
        source["configMapRef"]["name"]
        for workload in workloads(rendered(overlay))
        for container in workload.containers
        for source in container.get("envFrom", ())
    } | {
        volume["configMap"]["name"]
        for workload in workloads(rendered(overlay))
        for volume in workload.pod.get("volumes", ())
        if "configMap" in volume
    }
    maps = {item["metadata"]["name"]: item for item in objects_of("ConfigMap", rendered(overlay))}
    assert used
    assert used <= set(maps)
    for name in used:
        assert maps[name]["immutable"] is True
        assert len(name.rpartition("-")[2]) == 10, f"{name} has no hash of its content"


def test_a_changed_setting_changes_the_pods(tmp_path: Path) -> None:
    """Renders a copy of the overlay with another value and compares the pods' ConfigMap names."""
    copy = tmp_path / "k8s"
    subprocess.run(["cp", "-r", str(render.KUBERNETES_DIRECTORY), str(copy)], check=True)
    settings = copy / "base" / "inference" / "settings.env"
    settings.write_text(settings.read_text().replace("LOG_LEVEL=INFO", "LOG_LEVEL=DEBUG"))
    changed = tuple(yaml.safe_load_all(render.render(copy / "overlays" / "production")))
    before, after = (
        {
            workload.name: (workload.template, environment(workload.container, objects))
            for workload in workloads(objects)
        }
        for objects in (rendered("production"), changed)
    )
    assert after["inference-service"][1]["LOG_LEVEL"] == "DEBUG"
    assert before["inference-service"][0] != after["inference-service"][0]
    assert before["logging-service"] == after["logging-service"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_stands_in_the_manifests(overlay: str) -> None:
    """Secrets are made in the cluster and referred to."""
    assert not objects_of("Secret", rendered(overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_says_what_it_belongs_to(overlay: str) -> None:
    """`kubectl get -l app.kubernetes.io/name=...` finds a service's parts."""
    for item in rendered(overlay):
        if item["kind"] in CLUSTER_SCOPED or item["metadata"]["name"] == "default-deny":
            continue
        labels = item["metadata"].get("labels", {})
        where = f"{item['kind']}/{item['metadata']['name']}"
        assert "app.kubernetes.io/component" in labels, where
        if labels["app.kubernetes.io/component"] != "monitoring":
            assert "app.kubernetes.io/name" in labels, where


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_small_enough_to_be_applied(overlay: str) -> None:
    """`kubectl apply` keeps a copy of the object in an annotation of at most 256 KiB."""
    for item in rendered(overlay):
        assert len(json.dumps(item)) < 256 * 1024, item["metadata"]["name"]
