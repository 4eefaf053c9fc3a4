"""The command line of the renderer."""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from monitoring.generate import BUILDERS, DASHBOARDS
from monitoring.grafana.render.client import Period, Prometheus, QueryError
from monitoring.grafana.render.figure import draw
from monitoring.prometheus.source.rule import SCRAPE_INTERVAL_SECONDS
from monitoring.prometheus.source.rule import seconds as duration_seconds

POINTS = 240


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the dashboards that were named, all of them otherwise; return the exit status."""
    given = _arguments(arguments)
    end = time.time()
    step = max(math.ceil(given.last / POINTS), 1)
    period = Period(end - given.last, end, step)
    prometheus = Prometheus(given.prometheus)
    for name in given.dashboard or sorted(BUILDERS):
        dashboard = json.loads((DASHBOARDS / f"{name}.json").read_text(encoding="utf-8"))
        path = given.out / f"{name}.png"
        try:
            draw(dashboard, prometheus, period, path, scrape_interval=given.scrape_interval)
        except QueryError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"wrote {path}", flush=True)
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.grafana.render",
        description="Draw each dashboard from a live Prometheus, one PNG each.",
    )
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--last",
        type=duration_seconds,
        default=3600,
        metavar="DURATION",
        help="how far to look back, such as 15m or 6h (1h)",
    )
    parser.add_argument(
        "--scrape-interval",
        type=duration_seconds,
        default=SCRAPE_INTERVAL_SECONDS,
        metavar="DURATION",
        help="how often Prometheus scrapes; rates are taken over four times as long"
        f" ({SCRAPE_INTERVAL_SECONDS}s)",
    )
    parser.add_argument(
        "--dashboard",
        action="append",
        choices=sorted(BUILDERS),
        help="draw this one only; may be given several times",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
