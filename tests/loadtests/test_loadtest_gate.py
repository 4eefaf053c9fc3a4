"""The gate as `make loadtest` runs it, on servers that must pass it and on some that must not."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtests.settings import PREFIX
from monitoring.timings import INFERENCE_SERVICE
from tests.support.servers import ROOT, Server, free_port, wait_until

# A verdict on latencies is one on this machine as well, so nothing else may run.
pytestmark = [pytest.mark.slow, pytest.mark.serial]

PASSED, BREACH, BROKEN = 0, 1, 2

# As patient as a kubelet that is in a hurry: a verdict in seconds, not in half a minute.
MANIFEST = f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {INFERENCE_SERVICE}
spec:
  template:
    spec:
      containers:
        - name: {INFERENCE_SERVICE}
          ports: [{{name: http, containerPort: 8000}}, {{name: probes, containerPort: 8010}}]
          readinessProbe:
            httpGet: {{path: /ready, port: probes}}
            periodSeconds: 1
            failureThreshold: 2
          livenessProbe:
            httpGet: {{path: /health, port: probes}}
            periodSeconds: 1
            failureThreshold: 2
"""
# On a machine that other work keeps busy a sound server must still pass.
PATIENT = {
    "max_health_p99_ms": "5000",
    "max_ready_p99_ms": "5000",
    "max_metrics_p99_ms": "5000",
    "max_missed_probes": "1000",
    "max_failed_probes": "1000",
    "max_restarts": "1000",
    "max_readiness_flaps": "1000",
}


@dataclass(frozen=True)
class Run:
    """How a load test ended."""

    status: int
    output: str
    reports: Path

    @property
    def verdict(self) -> dict[str, Any]:
        verdict: dict[str, Any] = json.loads((self.reports / "verdict.json").read_text())
        return verdict

    @property
    def broken(self) -> list[str]:
        """The names of the limits that did not hold."""
        return [one["limit"] for one in self.verdict["judgements"] if not one["kept"]]

    def value(self, limit: str) -> float:
        (found,) = [one for one in self.verdict["judgements"] if one["limit"] == limit]
        return float(found["value"])


def environment(tmp_path: Path, url: str, options: Mapping[str, str]) -> dict[str, str]:
    manifest = tmp_path / "deployment.yaml"
    manifest.write_text(MANIFEST)
    chosen = {
        "inference_url": url,
        # These servers have one port for everything, unless a test says otherwise.
        "inference_probe_url": url,
        "logging_url": "none",
        "inference_manifest": str(manifest),
        "reports": str(tmp_path / "reports"),
        "idle_seconds": "1",
        "seconds": "3",
        "image_weight": "0",
        "input_size": "10",
        **options,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**kept, **{f"{PREFIX}{name.upper()}": value for name, value in chosen.items()}}


def load_test(tmp_path: Path, url: str, **options: str) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.run"],
        cwd=ROOT,
        env=environment(tmp_path, url, options),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Run(done.returncode, done.stdout + done.stderr, tmp_path / "reports")


