"""Fixtures that any test may use."""

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.support.models import ModelStore

# A busy machine is no reason to fail, and failing inputs belong in the tests, not in a cache.
settings.register_profile("project", deadline=None, database=None)
settings.load_profile("project")


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> "ModelStore":
    """The registered models of tests.support.models; nobody writes to this store."""
    from tests.support.models import make_store

    return make_store(tmp_path_factory.mktemp("models"))
