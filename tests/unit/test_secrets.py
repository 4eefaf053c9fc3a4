"""Secrets stay out of what is logged and answered."""

import pytest

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
    assert redact("login as bob with hunter2hunter2 failed") == "login as bob with *** failed"
    assert redact("cannot read /etc/tokens") == "cannot read /etc/tokens"


@pytest.mark.parametrize(
    "text", ["", "a@b.c", "http://host/path@x", "model colours has 3 versions", "bearer of news"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text
