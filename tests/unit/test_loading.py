"""From a registered version to a model that answers, on real registered models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos.inference.model import Labels, LoadedModel, ModelIdentity, UnusableModel
from bentos.inference.model_process.loading import load
from bentos.inference.model_process.registry import PICKLE_SWITCH, Registry, RegistryUnavailable
from tests.support.models import (
    ALIAS,
    COLOUR_CLASSES,
    COLOUR_CLASSES_OF_VERSION_2,
    COLOUR_DEFECTS,
    COLOUR_SHAPE,
    COLOURS,
    FRAGILE,
    FRAGILE_OK,
    GREY,
    GREY_CLASSES,
    MISNAMED,
    MOODY,
    RAISES,
    RETURNS_NAN,
    SINGLE,
    TABULAR,
    TABULAR_SIZE,
    UNNAMED,
    UNSIGNED,
    ModelStore,
    point_alias,
    remove_alias,
)


def registry_of(store: ModelStore, name: str, *, stage: str = ALIAS) -> Registry:
    return Registry(tracking_uri=store.tracking_uri, name=name, stage=stage, timeout_seconds=5)


def load_from(
    store: ModelStore,
    name: str,
    version: str = "1",
    *,
    override: Labels | None = None,
    device: str = "cpu",
) -> LoadedModel:
    return load(
        registry_of(store, name),
        ModelIdentity(name, ALIAS, version),
        override=override or Labels(),
        device=device,
        threads=1,
        max_batch=16,
    )


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
    override = Labels(("x", "y", "z"), ("z",))
    spec = load_from(model_store, COLOURS, override=override).spec
    assert spec.class_names == ("x", "y", "z")
    assert spec.defects == (False, False, True)
    assert load_from(model_store, MISNAMED, override=override).spec.class_names == ("x", "y", "z")


def test_a_model_without_names_has_numbers_for_them(model_store: ModelStore) -> None:
    spec = load_from(model_store, UNNAMED).spec
    assert spec.class_names == ("0", "1", "2")
    assert not any(spec.defects)


def test_names_that_do_not_fit_are_refused(model_store: ModelStore) -> None:
    with pytest.raises(UnusableModel, match="3 classes, its class_names are 2"):
        load_from(model_store, MISNAMED)


def test_a_grey_model_with_one_logit_has_two_classes(model_store: ModelStore) -> None:
    model = load_from(model_store, GREY)
    assert model.spec.class_names == GREY_CLASSES
    assert model.spec.is_image
    bright = np.ones((1, 1, 16, 16), np.float32)
    assert model.probabilities(bright).argmax() == 1
    assert model.probabilities(0 * bright).argmax() == 0


def test_a_tabular_model_takes_no_images(model_store: ModelStore) -> None:
    model = load_from(model_store, TABULAR)
    assert model.spec.input_shape == (TABULAR_SIZE,)
    assert not model.spec.is_image
    assert model.max_batch == 16


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
    with pytest.raises(UnusableModel, match="runs code when it loads") as refused:
        load_from(model_store, MOODY)
    assert f"{PICKLE_SWITCH}=true" in str(refused.value)


def test_a_pickled_model_is_served_where_the_operator_allows_it(
    model_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PICKLE_SWITCH, "true")
    model = load_from(model_store, MOODY)
    assert model.probabilities(np.zeros((3, 2), np.float32)).shape == (3, 2)


def test_a_device_that_is_not_there_is_refused(model_store: ModelStore) -> None:
    import torch

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

    import torch

    return [item for item in gc.get_objects() if isinstance(item, torch.Tensor)]


def test_an_alias_resolves_to_its_version(model_store: ModelStore, tmp_path: Path) -> None:
    store = model_store.copy(tmp_path)
    registry = registry_of(store, COLOURS)
    assert registry.resolve() == "1"
    point_alias(store.tracking_uri, COLOURS, "2")
    assert registry.resolve() == "2"
    remove_alias(store.tracking_uri, COLOURS)
    assert registry.resolve() is None


def test_an_old_style_stage_resolves_to_its_newest_version(
    model_store: ModelStore, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    store = model_store.copy(tmp_path)
    registry = registry_of(store, COLOURS, stage="staging")
    assert registry.resolve() is None
    client = MlflowClient(store.tracking_uri, store.tracking_uri)
    for version in ("1", "2"):
        client.transition_model_version_stage(COLOURS, version, "Staging")
    assert registry.resolve() == "2"


def test_a_model_that_is_not_registered_resolves_to_nothing(model_store: ModelStore) -> None:
    assert registry_of(model_store, "no-such-model").resolve() is None
    assert registry_of(model_store, "it's odd").resolve() is None


def test_a_registry_that_is_not_there_is_told_from_one_without_the_model(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    for uri in ("http://127.0.0.1:9", f"sqlite:///{blocked}/mlflow.db", "nonsense://x"):
        registry = Registry(tracking_uri=uri, name=COLOURS, stage=ALIAS, timeout_seconds=1)
        with pytest.raises(RegistryUnavailable):
            registry.resolve()


def test_a_version_whose_files_are_gone_cannot_be_had(
    model_store: ModelStore, tmp_path: Path
) -> None:
    store = model_store.copy_to_serve(tmp_path)  # its artifacts are had from a server only
    with pytest.raises(RegistryUnavailable, match="version 1 cannot be downloaded"):
        load_from(store, COLOURS)
    with pytest.raises(RegistryUnavailable):
        load_from(model_store, COLOURS, "99")
