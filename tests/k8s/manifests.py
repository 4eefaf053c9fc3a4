"""What an overlay renders to, read as a reader of manifests does: workloads, containers, settings.

Nothing here judges; the tests do.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from k8s.render import KUBERNETES_DIRECTORY, overlay_names, render

Object: TypeAlias = dict[str, Any]

NAMESPACE = "mlops"
# The overlays, and one with the components that an operator may add.
OPTIONAL = ("outbox-claims", "predict-tokens", "ipv6")
EXTENDED = "+".join(("production", *OPTIONAL))
OVERLAYS = [*overlay_names(), EXTENDED]
# In this one the logging service has several replicas and PostgreSQL, in the others one and SQLite.
SCALE = "scale"
SQLITE_OVERLAYS = [name for name in OVERLAYS if name != SCALE]
INFERENCE = "inference-service"
LOGGING = "logging-service"

# Secrets of which a service takes no other form.
_SECRETS = {"DATABASE_URL": "postgresql://predictions:from-a-secret@postgresql/predictions"}
_TEMPLATED = ("Deployment", "StatefulSet", "DaemonSet", "Job")
_FACTORS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(1000),
    "M": Decimal(1000) ** 2,
    "G": Decimal(1000) ** 3,
    "Ki": Decimal(1024),
    "Mi": Decimal(1024) ** 2,
    "Gi": Decimal(1024) ** 3,
}


@cache
def rendered(overlay: str) -> tuple[Object, ...]:
    """Return the objects of an overlay, `name`, or of one with added components, `name+one+two`.

    Treat them as read-only: they are shared.
    """
    overlay, *components = overlay.split("+")
    if not components:
        return _objects(KUBERNETES_DIRECTORY / "overlays" / overlay)
    with tempfile.TemporaryDirectory() as folder:
        # kustomize takes other kustomizations from anywhere, by a relative path.
        base = Path(os.path.relpath(KUBERNETES_DIRECTORY, Path(folder).resolve()))
        content = {
            "resources": [str(base / "overlays" / overlay)],
            "components": [str(base / "components" / name) for name in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return _objects(Path(folder))


def _objects(directory: Path) -> tuple[Object, ...]:
    return tuple(item for item in yaml.safe_load_all(render(directory)) if item)


@dataclass(frozen=True)
class Workload:
    """An object that makes pods, and the pods it makes."""

    kind: str
    name: str
    spec: Object
    template: Object

    @property
    def pod(self) -> Object:
        """The pods' spec."""
        return dict(self.template["spec"])

    @property
    def labels(self) -> Mapping[str, str]:
        """The pods' labels."""
        return dict(self.template["metadata"].get("labels", {}))

    @property
    def containers(self) -> list[Object]:
        """The pods' containers, init containers included."""
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    @property
    def container(self) -> Object:
        """The one container of a pod that has one; AssertionError for others."""
        (container,) = self.containers
        return container

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def objects_of(kind: str, objects: tuple[Object, ...]) -> list[Object]:
    """Return the objects of a kind."""
    return [item for item in objects if item["kind"] == kind]


def named(kind: str, name: str, objects: tuple[Object, ...]) -> Object:
    """Return the one object of a kind and name; AssertionError where there is not just one."""
    found = [item for item in objects_of(kind, objects) if item["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def workloads(objects: tuple[Object, ...]) -> list[Workload]:
    """Return everything that makes pods."""
    return list(_workloads(objects))


def _workloads(objects: tuple[Object, ...]) -> Iterator[Workload]:
    for item in objects:
        spec = item.get("spec", {})
        name = item["metadata"]["name"]
        if item["kind"] in _TEMPLATED:
            yield Workload(item["kind"], name, spec, spec["template"])
        elif item["kind"] == "CronJob":
            yield Workload("CronJob", name, spec, spec["jobTemplate"]["spec"]["template"])


def workload(name: str, objects: tuple[Object, ...]) -> Workload:
    """Return the workload of a name; AssertionError where there is not just one."""
    found = [item for item in workloads(objects) if item.name == name]
    assert len(found) == 1, f"{len(found)} workloads {name}"
    return found[0]


def environment(
    container: Object, objects: tuple[Object, ...], *, secrets: str = "from-a-secret"
) -> dict[str, str]:
    """Return the environment that the kubelet gives a container, every Secret's value `secrets`.

    Later sources win, as they do for the kubelet; AssertionError where a ConfigMap is missing.
    """
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        variables |= named("ConfigMap", source["configMapRef"]["name"], objects)["data"]
    for variable in container.get("env", ()):
        if "value" in variable:
            variables[variable["name"]] = variable["value"]
        else:
            assert "secretKeyRef" in variable["valueFrom"], variable
            variables[variable["name"]] = _SECRETS.get(variable["name"], secrets)
    return variables


def command(container: Object, variables: Mapping[str, str]) -> list[str]:
    """Return a container's command with `$(NAME)` expanded, as the kubelet expands it."""
    words = [*container.get("command", ()), *container.get("args", ())]
    for name, value in variables.items():
        words = [word.replace(f"$({name})", value) for word in words]
    assert not any("$(" in word for word in words), f"unresolved variables in {words}"
    return words


def quantity(text: str | int) -> Decimal:
    """Return a Kubernetes quantity such as `500m` or `2Gi` in its base unit."""
    digits = str(text).rstrip("mkMGKi")
    return Decimal(digits) * _FACTORS[str(text)[len(digits) :]]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector matches, an empty one all; ValueError for what it cannot read.

    Takes `matchLabels` and `matchExpressions`, or a Service's plain map under `matchLabels`.
    """
    if unknown := set(selector) - {"matchLabels", "matchExpressions"}:
        raise ValueError(f"not a label selector: {unknown}")
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", ()):
        key, values = expression["key"], expression.get("values", ())
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[expression["operator"]]
        if not holds:
            return False
    return True
