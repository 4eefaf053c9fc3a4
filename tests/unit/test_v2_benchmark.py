"""The benchmark of the Open Inference Protocol: what it sends, and the table it makes."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import v2
from benchmarks.peers.this_project import ThisProject
from benchmarks.peers.triton import Triton
from benchmarks.results import Machine
from bentos.inference.model.spec import ModelSpec
from bentos.inference.v2.messages import HEADER_LENGTH
from bentos.inference.v2.tensors import read_request

ROWS = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
SPEC = ModelSpec((3, 32, 32), "float32", ("a", "b"), (False, True))
OURS, THEIRS = ThisProject().key, Triton().key


def test_what_it_sends_is_a_request_with_the_rows_as_bytes() -> None:
    call = v2.call_of(v2.Side(ThisProject(), "steel", "input"), ROWS)
    asked = read_request(call.body, call.headers[HEADER_LENGTH].encode(), SPEC, limit=8)
    assert asked.given.content == ROWS.tobytes()
    assert asked.outputs == {"probabilities": True}


@pytest.fixture
def results() -> v2.Results:
    rates = [
        v2.Rate(server, client, size, 100.0 * size * (2 if server == OURS else 1), [1.0], 3.0)
        for server in (OURS, THEIRS)
        for client in ("wrk", "tritonclient")
        for size in v2.SIZES
    ]
    machine = Machine("a processor", 2, 8.0, "Linux", "3.11")
    return v2.Results("now", "abc", machine, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), 5.0, rates)


def test_the_table_says_how_many_times_the_rate_is(results: v2.Results) -> None:
    text = v2.table(results, {OURS: "ours", THEIRS: "theirs"})
    assert "| wrk | 8 | 1,600/s | 800/s | 2.00 | 3.0, 3.0 |" in text
    assert "commit `abc`" in text


def test_the_table_takes_the_place_of_the_last_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "v2.md"
    page.write_text("before\n<!-- benchmark:begin -->\nold\n<!-- benchmark:end -->\nafter\n")
    monkeypatch.setattr(v2, "PAGE", page)
    v2.publish("new\n")
    v2.publish("newer\n")
    text = page.read_text()
    assert "newer" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
