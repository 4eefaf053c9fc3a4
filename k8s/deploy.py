"""Applies an overlay to the current cluster and waits until it serves, or takes it away again.

`python -m k8s.deploy apply --overlay local`, `python -m k8s.deploy delete --overlay local`.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from k8s.render import RenderError, kubectl, overlay_names, render_overlay

NAMESPACE = "mlops"
ROLLOUT_SECONDS = 900
_WORKLOADS = ("Deployment", "StatefulSet")
# What holds data, or would take it along.
_KEPT = ("Namespace", "PersistentVolumeClaim")


class DeployError(Exception):
    """A deployment that cannot begin or did not finish; the message says what to do."""


@dataclass(frozen=True)
class SecretReference:
    """A key of a Secret that a container cannot start without."""

    name: str
    key: str


def run(arguments: Sequence[str], *, feed: str | None = None, capture: bool = False) -> str:
    """Run kubectl; DeployError with its own words where it fails."""
    finished = subprocess.run(  # noqa: S603 - kubectl by its full path, no shell
        [kubectl(), *arguments], input=feed, text=True, capture_output=capture, check=False
    )
    if finished.returncode:
        words = (finished.stderr or "").strip() if capture else "its message is above"
        raise DeployError(f"kubectl {' '.join(arguments[:2])} failed: {words}")
    return finished.stdout or ""


def require_cluster() -> None:
    """Raise DeployError where kubectl's current context leads to no cluster."""
    try:
        run(["version", "--request-timeout=10s", "--output=json"], capture=True)
    except DeployError as error:
        raise DeployError(
            "no Kubernetes cluster answers: `kubectl config get-contexts` lists those kubectl "
            "knows, `kind create cluster` makes a local one.\n" + str(error)
        ) from None


def required_secrets(objects: Iterable[dict[str, Any]]) -> list[SecretReference]:
    """Return the Secrets' keys without which containers of these objects do not start."""
    found = {
        SecretReference(reference["name"], reference["key"])
        for item in objects
        if item["kind"] in _WORKLOADS
        for container in item["spec"]["template"]["spec"]["containers"]
        for variable in container.get("env", ())
        if (reference := variable.get("valueFrom", {}).get("secretKeyRef"))
        and not reference.get("optional", False)
    }
    return sorted(found, key=lambda reference: (reference.name, reference.key))


def require_secrets(references: Iterable[SecretReference]) -> None:
    """Raise DeployError with the command that makes it where a Secret is missing."""
    for reference in references:
        present = run(
            ["get", "secret", reference.name, "-n", NAMESPACE, "--ignore-not-found", "-o", "name"],
            capture=True,
        )
        if not present:
            raise DeployError(
                f"the Secret '{reference.name}' is missing; make it with\n"
                f"  kubectl create secret generic {reference.name} -n {NAMESPACE} "
                f'--from-literal={reference.key}="$(openssl rand -hex 32)"'
            )


def apply(overlay: str) -> None:
    """Apply an overlay and wait for every workload's rollout."""
    rendered = render_overlay(overlay)
    objects = [item for item in yaml.safe_load_all(rendered) if item]
    require_cluster()
    # The namespace comes first: a Secret can only be looked for, or made, once it is there.
    namespaces = [item for item in objects if item["kind"] == "Namespace"]
    run(["apply", "-f", "-"], feed=yaml.safe_dump_all(namespaces))
    require_secrets(required_secrets(objects))
    run(["apply", "-f", "-"], feed=rendered)
    # A pod of the inference service turns ready only when the others are there and a model is.
    for item in sorted(objects, key=lambda item: item["kind"] == "Deployment"):
        if item["kind"] in _WORKLOADS:
            name = f"{item['kind'].lower()}/{item['metadata']['name']}"
            print(f"waiting for {name}", flush=True)
            if item["kind"] == "Deployment":
                print("its pods turn ready when MLflow answers and has the model", flush=True)
            wait = ["rollout", "status", name, "-n", NAMESPACE, f"--timeout={ROLLOUT_SECONDS}s"]
            try:
                run(wait)
            except DeployError as error:
                raise DeployError(
                    f"{name} is not ready; the probes' answers are in\n"
                    f"  kubectl get events -n {NAMESPACE} --sort-by=.lastTimestamp\n"
                    f"  kubectl describe pod -n {NAMESPACE} "
                    f"-l app.kubernetes.io/name={item['metadata']['name']}\n{error}"
                ) from None


def without_data(objects: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects that can go without taking the predictions or models along."""
    return [item for item in objects if item["kind"] not in _KEPT]


def delete(overlay: str, *, with_data: bool) -> None:
    """Delete an overlay's objects; volumes and the namespace only where asked for."""
    objects = [item for item in yaml.safe_load_all(render_overlay(overlay)) if item]
    require_cluster()
    going = objects if with_data else without_data(objects)
    run(["delete", "--ignore-not-found", "-f", "-"], feed=yaml.safe_dump_all(going))
    if not with_data:
        print(f"kept: the namespace {NAMESPACE}, its Secrets and its volumes (--with-data)")


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("command", choices=("apply", "delete"))
    parser.add_argument("--overlay", default="local", help=f"one of {', '.join(overlay_names())}")
    parser.add_argument(
        "--with-data", action="store_true", help="delete the volumes and the namespace as well"
    )
    arguments = parser.parse_args()
    try:
        if arguments.command == "apply":
            apply(arguments.overlay)
        else:
            delete(arguments.overlay, with_data=arguments.with_data)
    except (DeployError, RenderError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
