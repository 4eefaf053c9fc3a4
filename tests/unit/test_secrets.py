"""Secrets stay out of what is logged and answered."""

import os
import subprocess
import sys

import pytest

from bentos.process import secrets
from bentos.process.secrets import redact


@pytest.mark.case(35)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://bob:secretpw@mlflow:5000/api", "http://***@mlflow:5000/api"),
        ("postgresql+psycopg://u:p%40x@h/db failed", "postgresql+psycopg://***@h/db failed"),
        ("https://token@h and http://a:b@c", "https://***@h and http://***@c"),
        ("Authorization: Bearer abc.DEF-123", "Authorization: Bearer ***"),
        ("authorization: basic Ym9iOnB3", "authorization: basic ***"),
        ("https://h/x?sig=1&access_token=abc&y=2", "https://h/x?sig=1&access_token=***&y=2"),
        ("https://h/x?X-Amz-Signature=abc'", "https://h/x?X-Amz-Signature=***'"),
    ],
)
def test_passwords_and_tokens_are_hidden_wherever_they_stand(text: str, expected: str) -> None:
    """A password in a URL, a token in a header or a query: none is in any answer or line."""
    assert redact(text) == expected


@pytest.mark.case(35)
def test_values_of_secret_settings_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that puts a token of the environment into its error: hidden by its value."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2hunter2\n")
    monkeypatch.setenv("LOGGING_TOKENS_FILE", "/etc/tokens")
    secrets._values.cache_clear()
    assert redact("login as bob with hunter2hunter2 failed") == "login as bob with *** failed"
    assert redact("cannot read /etc/tokens") == "cannot read /etc/tokens"
    secrets._values.cache_clear()


@pytest.mark.parametrize(
    "text", ["", "a@b.c", "http://host/path@x", "model colours has 3 versions", "bearer of news"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.case(35)
def test_no_log_line_holds_a_secret() -> None:
    """An exception with a password in its text is logged: the line has it hidden."""
    finished = subprocess.run(
        [sys.executable, "-c", _LOG],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LOGGING_TOKEN": "very-secret-token"},
    )
    assert "http://***@mlflow" in finished.stderr
    assert "secretpw" not in finished.stderr
    assert "very-secret-token" not in finished.stderr


_LOG = """
import logging
from bentos.process.logs import configure_logging, event, get_logger
configure_logging(level="INFO", form="json", service="a-service", worker=1)
try:
    raise ValueError("GET http://bob:secretpw@mlflow failed")
except ValueError as error:
    event(get_logger("x"), logging.ERROR, "it failed with very-secret-token", error=error)
logging.getLogger("mlflow").warning("retrying http://bob:secretpw@mlflow")
logging.shutdown()
"""
