"""Which probes a load test sends: the manifests' own, more frequent ones for percentiles, scrapes.

The kubelet and Prometheus ask the probe port, and so do all probes that are judged. The service's
own port answers the same routes and is probed beside it, to show what the probe port is worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from bentos.health.probes import METRICS_PATH
from loadtests.kubelet.driver import Address
from loadtests.kubelet.spec import ContainerProbes, ManifestError, read_probes
from loadtests.samples import Cadence, Port, ProbeTarget
from loadtests.settings import LoadTestSettings
from local.prober import Schedule
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

_SCRAPE_HEADERS = {"Accept": "text/plain;version=0.0.4"}


@dataclass(frozen=True)
class Subject:
    """A service under test and how Kubernetes would probe it."""

    name: str
    url: str
    probe_url: str
    probes: ContainerProbes

    def base_url(self, port: Port) -> str:
        """Return where a port of the container is reached."""
        return self.url if port == "http" else self.probe_url


@dataclass(frozen=True)
class ProbePlan:
    """What is asked, and when."""

    target: ProbeTarget
    schedule: Schedule


def subjects(settings: LoadTestSettings) -> tuple[Subject, ...]:
    """Return the services under test; ManifestError where their probes cannot be read."""
    inference = _subject(
        INFERENCE_SERVICE,
        settings.inference_url,
        settings.inference_probe_url,
        settings.inference_manifest,
    )
    if not settings.logging_url:
        return (inference,)
    logging = _subject(
        LOGGING_SERVICE,
        settings.logging_url,
        settings.logging_probe_url,
        settings.logging_manifest,
    )
    return inference, logging


def _subject(name: str, url: str, probe_url: str | None, manifest: Path) -> Subject:
    probes = read_probes(manifest, name)
    if probe_url is None:
        ports = {probe.port for probe in probes.probes}
        if len(ports) != 1:
            raise ManifestError(f"the probes of '{name}' ask the ports {sorted(ports)}, not one")
        probe_url = f"http://{Address(urlsplit(url).hostname or '', ports.pop())}"
    return Subject(name, url, probe_url, probes)


def kubelet_plan(settings: LoadTestSettings) -> list[ProbePlan]:
    """Return the readiness and liveness probes of every service.

    Each is sent to the probe port at the manifest's period, and to both ports more frequently.
    Start-up probes have ended before the load begins.
    """
    plans: list[ProbePlan] = []
    for subject in subjects(settings):
        for probe in (subject.probes.readiness, subject.probes.liveness):
            if probe is None:
                continue
            cadences: tuple[tuple[Port, Cadence, float], ...] = (
                ("probes", "manifest", probe.period_seconds),
                ("probes", "dense", settings.probe_interval_seconds),
                ("http", "dense", settings.probe_interval_seconds),
            )
            plans += [
                ProbePlan(
                    ProbeTarget(subject.name, port, probe.path, probe.kind, cadence),
                    Schedule(
                        subject.base_url(port) + probe.path,
                        interval_seconds=seconds,
                        timeout_seconds=probe.timeout_seconds,
                        headers=dict(probe.headers),
                    ),
                )
                for port, cadence, seconds in cadences
            ]
    return _spread(plans, settings.probe_interval_seconds)


def prometheus_plan(settings: LoadTestSettings) -> list[ProbePlan]:
    """Return the scrapes of every service, of both ports."""
    ports: tuple[Port, ...] = ("probes", "http")
    plans = [
        ProbePlan(
            ProbeTarget(subject.name, port, METRICS_PATH, "metrics", "scrape"),
            Schedule(
                subject.base_url(port) + METRICS_PATH,
                interval_seconds=settings.scrape_interval_seconds,
                timeout_seconds=settings.scrape_timeout_seconds,
                headers=_SCRAPE_HEADERS,
            ),
        )
        for subject in subjects(settings)
        for port in ports
    ]
    return _spread(plans, settings.scrape_interval_seconds)


def _spread(plans: Sequence[ProbePlan], seconds: float) -> list[ProbePlan]:
    """Spread the first ticks over a time, so that the probes do not come all at once."""
    return [
        replace(
            plan,
            schedule=replace(plan.schedule, offset_seconds=seconds * position / len(plans)),
        )
        for position, plan in enumerate(plans)
    ]
