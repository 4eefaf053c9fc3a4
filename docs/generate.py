"""Writes the documents' generated parts anew: run `python -m docs.generate`.

They are made of the settings, the checks, the manifests, the states' declarations, the Makefile,
the tests, and the answers of running services. In a page that is otherwise written by hand such a
part stands between two comments, which name what makes it::

    <!-- generated: answer logging-service GET /health 200 -->
    <!-- end -->

A test holds the committed pages against them.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from docs import probes, reference
from docs.probes import REGION
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


def filled(text: str) -> str:
    """Return a page with all its generated parts written anew.

    Raises KeyError where a part names something that is not there.
    """

    def replace(match: re.Match[str]) -> str:
        content = _KINDS[match["kind"]](match["argument"] or "")
        # With empty lines, or Markdown takes what follows a comment for HTML.
        return f"{match['begin']}\n{content.strip()}\n\n{match['end']}"

    return REGION.sub(replace, text)


def _file(path: str) -> str:
    language = {".py": "python", ".yml": "yaml", ".yaml": "yaml"}[Path(path).suffix]
    return f"```{language}\n{(ROOT / path).read_text(encoding='utf-8')}```"


_KINDS: Mapping[str, Callable[[str], str]] = {
    "answer": probes.shown_answer,
    "cases": reference.cases,
    "commands": reference.commands,
    "file": _file,
    "metrics": reference.metrics,
    "other-probe-answers": probes.other_probe_answers,
    "probe": probes.probe_lines,
    "probe-times": probes.probe_times,
    "promises": reference.promises,
    "ready-tree": probes.tree,
    "reasons": reference.reasons,
    "request-answers": probes.request_answers,
    "settings": reference.settings,
    "timeline": probes.timeline,
    "timings": reference.timings,
}


if __name__ == "__main__":
    for path, content in pages():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
