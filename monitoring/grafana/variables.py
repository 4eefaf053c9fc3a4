"""The choices at the top of every dashboard, and the links that hand them on."""

from monitoring.grafana.dashboard import Variable
from monitoring.grafana.queries import family_of
from monitoring.grafana.schema import Link

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
            name="job",
            query=values("job", "namespace"),
            all_value=".+",
            description="Scrape job.",
        ),
        Variable(
            name="model",
            query=model_values("model", "namespace"),
            description="Registered model.",
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
