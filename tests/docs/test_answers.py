"""docs/health-endpoints.md shows what running services answer, and leaves nothing out."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from bentos.inference.state import InferenceState
from bentos.logging.state import LoggingState
from docs.answers import Answer, differences, read_answers
from docs.probes import HEALTH_ENDPOINTS, plans
from tests.docs.answers import collect
from tests.support.models import ModelStore

PAGE = HEALTH_ENDPOINTS.read_text(encoding="utf-8")
STATES: Mapping[str, type[InferenceState | LoggingState]] = {
    "inference-service": InferenceState,
    "logging-service": LoggingState,
}
# Reasons that nobody can bring about from outside, and one that is a name for all others.
NOT_SHOWN = {
    "internal_error": "a fault in the code itself",
    "other": "what metrics call every other reason",
    "review_not_accessible": "a failure of the store of pictures; tests/integration/test_review.py",
    "shutting_down": "a request after the port's last moment; `/ready` shows it",
}


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, model_store: ModelStore
) -> Mapping[str, Answer]:
    """The answers of services that are brought into each state here."""
    answers = collect(tmp_path_factory.mktemp("answers"), model_store)
    return {answer.key: answer for answer in answers}


@pytest.mark.slow
def test_every_answer_of_the_page_is_what_running_services_say(
    found: Mapping[str, Answer],
) -> None:
    stored = read_answers()
    command = "run: python -m tests.docs.answers && python -m docs.generate"
    assert stored.keys() == found.keys(), command
    wrong = {key: differences(stored[key].shape, found[key].shape) for key in stored}
    assert not {key: lines for key, lines in wrong.items() if lines}, command


def test_the_page_shows_every_answer_of_a_probe() -> None:
    for key, answer in read_answers().items():
        if answer.is_probe:
            assert f"answer {key} -->" in PAGE or f"<summary>{key}</summary>" in PAGE, key


@pytest.mark.parametrize("service", STATES)
def test_every_reason_of_a_probe_has_an_answer(service: str) -> None:
    plan = plans()[service]
    for path, checks in (("/ready", plan.readiness), ("/health", plan.liveness)):
        bodies = [
            answer.body
            for answer in read_answers().values()
            if (answer.service, answer.request) == (service, f"GET {path}")
        ]
        shown = {reason for body in bodies for reason in body.get("reasons", ())}
        assert {check.reason for check in checks} == shown
        for reason in shown:
            assert re.search(rf"^### `{reason}`", PAGE, re.MULTILINE), reason


@pytest.mark.parametrize("service", STATES)
def test_every_reason_of_a_refused_or_failed_request_is_on_the_page(service: str) -> None:
    shown = {
        answer.reason
        for answer in read_answers().values()
        if answer.service == service and not answer.is_probe
    }
    declared = {
        reason
        for counter in (STATES[service].errors, STATES[service].rejected)
        for values in counter.values(STATES[service])
        for reason in values
    }
    assert declared - shown <= NOT_SHOWN.keys()
    for reason in declared:
        assert f"`{reason}`" in PAGE or f'"reason": "{reason}"' in PAGE


def test_every_field_of_every_answer_is_explained() -> None:
    table = PAGE[PAGE.index("## The fields") : PAGE.index("## Why `/health` is 500")]
    for answer in read_answers().values():
        for name in _names(answer.body):
            assert f"`{name}`" in table or f"`{name}`" in _INNER, f"{name} of {answer.key}"


# Fields within fields, which the text of the outer one or the API page explains.
_INNER = frozenset(
    f"`{name}`"
    for name in (
        *("name", "stage", "version", "phase", "attempts", "retry_in_seconds"),
        *InferenceState.label_names,
    )
)


def _names(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields of an answer; what clients sent and keyed by their names is left out."""
    for name, value in body.items():
        yield name
        if isinstance(value, dict) and name in ("load", "model"):
            yield from _names(value)


@pytest.mark.parametrize("path", sorted({*InferenceState.routes, *LoggingState.routes}))
def test_every_route_is_on_the_page(path: str) -> None:
    assert (
        re.search(rf"^### .*`?(GET|POST) {path}`", PAGE, re.MULTILINE) or f"`POST {path}`" in PAGE
    )
