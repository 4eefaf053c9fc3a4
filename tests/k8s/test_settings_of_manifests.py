"""The environment in the manifests is one that the services' settings classes know and take."""

import os
import tempfile
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePosixPath
from typing import TypeVar

import mlflow.environment_variables
import pytest

from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from bentos.process.settings import ServiceSettings, environment_names
from monitoring.prometheus.source import RULE_FILES
from tests.k8s.manifests import (
    EXTENDED,
    INFERENCE,
    LOGGING,
    OVERLAYS,
    SQLITE_OVERLAYS,
    Object,
    Workload,
    environment,
    named,
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
# The rest is for SQLite's write-ahead log, which is beside the file.
MAY_FILL_A_VOLUME = Decimal("0.8")


def unknown_variables(variables: Mapping[str, str], kind: type[ServiceSettings]) -> set[str]:
    """Return the variables that neither the settings class nor a library reads."""
    return set(variables) - environment_names(kind) - LIBRARY_VARIABLES - MLFLOW_VARIABLES


def settings_from(variables: Mapping[str, str], kind: type[SettingsT]) -> SettingsT:
    """Return what the service would be set to by these variables and no others.

    A file that a Secret brings is there, as a pod does not start without it.
    """
    with pytest.MonkeyPatch.context() as patch, tempfile.NamedTemporaryFile("w") as secret:
        secret.write("a-token\n")
        secret.flush()
        for name in list(os.environ):
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, secret.name if name.endswith("_FILE") else value)
        return kind()


def deployed(overlay: str, name: str) -> tuple[Workload, dict[str, str]]:
    """Return a service's workload and its container's environment."""
    found = workload(name, rendered(overlay))
    return found, environment(found.container, rendered(overlay))


@pytest.mark.parametrize(("overlay", "name"), SERVICES)
def test_every_variable_is_one_that_something_reads(overlay: str, name: str) -> None:
    """A misspelt setting would be ignored in silence."""
    assert unknown_variables(deployed(overlay, name)[1], SETTINGS[name]) == set()


@pytest.mark.parametrize(("overlay", "name"), SERVICES)
def test_every_value_is_one_that_the_settings_class_takes(overlay: str, name: str) -> None:
    """The class the service starts with reads the very environment of the manifest."""
    settings_from(deployed(overlay, name)[1], SETTINGS[name])


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
def test_the_ports_are_those_that_the_services_listen_on(overlay: str) -> None:
    """`http` is the service's own port, and `probes` is PROBE_PORT; both are declared by name."""
    for name, settings in (
        (INFERENCE, settings_from(deployed(overlay, INFERENCE)[1], InferenceSettings)),
        (LOGGING, settings_from(deployed(overlay, LOGGING)[1], LoggingSettings)),
    ):
        own = (
            settings.inference_port
            if isinstance(settings, InferenceSettings)
            else settings.logging_port
        )
        container = workload(name, rendered(overlay)).container
        assert [(port["name"], port["containerPort"]) for port in container["ports"]] == [
            ("http", own),
            ("probes", settings.probe_port),
        ]


@pytest.mark.case(39)
@pytest.mark.parametrize(("overlay", "name"), SERVICES)
def test_a_pod_on_an_ipv6_node_listens_on_its_address(overlay: str, name: str) -> None:
    """A node with IPv6 only: the component `ipv6` binds `::`, which accepts IPv4 as well."""
    settings = settings_from(deployed(overlay, name)[1], SETTINGS[name])
    assert settings.host == ("::" if "ipv6" in overlay else "0.0.0.0")


def mount_of(item: Workload, path: PurePosixPath) -> tuple[str, Object]:
    """Return the mount point that holds a path, and its volume; AssertionError where none does."""
    mounts = {PurePosixPath(mount["mountPath"]): mount for mount in item.container["volumeMounts"]}
    for directory in (path, *path.parents):
        if mount := mounts.get(directory):
            assert not mount.get("readOnly"), f"{path} lies on a read-only mount"
            return str(directory), volume_named(mount["name"], item)
    raise AssertionError(f"{path} lies on the image's read-only file system")


