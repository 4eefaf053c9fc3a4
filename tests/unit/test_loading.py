"""From a registered version to a model that answers, on real registered models."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from bentos.inference.images import open_image, read_input
from bentos.inference.model import memory
from bentos.inference.model.archive import EXPORTED, PICKLE_SWITCH, SIGNATURE
from bentos.inference.model.loading import LoadOptions, load
from bentos.inference.model.memory import check_fits, free_bytes
from bentos.inference.model.registry import Registry
from bentos.inference.model.spec import ModelIdentity, UnusableModel
from bentos.inference.model.warm_up import LoadedModel
from tests.support.exported import SAMPLES, change, pickled
from tests.support.images import colour_file
from tests.support.models import (
    ALIAS,
    COLOUR_CLASSES,
    COLOUR_CLASSES_OF_VERSION_2,
    COLOUR_DEFECTS,
    COLOUR_SHAPE,
    COLOURS,
    FRAGILE,
    FRAGILE_OK,
    MISNAMED,
    MOODY,
    RAISES,
    RETURNS_NAN,
    SINGLE,
    TABULAR_SIZE,
    UNSIGNED,
    ModelStore,
)

# Its models are made with torch and registered with MLflow, which takes seconds.
pytestmark = pytest.mark.slow


def registry_of(store: ModelStore, name: str, *, stage: str = ALIAS) -> Registry:
    return Registry(tracking_uri=store.tracking_uri, name=name, stage=stage)


def load_from(
    store: ModelStore,
    name: str,
    version: str = "1",
    *,
    device: str = "cpu",
    **overrides: Any,
) -> LoadedModel:
    options = LoadOptions(device=device, overrides=overrides)
    return load(registry_of(store, name), ModelIdentity(name, ALIAS, version), options)


def test_names_and_defects_come_with_the_model(model_store: ModelStore) -> None:
    model = load_from(model_store, COLOURS)
    assert model.spec.class_names == COLOUR_CLASSES
    assert model.spec.input_shape == COLOUR_SHAPE
    defects = zip(model.spec.class_names, model.spec.defects, strict=True)
    assert {name for name, defect in defects if defect} == set(COLOUR_DEFECTS)
    assert model.max_batch == 16
    inputs = np.zeros((5, *COLOUR_SHAPE), np.float32)
    inputs[:, 2] = 1
    assert model.probabilities(inputs).argmax(axis=1).tolist() == [2] * 5


def test_names_may_stand_in_the_versions_tags(model_store: ModelStore) -> None:
    assert load_from(model_store, COLOURS, "2").spec.class_names == COLOUR_CLASSES_OF_VERSION_2


def test_what_the_operator_sets_goes_before_what_the_model_carries(
    model_store: ModelStore,
) -> None:
    names: dict[str, Any] = {"class_names": ("x", "y", "z"), "defect_classes": ("z",)}
    spec = load_from(model_store, COLOURS, **names).spec
    assert spec.class_names == ("x", "y", "z")
    assert spec.defects == (False, False, True)
    assert load_from(model_store, MISNAMED, **names).spec.class_names == ("x", "y", "z")


def test_what_the_operator_sets_for_a_class_leaves_the_thresholds_of_the_others(
    model_store: ModelStore,
) -> None:
    name = COLOUR_CLASSES[1]
    spec = load_from(model_store, COLOURS, thresholds={name: 0.9}).spec
    assert spec.thresholds == (0.5, 0.9, 0.5)
    assert spec.verdict(1, 0.89) == "review"
    with pytest.raises(UnusableModel, match=r"THRESHOLDS"):
        load_from(model_store, COLOURS, thresholds={"unknown": 0.9})


def test_a_model_exported_for_one_input_gets_one_at_a_time(model_store: ModelStore) -> None:
    model = load_from(model_store, SINGLE)
    assert model.max_batch == 1
    assert model.probabilities(np.zeros((1, TABULAR_SIZE), np.float32)).shape == (1, 2)


def test_a_model_without_a_tensor_signature_is_refused(model_store: ModelStore) -> None:
    with pytest.raises(UnusableModel, match="no tensor signature"):
        load_from(model_store, UNSIGNED)


def test_inputs_that_a_model_cannot_bear_raise(model_store: ModelStore) -> None:
    model = load_from(model_store, FRAGILE)
    assert model.probabilities(np.array([FRAGILE_OK], np.float32)).argmax() == 1
    with pytest.raises(IndexError):
        model.probabilities(np.array([RAISES], np.float32))
    with pytest.raises(ValueError, match="NaN or infinity"):
        model.probabilities(np.array([RETURNS_NAN], np.float32))


def test_a_pickled_model_is_refused_with_what_to_do(model_store: ModelStore) -> None:
    with pytest.raises(UnusableModel, match="a pickle that runs when it loads") as refused:
        load_from(model_store, MOODY)
    assert f"{PICKLE_SWITCH}=true" in str(refused.value)


def test_a_pickled_model_is_served_where_the_operator_allows_it(
    model_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PICKLE_SWITCH, "true")
    model = load_from(model_store, MOODY)
    assert model.probabilities(np.zeros((3, 2), np.float32)).shape == (3, 2)


def test_a_device_that_is_not_there_is_refused(model_store: ModelStore) -> None:
    if torch.cuda.is_available():
        assert load_from(model_store, COLOURS, device="cuda").max_batch == 16
    else:
        with pytest.raises(UnusableModel, match="DEVICE is cuda and there is no GPU"):
            load_from(model_store, COLOURS, device="cuda")
    assert load_from(model_store, COLOURS, device="auto").max_batch == 16


def test_a_released_model_gives_its_memory_back(model_store: ModelStore) -> None:
    model = load_from(model_store, FRAGILE)
    before = [tensor for tensor in _tensors() if tensor.numel()]
    model.release()
    assert len([tensor for tensor in _tensors() if tensor.numel()]) < len(before)


def _tensors() -> list[Any]:
    import gc

    # Its type, since another library's weak proxies raise where their object has gone.
    return [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]


class _Logged(Registry):
    """A model's folder as a registry would hand it out."""

    def __init__(self, folder: Path) -> None:
        super().__init__(tracking_uri="sqlite:///none.db", name="model", stage=ALIAS)
        self.folder = folder

    def tags(self, version: str) -> dict[str, str]:
        return {}

    @contextmanager
    def downloaded(self, version: str) -> Iterator[Path]:
        yield self.folder


