"""The environment in the manifests is one that the services' settings classes know and take."""

import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TypeVar

import mlflow.environment_variables
import pytest
from pydantic import ValidationError

from bentos.process.settings import ServiceSettings, environment_names
from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from tests.k8s.manifests import (
    INFERENCE,
    LOGGING,
    OVERLAYS,
    Workload,
    environment,
    quantity,
    rendered,
    workload,
)

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)
SETTINGS: Mapping[str, type[ServiceSettings]] = {
    INFERENCE: InferenceSettings,
    LOGGING: LoggingSettings,
}
# Read by libraries and by the system; MLflow's are looked up in MLflow.
LIBRARY_VARIABLES = {"HOME", "BENTOML_HOME", "BENTOML_DO_NOT_TRACK", "OMP_NUM_THREADS"}
MLFLOW_VARIABLES = {
    name for name in dir(mlflow.environment_variables) if name.startswith("MLFLOW_")
}
SERVICES = [(overlay, name) for overlay in OVERLAYS for name in SETTINGS]
MAY_FILL_A_VOLUME = 0.9


def unknown_variables(variables: Mapping[str, str], kind: type[ServiceSettings]) -> set[str]:
    """Return the variables that neither the settings class nor a library reads."""
    return set(variables) - environment_names(kind) - LIBRARY_VARIABLES - MLFLOW_VARIABLES