def volume_named(name: str, item: Workload) -> Object:
    """Return a pod's volume; a claim made from a template is as good as one."""
    templates = [claim["metadata"]["name"] for claim in item.spec.get("volumeClaimTemplates", ())]
    if name in templates:
        return {"name": name, "persistentVolumeClaim": {"claimName": name}}
    volume: Object
    (volume,) = [volume for volume in item.pod["volumes"] if volume["name"] == name]
    return dict(volume)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_outbox_lies_on_a_volume_that_outlives_the_container(overlay: str) -> None:
    """And on one of its own, so that nothing else fills it."""
    item, variables = deployed(overlay, INFERENCE)
    path = PurePosixPath(settings_from(variables, InferenceSettings).outbox_path)
    directory, volume = mount_of(item, path)
    assert directory == str(path)
    if "outbox-claims" not in overlay:
        assert volume["emptyDir"].get("medium", "") != "Memory"


@pytest.mark.case(16)
def test_the_outbox_can_be_given_a_volume_that_outlives_the_pod() -> None:
    """A pod ends while the logging service is away: its replacement finds the same outbox.

    With the component `outbox-claims` each pod of a StatefulSet has a claim, which stays when the
    pod goes.
    """
    item, variables = deployed(EXTENDED, INFERENCE)
    assert item.kind == "StatefulSet"
    (claim,) = item.spec["volumeClaimTemplates"]
    mounts = {mount["name"]: mount["mountPath"] for mount in item.container["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == variables["OUTBOX_PATH"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    # Deleted claims would take the outboxes of pods that an autoscaler removed along.
    assert "persistentVolumeClaimRetentionPolicy" not in item.spec


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_the_database_lies_on_the_persistent_volume(overlay: str) -> None:
    item, variables = deployed(overlay, LOGGING)
    path = PurePosixPath(settings_from(variables, LoggingSettings).database_path)
    _, volume = mount_of(item, path)
    assert volume["persistentVolumeClaim"] == {"claimName": "predictions"}


@pytest.mark.parametrize(("overlay", "name"), SERVICES)
def test_what_bentoml_and_python_write_to_is_writable(overlay: str, name: str) -> None:
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


def secret_file(overlay: str, name: str, setting: str) -> Object:
    """Return the Secret's volume source that a setting's file comes from.

    Raises AssertionError where the file does not follow the Secret when that is changed.
    """
    item, variables = deployed(overlay, name)
    path = PurePosixPath(variables[setting])
    (mount,) = [
        mount
        for mount in item.container["volumeMounts"]
        if PurePosixPath(mount["mountPath"]) == path.parent
    ]
    assert mount["readOnly"] is True
    assert "subPath" not in mount, "a file that is mounted alone is never replaced"
    secret: Object = volume_named(mount["name"], item)["secret"]
    assert [entry["path"] for entry in secret["items"]] == [path.name]
    # The service's group may read it, and nobody else.
    assert secret["defaultMode"] == 0o440
    assert item.pod["securityContext"]["fsGroup"] == item.pod["securityContext"]["runAsGroup"]
    return secret


@pytest.mark.case(16)
@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "local"])
def test_both_services_read_the_tokens_from_one_secrets_file(overlay: str) -> None:
    """The Secret is changed: both services find the new tokens in their file, without a restart.

    Without the Secret the pods do not start, rather than accept requests from everyone.
    """
    accepted = secret_file(overlay, LOGGING, "LOGGING_TOKENS_FILE")
    sent = secret_file(overlay, INFERENCE, "LOGGING_TOKEN_FILE")
    assert accepted == sent
    assert not accepted.get("optional", False)


