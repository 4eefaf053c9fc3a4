"""Settings from the environment: their defaults, and wrong values refused by name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from bentos.health.window import WINDOW_SECONDS
from bentos.inference.settings import InferenceSettings, ModelProcessSettings
from bentos.logging.settings import LoggingSettings
from bentos.process.settings import (
    ServiceSettings,
    environment_names,
    load_settings,
    writable_directory,
)

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
    inference, logging = load_settings(InferenceSettings), load_settings(LoggingSettings)
    assert (inference.inference_port, inference.probe_port) == (8000, 8010)
    assert (logging.logging_port, logging.probe_port) == (8001, 8011)


@pytest.mark.parametrize("kind", BOTH)
def test_the_probe_process_can_be_switched_off(
    kind: type[ServiceSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_PORT", "0")
    assert load_settings(kind).probe_port == 0


@pytest.mark.parametrize(
    ("kind", "name"), [(InferenceSettings, "INFERENCE_PORT"), (LoggingSettings, "LOGGING_PORT")]
)
def test_a_port_for_the_service_and_its_probe_process_at_once_is_refused(
    kind: type[ServiceSettings], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = str(kind.model_fields[name.lower()].default)
    monkeypatch.setenv("PROBE_PORT", default)
    assert f"{name}: Value error, must not be PROBE_PORT" in refusal(kind)
    monkeypatch.setenv(name, "9000")
    assert load_settings(kind).probe_port == int(default)


@pytest.mark.case(39)
@pytest.mark.parametrize("address", ["::", "::1", "0.0.0.0", "10.0.0.7"])
def test_the_address_may_be_ipv6(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOST=:: on a node with IPv6 only: taken."""
    monkeypatch.setenv("HOST", address)
    assert load_settings(ServiceSettings).host == address


@pytest.mark.case(37)
def test_an_idle_connection_is_kept_longer_than_proxies_keep_theirs() -> None:
    """KEEP_ALIVE_SECONDS: its default is longer than the 60 s of common proxies."""
    assert load_settings(ServiceSettings).keep_alive_seconds > 60


