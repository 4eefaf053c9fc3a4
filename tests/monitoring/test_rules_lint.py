"""What rules may name, and what an alert must carry."""

import re
from collections.abc import Iterator, Mapping

import promql_parser
import pytest
import yaml

from bentos.health.metrics import PROBE_DURATION, Family
from bentos.inference import metrics as inference
from bentos.inference.state import LOAD_OUTCOMES
from bentos.logging import metrics as logging
from monitoring.grafana.external import EXTERNAL_FAMILIES, TARGET_LABELS
from monitoring.prometheus.source import ALERTS, RULE_FILES
from monitoring.prometheus.source.kubernetes import BACKUP_JOB
from monitoring.prometheus.source.objectives import LATENCY_BOUND_SECONDS
from monitoring.prometheus.source.rule import SCRAPE_INTERVAL_SECONDS, Alert, Recording, seconds
from monitoring.timings import SERVICES
from tests.monitoring.promql import Selector, nodes, parse, selectors
from tests.monitoring.promtool import PROMETHEUS, ROOT

# What kube-state-metrics 2.x tells beside the dashboards' families.
_KUBE_STATE = (
    Family("kube_cronjob_created", "gauge", "When it was made.", ("namespace", "cronjob")),
    Family("kube_cronjob_spec_suspend", "gauge", "Whether it rests.", ("namespace", "cronjob")),
    Family(
        "kube_cronjob_status_last_successful_time",
        "gauge",
        "When a job of it last succeeded.",
        ("namespace", "cronjob"),
    ),
    Family("kube_pod_owner", "gauge", "Who owns a pod.", ("namespace", "pod", "owner_kind")),
    Family("kube_pod_status_reason", "gauge", "Why a pod is.", ("namespace", "pod", "reason")),
)
_FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        *inference.FAMILIES,
        *logging.FAMILIES,
        *EXTERNAL_FAMILIES,
        *_KUBE_STATE,
    )
}
_OF_TARGETS = frozenset((*TARGET_LABELS, "namespace", "pod"))
_RULES = [rule for file in RULE_FILES for group in file.groups for rule in group.rules]
_RECORDED: Mapping[str, Recording] = {
    rule.record: rule for rule in _RULES if isinstance(rule, Recording)
}
_TEMPLATED = re.compile(r"\$labels\.(\w+)")
_TEMPLATE = re.compile(r"{{.*?}}")
_METRIC_IN_TEXT = re.compile(r"\b(?:inference|logging|probe|slo|kubelet)_\w+\b")
_SETTING_IN_TEXT = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")


def _name(rule: Alert | Recording) -> str:
    return rule.name if isinstance(rule, Alert) else f"{rule.record}{dict(rule.labels)}"


def _family(metric: str) -> Family | None:
    if metric in _FAMILIES:
        return _FAMILIES[metric]
    base = re.sub(r"_(bucket|sum|count)$", "", metric)
    family = _FAMILIES.get(base)
    return family if base != metric and family and family.kind == "histogram" else None


def _labels_of(selector: Selector) -> frozenset[str] | None:
    """Return the labels that a selector's series may have; None for an unknown metric."""
    if selector.name in _RECORDED:
        recording = _RECORDED[selector.name]
        return frozenset(recording.labels) | _labels_after(recording.expr)
    family = _family(selector.name)
    if family is None:
        return None
    bucket = ("le",) if selector.name.endswith("_bucket") else ()
    return frozenset((*family.labels, *bucket)) | _OF_TARGETS


def _labels_after(expr: str) -> frozenset[str]:
    """Return the labels that may be left of an expression's series."""
    left: frozenset[str] = frozenset()
    for selector in selectors(expr):
        labels = _labels_of(selector) or frozenset()
        left |= (labels & selector.grouping) if selector.grouping else labels
    for node in nodes(parse(expr)):
        if isinstance(node, promql_parser.Call) and node.func.name == "label_replace":
            left |= {node.args[1].val}
    return left


@pytest.mark.parametrize("rule", _RULES, ids=_name)
def test_every_metric_and_label_of_a_rule_exists(rule: Alert | Recording) -> None:
    for selector in selectors(rule.expr):
        labels = _labels_of(selector)
        assert labels is not None, f"no family {selector.name}"
        matched = {matcher.label for matcher in selector.matchers}
        assert matched <= labels, f"{selector.name} has no label {matched - labels}"
        assert selector.grouping <= labels | {"le"}, f"{selector.name}: {selector.grouping}"


@pytest.mark.parametrize("rule", _RULES, ids=_name)
def test_what_is_joined_on_exists_on_both_sides(rule: Alert | Recording) -> None:
    for node in nodes(parse(rule.expr)):
        matching = getattr(getattr(node, "modifier", None), "matching", None)
        if isinstance(node, promql_parser.BinaryExpr) and matching is not None:
            wanted = set(matching.labels)
            for side in (node.lhs, node.rhs):
                assert wanted <= _labels_after(str(side)) or not selectors(str(side))


