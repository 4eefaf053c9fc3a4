"""What is in the images that `make containerize` makes, and what is not."""

import json
import re
from pathlib import Path

import pytest

from images.bentos import ROOT
from tests.images.building import BASE_IMAGE, SECRET, VERSION, BuiltImage, BuiltImages
from tests.images.engine import Engine

# Small enough to be pulled onto an edge device.
MOST_MEGABYTES = {"logging": 450, "inference": 1_250}
PORTS = {"logging": (8001, 8011), "inference": (8000, 8010)}
BUILD_TOOLS = ("cc", "gcc", "g++", "clang", "make", "cmake", "ld", "git", "gpg", "curl", "wget")
PLACES_OF_CACHES = (
    "/root/.cache",
    "/home/bentoml/.cache",
    "/var/cache/apt/archives",
    "/var/lib/apt/lists",
    "/tmp",
    "/var/tmp",
)
SECRET_FILES = r"(^|/)(\.env|\.netrc|\.pypirc|id_[a-z0-9]+|.*\.key|\.git|credentials)$"

pytestmark = pytest.mark.slow


@pytest.fixture(params=["inference", "logging"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(kind: str, images: BuiltImages) -> BuiltImage:
    found: BuiltImage = getattr(images, kind)
    return found


def inside(engine: Engine, image: BuiltImage, program: str, *arguments: str) -> str:
    """Run a program in the image as root, who may see everything."""
    options = ["--rm", "--network=none", "--user=0", f"--entrypoint={program}"]
    return engine.run("run", *options, image.name, *arguments).stdout


def test_an_image_is_small_enough(engine: Engine, image: BuiltImage, kind: str) -> None:
    bytes_on_disk = engine.inspect("image", "inspect", image.name)["Size"]
    assert image.megabytes == pytest.approx(bytes_on_disk / 1e6, rel=0.02)
    assert image.megabytes <= MOST_MEGABYTES[kind]


def test_an_image_runs_as_a_user_without_rights(engine: Engine, image: BuiltImage) -> None:
    config = engine.inspect("image", "inspect", image.name)["Config"]
    assert config["User"] == "bentoml"
    assert inside(engine, image, "id", "-u", "bentoml").strip() == "1034"


def test_an_image_says_on_which_ports_it_listens(
    engine: Engine, image: BuiltImage, kind: str
) -> None:
    exposed = engine.inspect("image", "inspect", image.name)["Config"]["ExposedPorts"]
    assert {f"{port}/tcp" for port in PORTS[kind]} <= set(exposed)


def test_an_image_tells_what_it_is(engine: Engine, image: BuiltImage, kind: str) -> None:
    labels = engine.inspect("image", "inspect", image.name)["Labels"]
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.title"].lower() == f"{kind} service"
    assert labels[f"{prefix}.version"] == VERSION
    assert labels[f"{prefix}.base.name"] == BASE_IMAGE
    assert labels[f"{prefix}.licenses"] == "Apache-2.0"
    assert "/ready" in labels[f"{prefix}.description"]


def test_an_image_has_nothing_to_build_with(engine: Engine, image: BuiltImage) -> None:
    script = f"for tool in {' '.join(BUILD_TOOLS)}; do command -v $tool; done; true"
    assert inside(engine, image, "sh", "-c", script) == ""


def test_an_image_keeps_no_package_cache(engine: Engine, image: BuiltImage) -> None:
    script = f"find {' '.join(PLACES_OF_CACHES)} -type f 2>/dev/null; true"
    assert inside(engine, image, "sh", "-c", script) == ""


def test_an_image_has_no_secret_in_its_history_environment_or_files(
    engine: Engine, image: BuiltImage
) -> None:
    described = engine.inspect("image", "inspect", image.name)
    assert SECRET not in json.dumps(described)
    script = f"grep -rlsF {SECRET} /home /etc /root /var /app/.venv/bin; true"
    assert inside(engine, image, "sh", "-c", script) == ""


def test_an_image_has_the_service_and_nothing_else_of_the_checkout(
    engine: Engine, image: BuiltImage, kind: str
) -> None:
    files = inside(engine, image, "find", "/home/bentoml", "-type", "f").splitlines()
    bento = [path.removeprefix("/home/bentoml/bento/") for path in files if "/bento/" in path]
    packages = {path.split("/")[2] for path in bento if path.startswith("src/bentos/")}
    modules = {path.name for path in (ROOT / "bentos").glob("*.py")}
    assert packages == modules | {"health", "process", "edge", kind}
    others = [path for path in bento if not path.startswith(("src/bentos/", "env/", "apis/"))]
    assert sorted(others) == ["README.md", "bento.yaml", "src/bentofile.yaml"]
    assert [path for path in files if re.search(SECRET_FILES, path)] == []


def test_the_bill_of_materials_lists_exactly_the_packages_in_the_image(
    engine: Engine, image: BuiltImage
) -> None:
    code = (
        "from importlib.metadata import distributions as d;"
        "print(*sorted({f'{x.name.lower()}=={x.version}' for x in d()}))"
    )
    installed = set(inside(engine, image, "/app/.venv/bin/python", "-c", code).split())
    # Of torch the build without CUDA is taken. What installs packages may come with them.
    installers = ("pip", "setuptools")
    present = {
        re.sub(r"[-_.]+", "-", package.replace("+cpu", ""))
        for package in installed
        if package.partition("==")[0] not in installers
    }
    document = json.loads(Path(image.bill_of_materials).read_text())
    listed = {
        re.sub(r"[-_.]+", "-", f"{item['name'].lower()}=={item['version']}")
        for item in document["components"]
        if item["type"] == "library" and item["name"] not in installers
    }
    assert present == listed
    assert document["metadata"]["component"]["name"] == image.name.partition(":")[0]
    bases = [item["name"] for item in document["components"] if item["type"] == "container"]
    assert bases == [BASE_IMAGE]


def test_the_inference_image_has_torch_without_cuda(engine: Engine, images: BuiltImages) -> None:
    code = "import torch; print(torch.__version__, torch.version.cuda)"
    version, cuda = inside(engine, images.inference, "/app/.venv/bin/python", "-c", code).split()
    assert version.endswith("+cpu")
    assert cuda == "None"
