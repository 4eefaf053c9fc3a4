"""Fixtures that any test may use."""

import pytest

from tests.support.models import ModelStore, make_store


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """The registered models of tests.support.models; nobody writes to this store."""
    return make_store(tmp_path_factory.mktemp("models"))
