"""The documents agree with the code, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

from bentos import __version__
from bentos.inference.settings import InferenceSettings
from bentos.logging.settings import LoggingSettings
from docs.generate import pages
from monitoring.catalogue import STATES

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_generated_pages_agree_with_the_code() -> None:
    for path, content in pages():
        assert path.read_text(encoding="utf-8") == content, "run: python -m docs.generate"


def test_every_setting_and_every_metric_is_on_the_quick_reference() -> None:
    page = (ROOT / "docs" / "quick-reference.md").read_text(encoding="utf-8")
    settings = {*InferenceSettings.model_fields, *LoggingSettings.model_fields}
    families = {one.name for state in STATES for one in state.families()}
    names = {name.upper() for name in settings} | families
    assert [name for name in sorted(names) if f"| `{name}` |" not in page] == []


def test_the_version_is_the_same_wherever_it_stands() -> None:
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_relative_link_leads_to_a_file(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    missing = [
        link
        for link in links
        if "://" not in link and not (document.parent / link).resolve().exists()
    ]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_make_command_named_is_a_target(document: Path) -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)", _code(document.read_text(encoding="utf-8"))))
    assert named <= MAKE_TARGETS


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_python_module_named_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    modules = re.findall(
        r"python -m ((?:examples|monitoring|loadtests|benchmarks|docs)[\w.]*)", text
    )
    missing = [
        module
        for module in modules
        if not (ROOT / (module.replace(".", "/") + ".py")).exists()
        and not (ROOT / module.replace(".", "/") / "__main__.py").exists()
    ]
    assert not missing


def test_the_makefile_explains_every_command_of_the_contract() -> None:
    assert {
        *("demo", "serve", "train", "test", "build", "containerize", "deploy"),
        *("monitoring", "loadtest", "bench", "help"),
    } <= MAKE_TARGETS


def _code(text: str) -> str:
    return "\n".join([*re.findall(r"```.*?```", text, re.DOTALL), *re.findall(r"`[^`\n]+`", text)])
