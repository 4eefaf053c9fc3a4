"""Each reason why a service is not ready, or not well, in words, and the runbook that helps.

The reasons themselves are declared where they are judged: in the services' states and in
`bentos.health.checks`. A test holds this table against them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["Inference", "Logging"]


@dataclass(frozen=True)
class Explanation:
    """What a reason means for people. `runbook` is a page's name, empty where none is needed."""

    sentence: str
    runbook: str = ""


# In a runbook's name `{kind}` stands for the service, as its alerts are named.
_EXPLANATIONS: Final[Mapping[str, Explanation]] = {
    "shutting_down": Explanation(
        "It was asked to stop. It finishes what it has begun and takes nothing new."
    ),
    "worker_missing": Explanation(
        "A worker process ended and has not been replaced.", "{kind}WorkersMissing"
    ),
    "worker_dead": Explanation(
        "A worker process has been gone for so long that only a restart helps.",
        "{kind}WorkersMissing",
    ),
    "event_loop_stalled": Explanation(
        "A worker is blocked: it has given no sign of life for longer than STALL_SECONDS.",
        "ServingEventLoopBlocked",
    ),
    "port_not_answering": Explanation(
        "Its port does not answer, although its processes run.", "ServingLivenessFailing"
    ),
    "worker_not_serving": Explanation(
        "It is starting: not every worker takes connections yet.", "{kind}NotReady"
    ),
    "high_error_rate": Explanation(
        "More than half of the last minute's requests failed, and the service is at fault.",
        "{kind}HighErrorRate",
    ),
    "exception": Explanation(
        "It failed while it described its own state; its log says how.", "{kind}NotReady"
    ),
    "model_not_loaded": Explanation("No model is loaded.", "InferenceModelNotLoaded"),
    "model_thread_stuck": Explanation(
        "The model does not answer: it has been at one call for too long.",
        "ServingLivenessFailing",
    ),
    "mlflow_not_accessible": Explanation(
        "The MLflow registry does not answer. A model that is loaded goes on answering, but nobody"
        " would notice a new version.",
        "InferenceMlflowUnreachable",
    ),
    "outbox_full": Explanation(
        "The outbox is full: it takes no prediction before some have been handed over.",
        "InferenceOutboxNearlyFull",
    ),
    "outbox_not_accessible": Explanation(
        "The outbox on disk cannot be written, so no prediction could be kept.",
        "InferenceOutboxNearlyFull",
    ),
    "database_not_initialized": Explanation(
        "The database has not been opened yet.", "LoggingDatabaseNotInitialized"
    ),
    "database_not_accessible": Explanation(
        "The database does not answer. Predictions wait in the outboxes meanwhile.",
        "LoggingDatabaseNotAccessible",
    ),
    # Not said by a service itself, but by this page.
    "not_reachable": Explanation(
        "It does not answer. It does not run, this service cannot connect to it, or, in a cluster,"
        " no pod of it is ready.",
        "{kind}ServiceDown",
    ),
    "not_understood": Explanation(
        "Something answers there, but not as this service does. Look at INFERENCE_PROBE_URL."
    ),
    "dead_letters": Explanation(
        "Predictions were refused for good and are kept in the dead-letter table.",
        "InferenceDeadLetters",
    ),
}
_UNKNOWN: Final = Explanation("It gives a reason that this page does not know.", "{kind}NotReady")

# How the database fails, as `/ready` says it in `database_failure`.
DATABASE_FAILURES: Final[Mapping[str, str]] = {
    "busy": "Another process holds its lock.",
    "full": "Its disk is full.",
    "read_only": "Its disk can only be read.",
    "corrupt": "Its file is damaged.",
    "missing": "Its file was deleted or replaced.",
    "unreachable": "Its server cannot be reached.",
    "schema": "Its tables are not as this version of the service makes them.",
    "other": "The log says how it fails.",
    "no_answer": "It has not answered in time.",
}


def explain(reason: str, kind: Kind) -> Explanation:
    """Return what a reason means, and a general answer for one that is not known."""
    found = _EXPLANATIONS.get(reason, _UNKNOWN)
    return Explanation(found.sentence, found.runbook.format(kind=kind))


def is_known(reason: str) -> bool:
    """Return whether a reason has an explanation of its own."""
    return reason in _EXPLANATIONS
