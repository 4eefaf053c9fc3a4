"""A real Prometheus on the repository's rules, a real Alertmanager and who it notifies.

The rules are the shipped ones with their windows and `for` cut to seconds, so that a test need
not wait for the real ones; expressions, labels, texts, routes and inhibitions are as they are.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any

import yaml

from local import fetch
from local.process import Program, Servers
from monitoring.generate import RULES
from monitoring.prometheus.source.rule import duration, seconds
from monitoring.stack import (
    ALERTMANAGER_CONFIG,
    PROMETHEUS_CONFIG,
    alertmanager_program,
    prometheus_program,
)
from tests.support.http_server import Answer, HttpServer, Request
from tests.support.servers import free_port, wait_until

# A window of five minutes becomes one of ten seconds, which ten scrapes fill.
_FACTOR = 30
HOLD_SECONDS = 2
_PATIENCE_SECONDS = 60.0

_WINDOW = re.compile(r"(?<=[})a-z_])\[(\w+)\]|(?<=offset )(\w+)")
# How old a process may be for its counters to count as grown; see source/promql.py.
_AGE = re.compile(r"(abs\(time\(\) - \w+\) < )(\d+)")


@dataclass(frozen=True)
class Notification:
    """What a receiver got about one alert."""

    receiver: str
    alert: str
    status: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class Receivers:
    """The webhooks of all receivers, and what arrived at them, in its order."""

    def __init__(self) -> None:
        self._arrived = Condition()
        self._notifications: list[Notification] = []
        self.server = HttpServer(self._keep)
        self.url = self.server.url

    def _keep(self, request: Request) -> Answer:
        with self._arrived:
            self._notifications += [
                Notification(
                    request.path.strip("/"),
                    one["labels"]["alertname"],
                    one["status"],
                    one["labels"],
                    one["annotations"],
                )
                for one in json.loads(request.body)["alerts"]
            ]
            self._arrived.notify_all()
        return Answer()

    @property
    def notifications(self) -> list[Notification]:
        """Everything that arrived so far."""
        with self._arrived:
            return list(self._notifications)

    def wait_for(self, alert: str, status: str, *, after: int = 0, **labels: str) -> Notification:
        """Return the first such notification, of an alert with the labels, from `after` on."""

        def found() -> Notification | None:
            for one in self._notifications[after:]:
                if (one.alert, one.status) != (alert, status):
                    continue
                if labels.items() <= one.labels.items():
                    return one
            return None

        with self._arrived:
            self._arrived.wait_for(found, _PATIENCE_SECONDS)
            notification = found()
        others = self.notifications[after:]
        assert notification, f"{alert}{labels} is not notified as {status}: {others}"
        return notification


@dataclass(frozen=True)
class Alerting:
    """What runs: Prometheus' URL, and the receivers."""

    prometheus: str
    receivers: Receivers

    def states(self, alert: str) -> set[str]:
        """Return the states that an alert is in now, for any of its targets."""
        return {one["state"] for one in self._alerts() if one["labels"]["alertname"] == alert}

    def firing(self) -> set[str]:
        """Return the alerts that fire now."""
        return {one["labels"]["alertname"] for one in self._alerts() if one["state"] == "firing"}

    def wait_firing(self, alert: str) -> None:
        """Return as soon as the alert fires."""
        wait_until(
            lambda: "firing" in self.states(alert),
            f"{alert} fires",
            seconds=_PATIENCE_SECONDS,
            describe=lambda: f"alerts: {self._alerts()}",
        )

    def wait_quiet(self, alert: str) -> None:
        """Return as soon as the alert neither fires nor is pending."""
        wait_until(lambda: not self.states(alert), f"{alert} ends", seconds=_PATIENCE_SECONDS)

    def was_pending(self, alert: str) -> bool:
        """Return whether the alert was pending at an evaluation before it fired."""
        selector = f'ALERTS{{alertname="{alert}",alertstate="pending"}}'
        query = {"query": f"count_over_time({selector}[5m])"}
        answer = fetch.get(f"{self.prometheus}/api/v1/query", params=query)
        return bool(answer.json()["data"]["result"])

    def wait_evaluations(self, count: int) -> None:
        """Return after every group of rules was evaluated `count` times more."""

        def evaluated() -> dict[str, str]:
            answer = fetch.get(f"{self.prometheus}/api/v1/rules")
            groups = answer.json()["data"]["groups"]
            return {group["name"]: group["lastEvaluation"] for group in groups}

        for _ in range(count):
            before = evaluated()
            wait_until(
                lambda before=before: all(  # type: ignore[misc]
                    at != before[name] for name, at in evaluated().items()
                ),
                "every group is evaluated",
            )

    def wait_scraped(self, *jobs: str) -> None:
        """Return as soon as the last scrape of each job succeeded."""

        def up(job: str) -> bool:
            query = {"query": f'up{{job="{job}"}} == 1'}
            answer = fetch.get(f"{self.prometheus}/api/v1/query", params=query)
            return bool(answer.json()["data"]["result"])

        wait_until(lambda: all(up(job) for job in jobs), f"{jobs} are scraped")

    def _alerts(self) -> list[dict[str, Any]]:
        answer = fetch.get(f"{self.prometheus}/api/v1/alerts")
        return list(answer.json()["data"]["alerts"])


