"""Writes the pages that are made of the code: run `python -m docs.generate`.

docs/quick-reference.md comes from the settings classes, the checks and the states' declarations,
docs/hardening.md from the tests that are marked with the number of a case. A test holds the
committed pages against them.
"""

import ast
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bentos.health.state import ServiceState
from bentos.health.values import Counter, Family
from bentos.inference.settings import InferenceSettings
from bentos.inference.state import InferenceState, inference_probes
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import LoggingState, logging_probes
from bentos.process.probe_process import ProbePlan
from bentos.process.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[1]
QUICK_REFERENCE = ROOT / "docs" / "quick-reference.md"
HARDENING = ROOT / "docs" / "hardening.md"

_INTRODUCTION = """\
# Quick reference

This page is written by `python -m docs.generate` from the settings, the checks and the states'
declarations in `bentos/`; edit those.

Settings are environment variables, read once at start. A wrong value ends the process with the
variable's name.
"""

_REASONS = """\
What `reason` may be. In `/ready` they stand in this order of weight: the first leads, `reasons`
has all.
"""


_HARDENING = """\
# What broke it, and what holds it

This page is written by `python -m docs.generate` from the tests that are marked with
`@pytest.mark.case(number)`; edit those. Each case once took a probe, a prediction or a model with
it, on running services or in the code. Its tests send or do it again and hold what is right.
"""


def pages() -> dict[Path, str]:
    """Return the content of every generated page."""
    return {QUICK_REFERENCE: quick_reference(), HARDENING: hardening()}


def quick_reference() -> str:
    """Return the page of all settings, reasons and metrics."""
    shared = set(ServiceSettings.model_fields)
    with tempfile.TemporaryDirectory() as folder:
        inference = inference_probes(InferenceSettings(), Path(folder))
        logging = logging_probes(LoggingSettings(), Path(folder))
    parts = [
        _INTRODUCTION,
        "## Settings of both services\n",
        _settings(ServiceSettings, leave_out={"probe_port"}),
        "## Settings of the inference service\n",
        _settings(InferenceSettings, leave_out=shared - {"probe_port"}),
        "## Settings of the logging service\n",
        _settings(LoggingSettings, leave_out=shared - {"probe_port"}),
        "## Reasons\n",
        _REASONS,
        _table(
            ("where", "inference service", "logging service"),
            [
                ("`/ready` 503", _ready(inference), _ready(logging)),
                ("`/health` 500", _live(inference), _live(logging)),
                (
                    "failed requests, 500 and 504; they count in the error rate",
                    _reasons(InferenceState, "errors"),
                    _reasons(LoggingState, "errors"),
                ),
                (
                    "refused requests; they do not",
                    _reasons(InferenceState, "rejected"),
                    _reasons(LoggingState, "rejected"),
                ),
            ],
        ),
        "## Metrics of both services\n",
        _metrics(_shared()),
        "## Metrics of the inference service\n",
        _metrics(_own(InferenceState)),
        "## Metrics of the logging service\n",
        _metrics(_own(LoggingState)),
    ]
    return "\n".join(parts)


def hardening() -> str:
    """Return the page of what broke the services once, and of the tests that hold it mended."""
    rows = [
        (", ".join(str(number) for number in numbers), text, f"`{test}`")
        for numbers, text, test in sorted(_cases())
    ]
    return (
        f"{_HARDENING}\n{_table(('case', 'what is sent or done, and what happens', 'test'), rows)}"
    )


def _cases() -> Iterator[tuple[list[int], str, str]]:
    """Yield the numbers, the docstring's first line and the name of each test of a case."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and _is_case(decorator.func):
                    numbers = [ast.literal_eval(argument) for argument in decorator.args]
                    text = (ast.get_docstring(node) or _sentence(node.name)).splitlines()[0]
                    name = f"{path.relative_to(ROOT)}::{node.name}"
                    yield numbers, text.replace("|", "\\|"), name


def _is_case(function: ast.expr) -> bool:
    return ast.unparse(function) == "pytest.mark.case"


def _sentence(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ").capitalize() + "."


def _settings(kind: type[ServiceSettings], *, leave_out: set[str]) -> str:
    rows = [
        (f"`{name.upper()}`", _default(field), field.description or "")
        for name, field in kind.model_fields.items()
        if name not in leave_out
    ]
    return _table(("variable", "default", "meaning"), rows)


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None or value == "" or value is PydanticUndefined or isinstance(value, SecretStr):
        return "none"
    return f"`{value}`"


def _metrics(families: Iterable[Family]) -> str:
    rows = [
        (f"`{family.name}`", family.kind, _codes(family.labels), family.help) for family in families
    ]
    return _table(("metric", "type", "labels", "meaning"), rows)


def _shared() -> list[Family]:
    """Return the metrics that carry the same name in every service."""
    return [family for family in ServiceState.families() if "service_" not in family.name]


def _own(state: type[ServiceState]) -> list[Family]:
    shared = {family.name for family in _shared()}
    return [family for family in state.families() if family.name not in shared]


def _ready(plan: ProbePlan) -> str:
    return _codes(check.reason for check in plan.readiness)


def _live(plan: ProbePlan) -> str:
    return _codes(dict.fromkeys(check.reason for check in plan.liveness))


def _reasons(state: type[ServiceState], counter: str) -> str:
    declared: Counter = getattr(state, counter)
    return (
        _codes(value for values in declared.values(state) for value in values) or "not told apart"
    )


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    for path, content in pages().items():
        path.write_text(content, encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
