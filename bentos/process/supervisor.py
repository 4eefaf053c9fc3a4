"""Where the workers of one `bentoml serve` keep what they share.

The supervisor makes the directory before it starts workers and tells them by an environment
variable, so a second service on the host, or the next start of the container, has its own.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

POD_DIRECTORY_VARIABLE = "BENTOS_POD_DIRECTORY"


def make_pod_directory(service: str) -> Path:
    """Make the pod's directory, in the supervisor, and remove it when the supervisor ends."""
    directory = Path(tempfile.mkdtemp(prefix=f"{service}-"))
    os.environ[POD_DIRECTORY_VARIABLE] = str(directory)
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked child leaves its parent's files alone
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    return directory


def pod_directory(service: str) -> Path:
    """Return the directory the supervisor made, or one of its own for a lone process."""
    made = os.environ.get(POD_DIRECTORY_VARIABLE)
    return Path(made) if made else make_pod_directory(service)
