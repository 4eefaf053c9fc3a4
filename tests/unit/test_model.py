"""What a model takes and tells: warm-up, class names, probabilities."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bentos.inference.model import (
    Labels,
    LoadedModel,
    ModelIdentity,
    NotFinite,
    UnusableModel,
    name_classes,
    to_probabilities,
    warm_up,
)

IDENTITY = ModelIdentity("model", "production", "1")
Forward = Callable[[NDArray[Any]], NDArray[np.float32]]


def linear(classes: int) -> Forward:
    weights = np.random.default_rng(1).standard_normal((2, classes)).astype(np.float32)

    def forward(inputs: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(inputs @ weights, np.float32)

    return forward


def warm(
    forward: Forward,
    *,
    shape: tuple[int, ...] = (2,),
    labels: Labels | None = None,
    max_batch: int = 8,
) -> LoadedModel:
    return warm_up(
        IDENTITY,
        forward,
        input_shape=shape,
        dtype=np.dtype(np.float32),
        labels=labels or Labels(),
        max_batch=max_batch,
    )


def softmax(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return to_probabilities(outputs, "logits")


def sigmoid(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return to_probabilities(outputs, "logits")[:, 1:]


def test_a_model_that_answers_its_warm_up_can_be_served() -> None:
    model = warm(linear(3))
    assert model.identity == IDENTITY
    assert model.spec.input_shape == (2,)
    assert model.spec.input_size == 2
    assert model.spec.class_names == ("0", "1", "2")
    assert model.spec.defects == (False, False, False)
    assert model.max_batch == 8
    probabilities = model.probabilities(np.ones((5, 2), np.float32))
    assert probabilities.shape == (5, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "image"),
    [((3, 8, 8), True), ((1, 8, 8), True), ((4, 8, 8), False), ((8, 8), False), ((20,), False)],
)
def test_an_image_is_one_or_three_channels_high_and_wide(
    shape: tuple[int, ...], image: bool
) -> None:
    model = warm(lambda inputs: np.zeros((len(inputs), 2), np.float32), shape=shape)
    assert model.spec.is_image is image


def test_class_names_and_defects_come_from_the_metadata() -> None:
    labels = Labels.from_metadata({"class_names": ["good", "bad"], "defect_classes": ["bad"]})
    spec = warm(linear(2), labels=labels).spec
    assert spec.class_names == ("good", "bad")
    assert spec.defects == (False, True)


def test_a_model_with_one_output_has_two_classes() -> None:
    model = warm(linear(1), labels=Labels(("good", "bad"), ("bad",)))
    probabilities = model.probabilities(np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(probabilities, [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (Labels(("one",)), "has 3 classes, its class_names are 1"),
        (Labels(("a", "b", "c", "d")), "has 3 classes, its class_names are 4"),
        (Labels(("a", "b", "a")), "stands twice"),
        (Labels(("a", "b", "c"), ("d",)), r"defect_classes \['d'\] are not among"),
        (Labels((), ("scratch",)), "are not among"),
    ],
)
def test_names_that_do_not_fit_the_outputs_are_refused(labels: Labels, message: str) -> None:
    with pytest.raises(UnusableModel, match=message):
        name_classes(3, labels)


@pytest.mark.parametrize(
    "metadata",
    [
        {"class_names": "good,bad"},
        {"class_names": [1, 2]},
        {"class_names": {"a": 1}},
        {"defect_classes": "bad"},
        {"output": "scores"},
        {"output": ["logits"]},
        {"class_names": ["\ud800", "b"]},
    ],
)
def test_metadata_that_is_not_what_it_should_be_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(UnusableModel, match="metadata"):
        Labels.from_metadata(metadata)


def test_metadata_that_says_nothing_says_nothing() -> None:
    assert Labels.from_metadata({}) == Labels()
    assert Labels.from_metadata({"defect_classes": []}).defect_classes == ()


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda inputs: np.zeros(len(inputs), np.float32), r"output of shape \[1\]"),
        (lambda inputs: np.zeros((len(inputs), 2, 2), np.float32), "a classifier gives"),
        (lambda inputs: np.zeros((3, 2), np.float32), "a classifier gives"),
        (lambda inputs: np.full((len(inputs), 2), np.nan, np.float32), "NaN or infinity"),
        (lambda inputs: np.full((len(inputs), 2), np.inf, np.float32), "NaN or infinity"),
        (lambda inputs: inputs["no"], "the warm-up input failed"),
        (lambda inputs: np.zeros((len(inputs), 0), np.float32), "a classifier gives"),
    ],
)
def test_a_model_that_fails_its_warm_up_is_refused(forward: Forward, message: str) -> None:
    with pytest.raises(UnusableModel, match=message):
        warm(forward)


@pytest.mark.parametrize("shape", [(), (-1,), (3, -1, -1), (0,)])
def test_a_shape_that_is_not_fixed_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnusableModel, match="has to be fixed"):
        warm(linear(2), shape=shape)


def test_a_model_of_a_fixed_batch_is_given_one_input_at_a_time() -> None:
    def fixed(inputs: NDArray[Any]) -> NDArray[np.float32]:
        if len(inputs) != 1:
            raise ValueError("exported for one")
        return np.zeros((1, 2), np.float32)

    assert warm(fixed).max_batch == 1


def test_a_model_that_answers_one_of_many_is_given_one_input_at_a_time() -> None:
    assert warm(lambda _: np.zeros((1, 2), np.float32)).max_batch == 1


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_logits_are_not_taken_for_probabilities(classes: int) -> None:
    assert warm(linear(classes)).output == "logits"


def test_logits_that_look_like_probabilities_at_zero_are_logits() -> None:
    def forward(inputs: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(np.array([[0.25, 0.75]]) + inputs, np.float32)

    model = warm(forward)
    assert model.output == "logits"
    assert model.probabilities(np.full((1, 2), 3, np.float32)).max() <= 1


def test_probabilities_are_told_by_their_range() -> None:
    many, one = linear(4), linear(1)
    assert warm(lambda inputs: softmax(many(inputs))).output == "probabilities"
    assert warm(lambda inputs: sigmoid(one(inputs))).output == "probabilities"


def test_a_sigmoid_output_below_a_half_is_the_first_class() -> None:
    one = linear(1)
    model = warm(lambda inputs: sigmoid(one(inputs)))
    told = model.probabilities(np.array([[3, 1], [-3, -1]], np.float32))
    expected = sigmoid(one(np.array([[3, 1], [-3, -1]], np.float32)))
    np.testing.assert_allclose(told[:, 1:], expected, rtol=1e-5)
    assert sorted(told.argmax(axis=1)) == [0, 1]


def test_what_the_metadata_says_of_the_output_counts() -> None:
    assert warm(linear(2), labels=Labels(output="probabilities")).output == "probabilities"
    many = linear(4)
    said = warm(lambda inputs: softmax(many(inputs)), labels=Labels(output="logits"))
    assert said.output == "logits"


def test_a_model_that_knows_few_inputs_is_guessed_by_those_it_knows() -> None:
    def forward(inputs: NDArray[Any]) -> NDArray[np.float32]:
        if (np.abs(inputs) > 0.001).any():
            raise IndexError("unknown word")
        return np.full((len(inputs), 2), 0.5, np.float32)

    assert warm(forward).output == "probabilities"


def test_probabilities_are_stable_for_large_logits() -> None:
    told = to_probabilities(np.array([[1e30, -1e30], [0, 0]], np.float32), "logits")
    assert told.tolist() == [[1, 0], [0.5, 0.5]]
    binary = to_probabilities(np.array([[-1e30], [1e30], [0]], np.float32), "logits")
    assert binary.tolist() == [[1, 0], [0, 1], [0.5, 0.5]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_raise(value: float) -> None:
    for output in ("logits", "probabilities"):
        with pytest.raises(NotFinite):
            to_probabilities(np.array([[0, value]], np.float32), output)


def test_probabilities_that_rounding_left_beyond_one_are_brought_back() -> None:
    told = to_probabilities(np.array([[1.0004, -0.0004]], np.float32), "probabilities")
    assert told.tolist() == [[1.0, 0.0]]
    binary = to_probabilities(np.array([[1.0004]], np.float32), "probabilities")
    assert binary.tolist() == [[0.0, 1.0]]
