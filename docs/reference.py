"""The tables that are made of the code: settings, metrics, reasons, timings, commands, tests."""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bentos.health.state import ServiceState
from bentos.health.values import Counter, Family
from bentos.inference.settings import InferenceSettings
from bentos.inference.state import InferenceState
from bentos.logging.settings import LoggingSettings
from bentos.logging.state import LoggingState
from bentos.process.settings import ServiceSettings
from docs.probes import MANIFESTS, PROBES, manifest_probe, plans
from docs.promises import read_promises

ROOT = Path(__file__).resolve().parents[1]


def settings(whose: str) -> str:
    """Return the settings of `inference`, of `logging`, or of `both` services."""
    shared = set(ServiceSettings.model_fields) - {"probe_port"}
    kind, left_out = {
        "both": (ServiceSettings, {"probe_port"}),
        "inference": (InferenceSettings, shared),
        "logging": (LoggingSettings, shared),
    }[whose]
    rows = [
        (f"`{name.upper()}`", _default(field), field.description or "")
        for name, field in kind.model_fields.items()
        if name not in left_out
    ]
    return table(("variable", "default", "meaning"), rows)


def metrics(whose: str) -> str:
    """Return the metrics of `inference`, of `logging`, or of `both` services."""
    shared = [family for family in ServiceState.families() if "service_" not in family.name]
    states = {"inference": InferenceState, "logging": LoggingState}
    families: list[Family] = shared
    if whose in states:
        names = {family.name for family in shared}
        families = [one for one in states[whose].families() if one.name not in names]
    rows = [(f"`{one.name}`", one.kind, _codes(one.labels), one.help) for one in families]
    return table(("metric", "type", "labels", "meaning"), rows)


def reasons(_: str) -> str:
    """Return every reason of both services, by where it is given."""
    ours = plans().values()
    states = (InferenceState, LoggingState)
    rows = [
        ("`/ready` 503", *(_distinct(plan.readiness) for plan in ours)),
        ("`/health` 500", *(_distinct(plan.liveness) for plan in ours)),
        (
            "failed requests, 500 and 504; they count in the error rate",
            *(_declared(state, "errors") for state in states),
        ),
        (
            "refused requests; they do not",
            *(_declared(state, "rejected") for state in states),
        ),
    ]
    return table(("where", "inference service", "logging service"), rows)


def timings(_: str) -> str:
    """Return how long things take, by the manifests and the settings' defaults."""
    rows: list[Sequence[str]] = []
    for kind in PROBES:
        cells = [f"{kind} probe"]
        for service in MANIFESTS:
            probe = manifest_probe(service, kind)
            patience = probe["periodSeconds"] * probe["failureThreshold"]
            cells.append(
                f"every {probe['periodSeconds']} s, {probe['timeoutSeconds']} s for an answer, "
                f"a consequence after {patience} s of failures"
            )
        rows.append(cells)
    for text, *names in (
        ("until a dead worker is a 500", "worker_grace_seconds"),
        ("until stuck work is a 500", "stall_seconds"),
        ("window of the error rate", "error_window_seconds"),
        ("longest request", "request_timeout_seconds"),
        ("from `shutting_down` to the closed port", "drain_seconds"),
        ("then, at most, for requests in flight", "shutdown_seconds"),
    ):
        fields = [(name, ServiceSettings.model_fields[name].default) for name in names]
        value = ", ".join(f"{default:g} s (`{name.upper()}`)" for name, default in fields)
        rows.append((text, value, value))
    return table(("what", "inference service", "logging service"), rows)


def commands(_: str) -> str:
    """Return the commands of the Makefile, as `make help` lists them."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z-]+):.*?## (.*)$", makefile, re.MULTILINE)
    rows = [
        (f"`make {name}`", text.replace("|", "\\|").replace("<", "&lt;")) for name, text in found
    ]
    return table(("command", "does"), rows)


def cases(_: str) -> str:
    """Return the tests of what broke the services once, by the numbers of their cases."""
    rows = [
        (", ".join(str(number) for number in numbers), text, f"`{test}`")
        for numbers, text, test in sorted(_cases())
    ]
    return table(("case", "what is sent or done, and what happens", "test"), rows)


def promises(_: str) -> str:
    """Return the promises by their areas, with the code and the tests of each."""
    parts: list[str] = []
    everything = read_promises()
    for area in dict.fromkeys(promise.area for promise in everything):
        rows = [
            (
                promise.text,
                "<br>".join(f"[{path}](../{path})" for path in promise.code),
                "<br>".join(f"`tests/{test.replace('::', '.py::')}`" for test in promise.tests),
            )
            for promise in everything
            if promise.area == area
        ]
        parts.append(f"### {area}\n\n{table(('promise', 'where', 'proven by'), rows)}")
    return "\n".join(parts)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None or value == "" or value is PydanticUndefined or isinstance(value, SecretStr):
        return "none"
    return f"`{value}`"


def _distinct(checks: Sequence[Any]) -> str:
    return _codes(dict.fromkeys(check.reason for check in checks))


def _declared(state: type[ServiceState], counter: str) -> str:
    declared: Counter = getattr(state, counter)
    return (
        _codes(value for values in declared.values(state) for value in values) or "not told apart"
    )


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


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
