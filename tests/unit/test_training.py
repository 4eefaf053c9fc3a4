"""The network learns, and what MLflow gives back is the network that was trained."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from bentos.inference.model.profile import read_profile
from bentos.inference.state import QUANTITIES
from examples import registration, steel_images, train
from examples.dataset import Split, read_folder, split
from examples.network import SurfaceNetwork
from examples.training import evaluate, fit
from tests.support.models import restored_mlflow

MODEL = "steel-surface"
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with restored_mlflow():
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    steel_images.write_images(folder, per_class=60, seed=5)
    return folder


@pytest.fixture(scope="module")
def parts(images: Path) -> Split:
    return split(read_folder(images), seed=0)


@pytest.fixture(scope="module")
def network(parts: Split) -> SurfaceNetwork:
    return fit(parts.train, epochs=14, seed=0)


@dataclass(frozen=True)
class Trained:
    """A finished run of the command and the store that it wrote to."""

    finished: subprocess.CompletedProcess[str]
    tracking_uri: str
    folder: Path


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("store")
    tracking_uri = f"sqlite:///{folder / 'mlflow.db'}"
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "examples.train", "--data", str(images), "--name", MODEL),
            *("--alias", "production", "--tracking-uri", tracking_uri, "--epochs", "2"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    return Trained(finished, tracking_uri, folder)


def test_the_network_learns_to_tell_steel_defects_apart(
    network: SurfaceNetwork, parts: Split
) -> None:
    assert evaluate(network, parts.held_out).accuracy >= 0.85


def test_the_same_seed_trains_the_same_network(parts: Split) -> None:
    first, same, other = (
        fit(parts.train, epochs=1, seed=seed)(parts.held_out.pixels) for seed in (3, 3, 4)
    )

    assert torch.allclose(first, same, atol=1e-4)
    assert not torch.allclose(first, other, atol=1e-2)


def test_training_leaves_the_global_random_state_alone(parts: Split) -> None:
    before = torch.random.get_rng_state()

    fit(parts.train, epochs=1, seed=0, flips=False)

    assert torch.equal(before, torch.random.get_rng_state())


def test_every_epoch_is_reported_with_its_loss(parts: Split) -> None:
    reported: list[tuple[int, float]] = []

    fit(parts.train, epochs=2, seed=0, report=lambda epoch, loss: reported.append((epoch, loss)))

    assert [epoch for epoch, _ in reported] == [1, 2]
    assert all(np.isfinite(loss) for _, loss in reported)


def test_the_confusion_counts_true_classes_by_row(network: SurfaceNetwork, parts: Split) -> None:
    evaluation = evaluate(network, parts.held_out)

    assert evaluation.confusion.sum(dim=1).tolist() == parts.held_out.labels.bincount().tolist()
    assert evaluation.count == len(parts.held_out)
    found = evaluation.confusion[0, 0] / evaluation.confusion[0].sum()
    assert evaluation.recall(0) == pytest.approx(found.item())


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 32, 32), (1, 50, 130)])
def test_the_network_fits_any_image_size(channels: int, height: int, width: int) -> None:
    network = SurfaceNetwork(channels=channels, height=height, width=width, classes=4)

    assert network(torch.rand(2, channels, height, width)).shape == (2, 4)
    assert sum(parameter.numel() for parameter in network.parameters()) < 200_000


def test_the_network_normalises_its_input_itself() -> None:
    torch.manual_seed(0)
    plain = SurfaceNetwork(
        channels=1, height=8, width=8, classes=2, mean=[0.0], deviation=[1.0]
    ).eval()
    shifted = SurfaceNetwork(
        channels=1, height=8, width=8, classes=2, mean=[0.4], deviation=[0.2]
    ).eval()
    shifted.layers.load_state_dict(plain.layers.state_dict())
    pixels = torch.rand(3, 1, 8, 8)

    assert torch.allclose(shifted(pixels), plain((pixels - 0.4) / 0.2), atol=1e-6)


@pytest.mark.parametrize(("side", "classes"), [(3, 4), (32, 1)])
def test_a_network_that_could_not_work_is_refused(side: int, classes: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        SurfaceNetwork(channels=3, height=side, width=side, classes=classes)


def test_the_registered_model_gives_the_trained_logits_for_every_batch_size(
    network: SurfaceNetwork, parts: Split, tmp_path: Path
) -> None:
    tracking_uri = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    experiment = registration.open_experiment(tracking_uri, "experiment")
    record = registration.TrainingRecord(
        class_names=parts.train.class_names,
        defect_classes=("pit",),
        params={"seed": 0},
        metrics={"held_out_accuracy": 0.9},
        losses=[1.0, 0.5],
    )

    versions = [
        registration.register(
            experiment,
            network,
            record,
            example=parts.train.pixels[:2].numpy(),
            model_name=MODEL,
            alias="production",
        )
        for _ in range(2)
    ]

    assert versions == ["1", "2"]
    assert str(MlflowClient().get_model_version_by_alias(MODEL, "production").version) == "2"
    loaded = mlflow.pytorch.load_model(f"models:/{MODEL}@production")
    with pytest.raises(NotImplementedError):
        loaded.eval()
    with torch.inference_mode():
        for size in (1, 2, 7, 32):
            pixels = parts.held_out.pixels[:size]
            assert torch.allclose(loaded(pixels), network(pixels), atol=1e-5)


def test_an_example_of_one_image_is_refused_because_it_would_fix_the_batch_size(
    network: SurfaceNetwork, parts: Split
) -> None:
    with pytest.raises(ValueError, match="at least two"):
        registration.register(
            "",
            network,
            registration.TrainingRecord((), (), {}, {}, ()),
            example=parts.train.pixels[:1].numpy(),
            model_name=MODEL,
            alias="production",
        )


def test_the_command_reports_epochs_accuracy_and_version_and_nothing_of_mlflows(
    trained: Trained,
) -> None:
    output = trained.finished.stdout

    assert trained.finished.returncode == 0, trained.finished.stderr
    assert trained.finished.stderr == ""
    assert "epoch   2 of 2" in output
    assert "held-out accuracy" in output
    assert output.endswith(f"registered {MODEL} version 1, alias production\n")
    assert "defect classes: crack, inclusion, pit, scratch, stain\n" in output


def test_the_registered_version_tells_its_classes_and_input(trained: Trained) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    mlflow.set_registry_uri(trained.tracking_uri)

    info = mlflow.models.get_model_info(f"models:/{MODEL}@production")

    profile = read_profile(info.metadata.pop("profile"))
    assert profile is not None
    assert list(profile) == list(QUANTITIES)
    assert profile["brightness"].pictures == 360
    assert info.metadata == {
        "class_names": ["crack", "inclusion", "normal", "pit", "scratch", "stain"],
        "defect_classes": ["crack", "inclusion", "pit", "scratch", "stain"],
        "output": "logits",
    }
    assert [spec.shape for spec in info.signature.inputs] == [(-1, 3, 32, 32)]
    assert [spec.type for spec in info.signature.inputs] == [np.dtype(np.float32)]
    assert [spec.shape for spec in info.signature.outputs] == [(-1, 6)]


def test_the_run_keeps_its_params_and_metrics(trained: Trained) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    mlflow.set_registry_uri(trained.tracking_uri)
    client = MlflowClient()

    version = client.get_model_version_by_alias(MODEL, "production")
    run = client.get_run(version.run_id)

    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "2"
    assert 0.0 <= run.data.metrics["held_out_accuracy"] <= 1.0
    assert "held_out_recall_of_pit" in run.data.metrics
    assert len(client.get_metric_history(version.run_id, "training_loss")) == 2


def test_artifacts_lie_beside_the_database_and_hold_no_pickled_model(trained: Trained) -> None:
    names = {path.name for path in (trained.folder / "artifacts").rglob("*") if path.is_file()}

    assert "model.pt2" in names
    assert not [name for name in names if name.endswith((".pkl", ".pth", ".pickle"))]


def test_a_greyscale_folder_of_mixed_files_is_trained_and_registered(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, level in (("ok", 90), ("dented", 170)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(8):
            side = 20 + number
            values = random.normal(level, 20, (side, side)).clip(0, 255).astype(np.uint8)
            suffix = ("bmp", "jpg")[number % 2]
            Image.fromarray(values).save(tmp_path / "images" / name / f"{number}.{suffix}")
    tracking_uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    status = train.main(
        [
            *("--data", str(tmp_path / "images"), "--name", "dents", "--alias", "staging"),
            *("--tracking-uri", tracking_uri, "--epochs", "1", "--size", "24"),
        ]
    )

    assert status == 0
    info = mlflow.models.get_model_info("models:/dents@staging")
    assert info.metadata["defect_classes"] == ["dented"]
    loaded = mlflow.pytorch.load_model("models:/dents@staging")
    assert loaded(torch.rand(3, 1, 24, 24)).shape == (3, 2)


@pytest.mark.parametrize(
    ("class_names", "options", "expected"),
    [
        (("crack", "normal", "pit"), {}, ("crack", "pit")),
        (("Good", "bad"), {}, ("bad",)),
        (("good", "normal", "pit"), {}, ("good", "pit")),
        (("left", "right"), {}, ("left", "right")),
        (("left", "right"), {"normal": "left"}, ("right",)),
        (("crack", "normal", "pit"), {"defects": ["pit"]}, ("pit",)),
        (("crack", "normal", "pit"), {"defects": []}, ()),
    ],
)
def test_defects_are_all_classes_but_the_normal_one_unless_they_are_named(
    class_names: tuple[str, ...], options: dict[str, object], expected: tuple[str, ...]
) -> None:
    assert train.choose_defect_classes(class_names, **options) == expected  # type: ignore[arg-type]


@pytest.mark.case(59)
def test_without_a_normal_class_every_class_is_a_defect_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make train` on six classes of defects, none called normal: all are defects, said clearly."""
    steel_images.write_images(tmp_path / "images", per_class=6, seed=1)
    (tmp_path / "images" / "normal").rename(tmp_path / "images" / "rust")
    options = ["--data", str(tmp_path / "images"), "--name", "rusty", "--epochs", "1"]
    tracking_uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    assert train.main([*options, "--tracking-uri", tracking_uri]) == 0

    output = capsys.readouterr().out
    assert "defect classes: crack, inclusion, pit, rust, scratch, stain\n" in output
    assert "no class is the normal one" in output
    assert "--normal-class" in output


