"""Every object is valid by the API schemas of the Kubernetes versions we name, strictly.

The schemas come with kubernetes-validate; those of the Prometheus operator's kinds are in
schemas/, made by schemas/derive.py.
"""

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import kubernetes_validate.utils
import pytest

from tests.k8s.manifests import OVERLAYS, Object, named, objects_of, rendered

VERSIONS = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
# It reads 2 MB of JSON for every object that it judges, which is most of its time.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)
OPERATOR = "monitoring.coreos.com/v1"
_OPERATOR_SCHEMAS = json.loads(
    (Path(__file__).parent / "schemas" / "prometheus_operator.json").read_text()
)


def validate(item: Object, version: str) -> None:
    """Raise ValidationError for an object that `kubectl apply --validate=strict` would refuse."""
    if item["apiVersion"] == OPERATOR:
        schema: dict[str, Any] = _OPERATOR_SCHEMAS | {"$ref": f"#/definitions/{item['kind']}"}
        jsonschema.Draft202012Validator(schema).validate(item)
        return
    judged_by = kubernetes_validate.validate(item, version, strict=True)
    assert judged_by == version, f"no schemas of Kubernetes {version}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_valid(overlay: str, version: str) -> None:
    for item in rendered(overlay):
        validate(item, version)


def test_a_misspelt_field_is_refused() -> None:
    wrong = deepcopy(named("Deployment", "inference-service", rendered("production")))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong, VERSIONS[0])
    (monitor, *_) = objects_of("ServiceMonitor", rendered("production-monitored"))
    wrong = deepcopy(monitor)
    wrong["spec"]["endpoints"][0]["portName"] = "http"
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong, VERSIONS[0])
