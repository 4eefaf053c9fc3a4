"""What a model takes and answers: warm-up, class names, pictures, probabilities, layout."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bentos.inference.model.spec import (
    Metadata,
    ModelIdentity,
    UnusableModel,
    name_classes,
    picture_of,
)
from bentos.inference.model.warm_up import (
    LoadedModel,
    NotFinite,
    put_channels_last,
    to_probabilities,
    warm_up,
)
from bentos.messages import MAX_CLASSES, MAX_NAME_CHARACTERS

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
    metadata: Metadata | None = None,
    max_batch: int = 8,
) -> LoadedModel:
    return warm_up(
        IDENTITY,
        forward,
        input_shape=shape,
        dtype="float32",
        metadata=metadata or Metadata(),
        max_batch=max_batch,
    )


def named(*names: str, defects: tuple[str, ...] | None = None) -> Metadata:
    return Metadata(class_names=names, defect_classes=defects)


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
    ("shape", "channels"),
    [((3, 8, 9), "RGB"), ((1, 8, 9), "L"), ((4, 8, 9), None), ((8, 9), None), ((20,), None)],
)
def test_a_picture_is_one_or_three_channels_high_and_wide(
    shape: tuple[int, ...], channels: str | None
) -> None:
    model = warm(lambda inputs: np.zeros((len(inputs), 2), np.float32), shape=shape)
    picture = model.spec.picture
    assert (picture and picture.channels) == channels
    if picture:
        assert (picture.height, picture.width) == (8, 9)


def test_class_names_and_defects_come_from_the_metadata() -> None:
    metadata = Metadata.read({"class_names": ["good", "bad"], "defect_classes": ["bad"]})
    spec = warm(linear(2), metadata=metadata).spec
    assert spec.class_names == ("good", "bad")
    assert spec.defects == (False, True)


def test_thresholds_come_from_the_metadata_and_are_a_half_where_a_class_has_none() -> None:
    content = {"class_names": ["good", "bad"], "thresholds": {"bad": 0.9}}
    assert warm(linear(2), metadata=Metadata.read(content)).spec.thresholds == (0.5, 0.9)
    assert warm(linear(2)).spec.thresholds == ()


def test_a_later_source_replaces_the_threshold_of_its_class_only() -> None:
    tags, model = {"thresholds": {"a": 0.1, "b": 0.2}}, {"thresholds": {"b": 0.3}}
    assert Metadata.read(tags, model, {}).thresholds == {"a": 0.1, "b": 0.3}
    assert Metadata.read({"class_names": ["a"]}, {"class_names": ["b"]}).class_names == ("b",)


def test_a_threshold_of_a_class_that_the_model_has_not_is_refused_with_the_classes() -> None:
    metadata = Metadata.read({"class_names": ["good", "bad"], "thresholds": {"ugly": 0.9}})
    with pytest.raises(UnusableModel, match=r"\['ugly'\] .* \['good', 'bad'\]"):
        warm(linear(2), metadata=metadata)


def test_a_model_with_one_output_has_two_classes() -> None:
    model = warm(linear(1), metadata=named("good", "bad", defects=("bad",)))
    probabilities = model.probabilities(np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(probabilities, [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (named("one"), "has 3 classes, its class_names are 1"),
        (named("a", "b", "c", "d"), "has 3 classes, its class_names are 4"),
        (named("a", "b", "a"), "stands twice"),
        (named("a", "b", "c", defects=("d",)), r"defect_classes \['d'\] are not among"),
        (named(defects=("scratch",)), "are not among"),
    ],
)
def test_names_that_do_not_fit_the_outputs_are_refused(metadata: Metadata, message: str) -> None:
    with pytest.raises(UnusableModel, match=message):
        name_classes(3, metadata)


@pytest.mark.case(15)
def test_classes_and_their_names_are_bounded_when_the_model_loads() -> None:
    """A model of 65,537 classes, or a class name of 513 characters: refused at the load."""
    names, _ = name_classes(MAX_CLASSES, Metadata())
    assert len(names) == MAX_CLASSES
    with pytest.raises(UnusableModel, match="at most 65536 are served"):
        name_classes(MAX_CLASSES + 1, Metadata())
    assert Metadata.read({"class_names": ["x" * MAX_NAME_CHARACTERS]}).class_names
    with pytest.raises(UnusableModel, match="<= 512"):
        Metadata.read({"class_names": ["x" * (MAX_NAME_CHARACTERS + 1)]})


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
        {"class_names": ["", "b"]},
        {"scale": "large"},
        {"mean": [1, 2, 3, 4]},
        {"channels": "CMYK"},
        {"layout": "WHC"},
        {"bit_depth": 7},
        {"thresholds": 0.5},
        {"thresholds": {"bad": 1.1}},
        {"thresholds": {"bad": float("nan")}},
    ],
)
def test_metadata_that_is_not_what_it_should_be_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(UnusableModel, match="metadata"):
        Metadata.read(metadata)


def test_metadata_that_says_nothing_says_nothing() -> None:
    assert Metadata.read({"somebody": "else's"}) == Metadata()
    assert Metadata.read({"defect_classes": []}).defect_classes == ()


@pytest.mark.case(24)
@pytest.mark.parametrize(
    ("shape", "dtype", "metadata", "message"),
    [
        ((3, 8, 8), "uint8", {"scale": 1 / 255}, "would lose their content"),
        ((3, 8, 8), "int8", {}, "would lose their content"),
        ((3, 8, 8), "bool", {}, "would lose their content"),
        ((3, 8, 8), "float32", {"scale": 0.0}, "would lose their content"),
        ((3, 8, 8), "float32", {"std": 0.0}, "scale, mean and std"),
        ((3, 8, 8), "float16", {"scale": 1e6}, "would lose their content"),
        ((3, 8, 8), "float32", {"mean": (0.5, 0.5)}, "2 numbers for 3 channels"),
        ((3, 8, 8), "float32", {"channels": "L"}, "channels is L"),
        ((1, 8, 8), "float32", {"channels": "RGB"}, "channels is RGB"),
    ],
)
def test_a_load_that_would_flatten_pictures_is_refused(
    shape: tuple[int, ...], dtype: str, metadata: dict[str, Any], message: str
) -> None:
    """A model whose type and metadata leave next to nothing of a picture: refused at the load."""
    with pytest.raises(UnusableModel, match=message):
        picture_of(shape, dtype, Metadata(**metadata))


@pytest.mark.case(25)
def test_a_model_that_answers_differently_each_time_is_refused() -> None:
    """A model exported in training mode, with Dropout: two warm-up answers differ, refused."""
    random = np.random.default_rng(0)
    weights = np.ones((2, 3), np.float32)

    def dropout(inputs: NDArray[Any]) -> NDArray[np.float32]:
        kept = random.random(inputs.shape) > 0.5
        return np.asarray((inputs * kept * 2) @ weights, np.float32)

    with pytest.raises(UnusableModel, match="differently each time"):
        warm(dropout)


@pytest.mark.case(25)
def test_a_model_whose_answers_depend_on_their_neighbours_is_refused() -> None:
    """A model exported in training mode, with BatchNorm: an answer differs beside another input."""

    def normalised(inputs: NDArray[Any]) -> NDArray[np.float32]:
        flat = inputs.reshape(len(inputs), -1)
        return np.asarray((flat - flat.mean(axis=0)) / (flat.std(axis=0) + 1.0), np.float32)

    with pytest.raises(UnusableModel, match="depends on the other inputs"):
        warm(normalised, shape=(4,))


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
    assert warm(linear(2), metadata=Metadata(output="probabilities")).output == "probabilities"
    many = linear(4)
    said = warm(lambda inputs: softmax(many(inputs)), metadata=Metadata(output="logits"))
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


PICTURE = (3, 8, 8)


def forward_of(module: nn.Module) -> Any:
    def forward(inputs: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            result: NDArray[np.float32] = module(torch.from_numpy(inputs)).numpy()
            return result

    return forward


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 4))
    return nn.Sequential(*layers).eval()


class Viewing(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Calls `view` on a convolution's output, which fails with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return outputs [n, 144]."""
        return self.convolution(pixels).view(len(pixels), -1)


