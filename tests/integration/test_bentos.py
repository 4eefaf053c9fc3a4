"""`make build`: two Bentos of the checkout that hold what they serve and nothing else."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from bentos.health.probes import HEALTH_PATH, METRICS_PATH
from images.bentos import ROOT, SOURCES, BentoSource, BuildError, BuildOptions, fingerprint
from images.sbom import write
from tests.support.models import COLOUR_SHAPE, COLOURS, ModelStore
from tests.support.servers import Server, free_port

BUILD_SECONDS = 240
SECRET = "a-token-of-the-builder"
PACKAGES = {
    "inference_service": ("bentos/health", "bentos/process", "bentos/edge", "bentos/inference"),
    "logging_service": ("bentos/health", "bentos/process", "bentos/edge", "bentos/logging"),
}
INFERENCE, LOGGING = SOURCES


def run_module(
    module: str, *arguments: str, env: Mapping[str, str], umask: int = -1
) -> subprocess.CompletedProcess[str]:
    """Run one of the Makefile's commands with variables of its caller's shell."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **env}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        umask=umask,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME outside the checkout."""
    return tmp_path_factory.mktemp("bentoml")


@pytest.fixture(scope="module")
def built(home: Path) -> subprocess.CompletedProcess[str]:
    """What `make build` said to a user with a strict umask and settings in the shell."""
    settings = {"WORKERS": "7", "INFERENCE_PORT": "4321", "LOGGING_TOKEN": SECRET}
    env = {"BENTOML_HOME": str(home), "VERSION": "1.2.3-test", **settings}
    finished = run_module("images.build", env=env, umask=0o077)
    assert finished.returncode == 0, finished.stderr
    return finished


@pytest.fixture(params=SOURCES, ids=lambda source: source.name)
def source(request: pytest.FixtureRequest) -> BentoSource:
    found: BentoSource = request.param
    return found


@pytest.fixture
def bento(source: BentoSource, built: subprocess.CompletedProcess[str], home: Path) -> Path:
    """Where a built Bento lies."""
    return home / "bentos" / source.name / "1.2.3-test"


def files_of(bento: Path) -> set[str]:
    return {str(path.relative_to(bento)) for path in bento.rglob("*") if path.is_file()}


def test_build_prints_the_two_tags(built: subprocess.CompletedProcess[str]) -> None:
    assert built.stdout.splitlines() == [
        "inference_service:1.2.3-test",
        "logging_service:1.2.3-test",
    ]


def test_the_version_is_the_projects_unless_another_is_asked_for() -> None:
    options = BuildOptions.from_environment({}, torch="cpu")
    assert f'version = "{options.version}"' in (ROOT / "pyproject.toml").read_text()
    assert options.tag(LOGGING) == f"logging_service:{options.version}"


def test_a_bento_holds_its_package_and_the_kit_and_nothing_else(
    bento: Path, source: BentoSource
) -> None:
    modules = {
        str(path.relative_to(ROOT))
        for package in PACKAGES[source.name]
        for kind in ("py", "html", "css", "js")
        for path in (ROOT / package).rglob(f"*.{kind}")
    } | {str(path.relative_to(ROOT)) for path in (ROOT / "bentos").glob("*.py")}
    modules |= {str(path.relative_to(ROOT)) for path in (ROOT / "bentos").glob("*.py")}
    expected = {f"src/{module}" for module in modules}
    made_by_bentoml = {
        "README.md",
        "apis/openapi.yaml",
        "apis/schema.json",
        "bento.yaml",
        "env/docker/Dockerfile",
        "env/docker/entrypoint.sh",
        "env/python/requirements.in",
        "env/python/requirements.txt",
        "src/bentofile.yaml",
    }
    assert files_of(bento) == expected | made_by_bentoml


def test_an_image_says_on_which_ports_it_listens(bento: Path, source: BentoSource) -> None:
    ports = {"inference_service": "8000 8010", "logging_service": "8001 8011"}
    dockerfile = (bento / "env" / "docker" / "Dockerfile").read_text()
    assert f"\nEXPOSE {ports[source.name]}\n" in dockerfile


