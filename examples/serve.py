"""Both services in the foreground, until Ctrl-C: what `make serve` runs."""

import sys
import time

from examples.demo_model import ensure_model
from examples.stack import Stack
from local.process import StepError, stop_on_signals


def main() -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit status."""
    stopping = stop_on_signals()
    try:
        ensure_model(_say)
        with Stack(log_folder=None) as stack:
            stack.start()
            stack.wait_until_ready(_say, interrupted=stopping)
            _say(f"status:  {stack.logging.url}")
            _say(f"predict: {stack.inference.url}/predict_image")
            _say(f"stored:  {stack.logging.url}/predictions")
            _say("Ctrl-C stops both")
            while not stopping():
                stack.raise_if_ended()
                time.sleep(0.2)
            _say("stopping: requests in flight are finished and predictions handed over")
    except StepError as error:
        _say(f"error: {error}")
        return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
