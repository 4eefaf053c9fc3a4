"""The heat map: which part of a picture decided, and that it is true of the demo's model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bentos.edge.http import ServiceError
from bentos.evidence import HeatMap
from bentos.inference.channel import Input, InputKind
from bentos.inference.engine import Prediction
from bentos.inference.explain import heat_map_of
from bentos.inference.model.occlusion import MaskedPictures
from bentos.inference.model.spec import Metadata, ModelIdentity, ModelSpec, ServedModel, picture_of
from bentos.inference.model.warm_up import LoadedModel
from examples.dataset import Split, read_folder, split
from examples.steel_images import NORMAL, write_images
from examples.training import fit
from tests.support.images import colour_file
from tests.support.model_server import GIVES_NAN, Bench, Model, on_bench

_EPOCHS = 10


def spec_of(shape: tuple[int, ...], *, dtype: str = "float32", layout: str = "CHW") -> ModelSpec:
    metadata = Metadata.read({"layout": layout})
    return ModelSpec(shape, dtype, ("no", "yes"), (False, True), picture_of(shape, dtype, metadata))


def masked(values: NDArray[Any], spec: ModelSpec) -> list[NDArray[Any]]:
    assert spec.picture is not None
    rows, columns = spec.picture.grid
    pictures = MaskedPictures(values, spec, rows=1 + rows * columns)
    return [pictures[row] for row in range(len(pictures))]


def heat_map(rows: Sequence[Sequence[float]], columns: int) -> HeatMap:
    served = ServedModel(ModelIdentity("model", "production", "7"), spec_of((1, 8, 8)))
    predictions = [Prediction(int(np.argmax(row)), row, served) for row in rows]
    return heat_map_of(predictions, columns)


@pytest.mark.parametrize(
    ("shape", "layout", "grid"),
    [
        ((3, 32, 32), "CHW", (10, 10)),
        ((32, 32, 3), "HWC", (10, 10)),
        ((1, 8, 24), "CHW", (8, 10)),
        ((1, 200, 1000), "CHW", (10, 10)),
    ],
)
def test_every_pixel_is_masked_exactly_once(
    shape: tuple[int, ...], layout: str, grid: tuple[int, int]
) -> None:
    spec = spec_of(shape, layout=layout)
    assert spec.picture is not None
    assert spec.picture.grid == grid
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    seen, *others = masked(values, spec)
    np.testing.assert_array_equal(seen, values)
    assert len(others) == grid[0] * grid[1]
    assert (sum((one != values).astype(int) for one in others) == 1).all()


def test_a_mask_has_the_mean_colour_of_the_picture() -> None:
    spec = spec_of((3, 10, 10))
    values = np.random.default_rng(0).random((3, 10, 10)).astype(np.float32)
    _, first, *_ = masked(values, spec)
    np.testing.assert_allclose(first[:, 0, 0], values.mean(axis=(1, 2)), rtol=1e-6)


def test_a_mask_on_pixels_that_are_integers_is_one_as_well() -> None:
    spec = spec_of((1, 10, 10), dtype="uint8")
    values = np.full((1, 10, 10), 200, np.uint8)
    values[0, 9, 9] = 0
    _, first, *_ = masked(values, spec)
    assert first.dtype == np.uint8
    assert first[0, 0, 0] == 198


def test_a_picture_for_a_model_that_was_just_replaced_is_refused() -> None:
    with pytest.raises(ServiceError) as error:
        MaskedPictures(np.zeros((1, 10, 10), np.float32), spec_of((1, 10, 10)), rows=65)
    assert (error.value.status, error.value.reason) == (503, "model_replaced")


def test_the_part_that_lowers_the_class_most_is_the_hottest() -> None:
    found = heat_map([[0.1, 0.9], [0.1, 0.9], [0.7, 0.3], [0.2, 0.8], [0.05, 0.95]], columns=2)
    assert (found.class_name, found.model_version) == ("yes", "7")
    assert (found.rows, found.columns) == (2, 2)
    (first, hottest), (warm, cold) = found.drops
    assert hottest > warm > first == 0.0 > cold
    assert hottest == pytest.approx(np.log(0.9 / 0.1) - np.log(0.3 / 0.7))


def test_a_class_that_is_certain_still_has_a_heat_map() -> None:
    certain = np.array([[1e-20, 1.0], [1e-12, 1.0], [0.0, 1.0]], np.float32)
    ((warm, none),) = heat_map([row.tolist() for row in certain], columns=2).drops
    assert warm == pytest.approx(np.log(1e8), rel=1e-3)
    assert np.isfinite(none)


async def explain(bench: Bench, content: bytes) -> HeatMap:
    picture = bench.engine.spec.picture
    assert picture is not None
    rows, columns = picture.grid
    given = Input(InputKind.MASKED, content, rows=1 + rows * columns)
    return heat_map_of(await bench.engine.predict(given), columns)


@on_bench(queue_size=101)
async def test_a_file_is_explained_by_calls_no_larger_than_a_batch(bench: Bench) -> None:
    await bench.install(seeing := Model(shape=(1, 20, 20), max_batch=16))
    found = await explain(bench, colour_file((200, 200, 200), size=(20, 20)))
    assert np.shape(found.drops) == (10, 10)
    assert max(seeing.batches) == 16
    assert sum(seeing.batches) == 101
    assert bench.engine.waiting == 0


@on_bench(queue_size=101)
async def test_a_file_that_is_no_picture_is_refused_as_for_a_prediction(bench: Bench) -> None:
    await bench.install(Model(shape=(1, 20, 20)))
    with pytest.raises(ServiceError) as error:
        await explain(bench, b"no picture")
    assert (error.value.status, error.value.reason) == (400, "bad_input")


@on_bench(queue_size=101)
async def test_a_picture_that_the_model_cannot_bear_is_refused_by_no_field_of_ours(
    bench: Bench,
) -> None:
    await bench.install(Model(shape=(1, 20, 20), dtype="uint8"))
    dark = colour_file((int(GIVES_NAN),) * 3, size=(20, 20))
    with pytest.raises(ServiceError) as error:
        await explain(bench, dark)
    assert (error.value.status, error.value.reason) == (422, "model_rejected_input")
    assert "data[" not in error.value.message


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, per_class=75, seed=0)
    return split(read_folder(folder), held_out=0.3)


@pytest.fixture(scope="module")
def loaded(parts: Split) -> LoadedModel:
    network = fit(parts.train, epochs=_EPOCHS, seed=0)
    names = parts.train.class_names
    shape = (3, 32, 32)

    def forward(inputs: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(inputs)).numpy())

    return LoadedModel(
        identity=ModelIdentity("demo", "production", "1"),
        spec=ModelSpec(
            shape,
            "float32",
            names,
            tuple(name != NORMAL for name in names),
            picture_of(shape, "float32", Metadata()),
        ),
        forward=forward,
        output="logits",
        max_batch=64,
    )


@pytest.mark.slow
@on_bench(queue_size=101)
async def test_masking_the_hottest_tenth_lowers_the_class_more_than_a_random_tenth(
    bench: Bench, parts: Split, loaded: LoadedModel
) -> None:
    """Held-out pictures of defects, the demo's model: in at least nine of ten."""
    random = np.random.default_rng(0)

    def scores(values: NDArray[Any], chosen: Sequence[NDArray[Any]], index: int) -> NDArray[Any]:
        """Return the probability of a class with each choice of the grid's cells masked."""
        _, *cells = masked(values, loaded.spec)
        hidden = np.stack([values] * len(chosen))
        for picture, places in zip(hidden, chosen, strict=True):
            for place in places:
                np.copyto(picture, cells[place], where=cells[place] != values)
        return loaded.probabilities(hidden)[:, index]

    model = Model()
    model.loaded = loaded
    await bench.install(model)
    better = seen = 0
    for path, values in zip(parts.held_out.paths, parts.held_out.pixels.numpy(), strict=True):
        found = await explain(bench, path.read_bytes())
        if path.parent.name == NORMAL or found.class_name == NORMAL:
            continue  # what a sound surface looks like is no part of it
        hottest = np.argsort(np.ravel(found.drops))[-10:]
        others = [random.choice(100, 10, replace=False) for _ in range(10)]
        index = loaded.spec.class_names.index(found.class_name)
        of_hottest, *of_others = scores(values, [hottest, *others], index)
        better += bool(of_hottest < np.mean(of_others))
        seen += 1
    assert seen >= 100
    assert better >= 0.9 * seen, f"{better} of {seen}"
