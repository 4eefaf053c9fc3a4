"""Applies an overlay to the current cluster and waits until it serves, or removes it again.

`python -m k8s.deploy apply --overlay local`, `python -m k8s.deploy delete --overlay local`, and
`python -m k8s.deploy backlog --overlay local` for the number of undelivered predictions.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from k8s.render import RenderError, kubectl, overlay_names, render_overlay

NAMESPACE = "mlops"
INFERENCE = "inference-service"
ROLLOUT_SECONDS = 900
DELIVERY_SECONDS = 300
# A pod delivers so many predictions well within its grace period.
ROWS_DELIVERED_AT_THE_END = 1_000
_POLL_SECONDS = 2.0
_END_SECONDS = 180
_WORKLOADS = ("Deployment", "StatefulSet")
_AUTOSCALER = "HorizontalPodAutoscaler"
# These hold data, or deleting them would delete data.
_KEPT = ("Namespace", "PersistentVolumeClaim")
_BACKLOG = "inference_log_backlog"


class DeployError(Exception):
    """A deployment that cannot begin or did not finish; the message says what to do."""


@dataclass(frozen=True)
class SecretReference:
    """A key of a Secret that a container cannot start without."""

    name: str
    key: str


def run(arguments: Sequence[str], *, feed: str | None = None, capture: bool = False) -> str:
    """Run kubectl and return its output; DeployError with its own message where it fails."""
    finished = subprocess.run(  # noqa: S603 - kubectl by its full path, no shell
        [kubectl(), *arguments], input=feed, text=True, capture_output=capture, check=False
    )
    if finished.returncode:
        message = (finished.stderr or "").strip() if capture else "its message is above"
        raise DeployError(f"kubectl {' '.join(arguments[:2])} failed: {message}")
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


def workloads(objects: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects that make pods which run for ever, the inference service last.

    Its pods turn ready only once they have reached the others and have a model.
    """
    found = [item for item in objects if item["kind"] in _WORKLOADS]
    return sorted(found, key=lambda item: item["metadata"]["name"] == INFERENCE)


def required_secrets(objects: Iterable[dict[str, Any]]) -> list[SecretReference]:
    """Return the keys of Secrets without which containers of these objects do not start."""
    found = {
        reference
        for item in workloads(objects)
        for reference in _secrets_of(item["spec"]["template"]["spec"])
    }
    return sorted(found, key=lambda reference: (reference.name, reference.key))


def _secrets_of(pod: dict[str, Any]) -> Iterator[SecretReference]:
    for container in pod["containers"]:
        for variable in container.get("env", ()):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference and not reference.get("optional", False):
                yield SecretReference(reference["name"], reference["key"])
    for volume in pod.get("volumes", ()):
        secret = volume.get("secret")
        if secret and not secret.get("optional", False):
            for item in secret["items"]:
                yield SecretReference(secret["secretName"], item["key"])


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
    """Apply an overlay and wait for the rollout of every workload."""
    rendered = render_overlay(overlay)
    objects = [item for item in yaml.safe_load_all(rendered) if item]
    require_cluster()
    # The namespace comes first: without it no Secret can be looked for, or made.
    namespaces = [item for item in objects if item["kind"] == "Namespace"]
    run(["apply", "-f", "-"], feed=yaml.safe_dump_all(namespaces))
    require_secrets(required_secrets(objects))
    run(["apply", "-f", "-"], feed=rendered)
    for item in workloads(objects):
        name = f"{item['kind'].lower()}/{item['metadata']['name']}"
        print(f"waiting for {name}", flush=True)
        if item["metadata"]["name"] == INFERENCE:
            print("its pods turn ready when MLflow answers and has the model", flush=True)
        try:
            run(["rollout", "status", name, "-n", NAMESPACE, f"--timeout={ROLLOUT_SECONDS}s"])
        except DeployError as error:
            raise DeployError(
                f"{name} is not ready; the answers of its probes are in\n"
                f"  kubectl get events -n {NAMESPACE} --sort-by=.lastTimestamp\n"
                f"  kubectl describe pod -n {NAMESPACE} "
                f"-l app.kubernetes.io/name={item['metadata']['name']}\n{error}"
            ) from None


