"""Writes the dashboards' JSON: `python -m monitoring.grafana.generate`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from monitoring.grafana import inference, kubernetes, logging_service, overview, probes
from monitoring.grafana.dashboard import Dashboard

DIRECTORY = Path(__file__).parent / "dashboards"

BUILDERS: Mapping[str, Callable[[], Dashboard]] = {
    "overview": overview.build,
    "inference": inference.build,
    "logging": logging_service.build,
    "probes": probes.build,
    "kubernetes": kubernetes.build,
}


def documents() -> dict[str, str]:
    """Return the JSON text of every dashboard by its file's name."""
    return {
        f"{name}.json": json.dumps(build().to_json(), indent=2, ensure_ascii=False) + "\n"
        for name, build in BUILDERS.items()
    }


def main() -> None:
    """Write every dashboard, and remove files of dashboards that are no more."""
    DIRECTORY.mkdir(exist_ok=True)
    texts = documents()
    for stale in {path.name for path in DIRECTORY.glob("*.json")} - texts.keys():
        (DIRECTORY / stale).unlink()
    for name, text in texts.items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
