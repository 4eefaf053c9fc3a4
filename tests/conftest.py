"""Fixtures that any test may use."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.models import ModelStore


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> "ModelStore":
    """The registered models of tests.support.models; nobody writes to this store."""
    from tests.support.models import make_store

    return make_store(tmp_path_factory.mktemp("models"))