def without_data(objects: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects that can be deleted without deleting predictions or models."""
    return [item for item in objects if item["kind"] not in _KEPT]


def serving_first(
    objects: Iterable[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what to delete first, and the rest.

    First come the inference service's pods with their autoscaler. The network policies by which
    they reach the logging service stay until they have ended.
    """
    first: list[Any] = []
    rest: list[Any] = []
    for item in objects:
        serves = item["kind"] in (*_WORKLOADS, _AUTOSCALER)
        serves = serves and item["metadata"]["name"] == INFERENCE
        (first if serves else rest).append(item)
    return first, rest


def undelivered(port: int) -> int | None:
    """Return how many predictions wait in the outboxes of all inference pods.

    `port` is the containers' probe port. None where a pod cannot be asked.
    """
    # A pod that has not started has predicted nothing.
    running = ["-l", f"app.kubernetes.io/name={INFERENCE}", "--field-selector=status.phase=Running"]
    pods = run(["get", "pods", "-n", NAMESPACE, *running, "-o", "name"], capture=True).split()
    url = f"http://127.0.0.1:{port}/metrics"
    ask = f"import urllib.request as r; print(r.urlopen('{url}').read().decode())"
    waiting = 0.0
    for pod in pods:
        try:
            metrics = run(
                ["exec", "-n", NAMESPACE, pod, "-c", INFERENCE, "--", "python", "-c", ask],
                capture=True,
            )
        except DeployError as error:
            print(f"{pod} cannot be asked: {error}", flush=True)
            return None
        lines = [line for line in metrics.splitlines() if line.startswith(_BACKLOG)]
        waiting += sum(float(line.rpartition(" ")[2]) for line in lines)
    return round(waiting)


def backlog(overlay: str) -> int:
    """Return how many predictions wait in all outboxes; DeployError where a pod does not say."""
    objects = [item for item in yaml.safe_load_all(render_overlay(overlay)) if item]
    require_cluster()
    waiting = undelivered(_probe_port(workloads(objects)[-1]))
    if waiting is None:
        raise DeployError("nothing is known of the pods above")
    return waiting


def _probe_port(inference: dict[str, Any]) -> int:
    (container,) = inference["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    return int(ports["probes"])


def wait_for_delivery(inference: dict[str, Any]) -> None:
    """Return once the inference pods have few predictions left to deliver.

    Raises DeployError where that takes too long or a pod cannot be asked.
    """
    if "volumeClaimTemplates" in inference["spec"]:
        return  # the claims stay, and what is in them is delivered by the next deployment
    port = _probe_port(inference)
    deadline = time.monotonic() + DELIVERY_SECONDS
    while True:
        waiting = undelivered(port)
        if waiting is not None and waiting <= ROWS_DELIVERED_AT_THE_END:
            return
        if waiting is None or time.monotonic() > deadline:
            left = "an unknown number of" if waiting is None else f"{waiting:,}"
            raise DeployError(
                f"{left} predictions wait in outboxes that would be deleted with their pods. See "
                f"why the logging service does not take them:\n"
                f"  kubectl logs -n {NAMESPACE} -l app.kubernetes.io/name={INFERENCE} --tail=50\n"
                "`python -m k8s.deploy delete --lose-outboxes` deletes them all the same"
            )
        print(f"{waiting:,} predictions are still to be delivered", flush=True)
        time.sleep(_POLL_SECONDS)


def delete(overlay: str, *, with_data: bool, lose_outboxes: bool) -> None:
    """Delete an overlay's objects; volumes and the namespace only where asked for.

    The inference service ends first, while the logging service still takes what it delivers.
    """
    objects = [item for item in yaml.safe_load_all(render_overlay(overlay)) if item]
    require_cluster()
    first, rest = serving_first(objects if with_data else without_data(objects))
    (inference,) = (item for item in first if item["kind"] in _WORKLOADS)
    if not lose_outboxes:
        wait_for_delivery(inference)
    print("ending the inference service; its pods deliver what they have", flush=True)
    # In the foreground: kubectl then returns when the pods have ended.
    end = ["delete", "--ignore-not-found", "--cascade=foreground", f"--timeout={_END_SECONDS}s"]
    run([*end, "-f", "-"], feed=yaml.safe_dump_all(first))
    run(["delete", "--ignore-not-found", "-f", "-"], feed=yaml.safe_dump_all(rest))
    if not with_data:
        print(f"kept: the namespace {NAMESPACE}, its Secrets and its volumes (--with-data)")


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("command", choices=("apply", "delete", "backlog"))
    parser.add_argument("--overlay", default="local", help=f"one of {', '.join(overlay_names())}")
    parser.add_argument(
        "--with-data", action="store_true", help="delete the volumes and the namespace as well"
    )
    parser.add_argument(
        "--lose-outboxes",
        action="store_true",
        help="delete predictions that have not reached the logging service",
    )
    arguments = parser.parse_args()
    try:
        if arguments.command == "apply":
            apply(arguments.overlay)
        elif arguments.command == "backlog":
            print(f"{backlog(arguments.overlay):,} predictions wait in the outboxes of all pods")
        else:
            delete(
                arguments.overlay,
                with_data=arguments.with_data,
                lose_outboxes=arguments.lose_outboxes,
            )
    except (DeployError, RenderError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
