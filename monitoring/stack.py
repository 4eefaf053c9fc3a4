"""Prometheus, Alertmanager and Grafana beside running services: what `make monitoring` runs."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from local.process import HOST, Program, Servers, StepError, find_program, is_taken, stop_on_signals
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / ".data" / "monitoring"
PROMETHEUS_CONFIG = HERE / "prometheus" / "prometheus.yml"
ALERTMANAGER_CONFIG = HERE / "prometheus" / "alertmanager.yml"
PROVISIONING = HERE / "grafana" / "provisioning"
DASHBOARDS = HERE / "grafana" / "dashboards"

PROMETHEUS_PROGRAMS = ("prometheus",)
ALERTMANAGER_PROGRAMS = ("prometheus-alertmanager", "alertmanager")
GRAFANA_PROGRAMS = ("grafana-server",)
# The objectives look back 30 days; without the day more the oldest blocks are gone too early.
RETENTION = "31d"
GRAFANA_HOMES = (Path("/usr/share/grafana"), Path("/usr/local/share/grafana"))
GET_GRAFANA = (
    "Grafana is not installed, so the dashboards are not shown; "
    "https://grafana.com/docs/grafana/latest/setup-grafana/installation says how to get it. "
    "Without it: python -m monitoring.grafana.render --prometheus URL --out FOLDER draws them"
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where everything listens and keeps its data."""

    prometheus_port: int
    alertmanager_port: int
    grafana_port: int
    data: Path
    probe_ports: Mapping[str, int]

    @property
    def scraped_ports(self) -> Mapping[str, int]:
        """The port that each scrape job asks."""
        own = {"prometheus": self.prometheus_port, "alertmanager": self.alertmanager_port}
        return {**self.probe_ports, **own}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stack until Ctrl-C or SIGTERM; return the exit status."""
    options = options_of(arguments)
    stopping = stop_on_signals()
    try:
        programs = plan(options)
        with Servers(options.data / "logs") as running:
            running.start(*programs)
            running.wait_until_ready(interrupted=stopping)
            for program in programs:
                _say(f"{program.name + ':':14}{program.url}")
            if not any(program.name == "Grafana" for program in programs):
                _say(GET_GRAFANA)
            for line in silent_services(options):
                _say(line)
            _say("Ctrl-C stops all")
            while not stopping():
                running.raise_if_ended()
                time.sleep(0.2)
            _say("stopping")
    except StepError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def plan(options: Options) -> list[Program]:
    """Return what is to be started, its configuration written to the data folder.

    Raises StepError where a program that is needed is not installed.
    """
    alertmanager = options.data / "alertmanager"
    alertmanager.mkdir(parents=True, exist_ok=True)
    programs = [
        alertmanager_program(ALERTMANAGER_CONFIG, alertmanager, options.alertmanager_port),
        _prometheus(options),
    ]
    try:
        programs.append(_grafana(options))
    except StepError:
        return programs
    return programs


def silent_services(options: Options) -> list[str]:
    """Return a line for each service whose probe port does not answer."""
    return [
        f"{name} does not answer at http://{HOST}:{port} yet; make serve starts it"
        for name, port in options.probe_ports.items()
        if not is_taken(port)
    ]


def local_configuration(config: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Return Prometheus's configuration with the ports in use here and absolute rule files."""
    ports = options.scraped_ports
    scrapes = [
        {**scrape, "static_configs": [{"targets": [f"{HOST}:{ports[scrape['job_name']]}"]}]}
        for scrape in config["scrape_configs"]
    ]
    alerting = {
        "alertmanagers": [
            {"static_configs": [{"targets": [f"{HOST}:{options.alertmanager_port}"]}]}
        ]
    }
    rules = [str(PROMETHEUS_CONFIG.parent / pattern) for pattern in config["rule_files"]]
    return {**config, "scrape_configs": scrapes, "alerting": alerting, "rule_files": rules}


