"""The promises of docs/promises.yml, checked: docs/implementation.md shows them."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROMISES = ROOT / "docs" / "promises.yml"


@dataclass(frozen=True)
class Promise:
    """A promise; `code` are paths from the root, `tests` are `folder/file::test` below tests."""

    area: str
    text: str
    code: Sequence[str]
    tests: Sequence[str]

    def faults(self) -> Iterator[str]:
        """Yield each path and each test that does not exist."""
        yield from (path for path in self.code if not (ROOT / path).exists())
        for test in self.tests:
            file, _, name = test.partition("::")
            if name not in _tests(ROOT / "tests" / f"{file}.py"):
                yield test


def read_promises() -> list[Promise]:
    """Return all promises; ValueError names the files and tests that do not exist."""
    content = yaml.safe_load(PROMISES.read_text(encoding="utf-8"))
    promises = [
        Promise(area, item["promise"], item["code"], item["tests"])
        for area, items in content.items()
        for item in items
    ]
    faults = [fault for promise in promises for fault in promise.faults()]
    if faults:
        raise ValueError(f"docs/promises.yml names what does not exist: {', '.join(faults)}")
    return promises


@cache
def _tests(path: Path) -> frozenset[str]:
    if not path.exists():
        return frozenset()
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(
        node.name for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
