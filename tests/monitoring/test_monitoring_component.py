"""k8s/components/monitoring is what its sources make, and kustomize builds it."""

import json
import subprocess
from typing import Any

import pytest
import yaml

from bentos.health.probes import METRICS_PATH
from k8s.render import kubectl
from monitoring.generate import DASHBOARDS, ROOT, RULES
from monitoring.timings import PROBE_PORT_NAME, SERVICES

Object = dict[str, Any]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """What an overlay with the base and this component renders to."""
    overlay = tmp_path_factory.mktemp("overlay")
    link = overlay / "k8s"
    link.symlink_to(ROOT / "k8s")
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "elsewhere",
        "resources": ["k8s/base"],
        "components": ["k8s/components/monitoring"],
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    command = [kubectl(), "kustomize", str(overlay)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return list(yaml.safe_load_all(finished.stdout))


def _of(kind: str, objects: list[Object]) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def test_the_operator_gets_exactly_the_rules_of_the_rule_files(objects: list[Object]) -> None:
    (rule,) = _of("PrometheusRule", objects)
    groups = [
        group
        for path in RULES.glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    by_name = {group["name"]: group for group in groups}
    assert {group["name"]: group for group in rule["spec"]["groups"]} == by_name
    assert len(rule["spec"]["groups"]) == len(by_name) == len(groups)


@pytest.mark.parametrize("service", SERVICES)
def test_a_monitor_selects_the_service_and_its_probe_port(
    service: str, objects: list[Object]
) -> None:
    monitor = next(
        one for one in _of("ServiceMonitor", objects) if one["metadata"]["name"] == service
    )
    wanted = monitor["spec"]["selector"]["matchLabels"]
    (selected,) = (
        one
        for one in _of("Service", objects)
        if wanted.items() <= one["metadata"]["labels"].items()
    )
    assert selected["metadata"]["name"] == service
    assert selected["metadata"]["labels"][monitor["spec"]["jobLabel"]] == service
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] == PROBE_PORT_NAME
    assert endpoint["port"] in {port["name"] for port in selected["spec"]["ports"]}
    assert endpoint["path"] == METRICS_PATH
    assert not endpoint.get("metricRelabelings")


def test_monitors_look_in_the_namespace_that_the_services_are_in(objects: list[Object]) -> None:
    for one in (*_of("ServiceMonitor", objects), *_of("PrometheusRule", objects)):
        assert one["metadata"]["namespace"] == "elsewhere"
        assert "namespaceSelector" not in one["spec"]


def test_an_operator_installed_by_helm_picks_them_up(objects: list[Object]) -> None:
    for one in (*_of("ServiceMonitor", objects), *_of("PrometheusRule", objects)):
        assert one["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    for one in (*_of("Service", objects), *_of("Deployment", objects)):
        assert "release" not in one["metadata"]["labels"]


def test_every_dashboard_is_a_config_map_that_grafana_finds(objects: list[Object]) -> None:
    maps = [
        one
        for one in _of("ConfigMap", objects)
        if one["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
    ]
    found = {name: json.loads(text) for one in maps for name, text in one["data"].items()}
    sources = {path.name: json.loads(path.read_text()) for path in DASHBOARDS.glob("*.json")}
    assert found == sources


def test_no_config_map_is_too_large_for_kubectl_apply(objects: list[Object]) -> None:
    # kubectl keeps what it applied in an annotation of at most 256 KiB.
    for one in _of("ConfigMap", objects):
        assert len(json.dumps(one)) < 256 * 1024


def test_a_cluster_without_the_operator_takes_the_base(objects: list[Object]) -> None:
    command = [kubectl(), "kustomize", str(ROOT / "k8s" / "base")]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "monitoring.coreos.com" not in finished.stdout
