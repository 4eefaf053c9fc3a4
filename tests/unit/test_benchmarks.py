"""The benchmark's own parts: its processes, generator, results and tables."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.__main__ import chosen
from benchmarks.chart import draw
from benchmarks.generator import Driven, GeneratorFailed, drive
from benchmarks.measure import FULL, QUICK, Round
from benchmarks.peers import all_peers
from benchmarks.peers.peer import Call, found_in_logits, nested
from benchmarks.peers.this_project import ThisProject
from benchmarks.peers.triton import Triton
from benchmarks.probing import bare_server, probe_all, summarize
from benchmarks.reach import targets
from benchmarks.results import BARE, Machine, PeerResult, Results, joined
from benchmarks.soak import Sample, growth_per_hour
from benchmarks.table import BEGIN, END, MarkersMissing, tables, write_page
from local import fetch
from local.prober import MISSED, Answer
from local.process import Memory, Server, StepError, free_port

needs_wrk = pytest.mark.skipif(
    subprocess.run(["which", "wrk"], capture_output=True, check=False).returncode != 0,
    reason="wrk is not installed",
)

PIXELS = np.linspace(0, 1, 3072, dtype=np.float32).reshape(3, 32, 32)

SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status=200):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        right = body == b"body" and self.headers["X-Name"] == "value: 1"
        self.answer(200 if right else 500)

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    port = free_port()
    with Server(
        [sys.executable, str(script), str(port)], port=port, log=tmp_path / "log"
    ) as started:
        started.wait_until_answers("/")
        yield started


@needs_wrk
def test_the_generator_sends_body_and_headers_as_they_are(server: Server, tmp_path: Path) -> None:
    call = Call("/predict", b"body", "text/plain", {"X-Name": "value: 1"})
    driven = drive(server.url, call, clients=1, seconds=1, scratch=tmp_path)
    assert driven.requests > 0
    assert driven.errors == 0
    assert 0 < driven.p50_ms <= driven.p99_ms <= driven.max_ms
    wrong = drive(server.url, replace(call, body=b"other"), clients=1, seconds=1, scratch=tmp_path)
    assert wrong.errors == wrong.requests > 0


@needs_wrk
def test_nobody_to_drive_is_no_result(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(GeneratorFailed, match="wrk ended"):
        drive(url, Call("/", b""), clients=1, seconds=1, scratch=tmp_path)


def answers(count: int, *, milliseconds: float = 1.0, status: int = 200) -> list[Answer]:
    return [Answer(0, float(at), 0.0, milliseconds / 1000, status) for at in range(count)]


def test_probes_that_were_missed_are_no_probes_but_make_the_prober_late() -> None:
    found = summarize([*answers(98), *answers(1, status=503), Answer(0, 99.0, 0.5, 0, 0, MISSED)])
    assert (found.probes, found.failed) == (99, 1)
    assert found.max_ms == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no values"):
        summarize([])


def test_several_urls_are_probed_side_by_side_and_each_keeps_its_own_answers() -> None:
    nobody = f"http://127.0.0.1:{free_port()}/"
    with bare_server() as url:
        bare, refused = probe_all([url, nobody], lambda: time.sleep(0.5))
    # A busy machine may keep the prober from some of its ticks.
    assert {answer.status for answer in bare if answer.error != MISSED} == {200}
    assert {answer.status for answer in refused} == {0}
    with pytest.raises(httpx.ConnectError):
        fetch.get(url)


def driven(clients: int, rate: float) -> Driven:
    return Driven(clients, rate, 1000 / rate, 5000 / rate, 9000 / rate, int(rate), 0)


def one_round(rate: float, *, slow_probe: float = 2.0) -> Round:
    return Round(
        first_health_seconds=1.0,
        first_ready_seconds=rate / 100,
        json=[driven(1, rate / 2), driven(16, rate)],
        binary=driven(16, 2 * rate),
        image=None,
        idle_probes=answers(50),
        loaded_probes=answers(500, milliseconds=slow_probe),
        bare_probes=answers(500, milliseconds=0.5),
        extra_probes={"model loads": answers(10)},
        cpu_microseconds=1e6 / rate,
        memory=Memory(pss=2**28, rss=2**29, processes=2),
        notes=["a note"],
    )


def test_rates_are_medians_of_the_rounds_and_probes_are_taken_together() -> None:
    rounds = [one_round(100), one_round(300, slow_probe=9.0), one_round(200)]
    result = joined("key", "title", rounds)
    assert result.json["16"].requests_per_second == 200
    assert result.json_rates["16"] == [100, 300, 200]
    assert result.binary is not None
    assert result.binary.requests_per_second == 400
    assert result.image is None
    assert result.probes["saturated"].probes == 1500
    assert result.probes["saturated"].p50_ms == pytest.approx(2.0)
    assert result.probes["saturated"].p99_ms == pytest.approx(9.0)
    assert result.probes["model loads"].probes == 30
    assert result.probes[BARE].p99_ms == pytest.approx(0.5)


def results() -> Results:
    return Results(
        started_at="2026-01-01T00:00:00Z",
        commit="abc",
        machine=Machine("a processor", 2, 8.0, "Linux", "3.11"),
        versions={"torch": "2"},
        plan=replace(QUICK, clients=(1, 16)),
        load_before=(0.1, 0.2, 0.3),
        load_after=(1.0, 1.0, 1.0),
        peers=[
            joined("this-project-1", "this project, 1 worker", [one_round(1000)]),
            joined("triton", "Triton", [one_round(500)]),
            PeerResult("ray", "Ray Serve", failure="no 200 from /\nand its log"),
            PeerResult("this-project-cuda", "this project, cuda", failure="no GPU"),
        ],
    )


def test_the_tables_say_what_was_measured_and_why_the_rest_was_not() -> None:
    text = tables(results())
    assert "| this project, 1 worker | 500 (2.0 / 10.0) | 1,000 (1.0 / 5.0) | 1.00 |" in text
    assert "| Triton | 250 (4.0 / 20.0) | 500 (2.0 / 10.0) | 2.00 |" in text
    assert "| this project, cuda | no GPU |" in text
    assert "| Ray Serve | no 200 from / |" in text
    assert "and its log" not in text
    assert "before: 0.10, 0.20, 0.30" in text


def test_every_table_has_as_many_cells_as_its_head() -> None:
    width = 0
    for line in tables(results()).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        width = width or line.count("|")
        assert line.count("|") == width, line


def test_a_target_is_missed_where_it_was_not_measured() -> None:
    found = {target.what: target for target in targets(results())}
    against_triton = found["JSON, as many workers as cores against Triton"]
    assert (against_triton.value, against_triton.reached) == (2.0, True)
    against_mlserver = found["JSON, one worker against MLServer"]
    assert (against_mlserver.value, against_mlserver.reached) == (None, False)
    assert found["probe p99, saturated"].reached
    assert not replace(found["probe p99, saturated"], value=3.01).reached
    assert not found["probe p99.9, images of 500 kB"].reached
    assert "not measured | **missed**" in tables(results())


def test_a_page_keeps_what_stands_around_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Head\n\n{BEGIN}\nold\n{END}\n\ntail\n")
    write_page(page, results(), tmp_path / "chart.png")
    write_page(page, results(), tmp_path / "chart.png")
    text = page.read_text()
    assert text.startswith("# Head\n")
    assert text.endswith(f"{END}\n\ntail\n")
    assert "old" not in text
    assert text.count(BEGIN) == text.count("](chart.png)") == 1
    page.write_text("# Head\n")
    with pytest.raises(MarkersMissing):
        write_page(page, results(), tmp_path / "chart.png")


def test_the_chart_is_drawn_without_the_servers_that_failed(tmp_path: Path) -> None:
    draw(results(), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_growth_is_the_slope_of_memory() -> None:
    samples = [Sample(float(at), 1000 + 2 * at, 0) for at in range(10)]
    assert growth_per_hour(samples) == pytest.approx(7200)
    assert growth_per_hour(samples[:2]) is None


def test_every_server_has_a_key_and_a_title_of_its_own() -> None:
    peers = all_peers(workers=2)
    assert len({peer.key for peer in peers}) == len({peer.title for peer in peers}) == len(peers)
    alone = [peer.key for peer in all_peers(workers=1)]
    assert alone[0] == "this-project-1"
    assert len(alone) == len(peers) - 1


def test_every_server_is_sent_the_same_numbers() -> None:
    wanted = [round(float(value), 7) for value in PIXELS.reshape(-1)]

    def numbers(content: object) -> list[float]:
        if isinstance(content, dict):
            return [one for value in content.values() for one in numbers(value)]
        if isinstance(content, list):
            return [one for value in content for one in numbers(value)]
        return [content] if isinstance(content, float) else []

    for peer in all_peers(workers=2):
        call = peer.json_call(PIXELS)
        assert numbers(json.loads(call.body)) == wanted
        assert 25_000 < len(call.body) < 35_000


def test_raw_bodies_carry_the_same_tensor() -> None:
    raw = PIXELS.astype("<f4").tobytes()
    assert ThisProject().binary_call(PIXELS).body == raw
    call = Triton().binary_call(PIXELS)
    head = int(call.headers["Inference-Header-Content-Length"])
    assert call.body[head:] == raw
    assert json.loads(call.body[:head])["inputs"][0]["shape"] == [1, 3, 32, 32]
    assert np.array(nested(PIXELS)).shape == (3, 32, 32)


def test_logits_become_probabilities_without_overflow() -> None:
    found = found_in_logits([1000.0, 1000.0 + math.log(3)])
    assert found.class_index == 1
    assert found.confidence == pytest.approx(0.75)


def test_a_quick_run_measures_the_same_numbers_of_clients() -> None:
    assert QUICK.clients == FULL.clients
    assert FULL.saturating_clients in FULL.clients
    assert FULL.rounds > 1


def test_an_unknown_server_is_told_before_anything_is_measured() -> None:
    with pytest.raises(StepError, match="no server apache; there are this-project-1"):
        chosen(["apache"])
    assert [peer.key for peer in chosen(["triton", "ray"])] == ["triton", "ray"]
