"""Rows of the inference dashboard about the model: its versions, and how sure it is."""

from monitoring.grafana.panels import (
    DRIFT,
    ZERO_IS_GOOD,
    bars,
    bound,
    heatmap,
    stat,
    table,
    timeseries,
    tone,
)
from monitoring.grafana.queries import (
    RANGE,
    RATE,
    buckets,
    increase,
    lifetime_mean,
    max_of,
    mean,
    min_of,
    quantile,
    rate,
)
from monitoring.grafana.schema import Panel, Target


def model_panels() -> tuple[Panel, ...]:
    """Return the row about versions, loads and the registry."""
    return (
        timeseries(
            "Version served and version wanted",
            "Wanted is what the registry's alias points to; 0 is no model, or not known.",
            Target(
                min_of("inference_model_version", by="model, stage"), "served {{model}}@{{stage}}"
            ),
            Target(
                max_of("inference_registry_version", by="model, stage"),
                "wanted {{model}}@{{stage}}",
            ),
            unit="none",
            steps=True,
            decimals=0,
            overrides=(bound("wanted .*"),),
            alerts=("InferenceModelVersionStale",),
        ),
        table(
            "What is served where",
            "The version that each instance says it serves.",
            max_of("inference_model_info", by="instance, model, stage, version"),
            width=8,
            no_value="no model is served",
        ),
        timeseries(
            "Model loads",
            "Attempts to load a model, by outcome; failures are repeated with growing pauses.",
            increase("inference_model_loads_total", by="outcome", over=RATE),
            unit="none",
            decimals=0,
            overrides=(tone("success", "green"), tone("(?!success).*", "red")),
            alerts=("InferenceModelNotLoaded",),
        ),
        stat(
            "Time of a load",
            "Mean time to download, load and warm up a model, over the lives of instances; most "
            "loads end before the first scrape, and a rate would not see them.",
            lifetime_mean("inference_model_load_duration_seconds"),
            unit="s",
            width=4,
            no_value="no load",
        ),
        stat(
            "Loads failed",
            "Attempts to load a model that failed within the chosen time.",
            increase("inference_model_loads_total", 'outcome!="success"'),
            unit="none",
            width=4,
            decimals=0,
            thresholds=ZERO_IS_GOOD,
            alerts=("InferenceModelNotLoaded",),
        ),
        stat(
            "Model processes that died",
            "Model processes that ended by themselves within the chosen time; each is started "
            "again, and its pod is unready meanwhile.",
            increase("inference_model_process_exits_total"),
            unit="none",
            width=4,
            decimals=0,
            thresholds=ZERO_IS_GOOD,
            alerts=("InferenceModelProcessDying",),
        ),
        timeseries(
            "Age of the last check of MLflow",
            "Time since a check ended, whatever its outcome; growing means the checks are stuck.",
            max_of("inference_mlflow_check_age_seconds", by="instance"),
            Target(max_of("inference_mlflow_poll_seconds"), "pause between checks"),
            unit="s",
            overrides=(bound("pause between checks"),),
            width=12,
            height=4,
            alerts=("InferenceMlflowUnreachable",),
        ),
    )


def drift_panels() -> tuple[Panel, ...]:
    """Return the row about confidence and the mix of classes."""
    confidence = "inference_confidence"
    now = increase(f"{confidence}_count", by="class_name")
    before = increase(f"{confidence}_count", by="class_name", offset=RANGE)
    return (
        timeseries(
            "Confidence",
            "Confidence of the predicted class; a slow fall is the first sign of drift.",
            Target(quantile(0.1, confidence), "p10"),
            Target(quantile(0.5, confidence), "p50"),
            Target(mean(confidence), "mean"),
            unit="percentunit",
            minimum=None,
            area=False,
        ),
        heatmap(
            "Spread of confidence",
            "Predictions by confidence of the predicted class.",
            buckets(confidence),
            unit="percentunit",
        ),
        timeseries(
            "Mean confidence by class",
            "A class of which the model grows unsure.",
            mean(confidence, by="class_name"),
            unit="percentunit",
            minimum=None,
            area=False,
        ),
        timeseries(
            "Class mix",
            "Share of each predicted class.",
            rate(f"{confidence}_count", by="class_name"),
            unit="cps",
            stacking="percent",
        ),
        bars(
            "Class mix, chosen time",
            "Share of each predicted class over the chosen time.",
            f"{now} / on () group_left () ({increase(f'{confidence}_count')} > 0)",
            unit="percentunit",
            maximum=1,
        ),
        bars(
            "Class mix, time before",
            "The same over an equally long time right before it, to compare with.",
            f"{before} / on () group_left () ({increase(f'{confidence}_count', offset=RANGE)} > 0)",
            unit="percentunit",
            maximum=1,
            no_value="no predictions in the time before",
        ),
        timeseries(
            "Verdicts",
            "Share of predictions by verdict; `review` is the work of people.",
            rate("inference_verdicts_total", by="verdict"),
            unit="cps",
            stacking="percent",
            overrides=(tone("pass", "green"), tone("fail", "red"), tone("review", "yellow")),
            width=12,
        ),
        timeseries(
            "Drift",
            "Population stability index of what was served against what the model was trained on, "
            "chance taken off; above 0.25 it has changed much. Models of `make train` have it.",
            max_of("inference_drift_psi", by="quantity"),
            unit="short",
            decimals=2,
            area=False,
            thresholds=DRIFT,
            width=12,
            no_value="not known",
            alerts=("InferenceDrift",),
        ),
        timeseries(
            "The challenger beside the served model",
            "The sample (SHADOW_SHARE) by what the challenger said; `skipped` is for lack of spare "
            "capacity.",
            rate("inference_shadow_total", by="outcome") + " > 0",
            unit="cps",
            stacking="percent",
            overrides=(
                tone("agreed", "green"),
                tone("differed", "yellow"),
                tone("failed", "red"),
                tone("skipped", "text"),
            ),
            width=12,
            no_value="no challenger",
        ),
        table(
            "Which version is the challenger",
            "The version that SHADOW_STAGE points to, once its process has loaded it.",
            max_of("inference_shadow_model_info", by="instance, model, version"),
            width=12,
            no_value="no challenger",
        ),
    )
