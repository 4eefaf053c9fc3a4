"""`python -m loadtests.kubelet`: the kubelet's verdict on a running service.

    python -m loadtests.kubelet --manifest k8s/deployment-production.yaml \\
        --workload inference-service --base-url http://127.0.0.1:8000 --seconds 60

Prints each transition as it happens and the report at the end. Status 0 where the container
became ready and the limits held, 1 where not, 2 where it could not be tried.
"""

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

from loadtests.kubelet.driver import Address, Driver
from loadtests.kubelet.spec import ManifestError, read_probes
from loadtests.kubelet.verdict import Report

MANIFEST = Path("k8s/deployment-production.yaml")


def describe(report: Report) -> str:
    """Return a report for people."""

    def after(seconds: float | None) -> str:
        return "never" if seconds is None else f"after {seconds:.2f} s"

    probes = ", ".join(
        f"{report.probes[kind]} {kind} ({report.failures[kind]} failed)" for kind in report.probes
    )
    return (
        f"started {after(report.started_after)}, ready {after(report.ready_after)}\n"
        f"unready {report.unready} times, would have been restarted {report.restarts} times\n"
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
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--base-url", required=True, help="where the container's port is reached")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--max-restarts", type=int, default=0)
    parser.add_argument("--max-unready", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args()
    try:
        probes = read_probes(arguments.manifest, arguments.workload)
        address = Address.of(arguments.base_url)
    except (ManifestError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    driver = Driver(
        probes, address, observed=lambda transition: print(transition, file=sys.stderr, flush=True)
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