def test_a_bill_of_materials_lists_the_locked_packages_and_the_base_image(
    source: BentoSource, tmp_path: Path
) -> None:
    options = BuildOptions.from_environment({}, torch="cpu")
    path = write(source, options, tmp_path / "sbom")
    assert path.name == f"{source.name}-{options.version}.cdx.json"
    text = path.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert document["metadata"]["component"]["type"] == "container"
    base, *packages = sorted(document["components"], key=lambda item: item["type"])
    assert (base["type"], base["name"]) == ("container", options.base_image)
    assert all(item["purl"].endswith(f"@{item['version']}") for item in packages)
    listed = {f"{item['name'].lower()}=={item['version']}" for item in packages}
    # A pin with a condition is for other systems or other Pythons.
    pins = re.findall(r"^([\w.-]+==[\w.+]+)( ;)?", source.requirements.read_text(), re.MULTILINE)
    lock = {pin.lower(): bool(condition) for pin, condition in pins}
    assert listed <= set(lock)
    assert {pin for pin, conditional in lock.items() if not conditional} <= listed
    licensed = [item for item in packages if item.get("licenses")]
    assert len(licensed) > 0.8 * len(packages)


def test_a_bento_has_no_setting_and_no_secret_of_its_builder(bento: Path) -> None:
    for name in files_of(bento):
        assert SECRET not in (bento / name).read_text(), name
    service = yaml.safe_load((bento / "bento.yaml").read_text())["services"][0]
    assert service["config"]["workers"] == 1
    assert service["config"]["http"]["port"] in (8000, 8001)


def test_any_user_may_read_a_bento_whatever_the_builders_umask(bento: Path) -> None:
    hidden = [path for path in (bento, *bento.rglob("*")) if path.stat().st_mode & 0o004 == 0]
    assert hidden == []


def test_every_requirement_is_pinned_to_what_the_checkout_locks(
    bento: Path, source: BentoSource
) -> None:
    packages = requirements(bento)
    assert packages == pinned(source.requirements.read_text())
    assert {"bentoml", "prometheus-client"} <= packages.keys()


def test_the_logging_bento_requires_neither_torch_nor_mlflow(
    built: subprocess.CompletedProcess[str], home: Path
) -> None:
    logging, inference = (
        requirements(home / "bentos" / source.name / "1.2.3-test")
        for source in (LOGGING, INFERENCE)
    )
    heavy = re.compile(r"torch|mlflow|nvidia-(?!ml-py)|pandas")
    assert [name for name in logging if heavy.match(name)] == []
    assert "torch" in inference


def test_the_inference_bento_takes_torch_without_cuda(bento: Path, source: BentoSource) -> None:
    lines = (bento / "env" / "python" / "requirements.txt").read_text().splitlines()
    links = [line for line in lines if line.startswith("--find-links")]
    assert [link.endswith("/whl/cpu/torch/") for link in links] == [True] * source.has_torch


def test_torch_with_cuda_has_a_tag_of_its_own_and_comes_from_the_index() -> None:
    options = BuildOptions.from_environment({"VERSION": "1"}, torch="cuda")
    assert options.tag(INFERENCE) == "inference_service:1-cuda"
    assert options.tag(LOGGING) == "logging_service:1"
    assert options.environment()["TORCH_WHEELS"] == ""


def test_wheels_in_a_directory_are_mounted_into_the_build(tmp_path: Path) -> None:
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    options = BuildOptions.from_environment({"TORCH_WHEELS": str(tmp_path)}, torch="cpu")
    assert options.wheels_directory == tmp_path
    assert options.environment()["TORCH_WHEELS"] != str(tmp_path)


@pytest.mark.parametrize("setting", [{"VERSION": "1 2"}, {"TORCH_WHEELS": "/nowhere/at/all"}])
def test_a_setting_that_cannot_be_used_is_refused_by_name(setting: dict[str, str]) -> None:
    with pytest.raises(BuildError, match=next(iter(setting))):
        BuildOptions.from_environment(setting, torch="cpu")


def test_an_image_is_made_anew_when_what_it_is_made_of_changes(source: BentoSource) -> None:
    options = BuildOptions.from_environment({}, torch="cpu")
    other = BuildOptions.from_environment({"BASE_IMAGE": "python:3.11-bookworm"}, torch="cpu")
    assert fingerprint(source, options) == fingerprint(source, options)
    assert fingerprint(source, options) != fingerprint(source, other)


