"""Writes the documents' generated parts anew: run `python -m docs.generate`.

They are made of the settings, the checks, the manifests, the states' declarations, the Makefile,
the tests, and the answers of running services; docs/regions.py says how. A test holds the
committed pages against them.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from docs.probes import REGION
from docs.regions import filled
from examples.third_service.rules import rules

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "examples" / "third_service" / "rules.yml"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def pages() -> Iterator[tuple[Path, str]]:
    """Yield the path and the content of everything that is generated, as a whole or in parts."""
    yield RULES, rules()
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if REGION.search(text):
            yield path, filled(text)


if __name__ == "__main__":
    for path, content in pages():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
