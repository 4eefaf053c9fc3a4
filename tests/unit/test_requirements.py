"""The pinned packages: what the lock promises, checked without a network."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("dev", "inference", "logging")
PYTHONS = ("3.11", "3.12", "3.13")
HASH = re.compile(r" --hash=sha256:[0-9a-f]{64}")


def lines(lock: str) -> list[str]:
    """Return the lines of a lock that name a package."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return [line for line in text.splitlines() if not line.lstrip().startswith("#") and line]


def packages(lock: str) -> dict[str, Requirement]:
    """Return the requirements of a lock, without their hashes."""
    found = [Requirement(HASH.sub("", line)) for line in lines(lock)]
    return {one.name: one for one in found}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_one_version_and_hashes_but_torch(lock: str) -> None:
    for line in lines(lock):
        assert re.match(r"[a-z0-9-]+==[\w.]+( |$)", line), line[:80]
        assert HASH.search(line) or line.startswith("torch=="), line[:80]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_same_packages_are_installed_on_every_python(python: str) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
    }
    wanted = {
        name
        for name, one in packages("dev").items()
        if one.marker is None or one.marker.evaluate(environment)
    }
    assert {"bentoml", "mlflow", "numpy", "pytest"} <= wanted
    assert "pywin32" not in wanted


def test_the_images_have_the_versions_that_the_tests_have() -> None:
    tested = packages("dev")
    for lock in ("inference", "logging"):
        shipped = packages(lock)
        shipped.pop("torch", None)
        assert {name: one.specifier for name, one in shipped.items()} == {
            name: tested[name].specifier for name in shipped
        }


def test_the_lock_knows_what_torch_needs() -> None:
    """torch is installed without its dependencies, so the lock has to bring every one of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (stated,) = project["tool"]["uv"]["dependency-metadata"]
    assert f"torch=={stated['version']}" in lines("inference")
    pytest.importorskip("torch", reason="torch is not installed for this Python")
    if not importlib.metadata.version("torch").endswith("+cpu"):
        pytest.skip("only the CPU build names no CUDA library")
    needed = [Requirement(text) for text in importlib.metadata.requires("torch") or ()]
    always = {one.name: one for one in needed if one.marker is None}
    assert {Requirement(text).name for text in stated["requires-dist"]} == always.keys()
    for name, one in always.items():
        assert next(iter(packages("dev")[name].specifier)).version in one.specifier
