"""Both services in the foreground, until Ctrl-C: what `make serve` runs."""

import signal
import sys
import time
from types import FrameType

from examples.demo_model import ensure_model
from examples.stack import Stack, StackError


def main() -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit status."""
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            raise KeyboardInterrupt
        stopping = True

    # The services run in sessions of their own, so a closed terminal has to be passed on too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        ensure_model(_say)
        with Stack(log_folder=None) as stack:
            stack.start()
            stack.wait_until_ready(lambda line: _say_unless(stopping, line))
            _say(f"predict: {stack.inference.url}/predict_image")
            _say(f"stored:  {stack.logging.url}/predictions")
            _say("Ctrl-C stops both")
            while not stopping:
                stack.raise_if_ended()
                time.sleep(0.2)
            _say("stopping: requests in flight are finished and predictions handed over")
    except StackError as error:
        _say(f"error: {error}")
        return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _say_unless(stopping: bool, line: str) -> None:
    if stopping:
        raise StackError("stopped before the services were ready")
    _say(line)


if __name__ == "__main__":
    sys.exit(main())
