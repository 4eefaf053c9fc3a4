"""Settings from the environment: their defaults, and wrong values refused by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from bentos.health.window import WINDOW_SECONDS
from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from bentos.process.settings import (
    ServiceSettings,
    environment_names,
    load_settings,
    writable_directory,
)
from tests.support.servers import ROOT

BOTH: tuple[type[ServiceSettings], ...] = (InferenceSettings, LoggingSettings)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in BOTH:
        for name in environment_names(kind):
            monkeypatch.delenv(name, raising=False)


def refusal(kind: type[ServiceSettings]) -> str:
    with pytest.raises(SystemExit) as ended:
        load_settings(kind)
    return str(ended.value)


@pytest.mark.parametrize("kind", BOTH)
def test_everything_has_a_default(kind: type[ServiceSettings]) -> None:
    settings = load_settings(kind)
    assert settings.workers == 1
    assert settings.error_window_seconds == WINDOW_SECONDS == 60


def test_the_ports_are_the_contracts() -> None:
    assert load_settings(InferenceSettings).inference_port == 8000
    assert load_settings(LoggingSettings).logging_port == 8001


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "0"),
        ("WORKERS", "two"),
        ("MAX_BODY_BYTES", "-1"),
        ("REQUEST_TIMEOUT_SECONDS", "0"),
        ("REQUEST_TIMEOUT_SECONDS", "inf"),
        ("STALL_SECONDS", "nan"),
        ("ERROR_WINDOW_SECONDS", "0"),
        ("ERROR_WINDOW_SECONDS", "1.5"),
        ("WORKER_GRACE_SECONDS", "soon"),
        ("DRAIN_SECONDS", "-1"),
        ("DRAIN_SECONDS", "inf"),
        ("SHUTDOWN_SECONDS", "0"),
        ("LOG_LEVEL", "verbose"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_value_is_refused_with_its_variables_name(
    kind: type[ServiceSettings], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    message = refusal(kind)
    assert f"  {name}: " in message
    assert repr(value) in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INFERENCE_PORT", "65536"),
        ("MODEL_NAME", "models:/steel"),
        ("MODEL_STAGE", "steel@production"),
        ("MODEL_POLL_SECONDS", "0"),
        ("MODEL_POLL_SECONDS", "inf"),
        ("MLFLOW_TIMEOUT_SECONDS", "nan"),
        ("READINESS_REQUIRES_MLFLOW", "sometimes"),
        ("DEVICE", "tpu"),
        ("TORCH_THREADS", "0"),
        ("MAX_BATCH_SIZE", "0"),
        ("QUEUE_SIZE", "0"),
        ("MAX_IMAGE_PIXELS", "0"),
        ("LOGGING_URL", "not a url"),
        ("LOGGING_URL", "ftp://logging"),
        ("EDGE_DEVICE_ID", "x" * 129),
        ("OUTBOX_MAX_ROWS", "0"),
    ],
)
def test_a_wrong_value_of_the_inference_service_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert f"  {name}: " in refusal(InferenceSettings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOGGING_PORT", "0"),
        ("MAX_BATCH_PREDICTIONS", "0"),
        ("WRITE_QUEUE_ROWS", "none"),
        ("BUSY_TIMEOUT_SECONDS", "-2"),
        ("BUSY_TIMEOUT_SECONDS", "inf"),
    ],
)
def test_a_wrong_value_of_the_logging_service_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert f"  {name}: " in refusal(LoggingSettings)


def test_all_wrong_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "0")
    monkeypatch.setenv("QUEUE_SIZE", "none")
    message = refusal(InferenceSettings)
    assert "WORKERS" in message
    assert "QUEUE_SIZE" in message


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGGING_URL", "")
    monkeypatch.setenv("WORKERS", "")
    settings = load_settings(InferenceSettings)
    assert settings.logging_url is None
    assert settings.workers == 1


def test_a_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGGING_TOKEN", "secret-token")
    for kind in BOTH:
        assert "secret-token" not in repr(load_settings(kind))


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASS_NAMES", "good, scratch,,stain ")
    monkeypatch.setenv("DEFECT_CLASSES", "scratch")
    settings = load_settings(InferenceSettings)
    assert settings.class_name_list == ("good", "scratch", "stain")
    assert settings.defect_class_list == ("scratch",)


def test_a_directory_that_cannot_be_made_is_refused_by_its_variable(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SystemExit, match="OUTBOX_PATH: cannot make"):
        writable_directory(blocked / "inside", "OUTBOX_PATH")
    assert writable_directory(tmp_path / "a" / "b", "OUTBOX_PATH").is_dir()


def test_the_kit_imports_neither_torch_nor_mlflow_nor_sqlite() -> None:
    program = (
        "import pkgutil, sys, importlib, bentos.health as kit\n"
        "names = [m.name for m in pkgutil.iter_modules(kit.__path__) if m.name != 'bento']\n"
        "[importlib.import_module(f'bentos.health.{name}') for name in names]\n"
        "print(sorted({'torch', 'mlflow', 'sqlite3', 'sqlite_utils'} & set(sys.modules)))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", BOTH)
def test_the_room_for_bodies_has_to_hold_the_largest_in_every_worker(
    kind: type[ServiceSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_BODY_BYTES", "200000000")
    assert "MAX_BODIES_BYTES" in refusal(kind)
    monkeypatch.setenv("MAX_BODIES_BYTES", "400000000")
    assert load_settings(kind).max_bodies_bytes_a_worker == 400_000_000
    monkeypatch.setenv("WORKERS", "2")
    assert load_settings(kind).max_bodies_bytes_a_worker == 200_000_000
    monkeypatch.setenv("WORKERS", "3")
    assert "600000000" in refusal(kind)
