"""`python -m bentos.inference.delivery`: what was refused, and what may be done with it."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from bentos.inference.delivery.__main__ import main
from bentos.inference.delivery.outbox import Outbox, Refusal, Settlement, outbox_path
from tests.support.outboxes import ids_in


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return outboxes of two workers: of four predictions each, numbers 1 and 2 were refused."""
    for worker in (1, 2):
        with closing(Outbox(outbox_path(tmp_path, worker))) as outbox:
            outbox.add([b'{"prediction_id":"%d-%d"}' % (worker, at) for at in range(1, 5)])
            refusals = tuple(Refusal(at, 400, f"reason {at}\x1b[31m", 0.0) for at in (1, 2))
            outbox.apply(Settlement(refused=refusals))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([str(one) for one in arguments]) == 0
    return capsys.readouterr().out


def test_list_says_what_waits_and_what_was_refused_and_why(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, "list", "--path", directory)
    assert f"{outbox_path(directory, 1)}: 2 wait, 2 refused" in text
    assert "  2:1  1970-01-01T00:00:00+00:00  'reason 1\\x1b[31m'" in text
    assert text.count("\n") == 6


def test_show_prints_a_prediction_with_its_reason(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = json.loads(run(capsys, "show", "--path", directory, "2:1"))
    assert shown["id"] == "2:1"
    assert shown["status"] == 400
    assert shown["prediction"] == {"prediction_id": "2-1"}


def test_export_prints_all_of_them_one_a_line(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run(capsys, "export", "--path", directory).splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["1:1", "1:2", "2:1", "2:2"]


def test_resend_puts_them_back_into_the_outbox(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "resend", "--path", directory, "1:2")
    assert ids_in(outbox_path(directory, 1)) == ["1-3", "1-4", "1-2"]
    assert ids_in(outbox_path(directory, 1), "dead_letters") == ["1-1"]
    run(capsys, "resend", "--path", directory, "--all")
    assert ids_in(outbox_path(directory, 1), "dead_letters") == []
    assert ids_in(outbox_path(directory, 2)) == ["2-3", "2-4", "2-1", "2-2"]


def test_discard_deletes_them(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "discard", "--path", directory, "1:1", "2:2")
    assert ids_in(outbox_path(directory, 1), "dead_letters") == ["1-2"]
    assert ids_in(outbox_path(directory, 2), "dead_letters") == ["2-1"]
    assert ids_in(outbox_path(directory, 1)) == ["1-3", "1-4"]


def test_a_number_that_nobody_has_is_an_error(directory: Path) -> None:
    assert main(["show", "--path", str(directory), "1:99"]) == 1
    assert main(["show", "--path", str(directory), "7:1"]) == 1


@pytest.mark.parametrize("arguments", [[], ["resend"], ["discard"], ["show", "one"]])
def test_what_is_not_named_is_not_touched(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*arguments, "--path", str(directory)])
    assert ids_in(outbox_path(directory, 1), "dead_letters") == ["1-1", "1-2"]


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox_path(tmp_path, 1).write_bytes(b"no database" * 1_000)
    assert main(["list", "--path", str(tmp_path)]) == 1
    assert "outbox-1.db" in capsys.readouterr().err
