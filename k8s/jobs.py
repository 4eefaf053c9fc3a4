"""Runs a CronJob's job once, now, and ends with its success: a backup, a restore.

`python -m k8s.jobs logging-backup`, `python -m k8s.jobs logging-restore BACKUP=predictions-....db`.

A job that belongs to a CronJob counts as one of its successes, and is deleted when the CronJob has
had its number of newer ones. A backup made by hand is to count. The jobs of a suspended CronJob
belong to nobody: the log of a restore stays until its time to live has passed.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from k8s.deploy import NAMESPACE, DeployError, require_cluster, run
from k8s.render import RenderError

_POLL_SECONDS = 2.0
# Beyond the job's own deadline: to be scheduled, and to pull an image.
_PATIENCE_SECONDS = 600


def job_of(cron_job: Mapping[str, Any], name: str, changes: Mapping[str, str]) -> dict[str, Any]:
    """Return a CronJob's job under a name of its own, with changed variables.

    Raises DeployError where a variable is not one of its container's.
    """
    template = cron_job["spec"]["jobTemplate"]
    spec = json.loads(json.dumps(template["spec"]))
    (container,) = spec["template"]["spec"]["containers"]
    variables = {entry["name"]: entry for entry in container.get("env", ())}
    for variable, value in changes.items():
        if variable not in variables:
            raise DeployError(f"no variable '{variable}'; there are {', '.join(variables)}")
        variables[variable]["value"] = value
    metadata = {"name": name, "namespace": NAMESPACE, "labels": template["metadata"]["labels"]}
    if not cron_job["spec"].get("suspend", False):
        owner = {"apiVersion": "batch/v1", "kind": "CronJob", "controller": True}
        owner |= {key: cron_job["metadata"][key] for key in ("name", "uid")}
        metadata["ownerReferences"] = [owner]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def wait_for_end(name: str, *, seconds: float) -> bool:
    """Return whether a job succeeded, once it has ended; DeployError where it does not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = json.loads(run(["get", "job", name, "-n", NAMESPACE, "-o", "json"], capture=True))
        for condition in status.get("status", {}).get("conditions", ()):
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                return bool(condition["type"] == "Complete")
        time.sleep(_POLL_SECONDS)
    raise DeployError(
        f"job/{name} has not ended; see what it waits for with\n"
        f"  kubectl describe pod -n {NAMESPACE} -l job-name={name}"
    )


def run_job(cron_job: str, changes: Mapping[str, str]) -> bool:
    """Run a CronJob's job, print its log and return whether it succeeded."""
    require_cluster()
    found = json.loads(
        run(["get", "cronjob", cron_job, "-n", NAMESPACE, "-o", "json"], capture=True)
    )
    name = f"{cron_job}-{datetime.now(UTC):%Y%m%dt%H%M%S}"
    job = job_of(found, name, changes)
    run(["create", "-f", "-"], feed=json.dumps(job))
    deadline = job["spec"].get("activeDeadlineSeconds", 0)
    succeeded = wait_for_end(name, seconds=deadline + _PATIENCE_SECONDS)
    print(run(["logs", "-n", NAMESPACE, f"job/{name}", "--tail=-1"], capture=True), end="")
    return succeeded


def main() -> int:
    """Run one job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cron_job", help="such as logging-backup or logging-restore")
    parser.add_argument("changes", nargs="*", metavar="VARIABLE=VALUE")
    arguments = parser.parse_args()
    changes = dict(change.partition("=")[::2] for change in arguments.changes)
    try:
        return 0 if run_job(arguments.cron_job, changes) else 1
    except (DeployError, RenderError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
