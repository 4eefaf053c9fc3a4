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

from tests.k8s.manifests import OVERLAYS, Object, named, rendered

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
    """No field that the API does not know, no wrong type, nothing missing."""
    for item in rendered(overlay):
        validate(item, version)


CONTAINER = ("spec", "template", "spec", "containers", 0)
POLICY = "mlops-logging-service-single-writer"
WRONG: list[tuple[str, str, tuple[str | int, ...], object]] = [
    ("Deployment", "inference-service", (*CONTAINER, "readynessProbe"), {}),
    ("Deployment", "inference-service", (*CONTAINER, "livenessProbe", "periodSeconds"), "ten"),
    ("PodDisruptionBudget", "inference-service", ("spec", "unhealthyPods"), "Always"),
    ("HorizontalPodAutoscaler", "inference-service", ("spec", "maxReplicas"), None),
    ("StatefulSet", "logging-service", ("spec", "selector", "matchLabel"), {}),
    ("NetworkPolicy", "logging-service", ("spec", "ingres"), []),
    ("ValidatingAdmissionPolicy", POLICY, ("spec", "validations", 0, "expresion"), "true"),
]


def changed(item: Object, path: tuple[str | int, ...], value: object) -> Object:
    """Return a copy of an object with one value changed or added."""
    copy = deepcopy(item)
    inner: Any = copy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return copy


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("kind", "name", "path", "value"), WRONG, ids=lambda part: str(part)[:30])
def test_a_wrong_object_is_refused(
    kind: str, name: str, path: tuple[str | int, ...], value: object, version: str
) -> None:
    """The negative control: misspelt fields at several depths, a wrong type, a missing value."""
    wrong = changed(named(kind, name, rendered("production")), path, value)
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong, version)


MONITOR = {
    "apiVersion": OPERATOR,
    "kind": "ServiceMonitor",
    "metadata": {"name": "services"},
    "spec": {
        "selector": {"matchLabels": {"app.kubernetes.io/name": "inference-service"}},
        "endpoints": [{"port": "http", "path": "/metrics", "interval": "15s"}],
    },
}
RULE = {
    "apiVersion": OPERATOR,
    "kind": "PrometheusRule",
    "metadata": {"name": "alerts"},
    "spec": {"groups": [{"name": "a", "rules": [{"alert": "A", "expr": "up == 0", "for": "5m"}]}]},
}


@pytest.mark.parametrize("item", [MONITOR, RULE], ids=lambda item: item["kind"])
def test_the_operators_kinds_are_known(item: Object) -> None:
    """What is right by the operator's reference is taken."""
    validate(item, VERSIONS[0])


@pytest.mark.parametrize(
    ("item", "path", "value"),
    [
        (MONITOR, ("spec", "endpoints", 0, "interval"), "15 seconds"),
        (MONITOR, ("spec", "endpoints", 0, "portName"), "http"),
        (MONITOR, ("spec", "selector", "app"), "inference-service"),
        (RULE, ("spec", "groups", 0, "rules", 0, "for"), "five minutes"),
        (RULE, ("spec", "groups", 0, "rules", 0, "severity"), "page"),
        (RULE, ("spec", "groups", 0, "rules", 0, "labels"), {"tier": 1}),
    ],
)
def test_a_wrong_object_of_the_operator_is_refused(
    item: Object, path: tuple[str | int, ...], value: object
) -> None:
    """The negative control of the derived schemas."""
    with pytest.raises(jsonschema.ValidationError):
        validate(changed(item, path, value), VERSIONS[0])
