"""A whole dashboard: its variables, its links to the others, its rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from monitoring.catalogue import family_of
from monitoring.grafana.schema import DATASOURCE, SCHEMA_VERSION, Json, Link, Row, lay_out

ALL = "$__all"

OVERVIEW = "serving-overview"
INFERENCE = "serving-inference"
LOGGING = "serving-logging"
PROBES = "serving-probes"
KUBERNETES = "serving-kubernetes"

TITLES = {
    OVERVIEW: "Serving / Overview",
    INFERENCE: "Serving / Inference",
    LOGGING: "Serving / Logging",
    PROBES: "Serving / Probes",
    KUBERNETES: "Serving / Kubernetes",
}

MODEL_ANCHOR = "inference_start_time_seconds"

# A job or an instance chosen on one dashboard may not exist on another: they are not handed on.
_CARRIED = ("datasource", "namespace", "model", "stage")


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A choice at the dashboard's top: the values that a label has on a metric.

    `all_value` is the pattern that stands for all; `.*` also matches series without the label.
    """

    name: str
    query: str
    all_value: Literal[".+", ".*"] = ".*"
    description: str = ""

    def to_json(self) -> Json:
        """Return the variable; its values are asked for anew when the time range changes."""
        return {
            "name": self.name,
            "label": self.name.title(),
            "description": self.description,
            "type": "query",
            "datasource": dict(DATASOURCE),
            "query": {"qryType": 5, "query": self.query, "refId": f"variable-{self.name}"},
            "regex": "",
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": self.all_value,
            "current": {"selected": True, "text": "All", "value": ALL},
            "hide": 0,
            "options": [],
            "skipUrlSync": False,
        }


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A choice among fixed values."""

    name: str
    values: tuple[str, ...]
    description: str = ""

    def to_json(self) -> Json:
        """Return the variable with all of its values chosen."""
        return {
            "name": self.name,
            "label": self.name.title(),
            "description": self.description,
            "type": "custom",
            "query": ",".join(self.values),
            "multi": True,
            "includeAll": True,
            "current": {"selected": True, "text": "All", "value": ALL},
            "hide": 0,
            "options": [
                {"selected": value == ALL, "text": "All" if value == ALL else value, "value": value}
                for value in (ALL, *self.values)
            ],
            "skipUrlSync": False,
        }


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A dashboard under an identifier that never changes, since links point to it."""

    uid: str
    title: str
    description: str
    readers: str
    variables: Sequence[Variable | Choice]
    rows: Sequence[Row]
    links: Sequence[Link] = field(default_factory=tuple)

    def to_json(self) -> Json:
        """Return the dashboard in Grafana's classic schema."""
        return {
            "id": None,
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["truthful-serving"],
            "editable": False,
            "graphTooltip": 1,
            "fiscalYearStartMonth": 0,
            "liveNow": False,
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "weekStart": "",
            "timezone": "browser",
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "refresh": "30s",
            "annotations": {"list": [_grafana_annotations()]},
            "templating": {
                "list": [_datasource(), *(variable.to_json() for variable in self.variables)]
            },
            "links": [link.to_json() for link in self.links],
            "panels": lay_out(self.rows),
        }


def service_variables(*anchors: str) -> tuple[Variable, ...]:
    """Return namespace, job, model, stage and instance, as the anchors' series have them.

    Raises KeyError for an anchor that is not in the catalogue.
    """
    for anchor in anchors:
        family_of(anchor)
    name = f'__name__=~"{"|".join(anchors)}"' if len(anchors) > 1 else ""
    metric = anchors[0] if len(anchors) == 1 else ""

    def values(label: str, *chosen: str) -> str:
        matchers = [name] * bool(name) + [f'{variable}=~"${variable}"' for variable in chosen]
        selector = f"{metric}{{{', '.join(matchers)}}}" if matchers else metric
        return f"label_values({selector}, {label})"

    def model_values(label: str, *chosen: str) -> str:
        matchers = ", ".join(f'{variable}=~"${variable}"' for variable in chosen)
        return f"label_values({MODEL_ANCHOR}{{{matchers}}}, {label})"

    return (
        Variable(
            name="namespace",
            query=values("namespace"),
            description="Kubernetes namespace; All also shows series that have none.",
        ),
        Variable(
            name="job", query=values("job", "namespace"), all_value=".+", description="Scrape job."
        ),
        Variable(
            name="model", query=model_values("model", "namespace"), description="Registered model."
        ),
        Variable(
            name="stage",
            query=model_values("stage", "namespace", "model"),
            description="Registry alias or stage that is followed.",
        ),
        Variable(
            name="instance",
            query=values("instance", "namespace", "job"),
            all_value=".+",
            description="Scrape target: a pod, or a process on this machine.",
        ),
    )


def links_from(uid: str) -> tuple[Link, ...]:
    """Return the links of one dashboard to all others, with its choices and time range."""
    query = "&".join(f"${{{variable}:queryparam}}" for variable in _CARRIED)
    return tuple(
        Link(title=title, url=f"/d/{other}?{query}")
        for other, title in TITLES.items()
        if other != uid
    )


def _datasource() -> Json:
    return {
        "name": "datasource",
        "label": "Data source",
        "description": "Prometheus that scrapes the services.",
        "type": "datasource",
        "query": "prometheus",
        "regex": "",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "hide": 0,
        "options": [],
        "skipUrlSync": False,
    }


def _grafana_annotations() -> Json:
    return {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }
