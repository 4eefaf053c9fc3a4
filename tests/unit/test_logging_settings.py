"""Settings of the logging service that depend on one another."""

import subprocess
import sys
from pathlib import Path

import pytest

from bentos.logging.settings import LoggingSettings
from bentos.process.settings import environment_names, load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment_names(LoggingSettings):
        monkeypatch.delenv(name, raising=False)


def refusal() -> str:
    with pytest.raises(SystemExit) as ended:
        load_settings(LoggingSettings)
    return str(ended.value)


@pytest.mark.case(40)
def test_protected_reads_without_a_token_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PROTECT_READS=true and no token: the service does not start, and says what is missing."""
    monkeypatch.setenv("PROTECT_READS", "true")

    assert "PROTECT_READS" in (message := refusal())
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

    message = refusal()
    assert "LOGGING_TOKENS_FILE" in message
    assert says in message
    assert "PROTECT_READS" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [("RETENTION_DAYS", "0"), ("RETENTION_DAYS", "inf"), ("MAX_DATABASE_BYTES", "9")],
)
def test_a_senseless_retention_is_refused_at_the_start(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    assert name in refusal()


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

    assert "DATABASE_URL" in (message := refusal())
    assert "postgresql://user:password@host:port/name" in message
    assert "s3cret" not in message


def test_the_limit_of_a_file_does_not_apply_to_postgresql(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:s3cret@host/name")
    monkeypatch.setenv("MAX_DATABASE_BYTES", "100000000")

    assert "MAX_DATABASE_BYTES" in (message := refusal())
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
    assert "REVIEW" in (message := refusal())
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
