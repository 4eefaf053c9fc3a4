"""What a service's `/ready` says, in words, and how the inference service is asked for it."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import httpx
import msgspec

from bentos.health.probes import READY_PATH
from bentos.logging.page.neighbour import Neighbour, decode_answer
from bentos.logging.page.reasons import DATABASE_FAILURES, Kind, explain, is_known
from bentos.logging.page.words import count, seconds_of, shorten, since

INFERENCE = "Inference service"
LOGGING = "Logging service"
# The page is shown without an answer that takes longer.
ASK_SECONDS = 0.6
_MOST_BYTES = 262_144
_MOST_REASONS = 12
_MOST_CHARACTERS = 300
_NAME_CHARACTERS = 100

Level = Literal["good", "bad", "unknown"]


class _Model(msgspec.Struct, frozen=True):
    name: str = ""
    stage: str = ""
    version: str | None = None


class _Load(msgspec.Struct, frozen=True):
    phase: str = ""
    version: str | None = None
    attempts: int = 0
    error: str | None = None
    retry_in_seconds: float | None = None


class ReadyAnswer(msgspec.Struct, frozen=True):
    """What this page reads of an answer of `/ready`, of either service; the rest is ignored."""

    status: Literal["ready", "not_ready"]
    reasons: list[str] = []
    last_prediction: str | None = None
    error_rate: float | None = None
    database_failure: str | None = None
    model: _Model = _Model()
    model_since: str | None = None
    load: _Load = _Load()
    registry: str | None = None
    predictions_served: int | None = None
    log_backlog: int | None = None
    log_dead_letters: int | None = None


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, in a sentence, with what is known of its cause."""

    sentence: str
    detail: str = ""
    runbook: str = ""


@dataclass(frozen=True)
class ServiceView:
    """A service as the page shows it; `answer` is what it said, None where it said nothing."""

    title: str
    state: str
    level: Level
    problems: tuple[Problem, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    answer: ReadyAnswer | None = None


def view_of(title: str, kind: Kind, answer: ReadyAnswer, *facts: tuple[str, str]) -> ServiceView:
    """Return a service as its `/ready` describes it."""
    ready = answer.status == "ready"
    return ServiceView(
        title,
        "ready" if ready else "not ready",
        "good" if ready else "bad",
        tuple(_problems(kind, answer)),
        facts,
        answer,
    )


def _problems(kind: Kind, answer: ReadyAnswer) -> Iterator[Problem]:
    for reason in answer.reasons[:_MOST_REASONS]:
        explanation = explain(reason, kind)
        detail = shorten(_detail(reason, answer), _MOST_CHARACTERS)
        yield Problem(explanation.sentence, detail, explanation.runbook)
    if answer.log_dead_letters:
        explanation = explain("dead_letters", kind)
        detail = f"There are {count(answer.log_dead_letters)}."
        yield Problem(explanation.sentence, detail, explanation.runbook)


def _detail(reason: str, answer: ReadyAnswer) -> str:
    """Return what an answer says beside a reason, in words."""
    if reason == "model_not_loaded":
        return _loading(answer.load)
    if reason == "mlflow_not_accessible":
        return answer.registry or ""
    if reason == "database_not_accessible":
        return DATABASE_FAILURES.get(answer.database_failure or "", "")
    if reason == "high_error_rate" and answer.error_rate is not None:
        return f"{answer.error_rate:.0%} of them failed."
    return "" if is_known(reason) else reason


def _loading(load: _Load) -> str:
    if load.phase == "loading":
        return f"Version {load.version} is being loaded." if load.version else "It is being loaded."
    if load.phase != "failed":
        return "It is waiting for the registry to name one."
    again = (
        "" if load.retry_in_seconds is None else f" Next attempt in {load.retry_in_seconds:.0f} s."
    )
    return f"Attempt {load.attempts} failed: {shorten(load.error or 'unknown', 200)}{again}"


class InferenceProbe:
    """Asks the inference service's probe port; `url` is None where nobody said where it is."""

    def __init__(self, url: str | None, *, seconds: float = ASK_SECONDS) -> None:
        self._seconds = seconds
        self._neighbour = (
            Neighbour(url, seconds=seconds, most_bytes=_MOST_BYTES) if url is not None else None
        )

    async def view(self, *, now: float) -> ServiceView:
        """Return the inference service as it describes itself, or why it does not."""
        if self._neighbour is None:
            problem = Problem("This page is not told where it is: set INFERENCE_PROBE_URL.")
            return ServiceView(INFERENCE, "not configured", "unknown", (problem,))
        place = self._neighbour.place
        try:
            async with asyncio.timeout(self._seconds):
                status, body = await self._neighbour.ask("GET", READY_PATH)
        except TimeoutError:
            detail = f"No answer from {place} within {self._seconds:g} s."
            return _wrong("not reachable", detail)
        except (httpx.HTTPError, OSError):
            return _wrong("not reachable", f"No connection to {place}.")
        try:
            answer = decode_answer(body, ReadyAnswer)
        except ValueError:
            return _wrong("not understood", f"{place}{READY_PATH} answers {status}.")
        return view_of(INFERENCE, "Inference", answer, *_inference_facts(answer, now))

    async def close(self) -> None:
        """Close the connection."""
        if self._neighbour is not None:
            await self._neighbour.close()


def _wrong(state: str, detail: str) -> ServiceView:
    """Return the inference service where it says nothing, or nothing that this page knows."""
    explanation = explain(state.replace(" ", "_"), "Inference")
    problem = Problem(explanation.sentence, detail, explanation.runbook)
    return ServiceView(INFERENCE, state, "bad", (problem,))


def _inference_facts(answer: ReadyAnswer, now: float) -> Iterator[tuple[str, str]]:
    model = answer.model
    name = shorten(model.name, _NAME_CHARACTERS)
    yield "Model", f"{name} ({shorten(model.stage, _NAME_CHARACTERS)})"
    yield "Version", model.version or "none is loaded"
    if model.version and (loaded := seconds_of(answer.model_since)) is not None:
        yield "Served since", since(loaded, now=now)
    if answer.predictions_served is not None:
        yield "Answered", f"{count(answer.predictions_served)} since its start"
    last = seconds_of(answer.last_prediction)
    yield "Last answer", since(last, now=now) if last is not None else "none yet"
