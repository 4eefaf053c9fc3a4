"""Who is notified of which alert, and which alerts their cause silences."""

import re
from collections.abc import Mapping

import pytest

from monitoring.prometheus.source import ALERTS
from monitoring.prometheus.source.rule import seconds
from monitoring.prometheus.source.watching import WATCHDOG
from monitoring.timings import SERVICES
from tests.monitoring.alertmanager_rules import (
    CONFIG,
    Inhibition,
    configuration,
    inhibitions,
    receiver_of,
)
from tests.monitoring.promtool import amtool
from tests.monitoring.scenarios import SCENARIOS
from tests.monitoring.scenarios.story import Alarm, Story

_RECEIVERS = {"critical": "page", "warning": "ticket", "none": "watchdog"}

# Labels of every alert of every scenario that makes it fire, and those of each alert's first.
ALL_FIRING = [
    {"alertname": scenario.alert, **scenario.labels}
    for scenario in SCENARIOS
    if isinstance(scenario, Story | Alarm)
]
FIRING = {labels["alertname"]: labels for labels in reversed(ALL_FIRING)}


def _outside_a_cluster(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name not in ("namespace", "pod")}


def _silenced(by: str, target: Mapping[str, str], *, local: bool = False) -> bool:
    source: Mapping[str, str] = FIRING[by]
    if local:
        source, target = _outside_a_cluster(source), _outside_a_cluster(target)
    return any(rule.silences(source, target) for rule in inhibitions())


def test_amtool_finds_nothing() -> None:
    finished = amtool("check-config", CONFIG)
    assert finished.status == 0, finished.output


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_goes_where_its_severity_says(alert: str) -> None:
    assert receiver_of(FIRING[alert]) == _RECEIVERS[ALERTS[alert].severity]


def test_an_alert_of_unknown_severity_is_not_lost() -> None:
    assert receiver_of({"alertname": "Other", "severity": "info"}) == "ticket"


def test_pods_with_the_same_trouble_share_one_notification() -> None:
    grouping = configuration()["route"]["group_by"]
    assert grouping == ["namespace", "service", "alertname"]
    assert not {"pod", "instance"} & set(grouping)


def test_receivers_are_notified_of_the_end_as_well() -> None:
    for receiver in configuration()["receivers"]:
        for hook in receiver["webhook_configs"]:
            assert hook["send_resolved"] == (receiver["name"] != "watchdog")


@pytest.mark.case(45)
def test_the_watchdog_is_sent_again_and_again() -> None:
    """Nobody noticed that alerts were not delivered: a receiver now misses the Watchdog."""
    (route,) = (
        route for route in configuration()["route"]["routes"] if route["receiver"] == "watchdog"
    )
    assert route["matchers"] == [f'alertname="{WATCHDOG}"']
    assert seconds(route["repeat_interval"]) <= 300
    assert not any(_silenced(cause, FIRING[WATCHDOG]) for cause in ALERTS)


def test_inhibitions_name_alerts_that_exist() -> None:
    for rule in inhibitions():
        for pattern in rule.source.alert_names | rule.target.alert_names:
            for name in _expand(pattern):
                assert any(re.fullmatch(name, alert) for alert in ALERTS), name


def _expand(pattern: str) -> list[str]:
    """Return the alternatives of a pattern that stand outside of parentheses."""
    return re.split(r"\|(?![^(]*\))", pattern)


@pytest.mark.parametrize("rule", inhibitions(), ids=lambda rule: "|".join(rule.source.alert_names))
def test_each_inhibition_silences_something_here_and_in_a_cluster(rule: Inhibition) -> None:
    pairs = [
        (source, target)
        for source in ALL_FIRING
        for target in ALL_FIRING
        if rule.silences(source, target)
    ]
    assert pairs
    for source, target in pairs:
        assert rule.silences(_outside_a_cluster(source), _outside_a_cluster(target))


@pytest.mark.parametrize(
    "consequence",
    [
        "InferenceNotReady",
        "InferencePodWithoutModel",
        "InferencePodUnready",
        "InferenceHighErrorRate",
        "InferenceAllRequestsFailing",
        "InferenceAvailabilityBudgetBurnFast",
        "InferenceLatencyBudgetBurnSlow",
        "ServingPodNotReady",
    ],
)
@pytest.mark.parametrize("local", [False, True], ids=["cluster", "local"])
def test_a_model_that_is_not_loaded_silences_what_follows_from_it(
    consequence: str, local: bool
) -> None:
    assert _silenced("InferenceModelNotLoaded", FIRING[consequence], local=local)


@pytest.mark.parametrize(
    "alert",
    [
        "LoggingNotReady",
        "InferencePredictionsDropped",
        "InferenceMlflowUnreachable",
        "LoggingQueueFull",
    ],
)
def test_a_model_that_is_not_loaded_silences_nothing_else(alert: str) -> None:
    assert not _silenced("InferenceModelNotLoaded", FIRING[alert])


def test_a_model_that_is_not_loaded_in_one_namespace_silences_no_other() -> None:
    elsewhere = {**FIRING["InferenceNotReady"], "namespace": "staging"}
    assert not _silenced("InferenceModelNotLoaded", elsewhere)


def test_another_models_alerts_are_not_silenced() -> None:
    other = {**FIRING["InferenceNotReady"], "model": "rust-spots"}
    assert not _silenced("InferenceModelNotLoaded", other)


@pytest.mark.case(43)
def test_a_service_that_is_down_silences_alerts_of_its_namespace_alone() -> None:
    """Production is down while staging has troubles of its own: both are notified."""
    elsewhere = {**FIRING["InferenceNotReady"], "namespace": "staging"}
    assert _silenced("InferenceServiceDown", FIRING["InferenceNotReady"])
    assert not _silenced("InferenceServiceDown", elsewhere)
    assert not _silenced(
        "LoggingServiceDown", {**FIRING["InferenceLogDeliveryStalled"], "namespace": "staging"}
    )


OF_SERVICES = [alert for alert, labels in FIRING.items() if labels["service"] in SERVICES]


@pytest.mark.parametrize("alert", OF_SERVICES)
def test_a_service_that_is_down_is_one_alert(alert: str) -> None:
    labels = FIRING[alert]
    down = {"inference-service": "InferenceServiceDown", "logging-service": "LoggingServiceDown"}
    cause = down[labels["service"]]
    assert _silenced(cause, labels) == (alert not in (cause, "InferencePredictionsDropped"))


def test_a_target_that_is_down_silences_its_own_alerts_only() -> None:
    own = {**FIRING["InferencePodUnready"]}
    assert _silenced("ServingTargetDown", own)
    assert not _silenced("ServingTargetDown", {**own, "instance": "10.0.0.9:8010"})
    assert not _silenced("ServingTargetDown", FIRING["InferenceNotReady"])


@pytest.mark.parametrize("cause", ["LoggingServiceDown", "LoggingDatabaseNotAccessible"])
def test_outboxes_fill_quietly_while_the_logging_service_cannot_take_predictions(
    cause: str,
) -> None:
    assert _silenced(cause, FIRING["InferenceLogDeliveryStalled"])
    assert not _silenced(cause, FIRING["InferencePredictionsDropped"])


@pytest.mark.parametrize("cause", ALERTS)
def test_a_loss_of_predictions_is_never_silenced(cause: str) -> None:
    assert not _silenced(cause, FIRING["InferencePredictionsDropped"])


def test_no_two_alerts_silence_each_other() -> None:
    for one, labels in FIRING.items():
        for other, others in FIRING.items():
            if one < other:
                assert not (_silenced(one, others) and _silenced(other, labels)), (one, other)
