"""What rules may name, and what an alert must carry."""

import re
from collections.abc import Mapping

import promql_parser
import pytest
import yaml

from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from bentos.process.settings import environment_names
from monitoring.catalogue import LABEL_VALUES, family_of
from monitoring.generate import ROOT
from monitoring.prometheus.source import ALERTS, RULE_FILES
from monitoring.prometheus.source.kubernetes import BACKUP_JOB
from monitoring.prometheus.source.objectives import LATENCY_BOUND_SECONDS
from monitoring.prometheus.source.rule import (
    MONITORING,
    SCRAPE_INTERVAL_SECONDS,
    Alert,
    Recording,
    seconds,
)
from monitoring.prometheus.source.watching import WATCHDOG
from monitoring.timings import SERVICES
from tests.monitoring.promql import (
    RECORDED,
    family,
    labels_after,
    nodes,
    parse,
    selectors,
    unknown_names,
)

_RULES = [rule for file in RULE_FILES for group in file.groups for rule in group.rules]
_TEMPLATED = re.compile(r"\$labels\.(\w+)")
_TEMPLATE = re.compile(r"{{.*?}}")
_METRIC_IN_TEXT = re.compile(r"\b(?:inference|logging|probe|slo|kubelet)_\w+\b")
_SETTING_IN_TEXT = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")


def _name(rule: Alert | Recording) -> str:
    return rule.name if isinstance(rule, Alert) else f"{rule.record}{dict(rule.labels)}"


@pytest.mark.parametrize("rule", _RULES, ids=_name)
def test_every_metric_and_label_of_a_rule_exists(rule: Alert | Recording) -> None:
    assert unknown_names(rule.expr) == []


@pytest.mark.parametrize("rule", _RULES, ids=_name)
def test_what_is_joined_on_exists_on_both_sides(rule: Alert | Recording) -> None:
    for node in nodes(parse(rule.expr)):
        matching = getattr(getattr(node, "modifier", None), "matching", None)
        if isinstance(node, promql_parser.BinaryExpr) and matching is not None:
            wanted = set(matching.labels)
            for side in (node.lhs, node.rhs):
                assert wanted <= labels_after(str(side)) or not selectors(str(side))


_VALUES: Mapping[tuple[str, str], frozenset[str]] = {
    **LABEL_VALUES,
    ("logging_database_bytes", "file"): frozenset(("database", "wal")),
    ("prober_probe_total", "probe_type"): frozenset(("Startup", "Readiness", "Liveness")),
    ("prober_probe_total", "result"): frozenset(("successful", "failed", "unknown")),
}


@pytest.mark.parametrize("rule", _RULES, ids=_name)
def test_every_label_value_of_a_rule_is_one_that_occurs(rule: Alert | Recording) -> None:
    for selector in selectors(rule.expr):
        for matcher in selector.matchers:
            name = re.sub(r"_(bucket|sum|count)$", "", selector.name)
            known = _VALUES.get((name, matcher.label))
            if matcher.label in ("job", "container"):
                known = frozenset(SERVICES)
            elif known is None:
                continue
            assert set(matcher.value.split("|")) <= known, f"{selector.name}{{{matcher}}}"


def test_the_latency_bound_is_a_bucket() -> None:
    assert LATENCY_BOUND_SECONDS in family_of("inference_prediction_duration_seconds").buckets


def test_half_of_every_probe_timeout_is_a_bucket() -> None:
    # A quantile between two buckets is a guess; at a bucket's bound it is exact.
    for timings in SERVICES.values():
        for kind in ("liveness", "readiness"):
            assert (
                timings.probe(kind).timeout_seconds / 2
                in family_of("probe_duration_seconds").buckets
            )


@pytest.mark.parametrize("alert", ALERTS.values(), ids=_name)
def test_an_alert_carries_what_its_reader_needs(alert: Alert) -> None:
    assert alert.severity in ("critical", "warning") or alert.name == WATCHDOG
    assert seconds(alert.hold) >= 2 * SCRAPE_INTERVAL_SECONDS
    assert "$value" not in "".join(alert.static_labels.values())
    routed = alert.service in (*SERVICES, MONITORING) or alert.service.startswith("{{")
    assert routed or "label_replace" in alert.expr
    assert alert.summary
    assert not alert.summary.endswith(".")
    assert alert.description.endswith(".")
    assert alert.links["runbook_url"].endswith(f"/docs/runbooks/{alert.name}.md")


@pytest.mark.parametrize("alert", ALERTS.values(), ids=_name)
def test_the_labels_that_a_text_names_are_left_of_the_expression(alert: Alert) -> None:
    named = set(_TEMPLATED.findall(f"{alert.summary} {alert.description} {alert.service}"))
    assert named <= labels_after(alert.expr) | set(alert.labels)


@pytest.mark.parametrize("alert", ALERTS.values(), ids=_name)
def test_the_metrics_that_a_text_names_exist(alert: Alert) -> None:
    text = _TEMPLATE.sub("", f"{alert.summary} {alert.description}")
    for name in _METRIC_IN_TEXT.findall(text):
        assert family(name) or name in RECORDED, name


@pytest.mark.parametrize("alert", ALERTS.values(), ids=_name)
def test_the_settings_that_a_text_names_exist(alert: Alert) -> None:
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
            known = family(selector.name)
            if known is None or selector.range is None:
                continue
            counted = selector.function in ("rate", "increase")
            # `growth` compares numbers of samples, of gauges and counters alike.
            sampled = selector.function == "count_over_time"
            assert counted == (known.kind != "gauge") or sampled, f"{_name(rule)}: {selector}"


def test_the_backup_that_is_watched_is_the_one_that_is_deployed() -> None:
    manifest = ROOT / "k8s" / "components" / "backup" / "backup-cron-job.yaml"
    assert yaml.safe_load(manifest.read_text())["metadata"]["name"] == BACKUP_JOB
