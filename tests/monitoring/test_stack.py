"""`make monitoring`: real programs on the repository's files, on free ports, stopped in order."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from local import fetch
from local.process import (
    ROOT,
    Process,
    StepError,
    find_program,
    free_port,
    free_ports,
    is_taken,
    wait_until,
)
from monitoring import stack
from monitoring.prometheus.source.objectives import PERIOD
from monitoring.prometheus.source.rule import seconds
from monitoring.stack import PROMETHEUS_CONFIG, local_configuration, options_of
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

# Answers as Grafana does where it is asked for its health, and says how it was started.
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


# All but the last few start Prometheus and Alertmanager.
pytestmark = pytest.mark.slow


class RunningStack(Process):
    """`python -m monitoring.stack` on free ports."""

    def __init__(
        self, directory: Path, *, path: str = "", probe_ports: Mapping[str, int] | None = None
    ) -> None:
        names = ("prometheus", "alertmanager", "grafana")
        self.ports = dict(zip(names, free_ports(3), strict=True))
        command = [sys.executable, "-m", "monitoring.stack", "--data", str(directory / "data")]
        for name, port in self.ports.items():
            command += [f"--{name}-port", str(port)]
        for name, port in (probe_ports or {}).items():
            command += [f"--{name}-probe-port", str(port)]
        super().__init__(
            command,
            log=directory / "stack.log",
            environment={**os.environ, "PATH": path + os.environ["PATH"]},
        )

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def wait_for(self, line: str) -> None:
        self.wait_until(lambda: line in self.log, line)


def get(url: str) -> Any:
    return fetch.get(url).json()


def test_it_starts_on_the_repository_s_files_and_ctrl_c_stops_all(tmp_path: Path) -> None:
    ports = {"inference": free_port(), "logging": free_port()}
    with RunningStack(tmp_path, probe_ports=ports) as running:
        running.wait_for("Ctrl-C stops all")
        children = psutil.Process(running.pid).children()
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
        services = {INFERENCE_SERVICE: ports["inference"], LOGGING_SERVICE: ports["logging"]}
        programs = {name: running.ports[name] for name in ("prometheus", "alertmanager")}
        expected = {
            job: f"http://127.0.0.1:{port}/metrics"
            for job, port in {**services, **programs}.items()
        }

        def all_are_scraped() -> bool:
            targets = get(f"{prometheus}/targets")["data"]["activeTargets"]
            return {each["labels"]["job"]: each["scrapeUrl"] for each in targets} == expected

        wait_until(all_are_scraped, "the services' probe ports and the stack itself are scraped")
        for job in services:
            assert f"{job} does not answer" in running.log
        for name in ("prometheus", "alertmanager"):
            assert running.url(name) in running.log
        running.process.send_signal(signal.SIGINT)
        assert running.wait() == 0
        _, alive = psutil.wait_procs(children, timeout=60)
        assert alive == []


def test_it_says_how_to_get_grafana_where_there_is_none(tmp_path: Path) -> None:
    try:
        find_program(stack.GRAFANA_PROGRAMS, "")
    except StepError:
        with RunningStack(tmp_path) as running:
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
    with RunningStack(tmp_path, path=f"{programs}:") as running:
        running.wait_for("Ctrl-C stops all")
        environment = get(running.url("grafana") + "/api/health")
        assert environment["PROMETHEUS_URL"] == running.url("prometheus")
        assert environment["ALERTMANAGER_URL"] == running.url("alertmanager")
        assert (Path(environment["SERVING_DASHBOARDS"]) / "overview.json").is_file()
        assert (Path(environment["GF_PATHS_PROVISIONING"]) / "dashboards").is_dir()
        assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
        assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
        assert running.url("grafana") in running.log


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


def test_ports_in_use_here_replace_those_of_the_committed_configuration(tmp_path: Path) -> None:
    config = yaml.safe_load(PROMETHEUS_CONFIG.read_text(encoding="utf-8"))
    options = options_of(["--alertmanager-port", "19093", "--data", str(tmp_path)])
    local = local_configuration(config, options)
    scrapes = {scrape["job_name"]: scrape for scrape in local["scrape_configs"]}
    for job, port in options.scraped_ports.items():
        assert scrapes[job]["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]
    (manager,) = local["alerting"]["alertmanagers"]
    assert manager["static_configs"] == [{"targets": ["127.0.0.1:19093"]}]
    assert all(Path(pattern).is_absolute() for pattern in local["rule_files"])


@pytest.mark.case(46)
def test_prometheus_keeps_its_data_for_as_long_as_the_objectives_look_back() -> None:
    """Objectives over 30 days met a retention of 15: it is 31 days, here and in the documents."""
    assert seconds(stack.RETENTION) > seconds(PERIOD)
    option = f"--storage.tsdb.retention.time={stack.RETENTION}"
    for text in ("docs/monitoring.md", "monitoring/prometheus/prometheus-kubernetes.yml"):
        assert option in (ROOT / text).read_text(encoding="utf-8")