class Strided(nn.Module):  # type: ignore[misc]
    """Answers something else with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return outputs [n, 1]: a stride of the convolution's output."""
        stride = self.convolution(pixels).stride(1)
        return torch.full((len(pixels), 1), float(stride))


def is_channels_last(module: nn.Module) -> bool:
    (weight,) = [one for one in module.parameters() if one.dim() == 4]
    return bool(weight.is_contiguous(memory_format=torch.channels_last))


def put(module: nn.Module, shape: tuple[int, ...] = PICTURE) -> bool:
    return put_channels_last(module, forward_of(module), input_shape=shape, dtype="float32")


def test_a_network_of_convolutions_is_laid_out_anew_and_answers_the_same() -> None:
    module = network()
    original = copy.deepcopy(module)
    assert put(module)
    assert is_channels_last(module)
    inputs = np.random.default_rng(1).random((5, *PICTURE), np.float32)
    np.testing.assert_allclose(
        forward_of(module)(inputs), forward_of(original)(inputs), rtol=1e-4, atol=1e-6
    )


def test_so_is_an_exported_one() -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    inputs = (torch.zeros(2, *PICTURE),)
    module = torch.export.export(network(), inputs, dynamic_shapes=({0: batch},)).module()
    assert put(module)
    assert is_channels_last(module)


@pytest.mark.parametrize("kind", [Viewing, Strided])
def test_one_that_would_fail_or_answer_otherwise_is_left_as_it_is(kind: type[nn.Module]) -> None:
    module = kind().eval()
    inputs = np.random.default_rng(1).random((3, *PICTURE), np.float32)
    before = forward_of(module)(inputs)
    assert not put(module)
    assert not is_channels_last(module)
    np.testing.assert_array_equal(forward_of(module)(inputs), before)


def test_one_without_pictures_or_convolutions_is_not_touched() -> None:
    assert not put(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    assert not put(network(), (192,))
    assert not put(network(), (3, -1, -1))  # which the warm-up refuses with a word of its own


@pytest.mark.parametrize("last", [nn.Linear(7, 4), nn.Threshold(float("inf"), float("nan"))])
def test_one_that_fails_or_gives_no_numbers_proves_nothing_and_is_left(last: nn.Module) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), last).eval()
    assert not put(module)
    assert not is_channels_last(module)


def test_one_that_takes_one_input_only_is_laid_out_by_that_one() -> None:
    module = torch.export.export(network(), (torch.zeros(1, *PICTURE),)).module()
    assert put(module)
