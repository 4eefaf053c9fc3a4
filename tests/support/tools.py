"""What a test does where a tool that it needs is missing."""

import os
import shutil
import subprocess
from typing import NoReturn

import pytest


def missing_tool(words: str) -> NoReturn:
    """Skip the test, with the reason; in CI, which installs every tool, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    pytest.skip(words)


def promtool_findings(exposition: bytes) -> str:
    """Return what `promtool check metrics` says of an exposition: nothing of a good one."""
    promtool = shutil.which("promtool")
    if promtool is None:
        missing_tool("promtool is not installed: apt-get install prometheus")
    found = subprocess.run(
        [promtool, "check", "metrics"], input=exposition, capture_output=True, check=False
    )
    return found.stdout.decode() + found.stderr.decode()
