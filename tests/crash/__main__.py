"""`make crash-test`: power cuts by the thousand, in every moment of a recording.

Exit status: 0 where every promise was kept and the broken variants were caught, 1 otherwise, 2
where strace cannot be used.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.enumeration import Recording
from tests.crash.recorder import CannotTrace
from tests.crash.workloads import VARIANTS, WORKLOADS


def main() -> int:
    """Look at so many states of each workload, and at as many as it takes of its broken variant."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=main.__doc__)
    parser.add_argument("--states", type=int, default=10_100, help="of each workload (10100)")
    parser.add_argument("--seed", type=int, default=1, help="which of them (1)")
    options = parser.parse_args()
    good = True
    for name, workload in WORKLOADS.items():
        for variant in ("", *VARIANTS):
            started = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="crash-") as scratch:
                try:
                    recording = Recording(workload, Path(scratch), variant)
                except CannotTrace as trouble:
                    print(f"error: {trouble}", file=sys.stderr)
                    return 2
                outcome = recording.cut(
                    states=options.states, seed=options.seed, stop_at_first=bool(variant)
                )
            kept = bool(outcome.broken) == bool(variant)
            good &= kept
            print(
                f"{name}{f' {variant}' if variant else ''}: {recording.moments} moments, "
                f"{outcome.states} states, {len(outcome.broken)} broken "
                f"({'as it should be' if kept else 'WRONG'}), "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
            for line in outcome.broken[:5]:
                print(f"  {line}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
