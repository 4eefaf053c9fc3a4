"""Run the tests that failed in the last run once more, one by one, and name those that pass now."""

import json
import subprocess
import sys
from pathlib import Path

_LIMIT = 5
_LAST_FAILED = Path(__file__).parents[1] / ".pytest_cache" / "v" / "cache" / "lastfailed"


def main(options: list[str]) -> int:
    """Run them with pytest's `options`; return the exit status, 1 where more failed than a few."""
    failed = sorted(json.loads(_LAST_FAILED.read_text())) if _LAST_FAILED.exists() else []
    if not 0 < len(failed) <= _LIMIT:
        print(f"{len(failed)} tests failed; at most {_LIMIT} are run once more", file=sys.stderr)
        return 1
    # Without -m and -k: what is named here was chosen already.
    again = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *failed]
    status = subprocess.run(again, check=False).returncode
    if status == 0:
        print("passed only when run once more, alone:", *failed, sep="\n  ")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