def prometheus_program(config: Path, data: Path, port: int, *options: str) -> Program:
    """Return Prometheus on a configuration; StepError where it is not installed."""
    return Program(
        name="Prometheus",
        command=(
            find_program(PROMETHEUS_PROGRAMS, "apt-get install prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={data}",
            "--enable-feature=exemplar-storage",
            f"--web.listen-address={HOST}:{port}",
            *options,
        ),
        port=port,
        ready_path="/-/ready",
        port_setting="--prometheus-port",
    )


def alertmanager_program(config: Path, data: Path, port: int) -> Program:
    """Return an Alertmanager on a configuration; StepError where it is not installed."""
    return Program(
        name="Alertmanager",
        command=(
            find_program(ALERTMANAGER_PROGRAMS, "apt-get install prometheus-alertmanager"),
            f"--config.file={config}",
            f"--storage.path={data}",
            f"--web.listen-address={HOST}:{port}",
            "--cluster.listen-address=",
        ),
        port=port,
        ready_path="/-/ready",
        port_setting="--alertmanager-port",
    )


def _prometheus(options: Options) -> Program:
    data = options.data / "prometheus"
    data.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load(PROMETHEUS_CONFIG.read_text(encoding="utf-8"))
    local = data / "prometheus.yml"
    local.write_text(yaml.safe_dump(local_configuration(config, options), sort_keys=False))
    retention = f"--storage.tsdb.retention.time={RETENTION}"
    return prometheus_program(local, data / "data", options.prometheus_port, retention)


def _grafana(options: Options) -> Program:
    program = find_program(GRAFANA_PROGRAMS, GET_GRAFANA)
    data = options.data / "grafana"
    data.mkdir(parents=True, exist_ok=True)
    homes = [home for home in GRAFANA_HOMES if home.is_dir()]
    return Program(
        name="Grafana",
        command=(program, *(("--homepath", str(homes[0])) if homes else ())),
        port=options.grafana_port,
        ready_path="/api/health",
        port_setting="--grafana-port",
        environment=grafana_environment(options),
    )


def grafana_environment(options: Options) -> dict[str, str]:
    """Return Grafana's settings: its provisioning, and that everyone may look."""
    data = options.data / "grafana"
    return {
        "PROMETHEUS_URL": f"http://{HOST}:{options.prometheus_port}",
        "ALERTMANAGER_URL": f"http://{HOST}:{options.alertmanager_port}",
        "SERVING_DASHBOARDS": str(DASHBOARDS),
        "GF_PATHS_DATA": str(data),
        "GF_PATHS_LOGS": str(data / "logs"),
        "GF_PATHS_PROVISIONING": str(PROVISIONING),
        "GF_SERVER_HTTP_ADDR": HOST,
        "GF_SERVER_HTTP_PORT": str(options.grafana_port),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": str(DASHBOARDS / "overview.json"),
    }


def options_of(arguments: Sequence[str] | None) -> Options:
    """Return what the command line says, and defaults for the rest."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.stack", description=__doc__)
    parser.add_argument("--prometheus-port", type=int, default=9090, metavar="PORT")
    parser.add_argument("--alertmanager-port", type=int, default=9093, metavar="PORT")
    parser.add_argument("--grafana-port", type=int, default=3000, metavar="PORT")
    for service, settings in (("inference", InferenceSettings), ("logging", LoggingSettings)):
        port = settings.model_fields["probe_port"].default
        parser.add_argument(f"--{service}-probe-port", type=int, default=port, metavar="PORT")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER")
    given = parser.parse_args(arguments)
    return Options(
        prometheus_port=given.prometheus_port,
        alertmanager_port=given.alertmanager_port,
        grafana_port=given.grafana_port,
        data=given.data.resolve(),
        probe_ports={
            INFERENCE_SERVICE: given.inference_probe_port,
            LOGGING_SERVICE: given.logging_probe_port,
        },
    )


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
