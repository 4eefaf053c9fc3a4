"""What a recording rule, an alert and a group of them are, and how they look in YAML."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

import yaml

from monitoring.timings import SERVICES

Severity = Literal["critical", "warning", "none"]

RUNBOOKS_URL = "https://github.com/truthful-serving/truthful-serving/blob/main/docs/runbooks"
Dashboard = Literal["overview", "inference", "logging", "probes", "kubernetes"]

SCRAPE_INTERVAL_SECONDS = 15
_SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}

# The label `service` of alerts on the monitoring itself.
MONITORING = "monitoring"

EITHER_SERVICE = "|".join(SERVICES)
PODS = f"({EITHER_SERVICE})-.*"

# Labels that a deployment of a model has in common, whether or not it runs in a cluster.
DEPLOYMENT = "namespace, job, model, stage"
STORE = "namespace, job, service"

# The target that an alert is about: its address, and its pod where there is one.
INSTANCE = "{{ $labels.instance }}{{ with $labels.pod }} (pod {{ . }}){{ end }}"
MODEL = "{{ $labels.model }}@{{ $labels.stage }}"
POD = "{{ $labels.namespace }}/{{ $labels.pod }}"
IN_NAMESPACE = "{{ with $labels.namespace }} in namespace {{ . }}{{ end }}"


@dataclass(frozen=True)
class Recording:
    """A recorded expression; `labels` are added to every one of its series."""

    record: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """Return the rule as Prometheus reads it."""
        document: dict[str, object] = {"record": self.record, "expr": one_line(self.expr)}
        if self.labels:
            document["labels"] = OneLine(self.labels)
        return document


@dataclass(frozen=True)
class Alert:
    """An alert with what its reader needs.

    `hold` is the rule's `for`. `service` routes the alert; empty where the expression's own
    labels carry it. `dashboard` shows what happened before it.
    """

    name: str
    severity: Severity
    _: KW_ONLY
    service: str
    expr: str
    hold: str
    summary: str
    description: str
    dashboard: Dashboard
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def static_labels(self) -> dict[str, str]:
        """Return the labels that the rule adds to the expression's."""
        labels = {"severity": self.severity, **self.labels}
        if self.service:
            labels["service"] = self.service
        return labels

    @property
    def links(self) -> dict[str, str]:
        """Return the annotations that lead from the alert to its pages."""
        return {
            "dashboard": f"/d/serving-{self.dashboard}",
            "runbook_url": f"{RUNBOOKS_URL}/{self.name}.md",
        }

    def document(self) -> dict[str, object]:
        """Return the rule as Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": one_line(self.expr),
            "for": self.hold,
            "labels": OneLine(self.static_labels),
            "annotations": {"summary": self.summary, "description": self.description, **self.links},
        }


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated together, in their order.

    `interval` is the pause between evaluations, Prometheus' own where it is empty.
    """

    name: str
    rules: Sequence[Recording | Alert]
    interval: str = ""

    @property
    def alerts(self) -> Iterator[Alert]:
        """Yield the group's alerts."""
        return (rule for rule in self.rules if isinstance(rule, Alert))

    @property
    def recordings(self) -> Iterator[Recording]:
        """Yield the group's recording rules."""
        return (rule for rule in self.rules if isinstance(rule, Recording))

    def document(self) -> dict[str, object]:
        """Return the group as Prometheus reads it."""
        pace = {"interval": self.interval} if self.interval else {}
        return {"name": self.name, **pace, "rules": [rule.document() for rule in self.rules]}


@dataclass(frozen=True)
class RuleFile:
    """One file of `rules/`."""

    name: str
    groups: Sequence[Group]

    def document(self) -> dict[str, object]:
        """Return the file's content as Prometheus reads it."""
        return {"groups": [group.document() for group in self.groups]}


def one_line(expr: str) -> str:
    """Return an expression without the line breaks it is written with."""
    return " ".join(expr.split())


def seconds(duration: str) -> int:
    """Return a PromQL duration such as `1h30m` in seconds; ValueError for any other text."""
    if not re.fullmatch(r"(\d+[smhd])+", duration):
        raise ValueError(f"not a duration: {duration!r}")
    return sum(int(count) * _SECONDS[unit] for count, unit in re.findall(r"(\d+)(.)", duration))


def duration(total_seconds: int) -> str:
    """Return seconds as a PromQL duration, in the largest units that fit."""
    if total_seconds == 0:
        return "0s"
    text = ""
    for unit, size in _SECONDS.items():
        count, total_seconds = divmod(total_seconds, size)
        text += f"{count}{unit}" if count else ""
    return text


class OneLine(dict[str, str]):
    """A mapping that YAML shows on one line."""


class _Dumper(yaml.SafeDumper):
    """Writes each OneLine on one line and everything else as blocks."""


_Dumper.add_representer(
    OneLine,
    lambda dumper, one: dumper.represent_mapping("tag:yaml.org,2002:map", one, flow_style=True),
)


def to_yaml(document: object) -> str:
    """Return YAML in the order given, long strings unbroken."""
    return yaml.dump(
        document,
        Dumper=_Dumper,
        sort_keys=False,
        width=10_000,
        allow_unicode=True,
        default_flow_style=False,
    )