def shortened(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule file with windows cut to a thirtieth, each `for` to 2 s, groups at one pace."""

    def cut(found: re.Match[str]) -> str:
        whole = found[0]
        window = found[1] or found[2]
        return whole.replace(window, duration(max(seconds(window) // _FACTOR, 1)))

    def younger(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) // _FACTOR}"

    groups = [
        {
            "name": group["name"],
            "rules": [
                {
                    **rule,
                    "expr": _AGE.sub(younger, _WINDOW.sub(cut, rule["expr"])),
                    **({"for": f"{HOLD_SECONDS}s"} if "alert" in rule else {}),
                }
                for rule in group["rules"]
            ],
        }
        for group in document["groups"]
    ]
    return {"groups": groups}


def write_shortened_rules(folder: Path) -> Path:
    """Write the shipped rule files, shortened, into a new folder; return it."""
    folder.mkdir()
    for path in RULES.glob("*.yml"):
        document = shortened(yaml.safe_load(path.read_text()))
        (folder / path.name).write_text(yaml.safe_dump(document, sort_keys=False))
    return folder


@contextmanager
def alerting(directory: Path, targets: Mapping[str, str]) -> Iterator[Alerting]:
    """Start Prometheus and Alertmanager on the shipped files; `targets` are services' by job."""
    with ExitStack() as stack:
        receivers = Receivers()
        stack.enter_context(receivers.server)
        running = stack.enter_context(Servers(directory / "logs"))
        alertmanager = _alertmanager(directory, receivers.url)
        prometheus = _prometheus(directory, targets, alertmanager.port)
        running.start(alertmanager, prometheus)
        running.wait_until_ready()
        yield Alerting(prometheus.url, receivers)


def _prometheus(directory: Path, targets: Mapping[str, str], alertmanager: int) -> Program:
    port = free_port()
    own = {"prometheus": f"127.0.0.1:{port}", "alertmanager": f"127.0.0.1:{alertmanager}"}
    config = yaml.safe_load(PROMETHEUS_CONFIG.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (manager,) = config["alerting"]["alertmanagers"]
    manager["static_configs"] = [{"targets": [own["alertmanager"]]}]
    for scrape in config["scrape_configs"]:
        scrape["static_configs"] = [{"targets": [{**targets, **own}[scrape["job_name"]]]}]
    config["rule_files"] = [str(write_shortened_rules(directory / "rules") / "*.yml")]
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    # An alert that ended is sent at once, not after the real intervals.
    at_once = "--rules.alert.resend-delay=1s"
    return prometheus_program(path, directory / "series", port, at_once)


def _alertmanager(directory: Path, receivers: str) -> Program:
    config = yaml.safe_load(ALERTMANAGER_CONFIG.read_text())
    for route in (config["route"], *config["route"]["routes"]):
        # Long enough for an alert's cause to arrive before the alert would be notified.
        route |= {"group_wait": "3s", "group_interval": "1s", "repeat_interval": "1h"}
    for receiver in config["receivers"]:
        for hook in receiver["webhook_configs"]:
            hook["url"] = f"{receivers}/{receiver['name']}"
    path = directory / "alertmanager.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return alertmanager_program(path, directory / "alertmanager", free_port())
