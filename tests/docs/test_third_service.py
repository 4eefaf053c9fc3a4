"""The kit in a third service: examples/third_service and its page."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from examples.third_service.rules import ALERTS
from examples.third_service.state import IrisState
from k8s.render import render
from local.process import ROOT, clean_environment, find_program, free_port
from tests.docs.console import disagreement, replaced, steps
from tests.k8s.manifests import INFERENCE, rendered, workload
from tests.support.servers import Server

pytestmark = pytest.mark.slow

FOLDER = ROOT / "examples" / "third_service"
PAGE = (ROOT / "docs" / "third-service.md").read_text(encoding="utf-8")
STEPS = steps(PAGE)
OTHERS = ("uvicorn", "kubectl")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service, started by the page's own command on free ports."""
    (command,) = [step.command for step in STEPS if "uvicorn" in step.command]
    port, probe_port = free_port(), free_port()
    setting, program, *rest = command.split()
    assert (setting, program) == ("PROBE_PORT=8012", ".venv/bin/python")
    with Server(
        [sys.executable, *rest[:-1], str(port)],
        port=port,
        environment=clean_environment(
            HOST="127.0.0.1", PROBE_PORT=str(probe_port), DRAIN_SECONDS="0"
        ),
        log_path=tmp_path_factory.mktemp("third") / "log",
        probe_port=probe_port,
    ) as server:
        server.wait_until(lambda: server.probe("/ready").status_code == 200, "ready")
        yield server


def test_it_has_less_than_sixty_lines() -> None:
    lines = (FOLDER / "service.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60


def test_the_page_s_requests_are_answered_as_it_shows(service: Server) -> None:
    ports = {
        ":8002": f":{service.port}",
        ":8012": service.probe_url.removeprefix("http://127.0.0.1"),
    }
    asked = [step for step in STEPS if not any(other in step.command for other in OTHERS)]
    assert len(asked) == 4
    for step in asked:
        finished = subprocess.run(
            ["bash", "-c", replaced(step.command, ports)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert not disagreement(step.output, finished.stdout), finished.stdout


def test_both_ports_say_the_same(service: Server) -> None:
    def ready(answer: Any) -> dict[str, Any]:
        return {**answer.json(), "timestamp": None}

    assert ready(service.get("/ready")) == ready(service.probe("/ready"))


def test_its_metrics_are_well_formed_and_all_declared(service: Server) -> None:
    text = service.probe("/metrics").text
    promtool = find_program(("promtool",), "apt-get install prometheus")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert {family.name for family in IrisState.families()} <= set(
        re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    )


def test_its_alerts_read_metrics_that_it_has() -> None:
    promtool = find_program(("promtool",), "apt-get install prometheus")
    subprocess.run([promtool, "check", "config", str(FOLDER / "prometheus.yml")], check=True)
    names = {family.name for family in IrisState.families()}
    for alert in ALERTS:
        assert set(re.findall(r"\biris_\w+", alert.expr)) <= names
        assert f"`{alert.name}`" in PAGE


def test_the_manifests_render_with_the_probes_of_the_inference_service() -> None:
    documents = [*yaml.safe_load_all(render(FOLDER / "k8s"))]
    (deployment,) = [item for item in documents if item["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (other,) = workload(INFERENCE, rendered("production")).pod["containers"]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[kind] == other[kind]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8002, "probes": 8012}


def test_the_probe_process_needs_neither_scikit_learn_nor_what_the_page_says_it_does_not() -> None:
    program = "import sys, bentos.kit, examples.third_service.state; print(*sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in finished.stdout.split()}
    assert not loaded & {"bentoml", "mlflow", "numpy", "sklearn", "sqlite3", "torch"}
    named = re.search(r"The kit needs the packages (.*?)\. It", PAGE, re.DOTALL)
    assert named is not None
    assert {name.replace("-", "_") for name in re.findall(r"`([^`]+)`", named[1])} >= {
        name for name in ("httptools", "orjson", "prometheus_client", "psutil") if name in loaded
    }
