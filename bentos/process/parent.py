"""The tie of a process to its parent.

A module of its own, since the model process needs it and no server.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals, parent: int) -> None:
    """Have the kernel send this process a signal when its parent ends, however it ends.

    Whoever is killed would leave its children behind, which keep a port or much memory. The kernel
    does it on Linux only: prctl(2), PR_SET_PDEATHSIG.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)  # it ended before the kernel was asked
