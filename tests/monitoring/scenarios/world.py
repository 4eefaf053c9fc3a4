"""The pods that scenarios are about, and the exporters that know of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE
from tests.monitoring.scenarios.wave import Series, Wave

Labels = Mapping[str, str]

NAMESPACE = "mlops"
MODEL = {"model": "steel-defects", "stage": "production"}
KUBE_STATE_METRICS = {"job": "kube-state-metrics", "instance": "10.0.1.1:8080"}
KUBELET = {"job": "kubelet-probes", "instance": "10.0.2.1:10250"}


@dataclass(frozen=True)
class Pod:
    """A pod of a service, as a target of Prometheus; `own` are labels that its series bring."""

    service: str
    name: str
    instance: str
    own: Labels
    namespace: str = NAMESPACE

    @property
    def labels(self) -> dict[str, str]:
        """The pod's labels in Kubernetes' metrics."""
        return {"namespace": self.namespace, "pod": self.name}

    @property
    def target(self) -> dict[str, str]:
        """The labels that Prometheus puts on every series of it."""
        return {**self.labels, "job": self.service, "instance": self.instance}

    @property
    def all_pods(self) -> dict[str, str]:
        """The labels that all pods of its deployment have in common."""
        return {"namespace": self.namespace, "job": self.service, **self.own}

    @property
    def place(self) -> str:
        """How the texts of alerts name it."""
        return f"{self.instance} (pod {self.name})"

    def series(self, metric: str, wave: Wave, **labels: str) -> Series:
        """Return a series of the service's own."""
        return Series(metric, {**self.target, **self.own, **labels}, wave)

    def up(self, wave: Wave) -> Series:
        """Return whether its scrapes succeed."""
        return Series("up", self.target, wave)

    def common(self, metric: str, wave: Wave, **labels: str) -> Series:
        """Return a series of a metric that both services have."""
        return Series(metric, {**self.target, "service": self.service, **labels}, wave)

    def of_cluster(self, metric: str, wave: Wave, **labels: str) -> Series:
        """Return a series of kube-state-metrics about it."""
        return Series(metric, {**KUBE_STATE_METRICS, **self.labels, **labels}, wave)

    def of_container(self, metric: str, wave: Wave, **labels: str) -> Series:
        """Return a series of kube-state-metrics about its container."""
        return self.of_cluster(metric, wave, container=self.service, **labels)

    def of_kubelet(self, metric: str, wave: Wave, **labels: str) -> Series:
        """Return a series of the kubelet about its container."""
        return Series(metric, {**KUBELET, **self.labels, "container": self.service, **labels}, wave)


INFERENCE = Pod(INFERENCE_SERVICE, "inference-service-7d4b9c-x2x7q", "10.0.0.1:8010", MODEL)
OTHER_INFERENCE = Pod(INFERENCE_SERVICE, "inference-service-7d4b9c-k8v4m", "10.0.0.2:8010", MODEL)
LOGGING = Pod(LOGGING_SERVICE, "logging-service-0", "10.0.0.3:8011", {"service": LOGGING_SERVICE})
OTHER_SERVICE = Pod("mlflow", "mlflow-0", "10.0.0.4:5000", {})
BOTH = (INFERENCE, LOGGING)


def exporter_up(exporter: Labels, wave: Wave) -> Series:
    """Return whether the scrapes of an exporter succeed."""
    return Series("up", exporter, wave)


def critical(labels: Labels, service: str) -> dict[str, str]:
    """Return the labels of an alert that goes to the pager."""
    return {**labels, "severity": "critical", "service": service}


def warning(labels: Labels, service: str) -> dict[str, str]:
    """Return the labels of an alert that becomes a ticket."""
    return {**labels, "severity": "warning", "service": service}


def page(pod: Pod, **labels: str) -> dict[str, str]:
    """Return the labels of a critical alert on the service's own series of a pod."""
    return critical({**pod.target, **pod.own, **labels}, pod.service)


def ticket(pod: Pod, **labels: str) -> dict[str, str]:
    """Return the labels of a warning on the service's own series of a pod."""
    return warning({**pod.target, **pod.own, **labels}, pod.service)
