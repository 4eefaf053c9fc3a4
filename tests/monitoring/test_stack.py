"""`make monitoring`: real programs on the repository's files, on free ports, stopped in order."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from monitoring import stack
from monitoring.components import Component, RunningComponents, StackError, find_program, is_taken
from monitoring.stack import PROMETHEUS_CONFIG, local_configuration, options_of
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE
from tests.support.servers import ROOT, free_port, wait_until

# Answers as Grafana does where it is asked for its health, and tells how it was started.
GRAFANA = f"""#!{sys.executable}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
        self.wfile.write(json.dumps(dict(os.environ)).encode())
address = os.environ["GF_SERVER_HTTP_ADDR"], int(os.environ["GF_SERVER_HTTP_PORT"])
HTTPServer(address, Health).serve_forever()
"""


class RunningStack:
    """`python -m monitoring.stack` on free ports."""

    def __init__(
        self, directory: Path, *, path: str = "", env: Mapping[str, str] | None = None
    ) -> None:
        self.ports = {name: free_port() for name in ("prometheus", "alertmanager", "grafana")}
        self.log = directory / "stack.log"
        command = [sys.executable, "-m", "monitoring.stack", "--data", str(directory / "data")]
        for name, port in self.ports.items():
            command += [f"--{name}-port", str(port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path + os.environ["PATH"], **(env or {})},
                start_new_session=True,
            )

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def wait_for(self, line: str) -> None:
        def said() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return line in self.log.read_text()

        wait_until(said, line, describe=self.log.read_text)


@contextmanager
def running_stack(directory: Path, **options: Any) -> Iterator[RunningStack]:
    running = RunningStack(directory, **options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(60)


def get(url: str) -> Any:
    return httpx.get(url, trust_env=False).json()


def test_it_starts_on_the_repository_s_files_and_ctrl_c_stops_all(tmp_path: Path) -> None:
    ports = {"INFERENCE_PORT": str(free_port()), "LOGGING_PORT": str(free_port())}
    with running_stack(tmp_path, env=ports) as running:
        running.wait_for("Ctrl-C stops all")
        children = psutil.Process(running.process.pid).children()
        assert len(children) >= 2
        prometheus = running.url("prometheus") + "/api/v1"
        groups = get(f"{prometheus}/rules")["data"]["groups"]
        assert {rule["type"] for group in groups for rule in group["rules"]} == {
            "alerting",
            "recording",
        }

        def alertmanager_is_known() -> bool:
            active = get(f"{prometheus}/alertmanagers")["data"]["activeAlertmanagers"]
            return [each["url"] for each in active] == [
                running.url("alertmanager") + "/api/v2/alerts"
            ]

        wait_until(alertmanager_is_known, "Prometheus knows its Alertmanager")
        expected = {
            INFERENCE_SERVICE: f"http://127.0.0.1:{ports['INFERENCE_PORT']}/metrics",
            LOGGING_SERVICE: f"http://127.0.0.1:{ports['LOGGING_PORT']}/metrics",
        }

        def services_are_scraped() -> bool:
            targets = get(f"{prometheus}/targets")["data"]["activeTargets"]
            return {each["labels"]["job"]: each["scrapeUrl"] for each in targets} == expected

        wait_until(services_are_scraped, "both services are scraped on their ports")
        for job in expected:
            assert f"{job} does not answer" in running.log.read_text()
        for name in ("prometheus", "alertmanager"):
            assert running.url(name) in running.log.read_text()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == 0
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []


def test_it_says_how_to_get_grafana_where_there_is_none(tmp_path: Path) -> None:
    try:
        find_program(stack.GRAFANA_PROGRAMS, "")
    except StackError:
        with running_stack(tmp_path) as running:
            running.wait_for("Grafana is not installed")
            running.wait_for("grafana.com/docs")
    else:
        pytest.skip("Grafana is installed here")


def test_grafana_is_started_with_the_provisioning_and_for_anyone_to_look(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "grafana-server"
    program.write_text(GRAFANA)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with running_stack(tmp_path, path=f"{programs}:") as running:
        running.wait_for("Ctrl-C stops all")
        environment = get(running.url("grafana") + "/api/health")
        assert environment["PROMETHEUS_URL"] == running.url("prometheus")
        assert environment["ALERTMANAGER_URL"] == running.url("alertmanager")
        assert (Path(environment["SERVING_DASHBOARDS"]) / "overview.json").is_file()
        assert (Path(environment["GF_PATHS_PROVISIONING"]) / "dashboards").is_dir()
        assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
        assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
        assert running.url("grafana") in running.log.read_text()


def test_a_taken_port_is_an_error_that_names_it_and_nothing_stays_running(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        alertmanager = free_port()
        command = [sys.executable, "-m", "monitoring.stack", "--data", str(tmp_path)]
        command += ["--prometheus-port", str(port), "--alertmanager-port", str(alertmanager)]
        ended = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
    assert ended.returncode == 1
    assert f"port {port} of Prometheus is taken" in ended.stderr
    assert "--prometheus-port" in ended.stderr
    assert not is_taken(alertmanager)


def test_a_missing_program_is_an_error_that_says_how_to_get_it() -> None:
    with pytest.raises(StackError, match=r"no-such-program is not installed; apt-get install it"):
        find_program(("no-such-program",), "apt-get install it")


def test_a_program_that_ends_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    component = Component(
        name="Broken",
        command=(sys.executable, "-c", "raise SystemExit('the configuration is wrong')"),
        port=free_port(),
        ready_path="/",
        port_option="--broken-port",
    )
    with RunningComponents(tmp_path) as running:
        running.start(component)
        with pytest.raises(StackError, match="the configuration is wrong"):
            running.wait_until_ready()


def test_a_program_that_does_not_end_when_asked_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitoring.components.STOP_SECONDS", 0.2)
    script = (
        "import signal, sys; from http.server import *;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "HTTPServer(('127.0.0.1', int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()"
    )
    port = free_port()
    component = Component(
        name="Stubborn",
        command=(sys.executable, "-c", script, str(port)),
        port=port,
        ready_path="/",
        port_option="--stubborn-port",
    )
    with RunningComponents(tmp_path) as running:
        running.start(component)
        running.wait_until_ready()
    assert not component.answers()


def test_ports_in_use_here_replace_those_of_the_committed_configuration(tmp_path: Path) -> None:
    config = yaml.safe_load(PROMETHEUS_CONFIG.read_text(encoding="utf-8"))
    options = options_of(["--alertmanager-port", "19093", "--data", str(tmp_path)])
    local = local_configuration(config, options)
    scrapes = {scrape["job_name"]: scrape for scrape in local["scrape_configs"]}
    for job, port in options.service_ports.items():
        assert scrapes[job]["static_configs"][0]["targets"] == [f"127.0.0.1:{port}"]
    (manager,) = local["alerting"]["alertmanagers"]
    assert manager["static_configs"] == [{"targets": ["127.0.0.1:19093"]}]
    assert all(Path(pattern).is_absolute() for pattern in local["rule_files"])
