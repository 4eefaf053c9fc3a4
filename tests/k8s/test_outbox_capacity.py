"""The outbox's volume holds what the outbox may keep."""

from decimal import Decimal

import pytest

from bentos.inference.settings import InferenceSettings
from tests.k8s.manifests import INFERENCE, OVERLAYS, environment, quantity, rendered, workload
from tests.k8s.test_settings_of_manifests import settings_from


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_full_outbox_fits_on_its_volume(overlay: str) -> None:
    """A volume over its limit has the pod evicted, and the outbox with it.

    Half of it is enough for a damaged outbox and what is recovered of it.
    """
    objects = rendered(overlay)
    item = workload(INFERENCE, objects)
    settings = settings_from(environment(item.container, objects), InferenceSettings)
    (volume,) = [entry for entry in item.pod["volumes"] if entry["name"] == "outbox"]
    limit = quantity(volume["emptyDir"]["sizeLimit"])
    assert settings.outbox_max_bytes <= limit * Decimal("0.5")
