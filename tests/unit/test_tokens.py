"""Bearer tokens: several at once, read again when their file changes, never shown."""

import logging
import os
from pathlib import Path

import pytest

from bentos.edge.http import ServiceError
from bentos.edge.tokens import Tokens, clean_token

FIRST = "correct horse battery staple"
SECOND = "Tr0ub4dor&3"


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def accepts(tokens: Tokens, header: bytes | None) -> bool:
    try:
        tokens.require(header)
    except ServiceError as refused:
        return (refused.status, refused.reason) != (401, "unauthorized")
    return True


def test_a_refusal_says_what_was_expected() -> None:
    with pytest.raises(ServiceError) as refused:
        Tokens(FIRST, None, realm="a-service").require(bearer(SECOND))

    assert (refused.value.status, refused.value.reason) == (401, "unauthorized")
    assert refused.value.headers["WWW-Authenticate"] == 'Bearer realm="a-service"'
    assert FIRST not in refused.value.message


def bearer(token: str) -> bytes:
    return f"Bearer {token}".encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"{FIRST}\n")
    return path


def test_without_a_token_every_request_is_accepted() -> None:
    assert accepts(Tokens(None, None, realm="a-service"), None)


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer", b"Bearer ", FIRST.encode(), b"Bearer wrong", b"Basic " + FIRST.encode()],
)
def test_a_request_without_a_valid_token_is_a_401(header: bytes | None) -> None:
    assert not accepts(Tokens(FIRST, None, realm="a-service"), header)


def test_the_setting_and_every_line_of_the_file_are_valid_at_once(file: Path) -> None:
    file.write_text(f"  {SECOND}\r\n\n third \n")
    tokens = Tokens(FIRST, file, realm="a-service")

    for token in (FIRST, SECOND, "third"):
        assert accepts(tokens, bearer(token))
    assert not accepts(tokens, bearer(""))


@pytest.mark.case(16)
def test_a_token_is_rotated_without_a_restart(file: Path) -> None:
    """A token is added to the file and another removed: valid or not within a second."""
    clock = Clock()
    tokens = Tokens(None, file, realm="a-service", clock=clock)
    file.write_text(f"{FIRST}\n{SECOND}\n")
    clock.now += 1.0
    assert accepts(tokens, bearer(FIRST))
    assert accepts(tokens, bearer(SECOND))
    file.write_text(f"{SECOND}\n")
    clock.now += 1.0

    assert accepts(tokens, bearer(SECOND))
    assert not accepts(tokens, bearer(FIRST))


def test_a_file_that_is_replaced_as_kubernetes_replaces_it_is_read_again(tmp_path: Path) -> None:
    for name, token in (("..1", FIRST), ("..2", SECOND)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens").write_text(token)
        os.utime(tmp_path / name / "tokens", (0, 0))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tokens").symlink_to("..data/tokens")
    clock = Clock()
    tokens = Tokens(None, tmp_path / "tokens", realm="a-service", clock=clock)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    clock.now += 1.0

    assert accepts(tokens, bearer(SECOND))
    assert not accepts(tokens, bearer(FIRST))


def test_the_file_is_looked_at_once_a_second_at_most(file: Path) -> None:
    clock = Clock()
    tokens = Tokens(None, file, realm="a-service", clock=clock)
    file.write_text(SECOND)
    clock.now += 0.9

    assert accepts(tokens, bearer(FIRST))


@pytest.mark.parametrize("content", [None, "", "\n \n", f"{SECOND}\n\x00\n"])
def test_what_was_read_stays_valid_while_the_file_is_no_good(
    file: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    tokens = Tokens(None, file, realm="a-service", clock=clock)
    file.unlink() if content is None else file.write_text(content)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            clock.now += 1.0
            assert accepts(tokens, bearer(FIRST))
    assert [line.getMessage() for line in caplog.records] == ["the tokens cannot be read again"]
    assert SECOND not in str([vars(line) for line in caplog.records])
    file.write_text(SECOND)
    clock.now += 1.0

    assert accepts(tokens, bearer(SECOND))


def test_a_file_that_is_no_good_at_the_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Tokens(None, tmp_path / "tokens", realm="a-service")
    (tmp_path / "tokens").write_text("\n")
    with pytest.raises(ValueError, match="expected a token on each line, got none"):
        Tokens(None, tmp_path / "tokens", realm="a-service")


@pytest.mark.case(36)
@pytest.mark.parametrize("text", ["a\x00b", "a\nb", "a\tb", "a\x7fb", "a\x85b", "a\u2028b"])
def test_a_token_with_a_control_character_is_refused_without_being_shown(text: str) -> None:
    """A token with a line end in it, which no header can carry: refused at the start, not shown."""
    with pytest.raises(ValueError, match="control character") as refused:
        clean_token(f"secret{text}")

    assert "secret" not in str(refused.value)


@pytest.mark.case(36)
def test_white_space_around_a_token_is_no_part_of_it() -> None:
    """A token with a line end after it, as a file has: the line end is stripped."""
    assert clean_token(f" {FIRST}\r\n") == FIRST


@pytest.mark.case(69)
def test_a_carriage_return_within_a_token_makes_no_two_of_it(tmp_path: Path) -> None:
    """A file with a carriage return within a token: refused, where each piece was a token."""
    file = tmp_path / "tokens"
    file.write_bytes(b"x\rcorrect horse\n")
    with pytest.raises(ValueError, match="control character"):
        Tokens(None, file, realm="a-service")
    file.write_bytes(b"one\r\ntwo\r\n")
    tokens = Tokens(None, file, realm="a-service")
    assert accepts(tokens, b"Bearer one")
    assert accepts(tokens, b"Bearer two")