@pytest.mark.case(27)
def test_a_cameras_bit_depth_goes_from_training_to_serving(tmp_path: Path) -> None:
    """`make train` on 16-bit files of a 12-bit camera: the model's metadata say so to serving."""
    random = np.random.default_rng(0)
    for name, level in (("ok", 800), ("bad", 3_000)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            values = random.normal(level, 99, (16, 16)).clip(0, 4_095).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "images" / name / f"{number}.png")
    images = read_folder(tmp_path / "images", bit_depth=12)
    assert images.pixels.shape[1] == 1
    assert images.pixels[images.labels == 0].mean() == pytest.approx(3_000 / 4_095, abs=0.02)
    tracking_uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    options = ["--data", str(tmp_path / "images"), "--name", "camera", "--epochs", "1"]

    assert train.main([*options, "--tracking-uri", tracking_uri, "--bit-depth", "12"]) == 0

    assert mlflow.models.get_model_info("models:/camera@production").metadata["bit_depth"] == 12


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--normal-class", "rust"], "'rust' is not one of the classes"),
        (["--defect-classes", "pit,rust"], "'rust' is not one of the classes"),
        (["--defect-classes", "pit", "--normal-class", "pit"], "both the normal class"),
        (["--class-mix", "rust=0.9"], "'rust' is not one of the classes"),
        (["--data", "/nowhere"], "'/nowhere' is not a folder"),
        (["--size", "4"], "under 8 pixels"),
        (["--alias", "v1"], "cannot be an alias"),
        (["--alias", "in production"], "cannot be an alias"),
        (["--name", "a/b"], "cannot be a model's name"),
        (["--tracking-uri", "sqlite:////dev/null/mlflow.db"], "cannot be used"),
        (["--tracking-uri", "nonsense://x"], "cannot be used"),
    ],
)
def test_bad_input_ends_the_command_with_one_clear_line(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    defaults = ["--data", str(images), "--name", MODEL, "--alias", "production", "--epochs", "1"]
    defaults += ["--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]

    status = train.main([*defaults, *options])

    error = capsys.readouterr().err
    assert status == 1
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_database_is_refused_in_one_line(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database, but long enough to look at")

    status = train.main(
        [
            *("--data", str(images), "--name", MODEL),
            *("--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"),
        ]
    )

    error = capsys.readouterr().err
    assert status == 1
    assert "cannot be used" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "option",
    [
        *(["--epochs", "0"], ["--size", "big"], ["--seed", "-1"]),
        *(["--class-mix", "pit"], ["--class-mix", "pit=0.9,stain=0.2"]),
    ],
)
def test_a_malformed_option_is_a_usage_error(
    images: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(["--data", str(images), "--name", MODEL, *option])

    assert ended.value.code == 2
    assert option[0] in capsys.readouterr().err
