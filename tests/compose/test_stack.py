"""`make up` for real, by podman: every container of compose.yaml runs, and they work together.

The images of the services and of MLflow are built from the checkout. Prometheus and Alertmanager
are Debian's programs under the names that compose.yaml takes from a registry; Grafana, which cannot
be had here, is replaced by a program that checks what it is provisioned with. The stack runs in a
copy of the checkout, where Prometheus scrapes every second, an alert fires after two, and the demo
model is trained on fewer pictures.
"""

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from bentos.health.probes import READY_PATH
from bentos.inference.state import PREDICT_IMAGE_PATH
from bentos.logging.state import PREDICTIONS_PATH
from compose.stack import Ports
from local import fetch
from local.process import ROOT, clean_environment, is_taken, wait_until
from monitoring.timings import INFERENCE_SERVICE, LOGGING_SERVICE
from tests.compose.images import build_stand_ins
from tests.images.building import build_settings
from tests.images.containers import KERNEL_DIRECTORIES, Container
from tests.images.engine import Engine
from tests.support.tools import missing_tool

CHECKOUT = (
    *("bentos", "compose", "examples", "images", "local", "monitoring", "requirements"),
    *("bentofile.yaml", "compose.yaml", "pyproject.toml"),
)
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVERS = sorted(COMPOSE["services"].keys() - {"demo-model"})
ALERT = "InferenceMlflowUnreachable"
DNS = Path("/usr/lib/podman/aardvark-dns")
UP_SECONDS = 900.0
PATIENCE_SECONDS = 180.0
# podman gives these to every container with a read-only root.
PODMANS_DIRECTORIES = {"/run", "/var/tmp"}


class Stack:
    """The stack in a copy of the checkout, on ports that are free here.

    `output` is what the first `make up` printed.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.project = "stack-under-test"
        self.output = ""
        self.checkout = folder / "checkout"
        self.checkout.mkdir()
        for name in CHECKOUT:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, self.checkout / name, ignore=ignored)
            else:
                shutil.copy(source, self.checkout / name)
        self._hurry()
        # No connection that this machine makes takes one of these meanwhile.
        candidates = (port for port in random.sample(range(20_000, 30_000), 100))
        free = (port for port in candidates if not is_taken(port))
        self.ports = Ports.model_validate(dict(zip(Ports.model_fields, free, strict=False)))
        self.environment = clean_environment(
            BACKEND="podman",
            BENTOML_DO_NOT_TRACK="True",
            COMPOSE_PROJECT_NAME=self.project,
            **engine.environment(build=True),
            **build_settings(),
            **self.ports.environment(),
        )

    def _hurry(self) -> None:
        for name in ("compose/demo_model.py", "examples/demo_model.py"):
            path = self.checkout / name
            program = path.read_text()
            assert "IMAGES_PER_CLASS = 200" in program
            path.write_text(program.replace("IMAGES_PER_CLASS = 200", "IMAGES_PER_CLASS = 40"))
        path = self.checkout / "compose" / "prometheus.yml"
        config = yaml.safe_load(path.read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        path.write_text(yaml.safe_dump(config))
        for path in (self.checkout / "monitoring" / "prometheus" / "rules").glob("*.yml"):
            document = yaml.safe_load(path.read_text())
            for rule in (rule for group in document["groups"] for rule in group["rules"]):
                if rule.get("alert") == ALERT:
                    rule["for"] = "2s"
            path.write_text(yaml.safe_dump(document))

    def make(self, *arguments: str) -> str:
        """Run what `make up` and `make down` run; return what it printed."""
        command = [sys.executable, "-m", "compose.stack", *arguments]
        return self._run(command, seconds=UP_SECONDS)

    def compose(self, *arguments: str) -> str:
        """Run podman-compose."""
        program = Path(sys.executable).with_name("podman-compose")
        return self._run([str(program), *arguments], seconds=UP_SECONDS)

    def _run(self, command: list[str], *, seconds: float) -> str:
        finished = subprocess.run(
            command,
            cwd=self.checkout,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout[-6_000:]
        return finished.stdout

    def container(self, service: str) -> Container:
        """Return a container of the stack."""
        return Container(self.engine, f"{self.project}_{service}_1", port=0)

    def url(self, service: str) -> str:
        """Return where a part of the stack answers on this machine."""
        name = service.removesuffix("-service").replace("-", "_") + "_port"
        return f"http://127.0.0.1:{getattr(self.ports, name)}"

    def get(self, service: str, path: str) -> Any:
        """Return the JSON that a part of the stack answers."""
        return fetch.get(self.url(service) + path, timeout=10.0).json()

    def containers(self) -> set[str]:
        """Return the names of the stack's containers, running or not."""
        listed = self.engine.run("ps", "--all", "--format", "{{.Names}}").stdout.split()
        return {name for name in listed if name.startswith(self.project)}

    def volumes(self) -> set[str]:
        """Return the names of the stack's volumes, as compose.yaml has them."""
        listed = self.engine.run("volume", "ls", "--quiet").stdout.split()
        prefix = f"{self.project}_"
        return {name.removeprefix(prefix) for name in listed if name.startswith(prefix)}


