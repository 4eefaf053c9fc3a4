"""`make faults`: every fault into real services, and what the probes and the alerts said.

Exit status: 0 where each was told within 15 s and over within 30 s of its end, 1 otherwise. The
table goes to the page named by `--page`.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.faults import FAULTS
from tests.faults.page import line, page
from tests.faults.run import run
from tests.faults.world import fault_world
from tests.support.models import make_store


def main() -> int:
    """Inject every fault, print a line for each, and store the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=main.__doc__)
    parser.add_argument("--only", default="", help="faults with one of these texts, a|b, in them")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many, the first ones")
    parser.add_argument("--page", type=Path, help="where the table goes, e.g. docs/faults.md")
    options = parser.parse_args()
    # SIGTERM ends the run in order: services are stopped and disks unmounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    wanted = options.only.split("|")
    chosen = [fault for fault in FAULTS if any(text in fault.name for text in wanted)]
    chosen = chosen[options.skip :]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as scratch:
        store = make_store(Path(scratch) / "models")
        with fault_world(Path(scratch), store) as (world, alerts):
            rows = run(world, alerts, chosen, report=lambda row: print(line(row), flush=True))
    if options.page:
        options.page.write_text(page(rows, minutes=(time.monotonic() - started) / 60))
    return 1 if any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
