"""Fixtures that any test may use, and which tests share a process."""

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.shared import once, run_folder

if TYPE_CHECKING:
    from tests.support.models import ModelStore
    from tests.support.postgres import PostgresServer

_TESTS = Path(__file__).parent
_WITHOUT_TORCH = "TESTS_WITHOUT_TORCH"
# All tests in these folders start services or build something.
_SLOW_FOLDERS = ("chaos", "compose", "crash", "images", "integration")
# The tests in each of these share containers, which take long to start: one process runs them.
_CONTAINER_FOLDERS = ("compose", "images")
# What takes minutes, the longest first: in a parallel run all other processes would wait for it.
_LONGEST = (
    *_CONTAINER_FOLDERS,
    *("docs/test_tutorial.py", "docs/test_answers.py", "k8s/test_kubelet_verdict.py"),
    *("monitoring/test_alerts_live.py", "monitoring/test_rules_mutation.py"),
)

# A busy machine is no reason to fail, and failing inputs belong in the tests, not in a cache.
settings.register_profile("project", deadline=None, database=None)
settings.load_profile("project")


class _SkippedImport(MetaPathFinder):
    """Skips a test, or a whole module of tests, that imports torch."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] == "torch":
            pytest.skip("torch is not installed for this Python", allow_module_level=True)
        return None


if os.environ.get(_WITHOUT_TORCH) and importlib.util.find_spec("torch") is None:
    sys.meta_path.insert(0, _SkippedImport())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the slow folders unread where slow tests are left out: each process imports them."""
    left_out = "not slow" in str(config.option.markexpr)
    if left_out and collection_path.parent == _TESTS and collection_path.name in _SLOW_FOLDERS:
        return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow folders, and put the longest files first, then those with other slow tests."""
    for item in items:
        if item.path.relative_to(_TESTS).parts[0] in _SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(_TESTS).as_posix()
        longest = (at for at, one in enumerate(_LONGEST) if name.startswith(one))
        return next(longest, len(_LONGEST) + (item.path not in slow))

    items.sort(key=rank)


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Gives the tests of a file to one process, where they share servers."""

    def _split_scope(self, nodeid: str) -> str:
        """Return what a test is grouped by; pytest-xdist keeps the tests of a group together."""
        file = Path(nodeid.partition("::")[0])
        return file.parent.name if file.parent.name in _CONTAINER_FOLDERS else str(file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Distribute the tests of a parallel run by file.

    The `xdist_group` marker would say the same, but pytest-xdist 3.8 loses it with pytest 9.2.
    """
    return _ByFile(config, log)


@pytest.fixture(scope="module")
def postgres() -> Iterator["PostgresServer"]:
    """A PostgreSQL server that the tests of a file share."""
    from tests.support.postgres import postgres_server

    with postgres_server() as running:
        yield running


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> "ModelStore":
    """The registered models of tests.support.models; nobody writes to this store."""
    from tests.support.models import ModelStore, make_store

    folder = run_folder(tmp_path_factory)

    def make() -> str:
        make_store(folder / "models")
        return str(folder / "models")

    return ModelStore(Path(once(folder / "model-store", make)))