@pytest.mark.slow
def test_the_built_inference_bento_answers_probes_and_predicts(
    built: subprocess.CompletedProcess[str], home: Path, model_store: ModelStore, tmp_path: Path
) -> None:
    settings = {"MLFLOW_TRACKING_URI": model_store.tracking_uri, "MODEL_NAME": COLOURS}
    with served(INFERENCE, home, tmp_path, settings) as server:
        server.wait_for_status(HEALTH_PATH, 200)
        server.wait_until_ready()
        assert "inference_model_loaded{" in server.get(METRICS_PATH).text
        channels, height, width = COLOUR_SHAPE
        answer = server.post("/predict", json={"data": [0.5] * (channels * height * width)})
        assert answer.status_code == 200, answer.text
        assert server.stop() == 0


@pytest.mark.slow
def test_the_built_logging_bento_answers_probes_and_stores(
    built: subprocess.CompletedProcess[str], home: Path, tmp_path: Path
) -> None:
    settings = {"DATABASE_PATH": str(tmp_path / "predictions.db")}
    with served(LOGGING, home, tmp_path, settings) as server:
        server.wait_for_status(HEALTH_PATH, 200)
        server.wait_until_ready()
        assert "logging_db_initialized{" in server.get(METRICS_PATH).text
        assert server.get("/stats").json()["total_predictions"] == 0
        assert server.stop() == 0


def test_a_bentoml_home_inside_the_repository_is_refused() -> None:
    inside = ROOT / "build" / "bentoml-home"
    finished = run_module("images.build", env={"BENTOML_HOME": str(inside)})
    assert finished.returncode == 1
    assert "BENTOML_HOME" in finished.stderr
    assert "inside the repository" in finished.stderr
    assert not (inside / "bentos" / "inference_service").exists()


@pytest.mark.parametrize("backend", ["docker", "podman", "buildah"])
def test_a_backend_that_is_not_installed_is_named_and_others_offered(
    backend: str, tmp_path: Path
) -> None:
    env = {"PATH": str(tmp_path), "BENTOML_HOME": str(tmp_path / "home")}
    finished = run_module("images.containerize", "--backend", backend, env=env)
    assert finished.returncode == 1
    assert f"{backend} is not installed" in finished.stderr
    assert "BACKEND=" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_backend_that_does_not_answer_is_told_in_its_own_words(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    docker.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BENTOML_HOME": str(tmp_path / "home")}
    finished = run_module("images.containerize", "--backend", "docker", env=env)
    assert finished.returncode == 1
    assert "docker is installed but does not work: Cannot connect" in finished.stderr
    assert "Traceback" not in finished.stderr


def pinned(text: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Return version and hashes of the packages of a requirements file.

    Every line has to name one version, and only torch's may be without a hash. BentoML adds itself
    once more; uv checks the hash of its other line.
    """
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        requirement = line.partition("#")[0].partition(";")[0]
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, separator, version = requirement.split()[0].partition("==")
        assert separator, line
        hashes = frozenset(word for word in words if word.startswith("--hash=sha256:"))
        assert hashes or name in ("torch", "bentoml"), line
        known = found.setdefault(name.lower(), (version, hashes))
        assert known[0] == version
    return found


def requirements(bento: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Return the packages that a Bento's image installs."""
    text = (bento / "env" / "python" / "requirements.txt").read_text()
    return pinned(re.sub(r"^--find-links .*$", "", text, flags=re.MULTILINE))


@contextmanager
def served(
    source: BentoSource, home: Path, directory: Path, settings: Mapping[str, str]
) -> Iterator[Server]:
    """Serve a built Bento by its tag, from a folder where no checkout can be imported."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "DRAIN_SECONDS": "0.2",
        "OUTBOX_PATH": str(directory / "outbox"),
        **settings,
    }
    command = ["env", f"--chdir={directory}", sys.executable, "-m", "bentoml", "serve"]
    command += [f"{source.name}:1.2.3-test", "--host", "127.0.0.1", "--port", str(port)]
    log = directory / "service.log"
    with Server(command, port=port, environment=environment, log_path=log) as server:
        yield server