def settings_from(variables: Mapping[str, str], kind: type[SettingsT]) -> SettingsT:
    """Return what the service would be set to by these variables and no others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        return kind()


def deployed(overlay: str, name: str) -> tuple[Workload, dict[str, str]]:
    """Return a service's workload and its container's environment."""
    found = workload(name, rendered(overlay))
    return found, environment(found.container, rendered(overlay))


@pytest.mark.parametrize(("overlay", "name"), SERVICES)
def test_every_variable_is_one_that_something_reads(overlay: str, name: str) -> None:
    """A misspelt setting would be ignored in silence."""
    assert unknown_variables(deployed(overlay, name)[1], SETTINGS[name]) == set()


def test_a_misspelt_variable_is_told() -> None:
    """The negative control, with a service's settings and with MLflow's."""
    variables = {"TORCH_THREAD": "1", "MLFLOW_TRACKING_URL": "http://x", "WORKERS": "1"}
    assert unknown_variables(variables, InferenceSettings) == {
        "TORCH_THREAD",
        "MLFLOW_TRACKING_URL",
    }


@pytest.mark.parametrize(("overlay", "name"), SERVICES)
def test_every_value_is_one_that_the_settings_class_takes(overlay: str, name: str) -> None:
    """The class the service starts with reads the very environment of the manifest."""
    settings_from(deployed(overlay, name)[1], SETTINGS[name])


def test_a_wrong_value_is_refused() -> None:
    """The negative control."""
    _, variables = deployed("production", INFERENCE)
    with pytest.raises(ValidationError, match="readiness_requires_mlflow"):
        settings_from(variables | {"READINESS_REQUIRES_MLFLOW": "sometimes"}, InferenceSettings)


@pytest.mark.parametrize(("overlay", "name"), SERVICES)
def test_a_pod_has_one_worker(overlay: str, name: str) -> None:
    """In an image nobody starts a dead worker anew; a pod of one ends, and the kubelet does."""
    assert settings_from(deployed(overlay, name)[1], SETTINGS[name]).workers == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_torch_threads_are_one_less_than_the_cpu_limit(overlay: str) -> None:
    """More threads than the quota has cores stop the event loop, and with it the probes."""
    item, variables = deployed(overlay, INFERENCE)
    settings = settings_from(variables, InferenceSettings)
    limit = quantity(item.container["resources"]["limits"]["cpu"])
    assert settings.torch_threads == limit - 1
    assert variables["OMP_NUM_THREADS"] == str(settings.torch_threads)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_ports_are_those_the_services_listen_on(overlay: str) -> None:
    """The named port `http`, which probes and Services refer to."""
    for name, port in (
        (INFERENCE, settings_from(deployed(overlay, INFERENCE)[1], InferenceSettings)),
        (LOGGING, settings_from(deployed(overlay, LOGGING)[1], LoggingSettings)),
    ):
        listens = port.inference_port if isinstance(port, InferenceSettings) else port.logging_port
        container = workload(name, rendered(overlay)).container
        assert [(entry["name"], entry["containerPort"]) for entry in container["ports"]] == [
            ("http", listens)
        ]


def mount_of(item: Workload, path: PurePosixPath) -> tuple[str, dict[str, object]]:
    """Return the mount point that holds a path, and its volume; AssertionError where none does."""
    mounts = {PurePosixPath(mount["mountPath"]): mount for mount in item.container["volumeMounts"]}
    for directory in (path, *path.parents):
        if mount := mounts.get(directory):
            assert not mount.get("readOnly"), f"{path} lies on a read-only mount"
            (volume,) = [v for v in item.pod["volumes"] if v["name"] == mount["name"]]
            return str(directory), volume
    raise AssertionError(f"{path} lies on the image's read-only file system")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_outbox_lies_on_a_volume_that_outlives_the_container(overlay: str) -> None:
    """And on one of its own, so that nothing else fills it."""
    item, variables = deployed(overlay, INFERENCE)
    path = PurePosixPath(settings_from(variables, InferenceSettings).outbox_path)
    directory, volume = mount_of(item, path)
    assert directory == str(path)
    assert volume["emptyDir"] != {"medium": "Memory"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_database_lies_on_the_persistent_volume(overlay: str) -> None:
    """Not on anything that goes with the pod."""
    item, variables = deployed(overlay, LOGGING)
    path = PurePosixPath(settings_from(variables, LoggingSettings).database_path)
    _, volume = mount_of(item, path)
    assert volume["persistentVolumeClaim"] == {"claimName": "predictions"}


@pytest.mark.parametrize(("overlay", "name"), SERVICES)
def test_what_bentoml_and_python_write_to_is_writable(overlay: str, name: str) -> None:
    """BentoML's home, the user's home and the directory for temporary files."""
    item, variables = deployed(overlay, name)
    for path in (variables["BENTOML_HOME"], variables["HOME"], "/tmp"):
        mount_of(item, PurePosixPath(path))


@pytest.mark.parametrize(("overlay", "name"), SERVICES)
def test_nothing_is_mounted_over_the_bento(overlay: str, name: str) -> None:
    """It lies in /home/bentoml/bento, its packages in /app/.venv."""
    item, _ = deployed(overlay, name)
    for mount in item.container["volumeMounts"]:
        path = PurePosixPath(mount["mountPath"])
        for taken in (PurePosixPath("/home/bentoml/bento"), PurePosixPath("/app/.venv")):
            assert path != taken
            assert path not in taken.parents


def test_a_path_off_every_volume_is_told() -> None:
    """The negative control of the four tests above."""
    item, _ = deployed("production", INFERENCE)
    with pytest.raises(AssertionError, match="read-only file system"):
        mount_of(item, PurePosixPath("/home/bentoml/outbox"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_both_services_use_the_same_token(overlay: str) -> None:
    """By reference to one key of one Secret."""
    references = []
    for name in (INFERENCE, LOGGING):
        (variable,) = [
            entry
            for entry in workload(name, rendered(overlay)).container["env"]
            if entry["name"] == "LOGGING_TOKEN"
        ]
        references.append(variable["valueFrom"]["secretKeyRef"])
    assert references[0] == references[1]


def test_production_does_not_start_without_the_token() -> None:
    """An absent Secret must not open the logging service to everyone."""
    for name in (INFERENCE, LOGGING):
        container = workload(name, rendered("production")).container
        (variable,) = [entry for entry in container["env"] if entry["name"] == "LOGGING_TOKEN"]
        assert not variable["valueFrom"]["secretKeyRef"].get("optional", False)