def log(folder: Path, module: nn.Module, shape: tuple[int, ...], **options: Any) -> Path:
    """Save a module as MLflow logs it, without the pickles it would not need."""
    dtype = np.dtype(options.pop("dtype", "float32"))
    mlflow.pytorch.save_model(
        module,
        str(folder),
        signature=ModelSignature(Schema([TensorSpec(dtype, (-1, *shape))])),
        input_example=np.zeros((2, *shape), dtype),
        pip_requirements=["torch"],
        serialization_format=options.pop("form", "pt2"),
        **options,
    )
    return folder


def load_folder(folder: Path, **options: Any) -> LoadedModel:
    return load(_Logged(folder), ModelIdentity("model", ALIAS, "1"), LoadOptions(**options))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder that may be served."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    return log(tmp_path_factory.mktemp("plain") / "model", module, (3, 4, 4))


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(plain, tmp_path / "model"))


def describe(folder: Path, text: str, other: str) -> None:
    """Change a model's description."""
    description = (folder / "MLmodel").read_text()
    assert text in description
    (folder / "MLmodel").write_text(description.replace(text, other))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.mark.case(23)
def test_a_model_with_code_beside_its_graph_is_refused_and_nothing_runs(
    folder: Path, marker: Path
) -> None:
    """Registered: model.pt2 with model.pth, a module to import and a code folder: nothing runs."""
    run = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    (folder / "code").mkdir()
    (folder / "code" / "helper.py").write_text(run)
    (folder / "data" / "pickle_module_info.txt").write_text("helper")
    (folder / "data" / "model.pth").write_bytes(pickled(marker))
    describe(folder, "code: null", "code: code")
    with pytest.raises(UnusableModel, match="brings code or a pickle"):
        load_folder(folder)
    assert not marker.exists()
    # It is a real attack: MLflow's own loader imports the module.
    with pytest.raises(Exception, match=r".*"):
        mlflow.pytorch.load_model(str(folder))
    assert marker.exists()


@pytest.mark.case(23)
def test_a_pickle_in_the_graphs_archive_never_runs_on_any_device(
    folder: Path, marker: Path
) -> None:
    """Registered: model.pt2 whose sample input is a pickle: served, and the pickle is not read."""
    change(
        folder / "data" / EXPORTED,
        lambda archive: archive.put(SAMPLES, pickled(marker)),
    )
    for device in ("cpu", "auto"):
        assert load_folder(folder, device=device).spec.input_shape == (3, 4, 4)
    assert not marker.exists()


@pytest.mark.case(23)
@pytest.mark.parametrize("data", ["/tmp", "../elsewhere", "data/../../elsewhere"])
def test_data_outside_of_the_folder_are_refused(folder: Path, data: str) -> None:
    """Registered: an MLmodel that names data elsewhere on the pod's disk: refused."""
    shutil.copytree(folder / "data", folder.parent / "elsewhere")
    describe(folder, "model_data: data", f"model_data: {data}")
    with pytest.raises(UnusableModel, match="outside of its folder"):
        load_folder(folder)


@pytest.mark.case(25)
def test_a_model_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    """A model with Dropout, logged without .eval(): it would answer differently each time."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    with pytest.raises(UnusableModel, match=r"call \.eval\(\) before"):
        load_folder(log(tmp_path / "model", module.train(), (3, 4, 4)))


class _Bytes(nn.Module):  # type: ignore[misc]
    """Takes bytes and scales them itself, as many exported models do."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return 8.0 * (pixels.float() / 255.0).mean(dim=(2, 3))


