"""Both Prometheus configurations lead to the targets and labels that the rules expect."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.stack import options_of
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE, PROBE_PORT_NAME, SERVICES
from tests.monitoring.promtool import PROMETHEUS, promtool, write_yaml

KUBERNETES = PROMETHEUS / "prometheus-kubernetes.yml"


def _configuration() -> dict[str, Any]:
    return dict(yaml.safe_load(KUBERNETES.read_text()))


def _endpoint(service: str, port: str) -> dict[str, str]:
    """Return what Prometheus knows of a Service's endpoint before relabelling."""
    return {
        "__meta_kubernetes_namespace": "mlops",
        "__meta_kubernetes_service_label_app_kubernetes_io_name": service,
        "__meta_kubernetes_endpoint_port_name": port,
        "__meta_kubernetes_pod_name": f"{service}-0",
    }


def _kept(job: str, meta: Mapping[str, str], directory: Path) -> list[dict[str, str]]:
    """Return the labels of the targets that a job keeps of an endpoint, by Prometheus' own code.

    Debian's Prometheus is built without Kubernetes discovery: what it would find is listed.
    """
    scrape = next(one for one in _configuration()["scrape_configs"] if one["job_name"] == job)
    scrape.pop("kubernetes_sd_configs")
    for secret in ("authorization", "tls_config"):
        scrape.pop(secret, None)
    scrape["static_configs"] = [{"targets": ["10.0.0.1:8010"], "labels": dict(meta)}]
    config = write_yaml(directory / "prometheus.yml", {"scrape_configs": [scrape]})
    finished = promtool("check", "service-discovery", "--timeout=2s", config, job)
    assert finished.status == 0, finished.output
    found = json.loads(finished.output[finished.output.index("[") :])
    return [one["labels"] for one in found if one.get("labels")]


@pytest.mark.parametrize("service", [INFERENCE_SERVICE, LOGGING_SERVICE])
def test_a_service_in_the_cluster_is_scraped_under_its_job_name(
    service: str, tmp_path: Path
) -> None:
    (labels,) = _kept("mlops-services", _endpoint(service, PROBE_PORT_NAME), tmp_path)
    assert labels["job"] == service
    assert labels["namespace"] == "mlops"
    assert labels["pod"] == f"{service}-0"
    assert labels["instance"] == "10.0.0.1:8010"
    assert labels["__metrics_path__"] == "/metrics"
    assert "service" not in labels, "it would push the services' own label aside"


@pytest.mark.parametrize(
    "meta", [_endpoint("mlflow", PROBE_PORT_NAME), _endpoint(INFERENCE_SERVICE, "http")]
)
def test_nothing_else_is_scraped_as_a_service(meta: dict[str, str], tmp_path: Path) -> None:
    assert _kept("mlops-services", meta, tmp_path) == []


def test_kube_state_metrics_keeps_the_labels_of_the_pods_it_describes(tmp_path: Path) -> None:
    assert _kept("kube-state-metrics", _endpoint("kube-state-metrics", "http"), tmp_path)
    assert not _kept("kube-state-metrics", _endpoint(INFERENCE_SERVICE, "http"), tmp_path)
    scrapes = {one["job_name"]: one for one in _configuration()["scrape_configs"]}
    for job in ("kube-state-metrics", "kubelet-probes", "kubelet-containers"):
        assert scrapes[job]["honor_labels"] is True


@pytest.mark.case(45)
@pytest.mark.parametrize("program", ["prometheus", "alertmanager"])
def test_what_watches_is_scraped(program: str, tmp_path: Path) -> None:
    """Nothing scraped Prometheus and Alertmanager, so that their absence had no alert."""
    (labels,) = _kept("monitoring", _endpoint(program, "web"), tmp_path)
    assert labels["job"] == program
    assert not _kept("monitoring", _endpoint("grafana", "web"), tmp_path)


def test_the_rest_of_the_cluster_configuration_is_valid(tmp_path: Path) -> None:
    config = _configuration()
    discoveries = [*config["scrape_configs"], *config["alerting"]["alertmanagers"]]
    for one in discoveries:
        for discovery in one.pop("kubernetes_sd_configs"):
            assert set(discovery) <= {"role", "namespaces"}
            assert discovery["role"] in ("endpoints", "node")
        one["static_configs"] = [{"targets": ["10.0.0.1:8010"]}]
    config["rule_files"] = [str(PROMETHEUS / pattern) for pattern in config["rule_files"]]
    path = write_yaml(tmp_path / "prometheus.yml", config)
    finished = promtool("check", "config", "--syntax-only", path)
    assert finished.status == 0, finished.output


def test_the_local_jobs_are_the_probe_ports_of_the_services_and_what_watches_them() -> None:
    jobs = {
        scrape["job_name"]: scrape["static_configs"][0]["targets"]
        for scrape in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    }
    options = options_of([])
    assert set(options.probe_ports) == set(SERVICES)
    assert jobs == {job: [f"127.0.0.1:{port}"] for job, port in options.scraped_ports.items()}


def test_the_local_and_the_cluster_configuration_ask_as_often() -> None:
    local = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert local["global"] == _configuration()["global"]
    assert local["rule_files"] == _configuration()["rule_files"]