@pytest.fixture(scope="module")
def stack(
    engine: Engine,
    base_image: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """The running stack, of images that are made side by side."""
    if not DNS.exists():
        words = "containers find each other by name with aardvark-dns: apt-get install aardvark-dns"
        missing_tool(words)
    folder = tmp_path_factory.mktemp("stack")
    made = Stack(engine, folder)
    try:
        with ThreadPoolExecutor(2) as threads:
            stand_ins = threads.submit(build_stand_ins, engine, COMPOSE, folder / "stand-ins")
            mlflow = threads.submit(made.compose, "build", "mlflow")
            # Those of the services, which the tests of images may be making right now.
            request.getfixturevalue("images")
            stand_ins.result()
            mlflow.result()
        made.output = made.make("up")
        yield made
    finally:
        made.make("down", "--volumes")


def test_make_up_tells_of_each_part_and_prints_where_it_is(stack: Stack) -> None:
    for service in COMPOSE["services"]:
        assert f"\n{service} is ready after" in stack.output
    for service in SERVERS:
        assert f" {stack.url(service)}\n" in stack.output
    assert "registered steel-defects version 1, alias production" in stack.output
    assert "6 images classified" in stack.output


def test_a_picture_is_classified_and_read_back_from_the_logging_service(stack: Stack) -> None:
    (picture, *_) = sorted((stack.checkout / ".data" / "images" / "scratch").glob("*.png"))
    answer = fetch.post(
        stack.url(INFERENCE_SERVICE) + PREDICT_IMAGE_PATH,
        content=picture.read_bytes(),
        headers={"Content-Type": "image/png"},
        timeout=30.0,
    )
    assert answer.status_code == 200, answer.text
    wanted = answer.json()["prediction_id"]

    def stored() -> bool:
        page = stack.get(LOGGING_SERVICE, PREDICTIONS_PATH)
        return wanted in [row["prediction_id"] for row in page["predictions"]]

    wait_until(stored, "the prediction in the database", seconds=PATIENCE_SECONDS)


def test_every_target_is_up(stack: Stack) -> None:
    config = yaml.safe_load((stack.checkout / "compose" / "prometheus.yml").read_text())
    expected = {
        target
        for scrape in config["scrape_configs"]
        for entry in scrape["static_configs"]
        for target in entry["targets"]
    }
    found: list[dict[str, Any]] = []

    def up() -> bool:
        found[:] = stack.get("prometheus", "/api/v1/targets")["data"]["activeTargets"]
        return bool(found) and all(target["health"] == "up" for target in found)

    wait_until(up, "all targets up", seconds=PATIENCE_SECONDS, describe=lambda: str(found))
    assert {target["discoveredLabels"]["__address__"] for target in found} == expected


def test_every_rule_group_is_loaded(stack: Stack) -> None:
    expected = {
        group["name"]
        for path in (ROOT / "monitoring" / "prometheus" / "rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
    }
    groups = stack.get("prometheus", "/api/v1/rules")["data"]["groups"]
    assert {group["name"] for group in groups} == expected


def test_grafana_is_given_every_dashboard_and_data_sources_that_answer(stack: Stack) -> None:
    report = stack.get("grafana", "/report")
    assert report["faults"] == []
    assert report["sources"] == {
        "prometheus": "http://prometheus:9090",
        "alertmanager": "http://alertmanager:9093",
    }
    expected = {
        yaml.safe_load(path.read_text())["uid"]
        for path in (ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json")
    }
    assert report["dashboards"].keys() == expected


@pytest.mark.parametrize("service", SERVERS)
def test_a_container_has_no_rights_and_writes_to_its_volumes_alone(
    stack: Stack, service: str
) -> None:
    described = COMPOSE["services"][service]
    container = stack.container(service)
    status = container.process_status()
    assert set(status["Uid"].split()) == {described["user"].partition(":")[0]}
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert container.described["HostConfig"]["Memory"] > 0
    volumes = {
        entry.split(":")[1]
        for entry in described.get("volumes", [])
        if entry.partition(":")[0] in COMPOSE["volumes"]
    }
    allowed = volumes | set(described.get("tmpfs", ["/tmp"])) | PODMANS_DIRECTORIES
    assert container.writable_directories() <= allowed | KERNEL_DIRECTORIES
    assert volumes <= container.writable_directories()


@pytest.mark.parametrize("service", SERVERS)
def test_a_health_check_passes(stack: Stack, service: str) -> None:
    # podman leaves it to systemd to run health checks, which is not everywhere.
    checked = stack.engine.run("healthcheck", "run", stack.container(service).name, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_alert_arrives_when_mlflow_is_stopped_and_is_resolved_when_it_is_back(
    stack: Stack,
) -> None:
    def alerts() -> list[str]:
        active = stack.get("alertmanager", "/api/v2/alerts?active=true&inhibited=true")
        return [alert["labels"]["alertname"] for alert in active]

    assert ALERT not in alerts()
    stack.compose("stop", "mlflow")
    wait_until(lambda: ALERT in alerts(), f"{ALERT} at Alertmanager", seconds=PATIENCE_SECONDS)
    probe = f"http://127.0.0.1:{stack.ports.inference_probe_port}{READY_PATH}"
    answer = fetch.get(probe)
    assert (answer.status_code, answer.json()["reason"]) == (503, "mlflow_not_accessible")
    checked = stack.engine.run(
        "healthcheck", "run", stack.container(INFERENCE_SERVICE).name, check=False
    )
    assert checked.returncode != 0
    stack.compose("start", "mlflow")
    wait_until(
        lambda: ALERT not in alerts(), f"{ALERT} resolved", seconds=PATIENCE_SECONDS, describe=str
    )


def test_a_changed_configuration_takes_effect_and_what_was_stored_stays(stack: Stack) -> None:
    before = stack.get(LOGGING_SERVICE, "/stats")["total_predictions"]
    assert before > 0
    path = stack.checkout / "monitoring" / "prometheus" / "alertmanager.yml"
    path.write_text(path.read_text().replace("group_wait: 30s", "group_wait: 31s"))
    output = stack.make("up")
    assert "group_wait: 31s" in stack.get("alertmanager", "/api/v2/status")["config"]["original"]
    assert stack.get(LOGGING_SERVICE, "/stats")["total_predictions"] >= before + 6
    assert "nothing to train" in output or "registered" not in output
    assert output.count("is built and up to date") == 2


def test_down_keeps_what_was_stored_and_down_with_data_forgets_it(stack: Stack) -> None:
    stack.make("down")
    assert stack.containers() == set()
    assert stack.volumes() == COMPOSE["volumes"].keys()
    stack.make("down", "--volumes")
    assert stack.volumes() == set()