@pytest.mark.case(24)
def test_a_model_of_bytes_tells_white_from_black_in_pictures(tmp_path: Path) -> None:
    """A uint8 model that divides by 255: a picture gets the answer that /predict gives."""
    model = load_folder(log(tmp_path / "model", _Bytes(), (3, 4, 4), dtype="uint8"))
    content = colour_file((255, 0, 0), size=(8, 8))
    picture = read_input(open_image(content, max_pixels=100), model.spec)
    assert picture.dtype == np.uint8
    assert picture[0].tolist() == [[255] * 4] * 4
    assert model.probabilities(picture[np.newaxis]).argmax() == 0
    assert model.probabilities(picture[np.newaxis]).max() > 0.9


def test_a_graph_of_another_shape_than_the_signature_is_refused(folder: Path) -> None:
    describe(folder, "    4, 4]}}]", "    4, 8]}}]")
    with pytest.raises(UnusableModel, match=r"exported for inputs of shape \[3, 4, 4\]"):
        load_folder(folder)


def test_a_graph_is_given_no_more_inputs_than_it_was_exported_for(
    folder: Path, tmp_path: Path
) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    for batch, message in ((torch.export.Dim("batch", max=4), ""), (None, "batches of 2")):
        shapes = ({0: batch},) if batch else None
        program = torch.export.export(module, (torch.zeros(2, 3, 4, 4),), dynamic_shapes=shapes)
        torch.export.save(program, str(folder / "data" / EXPORTED))
        if message:
            with pytest.raises(UnusableModel, match=message):
                load_folder(folder)
        else:
            assert load_folder(folder).max_batch == 4


@pytest.mark.case(31)
def test_a_model_that_does_not_fit_into_memory_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model larger than the memory that is left: refused with both figures, not killed for."""
    monkeypatch.setattr(memory, "free_bytes", lambda root: 70 * 1024 * 1024)
    load_folder(folder)
    monkeypatch.setattr(memory, "free_bytes", lambda root: 50 * 1024 * 1024)
    with pytest.raises(UnusableModel, match="needs about 64 MiB of memory and 50 MiB are left"):
        load_folder(folder)


def write_group(group: Path, **files: object) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (group / name.replace("_", ".", 1)).write_text(f"{content}\n")


@pytest.mark.case(31)
def test_memory_is_what_the_control_groups_leave(tmp_path: Path) -> None:
    """A pod's limit counts, less its use; cached files are given up by the kernel and do not."""
    mib = 1024 * 1024
    unlimited = free_bytes(tmp_path)
    assert unlimited > mib
    write_group(
        tmp_path,
        memory_max=100 * mib,
        memory_current=90 * mib,
        memory_stat=f"anon 1\ninactive_file {30 * mib}",
    )
    assert free_bytes(tmp_path) == 40 * mib
    with pytest.raises(UnusableModel, match="104 MiB of memory and 40 MiB"):
        check_fits(37 * mib, tmp_path)
    write_group(tmp_path, memory_max="max")
    assert free_bytes(tmp_path) > 40 * mib


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Write a private and a public key that belong together."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / "private.pem", folder / "public.pem"
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    subject = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, subject))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_keys(tmp_path_factory.mktemp("keys"))


def sign(folder: Path, private: Path) -> None:
    signing = pytest.importorskip("model_signing.signing")
    config = signing.Config().use_elliptic_key_signer(private_key=private)
    config.sign(folder, folder / SIGNATURE)


def test_a_signed_version_is_served_where_a_key_is_set(
    folder: Path, keys: tuple[Path, Path]
) -> None:
    private, public = keys
    sign(folder, private)
    (folder / "registered_model_meta").write_text("MLflow adds this as it downloads")
    assert load_folder(folder, signature_key=public).spec.input_shape == (3, 4, 4)


def test_an_altered_or_unsigned_version_is_refused_with_the_reason(
    folder: Path, keys: tuple[Path, Path]
) -> None:
    private, public = keys
    pytest.importorskip("model_signing")
    with pytest.raises(UnusableModel, match=f"not signed: it has no {SIGNATURE}"):
        load_folder(folder, signature_key=public)
    sign(folder, private)
    describe(folder, "model_data: data", "model_data: code")
    with pytest.raises(UnusableModel, match="does not fit its files") as refused:
        load_folder(folder, signature_key=public)
    assert "MLmodel" in str(refused.value)
    (folder / SIGNATURE).write_text("{}")
    with pytest.raises(UnusableModel, match="does not fit its files"):
        load_folder(folder, signature_key=public)


def test_a_version_signed_with_another_key_is_refused(
    folder: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    other, _ = make_keys(tmp_path_factory.mktemp("other"))
    sign(folder, other)
    with pytest.raises(UnusableModel, match="does not fit its files"):
        load_folder(folder, signature_key=keys[1])


def test_a_key_without_the_package_serves_nothing(
    folder: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(UnusableModel, match="install model-signing"):
        load_folder(folder, signature_key=keys[1])
