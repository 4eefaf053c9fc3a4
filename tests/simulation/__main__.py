"""`make simulation`: schedules of faults by the hundred thousand, in virtual time.

Exit status: 0 where every promise was kept in all of them, 1 otherwise; the seeds that broke one
are printed, and `--only SEED` lets one happen again.
"""

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.schedules import Result, run

_PIECE = 500


def main() -> int:
    """Let schedules happen in several processes and print what came of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=main.__doc__)
    parser.add_argument("--schedules", type=int, default=100_000, help="how many (100000)")
    parser.add_argument("--seed", type=int, default=1, help="the first one's seed (1)")
    parser.add_argument("--only", type=int, metavar="SEED", help="one schedule, once more")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    started = time.monotonic()
    last = options.seed + options.schedules
    pieces = [
        range(first, min(first + _PIECE, last)) for first in range(options.seed, last, _PIECE)
    ]
    if options.only is not None:
        pieces = [range(options.only, options.only + 1)]
    total = Result()
    with ProcessPoolExecutor(min(options.processes, len(pieces))) as pool:
        for result in pool.map(run, pieces):
            total.schedules += result.schedules
            total.counts += result.counts
            total.broken |= result.broken
            for seed, what in result.broken.items():
                print(f"seed {seed}: {what}", flush=True)
            seconds = time.monotonic() - started
            print(f"{total.schedules} schedules, {seconds:.0f} s", end="\r", file=sys.stderr)
    print(
        f"{total.schedules} schedules in {time.monotonic() - started:.0f} s; {_words(total.counts)}"
    )
    print(f"{len(total.broken)} broke a promise")
    return 1 if total.broken else 0


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{what}: {count}" for what, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