def test_clients_of_the_inference_service_need_a_token_where_the_operator_asks_for_one() -> None:
    """With the component `predict-tokens`, whose Secret has no other use."""
    secret = secret_file(EXTENDED, INFERENCE, "PREDICT_TOKENS_FILE")
    assert secret["secretName"] == "predict-tokens"
    assert not secret.get("optional", False)
    assert "PREDICT_TOKENS_FILE" not in deployed("production", INFERENCE)[1]


@pytest.mark.parametrize(("overlay", "name"), SERVICES)
def test_no_token_stands_in_a_variable(overlay: str, name: str) -> None:
    """A variable keeps its value until the pod ends, so a token in one cannot be rotated."""
    variables = deployed(overlay, name)[1]
    assert not {"LOGGING_TOKEN", "LOGGING_TOKENS", "PREDICT_TOKENS"} & set(variables)


def bytes_of(item: Workload, path: str) -> Decimal:
    """Return the size of the volume that holds a path."""
    _, volume = mount_of(item, PurePosixPath(path))
    if "emptyDir" in volume:
        return quantity(volume["emptyDir"]["sizeLimit"])
    for claim in item.spec.get("volumeClaimTemplates", ()):
        if claim["metadata"]["name"] == volume["name"]:
            return quantity(claim["spec"]["resources"]["requests"]["storage"])
    raise AssertionError(f"no size of {volume}")


@pytest.mark.case(17)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_outbox_is_full_before_its_volume_is(overlay: str) -> None:
    """A million predictions of a model with 1,000 classes are 10 GB, on a volume of 1 GiB.

    OUTBOX_MAX_BYTES ends it before the volume does: a volume over its limit gets the pod evicted,
    and the outbox is deleted with it.
    """
    item, variables = deployed(overlay, INFERENCE)
    settings = settings_from(variables, InferenceSettings)
    size = bytes_of(item, variables["OUTBOX_PATH"])
    # The other half is for what is recovered from a damaged outbox, beside it.
    assert 0 < settings.outbox_max_bytes <= size / 2
    least = 10_000 * 10_000
    assert settings.outbox_max_bytes >= least, "room for a few minutes without the logging service"


@pytest.mark.case(31)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_move_to_a_new_model_at_different_moments(overlay: str) -> None:
    """The alias moves: pods replace their model within a minute, and no alert calls them late.

    All at once, they would load the new model beside the old one in the same second.
    """
    settings = settings_from(deployed(overlay, INFERENCE)[1], InferenceSettings)
    assert settings.model_spread_seconds >= 30
    (differ,) = [
        alert
        for file in RULE_FILES
        for group in file.groups
        for alert in group.alerts
        if alert.name == "InferenceModelVersionsDiffer"
    ]
    assert settings.model_spread_seconds <= int(differ.hold.removesuffix("m")) * 60 / 3


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_the_database_is_pruned_before_its_volume_is_full(overlay: str) -> None:
    """A restore needs room for the former database and the restored one, beside the pictures."""
    _, variables = deployed(overlay, LOGGING)
    settings = settings_from(variables, LoggingSettings)
    claim = named("PersistentVolumeClaim", "predictions", rendered(overlay))
    size = quantity(claim["spec"]["resources"]["requests"]["storage"])
    assert settings.max_database_bytes
    needed = 2 * settings.max_database_bytes + settings.review_max_bytes
    assert needed <= size * MAY_FILL_A_VOLUME


@pytest.mark.parametrize("overlay", SQLITE_OVERLAYS)
def test_pictures_lie_on_the_claim_of_the_predictions(overlay: str) -> None:
    service, variables = deployed(overlay, LOGGING)
    settings = settings_from(variables, LoggingSettings)
    assert settings.review
    assert settings.review_directory.parent == settings.database_path.parent
    paths = [mount["mountPath"] for mount in service.container["volumeMounts"]]
    assert str(settings.review_directory.parent) in paths