StartServer = Callable[[str], Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers of `faulty_servers` by their kind."""
    servers = []

    def started(kind: str) -> Server:
        port = free_port()
        command = [sys.executable, "-m", "tests.loadtests.faulty_servers", kind, str(port)]
        log_path = tmp_path / f"{kind}.log"
        server = Server(command, port=port, environment=dict(os.environ), log_path=log_path)
        servers.append(server)
        server.wait_for_status("/health", 200)
        return server

    yield started
    for server in servers:
        server.kill()


def test_a_sound_server_passes_and_everything_is_written(
    start: StartServer, tmp_path: Path
) -> None:
    run = load_test(tmp_path, start("sound").url, **PATIENT)
    assert run.status == PASSED, run.output
    assert "every limit held" in run.output
    assert run.verdict["passed"]
    assert run.verdict["breaches"] == []
    assert {row["phase"] for row in run.verdict["probes"]} == {"idle", "loaded"}
    assert run.verdict["requests"]["POST /predict"]["succeeded"] > 0
    written = {path.name for path in run.reports.iterdir()}
    assert {"locust.html", "locust_stats.csv", "probes.csv", "probes.png"} <= written
    assert (run.reports / "probes.png").read_bytes().startswith(b"\x89PNG")


def test_a_blocked_event_loop_breaks_the_gate(start: StartServer, tmp_path: Path) -> None:
    run = load_test(tmp_path, start("blocked-loop").url)
    assert run.status == BREACH, run.output
    assert {
        f"{INFERENCE_SERVICE} /health p99 under load",
        f"{INFERENCE_SERVICE} /ready p99 under load",
        f"{INFERENCE_SERVICE} /metrics p99 under load",
        f"{INFERENCE_SERVICE} /health failed",
        f"{INFERENCE_SERVICE} would have been restarted",
        f"{INFERENCE_SERVICE} would have been taken out of rotation",
    } <= set(run.broken)
    for breach in run.verdict["breaches"]:
        assert breach in run.output


def test_a_blocked_event_loop_does_not_break_the_gate_where_the_probes_have_a_process_of_their_own(
    start: StartServer, tmp_path: Path
) -> None:
    # The clients' requests still fail for their time-outs, so their limits are not of interest.
    run = load_test(
        tmp_path,
        start("blocked-loop").url,
        **PATIENT | {"max_failed_probes": "0", "max_restarts": "0"},
        inference_probe_url=start("sound").url,
        max_error_ratio="1",
    )
    assert run.status == PASSED, run.output
    rows = {
        row["port"]: row
        for row in run.verdict["probes"]
        if (row["path"], row["phase"]) == ("/health", "loaded")
    }
    assert rows["probes"]["failed"] == 0
    # The service's own port is measured beside it, and reported.
    assert rows["http"]["failed"] > 0 or rows["http"]["percentiles_ms"]["max"] > 500


def test_a_starved_thread_pool_breaks_the_gate_though_the_loop_is_free(
    start: StartServer, tmp_path: Path
) -> None:
    # Two threads that work 0.4 s answer 5 requests a second; 60 arrive, whether answered or not.
    run = load_test(tmp_path, start("starved-pool").url, rate="60", in_flight="2", clients="8")
    assert run.status == BREACH, run.output
    assert f"{INFERENCE_SERVICE} /ready failed" in run.broken
    assert f"{INFERENCE_SERVICE} would have been restarted" in run.broken
    assert "POST /predict dropped before sending" in run.broken


def test_a_limiter_that_answers_probes_with_429_breaks_the_gate_and_only_there(
    start: StartServer, tmp_path: Path
) -> None:
    run = load_test(tmp_path, start("limited-probes").url)
    assert run.status == BREACH, run.output
    assert f"{INFERENCE_SERVICE} /health failed" in run.broken
    assert f"{INFERENCE_SERVICE} readiness flaps" in run.broken
    assert f"{INFERENCE_SERVICE} would have been restarted" in run.broken
    assert "status 429" in run.output
    # A refused request is no failed one.
    assert run.value("POST /predict failed") == 0
    assert run.value("POST /predict answered 429") > 0
    assert "POST /predict answered 429" not in run.broken


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"logging_url": "http://127.0.0.1:9"}, "does not answer"),
        ({"inference_manifest": "missing.yaml"}, "missing.yaml cannot be read"),
        ({"inference_probe_url": "http://127.0.0.1:9"}, "does not answer"),
    ],
)
def test_a_run_that_cannot_be_judged_is_broken_not_failed(
    start: StartServer, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    run = load_test(tmp_path, start("sound").url, **options)
    assert run.status == BROKEN, run.output
    assert said in run.output
    assert not (run.reports / "verdict.json").exists()


def test_a_service_that_is_not_ready_is_no_subject_of_a_load_test(
    start: StartServer, tmp_path: Path
) -> None:
    run = load_test(tmp_path, start("unready").url)
    assert run.status == BROKEN, run.output
    assert "not ready" in run.output
    assert "model_not_loaded" in run.output


def test_workers_on_other_machines_send_the_load_and_the_master_judges(
    start: StartServer, tmp_path: Path
) -> None:
    server = start("sound")
    master_port = free_port()
    chosen = environment(
        tmp_path,
        server.url,
        {**PATIENT, "expect_workers": "1", "master_port": str(master_port)},
    )
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--worker"]
    command += ["--master-port", str(master_port)]
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=ROOT, env=chosen, stdout=log, stderr=log)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "loadtests.run"],
            cwd=ROOT,
            env=chosen,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        worker.kill()
        worker.wait()
    run = Run(done.returncode, done.stdout + done.stderr, tmp_path / "reports")
    assert run.status == PASSED, run.output
    assert run.verdict["requests"]["POST /predict"]["succeeded"] > 0
    assert run.value(f"{INFERENCE_SERVICE} /ready failed") == 0


def test_the_web_page_runs_the_same_users(start: StartServer, tmp_path: Path) -> None:
    server = start("sound")
    port = free_port()
    chosen = environment(tmp_path, server.url, {"ui_port": str(port), "seconds": "600"})
    chosen["UI"] = "1"
    log_path = tmp_path / "ui.log"
    command = [sys.executable, "-m", "loadtests.run"]
    with Server(command, port=port, environment=chosen, log_path=log_path) as page:
        page.wait_for_status("/", 200)
        answer = page.post("/swarm", data={})
        assert answer.json()["success"], answer.text

        def names() -> set[str]:
            rows = page.get("/stats/requests").json()["stats"]
            return {row["name"] for row in rows}

        page.wait_until(lambda: "/predict" in names(), "predictions in the page's table")
        assert any(name.startswith(f"/ready {INFERENCE_SERVICE}") for name in names())
        probers = [
            child
            for child in psutil.Process(page.process.pid).children(recursive=True)
            if "local.prober" in child.cmdline()
        ]
        assert probers
        page.terminate()
        page.wait()
        # No prober may go on asking a production service when its test has gone.
        wait_until(lambda: not any(one.is_running() for one in probers), "the probers' end")
