"""Fixtures of tests that start services."""

import os
import shutil
from collections.abc import Iterator

import pytest

from local.browser import Browser
from local.process import StepError


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser; without Chromium the test is skipped, but in CI."""
    try:
        browser = Browser(tmp_path_factory.mktemp("browser"))
    except StepError as error:
        if os.environ.get("CI") == "true" or shutil.which("chromium"):
            raise
        pytest.skip(str(error))
    with browser:
        yield browser
