"""Manifests are rendered by kubectl; without it these tests cannot say anything."""

import os
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REASON = "kubectl is not installed (1.21 or newer): https://kubernetes.io/docs/tasks/tools/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is in this folder, with the reason, where kubectl is missing; not in CI."""
    if shutil.which("kubectl") is not None or "CI" in os.environ:
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=REASON))
