"""Fixtures of tests that start services."""

import shutil
from collections.abc import Iterator

import pytest

from local.browser import Browser
from local.process import StepError
from tests.support.tools import missing_tool


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser; without Chromium the test is skipped, but in CI."""
    try:
        browser = Browser(tmp_path_factory.mktemp("browser"))
    except StepError as error:
        if shutil.which("chromium"):
            raise
        missing_tool(str(error))
    with browser:
        yield browser
