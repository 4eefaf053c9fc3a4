"""Names, labels, ports and policies meet: what must talk can, and nothing else can."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.k8s.manifests import (
    EXTENDED,
    INFERENCE,
    LOGGING,
    NAMESPACE,
    OVERLAYS,
    SCALE,
    SQLITE_OVERLAYS,
    Object,
    Workload,
    environment,
    named,
    objects_of,
    rendered,
    selects,
    workload,
    workloads,
)
from tests.k8s.reachability import Endpoint, allowed

_NAME = "app.kubernetes.io/name"
INTERNET = Endpoint("the internet")


def namespace_labels(name: str, **more: str) -> dict[str, str]:
    """Return the labels that the API server gives a namespace, and others."""
    return {"kubernetes.io/metadata.name": name, **more}


def pod_of(item: Workload) -> Endpoint:
    """Return a pod of a workload as the policies see it."""
    ports = {
        port["name"]: port["containerPort"]
        for container in item.containers
        for port in container.get("ports", ())
    }
    return Endpoint(item.name, NAMESPACE, item.labels, namespace_labels(NAMESPACE), ports)


def strangers() -> dict[str, Endpoint]:
    """Return pods of other namespaces, those we know of and those we do not."""
    pods = [
        Endpoint("mlflow-elsewhere", "mlflow", {_NAME: "mlflow"}, namespace_labels("mlflow")),
        Endpoint("postgresql", "postgresql", {_NAME: "postgresql"}, namespace_labels("postgresql")),
        Endpoint("dns", "kube-system", {"k8s-app": "kube-dns"}, namespace_labels("kube-system")),
        Endpoint("prometheus", "monitoring", {_NAME: "prometheus"}, namespace_labels("monitoring")),
        Endpoint("grafana", "monitoring", {_NAME: "grafana"}, namespace_labels("monitoring")),
        Endpoint(
            "ingress", "ingress-nginx", {_NAME: "ingress-nginx"}, namespace_labels("ingress-nginx")
        ),
        Endpoint("client", "team", {"app": "web"}, {**namespace_labels("team"), **_LET_IN_LABEL}),
        # A pod that carries our labels elsewhere is not ours.
        Endpoint("impostor", "default", {_NAME: INFERENCE}, namespace_labels("default")),
        Endpoint("stray", NAMESPACE, {"app": "debug"}, namespace_labels(NAMESPACE)),
        INTERNET,
    ]
    return {pod.name: pod for pod in pods}


_LET_IN_LABEL = {"mlops/inference-client": "true"}

# Source, target, port: every connection there may be. Clients reach the services' own ports and
# Prometheus the probe ports, and neither reaches the other's. The logging service's status page
# asks the inference service's probes.
COMMON = {
    ("ingress", INFERENCE, 8000),
    ("client", INFERENCE, 8000),
    ("prometheus", INFERENCE, 8010),
    ("prometheus", LOGGING, 8011),
    (INFERENCE, LOGGING, 8001),
    (INFERENCE, "dns", 53),
    # The status page.
    (LOGGING, INFERENCE, 8010),
    (LOGGING, "dns", 53),
}
PRODUCTION = COMMON | {(INFERENCE, "mlflow-elsewhere", 5000)}
EXPECTED = {
    "local": COMMON | {(INFERENCE, "mlflow", 5000)},
    "production": PRODUCTION,
    "production-monitored": PRODUCTION,
    EXTENDED: PRODUCTION,
    SCALE: PRODUCTION | {(LOGGING, "postgresql", 5432), (LOGGING, "dns", 53)},
}
PORTS = (53, 80, 443, 5000, 5432, 8000, 8001, 8010, 8011)


def connections(overlay: str, policies: list[Object]) -> Iterator[tuple[str, str, int]]:
    """Return every connection that these policies allow from or to one of our pods."""
    ours = {item.name: pod_of(item) for item in workloads(rendered(overlay))}
    everyone = ours | strangers()
    for source in everyone.values():
        for target in everyone.values():
            if source.name == target.name or not {source.name, target.name} & set(ours):
                continue
            for port in PORTS:
                if allowed(policies, source, target, port):
                    yield source.name, target.name, port


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_exactly_the_listed_connections_are_allowed(overlay: str) -> None:
    policies = objects_of("NetworkPolicy", rendered(overlay))
    assert set(connections(overlay, policies)) == EXPECTED[overlay]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_allowed_connection_is_needed(overlay: str) -> None:
    """The negative control: without any one of the policies the connections are others."""
    policies = objects_of("NetworkPolicy", rendered(overlay))
    for missing in policies:
        rest = [policy for policy in policies if policy is not missing]
        name = missing["metadata"]["name"]
        if name == "default-deny":
            # Pods that no other policy selects are open without it: the jobs, where there are any.
            jobs = any(item.kind == "CronJob" for item in workloads(rendered(overlay)))
            assert bool(set(connections(overlay, rest)) - EXPECTED[overlay]) == jobs, name
        else:
            assert EXPECTED[overlay] - set(connections(overlay, rest)), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_are_resolved_over_udp_too(overlay: str) -> None:
    """And by NodeLocal DNSCache where a node has it."""
    policies = objects_of("NetworkPolicy", rendered(overlay))
    for name in (INFERENCE, LOGGING):
        pod = pod_of(workload(name, rendered(overlay)))
        dns = strangers()["dns"]
        assert allowed(policies, pod, dns, 53, protocol="UDP")
        node_local = Endpoint("node-local-dns", address="169.254.20.10")
        assert allowed(policies, pod, node_local, 53, protocol="UDP")
        assert not allowed(policies, pod, Endpoint("metadata", address="169.254.169.254"), 80)


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_the_jobs_talk_to_nobody(overlay: str) -> None:
    """Backup and restore work on volumes."""
    policies = objects_of("NetworkPolicy", rendered(overlay))
    jobs = {item.name for item in workloads(rendered(overlay)) if item.kind == "CronJob"}
    assert jobs == {"logging-backup", "logging-restore"}
    assert not [entry for entry in connections(overlay, policies) if jobs & {entry[0], entry[1]}]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_service_finds_its_own_pods_and_no_others(overlay: str) -> None:
    """A job that carried a service's label would get its requests."""
    for service in objects_of("Service", rendered(overlay)):
        selector = {"matchLabels": service["spec"]["selector"]}
        found = [item for item in workloads(rendered(overlay)) if selects(selector, item.labels)]
        assert [item.name for item in found] == [service["metadata"]["name"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_service_has_the_ports_of_its_container(overlay: str) -> None:
    for service in objects_of("Service", rendered(overlay)):
        item = workload(service["metadata"]["name"], rendered(overlay))
        ports = service["spec"]["ports"]
        assert [(port["name"], port["targetPort"], port["port"]) for port in ports] == [
            (port["name"], port["name"], port["containerPort"]) for port in item.container["ports"]
        ]


@pytest.mark.case(39)
def test_a_service_gets_every_address_family_that_the_cluster_has() -> None:
    """A dual-stack or IPv6-only cluster: the component `ipv6` asks for both families."""
    for service in objects_of("Service", rendered(EXTENDED)):
        assert service["spec"]["ipFamilyPolicy"] == "PreferDualStack"
        assert "ipFamilies" not in service["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_controller_selects_the_pods_it_makes(overlay: str) -> None:
    """The API server refuses it otherwise, and says so late."""
    for item in workloads(rendered(overlay)):
        if item.kind != "CronJob":
            assert selects(item.spec["selector"], item.labels), str(item)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_disruption_budget_covers_the_pods_of_each_service_with_several(overlay: str) -> None:
    """And lets one go at a time, so that a node drain ends."""
    covered = []
    for budget in objects_of("PodDisruptionBudget", rendered(overlay)):
        covered += [
            item.name
            for item in workloads(rendered(overlay))
            if selects(budget["spec"]["selector"], item.labels)
        ]
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert covered == ([INFERENCE, LOGGING] if overlay == SCALE else [INFERENCE])


def policy_target(url: str) -> tuple[str, str, int]:
    """Return a Service URL's name, namespace and port."""
    parts = urlsplit(url)
    name, _, rest = (parts.hostname or "").partition(".")
    return name, rest.partition(".")[0] or NAMESPACE, parts.port or 80


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_url_of_the_logging_service_is_its_services(overlay: str) -> None:
    item = workload(INFERENCE, rendered(overlay))
    url = environment(item.container, rendered(overlay))["LOGGING_URL"]
    service = named("Service", LOGGING, rendered(overlay))
    assert policy_target(url) == (LOGGING, NAMESPACE, service["spec"]["ports"][0]["port"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_status_page_asks_the_probes_of_the_inference_service(overlay: str) -> None:
    objects = rendered(overlay)
    item = workload(LOGGING, objects)
    url = environment(item.container, objects)["INFERENCE_PROBE_URL"]
    ports = {
        port["name"]: port["port"] for port in named("Service", INFERENCE, objects)["spec"]["ports"]
    }
    assert policy_target(url) == (INFERENCE, NAMESPACE, ports["probes"])
    policies = objects_of("NetworkPolicy", objects)
    inference = pod_of(workload(INFERENCE, objects))
    assert allowed(policies, pod_of(item), inference, ports["probes"])
    assert not allowed(policies, pod_of(item), inference, ports["http"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_registry_in_the_settings_is_the_one_the_policies_let_through(overlay: str) -> None:
    """A changed address without a changed policy is a pod that is never ready."""
    objects = rendered(overlay)
    item = workload(INFERENCE, objects)
    url = environment(item.container, objects)["MLFLOW_TRACKING_URI"]
    name, namespace, port = policy_target(url)
    registry = Endpoint(name, namespace, {_NAME: name}, namespace_labels(namespace))
    policies = objects_of("NetworkPolicy", objects)
    assert allowed(policies, pod_of(item), registry, port)
    elsewhere = Endpoint(name, "elsewhere", {_NAME: name}, namespace_labels("elsewhere"))
    assert not allowed(policies, pod_of(item), elsewhere, port)
    if namespace == NAMESPACE:
        service = named("Service", name, objects)
        assert service["spec"]["ports"][0]["port"] == port
