"""Generated parts of pages that are otherwise written by hand.

Such a part stands between two comments, which name what makes it::

    <!-- generated: answer logging-service GET /health 200 -->
    <!-- end -->

`python -m docs.generate` fills it, and a test fails while it is not what its sources give.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from docs import probes, reference
from docs.probes import REGION

ROOT = Path(__file__).resolve().parents[1]


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
