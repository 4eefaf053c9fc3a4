"""Writes docs/quick-reference.md from the code: settings, reasons and metrics.

Run `python -m docs.generate`; a test holds the committed page against it.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bentos.health.metrics import SHARED_FAMILIES, Family
from bentos.process.settings import ServiceSettings
from bentos.inference import metrics as inference_metrics
from bentos.inference.settings import InferenceSettings
from bentos.logging import metrics as logging_metrics
from bentos.logging.settings import LoggingSettings

PAGE = Path(__file__).with_name("quick-reference.md")

_INTRODUCTION = """\
# Quick reference

This page is written by `python -m docs.generate` from the settings classes, the reasons and the
metric catalogues in `bentos/`; edit those.

Settings are environment variables, read once at start. A wrong value ends the process with the
variable's name.
"""

_REASONS = """\
What `reason` may be. In `/ready` they stand in this order of weight: the first leads, `reasons`
has all.
"""


def page() -> str:
    """Return the whole page."""
    shared = set(ServiceSettings.model_fields)
    parts = [
        _INTRODUCTION,
        "## Settings of both services\n",
        _settings(ServiceSettings, leave_out=set()),
        "## Settings of the inference service\n",
        _settings(InferenceSettings, leave_out=shared),
        "## Settings of the logging service\n",
        _settings(LoggingSettings, leave_out=shared),
        "## Reasons\n",
        _REASONS,
        _table(
            ("where", "inference service", "logging service"),
            [
                (
                    "`/ready` 503",
                    _codes(inference_metrics.UNREADY_REASONS),
                    _codes(logging_metrics.UNREADY_REASONS),
                ),
                (
                    "failed requests, 500 and 504; they count in the error rate",
                    _codes(inference_metrics.ERROR_REASONS),
                    _codes(logging_metrics.ERROR_REASONS),
                ),
                (
                    "refused requests; they do not",
                    _codes(inference_metrics.REFUSAL_REASONS),
                    _codes(logging_metrics.REFUSAL_REASONS),
                ),
            ],
        ),
        "## Metrics of both services\n",
        _metrics(SHARED_FAMILIES),
        "## Metrics of the inference service\n",
        _metrics(_own(inference_metrics.FAMILIES)),
        "## Metrics of the logging service\n",
        _metrics(_own(logging_metrics.FAMILIES)),
    ]
    return "\n".join(parts)


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


def _own(families: Iterable[Family]) -> list[Family]:
    return [family for family in families if family not in SHARED_FAMILIES]


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.name}\n")
