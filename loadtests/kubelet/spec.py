"""The probes of a container, read from a rendered manifest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE, ProbeKind

_BASE = Path(__file__).resolve().parents[2] / "k8s" / "base"
MANIFESTS: Mapping[str, Path] = {
    INFERENCE_SERVICE: _BASE / "inference" / "deployment.yaml",
    LOGGING_SERVICE: _BASE / "logging" / "stateful-set.yaml",
}
KINDS: tuple[ProbeKind, ...] = ("startup", "readiness", "liveness")
_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")


class ManifestError(Exception):
    """A manifest without the workload that was asked for, or with probes that are not HTTP."""


@dataclass(frozen=True)
class HttpProbe:
    """One probe as the kubelet runs it; what a manifest leaves out has the API's default."""

    kind: ProbeKind
    path: str
    port: int
    initial_delay_seconds: float = 0.0
    period_seconds: float = 10.0
    timeout_seconds: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ContainerProbes:
    """All that the kubelet knows of how to ask one container; None where a probe is not set."""

    container: str
    startup: HttpProbe | None = None
    readiness: HttpProbe | None = None
    liveness: HttpProbe | None = None
    termination_grace_period_seconds: float = 30.0

    def probe(self, kind: ProbeKind) -> HttpProbe | None:
        """Return the probe of a kind."""
        probes: Mapping[ProbeKind, HttpProbe | None] = {
            "startup": self.startup,
            "readiness": self.readiness,
            "liveness": self.liveness,
        }
        return probes[kind]

    @property
    def probes(self) -> list[HttpProbe]:
        """The probes that are set."""
        return [probe for kind in KINDS if (probe := self.probe(kind))]

    def hastened(self, factor: int) -> "ContainerProbes":
        """Return the same probes, sent `factor` times as often, with their time-outs unchanged.

        A test that would take half a minute takes seconds. The startup probe may fail for as long
        as before, because the start of a process does not get any faster.
        """

        def sooner(probe: HttpProbe | None) -> HttpProbe | None:
            return probe and replace(
                probe,
                initial_delay_seconds=probe.initial_delay_seconds / factor,
                period_seconds=probe.period_seconds / factor,
            )

        startup = sooner(self.startup)
        return replace(
            self,
            startup=startup
            and replace(startup, failure_threshold=startup.failure_threshold * factor),
            readiness=sooner(self.readiness),
            liveness=sooner(self.liveness),
        )


def read_probes(manifest: Path, workload: str) -> ContainerProbes:
    """Read a workload's probes from a file of rendered manifests.

    Raises ManifestError where the file does not have just one such workload, or a probe that is
    not plain HTTP.
    """
    try:
        documents = list(yaml.safe_load_all(manifest.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise ManifestError(f"{manifest} cannot be read: {error}") from None
    return probes_of([item for item in documents if item], workload)


def probes_of(objects: Iterable[Mapping[str, Any]], workload: str) -> ContainerProbes:
    """Return the probes of a workload's first container; ManifestError as `read_probes`."""
    names = {
        item["metadata"]["name"]: item["spec"]["template"]["spec"]
        for item in objects
        if item.get("kind") in _WORKLOADS
    }
    if workload not in names:
        raise ManifestError(f"no workload '{workload}'; there are {', '.join(sorted(names))}")
    pod = names[workload]
    container = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
    found = {
        kind: _probe(kind, container[f"{kind}Probe"], ports)
        if f"{kind}Probe" in container
        else None
        for kind in KINDS
    }
    return ContainerProbes(
        container=container["name"],
        startup=found["startup"],
        readiness=found["readiness"],
        liveness=found["liveness"],
        termination_grace_period_seconds=float(pod.get("terminationGracePeriodSeconds", 30)),
    )


def _probe(kind: ProbeKind, spec: Mapping[str, Any], ports: Mapping[str, int]) -> HttpProbe:
    request = spec.get("httpGet")
    if request is None or request.get("scheme", "HTTP") != "HTTP" or "host" in request:
        raise ManifestError(f"the {kind} probe is not a plain HTTP GET of the pod: {dict(spec)}")
    port = request["port"]
    if isinstance(port, str) and port not in ports:
        raise ManifestError(f"the {kind} probe asks port '{port}', which the container has not")
    return HttpProbe(
        kind=kind,
        path=request.get("path", "/"),
        port=ports[port] if isinstance(port, str) else int(port),
        initial_delay_seconds=float(spec.get("initialDelaySeconds", 0)),
        period_seconds=float(spec.get("periodSeconds", 10)),
        timeout_seconds=float(spec.get("timeoutSeconds", 1)),
        success_threshold=int(spec.get("successThreshold", 1)),
        failure_threshold=int(spec.get("failureThreshold", 3)),
        headers=tuple(
            (header["name"], header["value"]) for header in request.get("httpHeaders", ())
        ),
    )
