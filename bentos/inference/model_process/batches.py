"""Answers a batch of inputs with a model, and tells an input at fault from its neighbours."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.inference.model import LoadedModel, ModelSpec, NotFinite
from bentos.inference.wire import Answers, Input, InputRefused, Message

# From here on float32 no longer tells one whole number from the next: no input of a model that
# was trained on it, so where the output is not finite the input is at fault and not the model.
EXTREME_INPUT = 2.0**24

Read: TypeAlias = Callable[[Input, ModelSpec], NDArray[Any]]
_Waiting: TypeAlias = Sequence[tuple[int, NDArray[Any]]]


def answer(
    model: LoadedModel, generation: int, inputs: Sequence[tuple[int, Input]], read: Read
) -> list[Message]:
    """Return the answers to inputs with their ids: each has one, or the error that `read` raised.

    The model is called with at most as many inputs as it takes at once.
    """
    told: list[Message] = []
    waiting: list[tuple[int, NDArray[Any]]] = []
    for identifier, given in inputs:
        try:
            waiting.append((identifier, _fitting(read(given, model.spec), model.spec)))
        except Exception as error:
            told.append(refusal(identifier, error))
    for first in range(0, len(waiting), model.max_batch):
        told += _call(model, generation, waiting[first : first + model.max_batch])
    return told


def _call(model: LoadedModel, generation: int, waiting: _Waiting) -> list[Message]:
    started = time.perf_counter()
    try:
        probabilities = model.probabilities(np.stack([values for _, values in waiting]))
    except Exception as error:
        told: list[Message] = [Answers(generation, len(waiting), time.perf_counter() - started)]
        if len(waiting) == 1:
            identifier, values = waiting[0]
            told.append(refusal(identifier, _blamed(error, values)))
            return told
    else:
        seconds = time.perf_counter() - started
        ids = [identifier for identifier, _ in waiting]
        classes = probabilities.argmax(axis=1).tolist()
        return [Answers(generation, len(waiting), seconds, ids, classes, probabilities)]
    # One input that the model cannot bear is no reason to fail its neighbours.
    for one in waiting:
        told += _call(model, generation, [one])
    return told


def _fitting(inputs: NDArray[Any], spec: ModelSpec) -> NDArray[Any]:
    if inputs.shape != spec.input_shape:
        # Decoded for a model that was replaced while the input waited.
        raise ServiceError(
            503,
            "model_not_loaded",
            "the model was replaced by one of another input shape; send the request again",
            headers=RETRY_LATER,
        )
    return inputs.astype(spec.dtype, copy=False)


def _blamed(error: Exception, inputs: NDArray[Any]) -> Exception:
    """Tell an input that makes any model overflow from a model that fails."""
    if not isinstance(error, NotFinite) or float(np.abs(inputs).max()) < EXTREME_INPUT:
        return error
    return ServiceError(
        400,
        "bad_input",
        f"data: the model overflows on numbers of {EXTREME_INPUT:g} and more; scale them as in "
        "training",
        field="data",
    )


def refusal(identifier: int, error: Exception) -> InputRefused:
    """Return what is told of an input that ended in an error."""
    if isinstance(error, ServiceError):
        return InputRefused(identifier, error)
    failure = ServiceError(500, "model_failure", "the model failed on this input")
    failure.__cause__ = error
    return InputRefused(identifier, failure)
