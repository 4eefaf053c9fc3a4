"""`python -m loadtests.kubelet`: the kubelet's verdict on a running service.

    python -m loadtests.kubelet --workload inference-service --seconds 60
    python -m loadtests.kubelet --workload logging-service --seconds 60 -- \\
        bentoml serve bentos.logging.service:LoggingService

Reads the probes from the workload's manifest and sends them to the probe port on this machine, or
to --probe-url. A command after `--` is run as the container: it is ended and restarted when a
probe says so, and restarted when it exits by itself. Prints each transition as it happens and the
report at the end. Status 0 where the container became ready and the limits held, 1 where not, 2
where it could not be tried.
"""

import argparse
import asyncio
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from loadtests.kubelet.container import Container
from loadtests.kubelet.driver import Address, Driver
from loadtests.kubelet.spec import MANIFESTS, ManifestError, read_probes
from loadtests.kubelet.verdict import Report


def describe(report: Report) -> str:
    """Return a report for people."""

    def after(seconds: float | None) -> str:
        return "never" if seconds is None else f"after {seconds:.2f} s"

    probes = ", ".join(
        f"{report.probes[kind]} {kind} ({report.failures[kind]} failed)" for kind in report.probes
    )
    return (
        f"started {after(report.started_after)}, ready {after(report.ready_after)}\n"
        f"unready {report.unready} times, restarted {report.restarts} times\n"
        f"probes: {probes}"
    )


def kept(report: Report, *, max_restarts: int, max_unready: int) -> bool:
    """Tell whether a container became ready and stayed within the limits."""
    return (
        report.ready_after is not None
        and report.restarts <= max_restarts
        and report.unready <= max_unready
    )


def main() -> int:
    """Play the kubelet for a while."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.kubelet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--manifest", type=Path, help="by default the workload's of k8s/base")
    parser.add_argument("--workload", required=True, help=f"such as {', '.join(MANIFESTS)}")
    parser.add_argument("--probe-url", help="where the container's probe port is reached")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--max-restarts", type=int, default=0)
    parser.add_argument("--max-unready", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("command", nargs="*", help="the container's command, after `--`")
    arguments = parser.parse_args()
    try:
        manifest = arguments.manifest or MANIFESTS.get(arguments.workload)
        if manifest is None:
            raise ManifestError(f"no manifest of '{arguments.workload}' is known: name --manifest")
        probes = read_probes(manifest, arguments.workload)
        address = Address.of(arguments.probe_url) if arguments.probe_url else None
        if arguments.command and shutil.which(arguments.command[0]) is None:
            raise ManifestError(f"there is no command '{arguments.command[0]}'")
    except (ManifestError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    container = None
    if arguments.command:
        grace = probes.termination_grace_period_seconds
        container = Container(arguments.command, grace_seconds=grace)
    driver = Driver(
        probes,
        address,
        container=container,
        observed=lambda transition: print(transition, file=sys.stderr, flush=True),
    )
    report = asyncio.run(driver.run(arguments.seconds))
    print(json.dumps(asdict(report), indent=1) if arguments.json else describe(report))
    return (
        0
        if kept(report, max_restarts=arguments.max_restarts, max_unready=arguments.max_unready)
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