_WRONG = {
    ServiceSettings: [
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
        ("HOST", "localhost"),
        ("HOST", "0.0.0.0:80"),
        ("PROBE_PORT", "65536"),
        ("PROBE_PORT", "-1"),
        ("KEEP_ALIVE_SECONDS", "0"),
        ("MAX_CONNECTIONS", "1"),
        ("LOG_FORMAT", "xml"),
    ],
    InferenceSettings: [
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
        ("KEEP_PASS_SHARE", "0"),
        ("KEEP_SAMPLE_SHARE", "1.1"),
        ("KEEP_QUEUE_BYTES", "1000"),
        ("THRESHOLDS", "0.8"),
        ("THRESHOLDS", '{"crack": 1.5}'),
        ("THRESHOLDS", '{"crack": 0.8'),
    ],
    LoggingSettings: [
        ("LOGGING_PORT", "0"),
        ("MAX_BATCH_PREDICTIONS", "0"),
        ("WRITE_QUEUE_ROWS", "none"),
        ("BUSY_TIMEOUT_SECONDS", "-2"),
        ("BUSY_TIMEOUT_SECONDS", "inf"),
        ("RETENTION_DAYS", "0"),
        ("RETENTION_DAYS", "inf"),
        ("MAX_DATABASE_BYTES", "9"),
        ("REVIEW", "maybe"),
        ("REVIEW_MAX_BYTES", "1000"),
        ("REVIEW_RETENTION_DAYS", "0"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(kind, *one) for kind in BOTH for one in (*_WRONG[ServiceSettings], *_WRONG[kind])],
)
def test_a_wrong_value_is_refused_with_its_variables_name(
    kind: type[ServiceSettings], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert f"  {name}: " in refusal(kind)


def test_pictures_cannot_be_kept_without_a_logging_service(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(InferenceSettings).keep_images is False
    monkeypatch.setenv("KEEP_IMAGES", "true")
    assert "KEEP_IMAGES needs LOGGING_URL" in refusal(InferenceSettings)
    monkeypatch.setenv("LOGGING_URL", "http://logging-service:8001")
    assert load_settings(InferenceSettings).keep_images is True


def test_a_challenger_is_another_one_than_the_served_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(InferenceSettings).shadow_stage == ""
    monkeypatch.setenv("SHADOW_STAGE", "production")
    assert "SHADOW_STAGE is MODEL_STAGE" in refusal(InferenceSettings)
    monkeypatch.setenv("SHADOW_STAGE", "challenger")
    assert load_settings(InferenceSettings).shadow_stage == "challenger"


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "0")
    monkeypatch.setenv("QUEUE_SIZE", "none")
    message = refusal(InferenceSettings)
    for name, value in (("WORKERS", "0"), ("QUEUE_SIZE", "none")):
        assert re.search(rf"  {name}: .* \(it is '{value}'\)", message)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGGING_URL", "")
    monkeypatch.setenv("WORKERS", "")
    settings = load_settings(InferenceSettings)
    assert settings.logging_url is None
    assert settings.workers == 1


class SecretSettings(ServiceSettings):
    """Settings with a secret and an address that may hold one."""

    door_token: SecretStr | None = None
    store_uri: str = Field(default="", pattern="^(http.*)?$")


@pytest.mark.case(35)
def test_a_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret among the settings: none of their text forms holds it."""
    monkeypatch.setenv("DOOR_TOKEN", "secret-token")
    settings = load_settings(SecretSettings)
    assert settings.door_token is not None
    assert settings.door_token.get_secret_value() == "secret-token"
    assert "secret-token" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.case(36)
@pytest.mark.parametrize("white", ["\n", "\r\n", " ", "\t"])
def test_white_space_around_a_secret_is_stripped(
    white: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token with a line end, as a file has it: the token without it."""
    monkeypatch.setenv("DOOR_TOKEN", f"{white}secret-token{white}")
    token = load_settings(SecretSettings).door_token
    assert token is not None
    assert token.get_secret_value() == "secret-token"


@pytest.mark.case(36)
@pytest.mark.parametrize("odd", ["secret\ntoken", "secret\x1btoken", "secret\x7f"])
def test_a_secret_with_a_control_character_is_refused_and_not_shown(
    odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token with a line end in its middle: refused at start, by its variable's name only."""
    monkeypatch.setenv("DOOR_TOKEN", odd)
    message = refusal(SecretSettings)
    assert "  DOOR_TOKEN: " in message
    assert "control characters" in message
    assert "secret" not in message


@pytest.mark.case(36)
def test_a_secret_of_white_space_only_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is a line end only: as if it were not set."""
    monkeypatch.setenv("DOOR_TOKEN", " \n")
    assert load_settings(SecretSettings).door_token is None


@pytest.mark.case(35)
def test_an_address_that_may_hold_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong URI with a password in it: refused without the value."""
    monkeypatch.setenv("STORE_URI", "ftp://bob:secretpw@host")
    message = refusal(SecretSettings)
    assert "  STORE_URI: " in message
    assert "secretpw" not in message


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASS_NAMES", "good, scratch,,stain ")
    monkeypatch.setenv("DEFECT_CLASSES", "scratch")
    settings = load_settings(InferenceSettings)
    assert settings.metadata_overrides == {
        "class_names": ("good", "scratch", "stain"),
        "defect_classes": ("scratch",),
    }


def test_thresholds_are_a_json_object_and_go_to_the_model_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THRESHOLDS", '{"crack": 0.8, "pit": 1}')
    given = ModelProcessSettings(settings=load_settings(InferenceSettings), service="s", worker=1)
    read = ModelProcessSettings.model_validate_json(given.model_dump_json())
    assert read.settings.metadata_overrides == {"thresholds": {"crack": 0.8, "pit": 1.0}}


def test_a_directory_that_cannot_be_made_is_refused_by_its_variable(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SystemExit, match="OUTBOX_PATH: cannot make"):
        writable_directory(blocked / "inside", "OUTBOX_PATH")
    assert writable_directory(tmp_path / "a" / "b", "OUTBOX_PATH").is_dir()


@pytest.mark.parametrize("kind", BOTH)
def test_the_memory_for_bodies_has_to_hold_the_largest_in_every_worker(
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


@pytest.mark.case(40)
def test_protected_reads_without_a_token_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PROTECT_READS=true and no token: the service does not start, and says what is missing."""
    monkeypatch.setenv("PROTECT_READS", "true")

    assert "PROTECT_READS" in (message := refusal(LoggingSettings))
    assert "set LOGGING_TOKEN or LOGGING_TOKENS_FILE" in message


@pytest.mark.case(40)
def test_reads_are_protected_as_soon_as_there_is_a_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A token and no PROTECT_READS: reads need the token; without a token they need none."""
    assert load_settings(LoggingSettings).protect_reads is False
    monkeypatch.setenv("LOGGING_TOKEN", "secret")
    assert load_settings(LoggingSettings).protect_reads is True
    monkeypatch.delenv("LOGGING_TOKEN")
    (tmp_path / "tokens").write_text("secret\n")
    monkeypatch.setenv("LOGGING_TOKENS_FILE", str(tmp_path / "tokens"))
    assert load_settings(LoggingSettings).protect_reads is True


@pytest.mark.case(40)
def test_reads_are_open_where_the_operator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token and PROTECT_READS=false: reads need no token."""
    monkeypatch.setenv("LOGGING_TOKEN", "secret")
    monkeypatch.setenv("PROTECT_READS", "false")

    assert load_settings(LoggingSettings).protect_reads is False


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), ("", "a token on each line"), ("a\0b", "control")],
)
def test_a_file_of_tokens_that_is_no_good_is_refused_at_the_start(
    content: str | None, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("LOGGING_TOKENS_FILE", str(path))
    monkeypatch.setenv("PROTECT_READS", "true")

    message = refusal(LoggingSettings)
    assert "LOGGING_TOKENS_FILE" in message
    assert says in message
    assert "PROTECT_READS" not in message


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:s3cret@host/name",
        "sqlite:///predictions.db",
        "postgresql://user:s3cret@host",
        "postgresql://user:s3cret@host:0/name",
        "postgresql://user:s3cret@host:port/name",
        "postgresql://user:s3cret%zz@host/name",
        "postgresql://user:s3cret@host/name?no_such_option=1",
        "host=host dbname=name password=s3cret",
        "s3cret",
    ],
)
def test_a_database_url_that_is_none_is_refused_and_not_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)

    assert "DATABASE_URL" in (message := refusal(LoggingSettings))
    assert "postgresql://user:password@host:port/name" in message
    assert "s3cret" not in message


def test_the_limit_of_a_file_does_not_apply_to_postgresql(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:s3cret@host/name")
    monkeypatch.setenv("MAX_DATABASE_BYTES", "100000000")

    assert "MAX_DATABASE_BYTES" in (message := refusal(LoggingSettings))
    assert "RETENTION_DAYS" in message
    assert "s3cret" not in message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user@host/name",
        "postgres://user:p%40ss@host:5433/name?sslmode=verify-full",
        "postgresql://one,two:5433/name?target_session_attrs=read-write",
        "postgresql:///name?host=/var/run/postgresql",
    ],
)
def test_a_database_url_may_say_all_that_libpq_knows(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f" {url}\n")
    given = load_settings(LoggingSettings).database_url

    assert given is not None
    assert given.get_secret_value() == url
    assert "p%40ss" not in repr(given)


def test_without_a_database_url_psycopg_is_not_imported() -> None:
    program = (
        "import sys, bentos.logging.app\n"
        "from bentos.logging.settings import LoggingSettings\n"
        "from bentos.logging.store import make_database\n"
        "make_database(LoggingSettings())\n"
        "assert not any(name.startswith('psycopg') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_pictures_are_kept_beside_sqlite_and_not_beside_postgresql(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_PATH", "/data/predictions.db")
    settings = load_settings(LoggingSettings)
    assert settings.review is True
    assert settings.review_directory == Path("/data/review")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@localhost/predictions")
    assert load_settings(LoggingSettings).review is False
    monkeypatch.setenv("REVIEW", "on")
    assert "REVIEW" in (message := refusal(LoggingSettings))
    assert "set it off, or keep predictions in DATABASE_PATH" in message


@pytest.mark.parametrize(("value", "on"), [("on", True), ("off", False)])
def test_review_is_switched_by_on_and_off(
    monkeypatch: pytest.MonkeyPatch, value: str, on: bool
) -> None:
    monkeypatch.setenv("REVIEW", value)
    monkeypatch.setenv("REVIEW_PATH", "/elsewhere")
    settings = load_settings(LoggingSettings)
    assert settings.review is on
    assert settings.review_directory == Path("/elsewhere")