_VALUES: Mapping[tuple[str, str], frozenset[str]] = {
    ("inference_errors_total", "reason"): frozenset(inference.ERROR_REASONS),
    ("inference_rejected_total", "reason"): frozenset(inference.REFUSAL_REASONS),
    ("inference_model_loads_total", "outcome"): frozenset(LOAD_OUTCOMES),
    ("logging_rejected_total", "reason"): frozenset(logging.REFUSAL_REASONS),
    ("logging_store_errors_total", "reason"): frozenset(logging.STORE_ERROR_REASONS),
    ("logging_database_bytes", "file"): frozenset(("database", "wal")),
    ("probe_duration_seconds_count", "probe"): frozenset(("health", "ready", "metrics")),
    ("probe_duration_seconds_count", "status"): frozenset(("200", "503")),
    ("prober_probe_total", "probe_type"): frozenset(("Startup", "Readiness", "Liveness")),
    ("prober_probe_total", "result"): frozenset(("successful", "failed", "unknown")),
}


@pytest.mark.parametrize("rule", _RULES, ids=_name)
def test_every_label_value_of_a_rule_is_one_that_occurs(rule: Alert | Recording) -> None:
    for selector in selectors(rule.expr):
        for matcher in selector.matchers:
            known = _VALUES.get((selector.name, matcher.label))
            if matcher.label in ("job", "container") and selector.name != "kube_pod_owner":
                known = frozenset(SERVICES)
            elif known is None:
                continue
            assert set(matcher.value.split("|")) <= known, f"{selector.name}{{{matcher}}}"


def test_the_latency_bound_is_a_bucket() -> None:
    duration = _FAMILIES["inference_prediction_duration_seconds"]
    assert LATENCY_BOUND_SECONDS in duration.buckets


def test_half_of_every_probe_timeout_is_a_bucket() -> None:
    # A quantile between two buckets is a guess; at a bucket's bound it is exact.
    for timings in SERVICES.values():
        for kind in ("liveness", "readiness"):
            assert timings.probe(kind).timeout_seconds / 2 in PROBE_DURATION.buckets


@pytest.mark.parametrize("alert", ALERTS.values(), ids=_name)
def test_an_alert_carries_what_its_reader_needs(alert: Alert) -> None:
    assert alert.severity in ("critical", "warning")
    assert seconds(alert.hold) >= 2 * SCRAPE_INTERVAL_SECONDS
    assert "$value" not in "".join(alert.static_labels.values())
    assert (
        alert.service in SERVICES or alert.service.startswith("{{") or "label_replace" in alert.expr
    )
    assert alert.summary
    assert not alert.summary.endswith(".")
    assert alert.description.endswith(".")
    assert alert.links["runbook_url"].endswith(f"/docs/runbooks/{alert.name}.md")


@pytest.mark.parametrize("alert", ALERTS.values(), ids=_name)
def test_the_labels_that_a_text_names_are_left_of_the_expression(alert: Alert) -> None:
    named = set(_TEMPLATED.findall(f"{alert.summary} {alert.description} {alert.service}"))
    assert named <= _labels_after(alert.expr) | set(alert.labels)


@pytest.mark.parametrize("alert", ALERTS.values(), ids=_name)
def test_the_metrics_that_a_text_names_exist(alert: Alert) -> None:
    text = _TEMPLATE.sub("", f"{alert.summary} {alert.description}")
    for name in _METRIC_IN_TEXT.findall(text):
        assert _family(name) or name in _RECORDED, name


@pytest.mark.parametrize("alert", ALERTS.values(), ids=_name)
def test_the_settings_that_a_text_names_exist(alert: Alert) -> None:
    from bentos.inference.settings import InferenceSettings
    from bentos.logging.settings import LoggingSettings
    from bentos.process.settings import environment_names

    known = environment_names(InferenceSettings) | environment_names(LoggingSettings)
    for name in _SETTING_IN_TEXT.findall(alert.description):
        assert name in known | {"SQLITE_BUSY"}, name


def test_no_series_is_recorded_twice() -> None:
    seen = [
        (rule.record, *sorted(rule.labels.items()))
        for rule in _RULES
        if isinstance(rule, Recording)
    ]
    assert len(seen) == len(set(seen))


def test_no_alert_has_the_name_of_another() -> None:
    names = [rule.name for rule in _RULES if isinstance(rule, Alert)]
    assert len(names) == len(set(names))


def test_a_gauge_is_not_asked_for_its_rate_nor_a_counter_for_its_level() -> None:
    for rule in _RULES:
        for selector in selectors(rule.expr):
            family = _family(selector.name)
            if family is None:
                continue
            if family.kind == "gauge":
                assert selector.function not in ("rate", "increase"), f"{_name(rule)}: {selector}"
            elif selector.range is not None:
                assert selector.function in ("rate", "increase"), f"{_name(rule)}: {selector}"


def _jobs() -> Iterator[tuple[str, str]]:
    local = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    for scrape in local["scrape_configs"]:
        yield scrape["job_name"], scrape["metrics_path"]


def test_the_local_jobs_are_those_of_the_rules() -> None:
    assert dict(_jobs()) == dict.fromkeys(SERVICES, "/metrics")


@pytest.mark.parametrize("expr", ["rate(inference_predictons_total[5m])", 'up{jbo="x"}'])
def test_a_misspelt_name_is_found(expr: str) -> None:
    rule = Recording("x", expr)
    with pytest.raises(AssertionError):
        test_every_metric_and_label_of_a_rule_exists(rule)


def test_the_backup_that_is_watched_is_the_one_that_is_deployed() -> None:
    manifest = ROOT / "k8s" / "components" / "backup" / "backup-cron-job.yaml"
    assert yaml.safe_load(manifest.read_text())["metadata"]["name"] == BACKUP_JOB
