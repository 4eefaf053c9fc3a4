"""`python -m examples.thresholds`: thresholds by the pictures that training held out."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from bentos.inference.model.loading import LoadOptions, load
from bentos.inference.model.registry import Registry
from bentos.inference.model.spec import ModelIdentity
from examples import steel_images, thresholds, train
from tests.support.images import colour_file
from tests.support.models import COLOUR_CLASSES, COLOURS, ModelStore, restored_mlflow

NAME = "steel"

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    with restored_mlflow():
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    steel_images.write_images(folder, per_class=15, seed=5)
    return folder


@pytest.fixture(scope="module")
def tracking_uri(images: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with a model that is hardly trained, so that defects do escape."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    options = ["--data", str(images), "--name", NAME, "--epochs", "6", "--seed", "7"]
    with restored_mlflow():
        assert train.main([*options, "--tracking-uri", uri]) == 0
    return uri


def ask(folder: Path, uri: str, plot: Path, *options: str, model: str = NAME) -> int:
    given = ["--data", str(folder), "--model", model, "--tracking-uri", uri, "--plot", str(plot)]
    return thresholds.main([*given, *options])


def test_thresholds_are_chosen_on_held_out_pictures_and_printed_with_what_each_costs(
    images: Path, tracking_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "new" / "plot.png"
    assert ask(images, tracking_uri, plot, "--max-escape", "0.05") == 0
    output = capsys.readouterr().out
    # A fifth of the 15 pictures of each of six classes.
    assert "steel version 1: 18 held-out pictures, 15 of them defects" in output
    rows = [line for line in output.splitlines() if "%" in line and line[:1].isdigit()]
    assert len(rows) >= 10
    (chosen,) = (line for line in rows if line.endswith("<- chosen"))
    assert chosen.split()[1] == "0"  # of 15 defects not one may escape
    assert "so few defects do not show that at most 5.00% escape" in output
    assert 'THRESHOLDS=\'{"normal": ' in output
    with Image.open(plot) as drawn:
        assert drawn.format == "PNG"
    assert "thresholds" not in MlflowClient(tracking_uri).get_model_version(NAME, "1").tags


def test_without_a_folder_it_is_the_one_that_the_model_was_trained_on(
    tracking_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", NAME, "--tracking-uri", tracking_uri, "--plot", str(tmp_path / "plot.png")]
    assert thresholds.main([*given, "--max-escape", "0.01"]) in (0, 1)
    assert "18 held-out pictures" in capsys.readouterr().out


def test_set_writes_a_tag_that_a_running_service_takes(
    images: Path, tracking_uri: str, tmp_path: Path
) -> None:
    client = MlflowClient(tracking_uri, tracking_uri)
    client.set_model_version_tag(NAME, "1", "thresholds", '{"pit": 0.9}')
    registry = Registry(tracking_uri=tracking_uri, name=NAME, stage="production")
    before = registry.resolve().identity
    assert ask(images, tracking_uri, tmp_path / "plot.png", "--set") == 0
    after = registry.resolve().identity
    assert before is not None
    assert after is not None
    assert before.version == after.version
    assert before != after  # so it is loaded anew
    written = json.loads(client.get_model_version(NAME, "1").tags["thresholds"])
    assert written.keys() == {"normal", "pit"}
    spec = load(registry, ModelIdentity(NAME, "production", "1"), LoadOptions()).spec
    of_class = dict(zip(spec.class_names, spec.thresholds, strict=True))
    assert of_class["normal"] == written["normal"]
    assert (of_class["pit"], of_class["crack"]) == (0.9, 0.5)
    client.delete_model_version_tag(NAME, "1", "thresholds")


def test_another_folder_than_the_one_trained_on_is_refused(
    images: Path, tracking_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steel_images.write_images(tmp_path / "other", per_class=12, seed=1)
    assert ask(tmp_path / "other", tracking_uri, tmp_path / "plot.png") == 1
    error = capsys.readouterr().err
    assert "trained on a folder of 90 pictures, and this one has 72" in error
    assert "--all" in error
    assert ask(tmp_path / "other", tracking_uri, tmp_path / "plot.png", "--all") in (0, 1)


def _colour_folder(folder: Path) -> Path:
    """Write pictures of which the strongest channel is the class, some of them hardly."""
    for index, name in enumerate(COLOUR_CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            levels = [100 + 9 * number] * 3
            levels[index] = 250 - number
            red, green, blue = levels
            (folder / name / f"{number}.png").write_bytes(colour_file((red, green, blue)))
    return folder


def test_a_model_of_another_training_takes_a_folder_that_it_was_not_trained_on(
    model_store: ModelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _colour_folder(tmp_path / "colours")
    uri = model_store.tracking_uri
    assert ask(folder, uri, tmp_path / "plot.png", model=COLOURS) == 1
    assert "does not say which pictures were held out" in capsys.readouterr().err
    assert ask(folder, uri, tmp_path / "plot.png", "--all", model=COLOURS) == 0
    assert "18 pictures, 12 of them defects" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "said"),
    [("unknown", "there is no model 'unknown'"), (COLOURS, "has classes that the model has not")],
)
def test_what_does_not_fit_ends_the_command_with_one_clear_line(
    model: str,
    said: str,
    model_store: ModelStore,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ask(images, model_store.tracking_uri, tmp_path / "plot.png", model=model) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("rate", ["1", "-0.1", "few"])
def test_a_rate_that_is_none_is_a_usage_error(
    rate: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        thresholds.main(["--data", str(images), "--max-escape", rate])
    assert "--max-escape" in capsys.readouterr().err
