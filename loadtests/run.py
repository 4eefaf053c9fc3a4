"""The load test of `make loadtest`: load, observe, judge.

Run `python -m loadtests.run --help` for its options. Exit status: 0 where every limit held, 1
where one was broken, 2 where the run itself broke and there is no verdict.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from loadtests.judge import judge
from loadtests.kubelet.spec import ManifestError
from loadtests.plan import subjects
from loadtests.recorder import LOAD_FILE, SAMPLES_FILE, read_observations
from loadtests.replay import consequences_of
from loadtests.report import (
    draw_probes,
    format_probe_table,
    probe_table,
    write_verdict,
)
from loadtests.services import BrokenRun, services_under_test
from loadtests.settings import LoadTestSettings

PASSED, BREACH, BROKEN = 0, 1, 2

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_ROOT = Path(__file__).resolve().parents[1]
_CSV_PREFIX = "locust"
_HTML = "locust.html"
# In-flight requests and the last probes are waited for, so that none goes missing.
_STOP_SECONDS = 15
# Load average a core beyond which other work shows in the latencies.
_BUSY = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a load test as the options and the environment say; return the exit status."""
    try:
        settings = LoadTestSettings.from_arguments(sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            option = "-".join(str(part) for part in item["loc"]).replace("_", "-")
            _say(f"error: --{option}: {item['msg']} (it is {item['input']!r})")
        return BROKEN
    # SIGTERM ends the run in order: services that were started here are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(BROKEN))
    try:
        _make_room(settings.reports)
        load_before = _load_average()
        with services_under_test(settings, _say):
            if settings.ui:
                return _serve_ui(settings)
            _run_locust(settings)
        return _conclude(settings, load_before)
    except (BrokenRun, ManifestError) as error:
        _say(f"error: {error}")
    except KeyboardInterrupt:
        _say("error: interrupted, there is no verdict")
    return BROKEN


def _make_room(reports: Path) -> None:
    """Remove what an earlier run left: it must never be taken for this one's."""
    reports.mkdir(parents=True, exist_ok=True)
    for name in (SAMPLES_FILE, LOAD_FILE):
        (reports / name).unlink(missing_ok=True)
    for stale in reports.glob(f"{_CSV_PREFIX}*.csv"):
        stale.unlink()


def _run_locust(settings: LoadTestSettings) -> None:
    seconds = settings.idle_seconds + settings.seconds
    load = (
        f"{settings.rate:g} requests/s, whether answered or not"
        if settings.open_loop
        else f"{settings.clients} clients, each waiting for its answer"
    )
    _say(f"{settings.shape} load for {seconds:g} s: {load}; first {settings.idle_seconds:g} s idle")
    options = ["--headless", "--only-summary", "--loglevel", "WARNING", "--exit-code-on-error", "0"]
    options += ["--csv", str(settings.reports / _CSV_PREFIX)]
    options += ["--html", str(settings.reports / _HTML), "--stop-timeout", str(_STOP_SECONDS)]
    if settings.expect_workers:
        options += ["--master", "--master-bind-port", str(settings.master_port)]
        options += ["--expect-workers", str(settings.expect_workers)]
        _say(f"waiting for {settings.expect_workers} workers on port {settings.master_port}")
    if settings.shape == "manual":
        options += ["--users", str(settings.clients + 2), "--spawn-rate", "100"]
        options += ["--run-time", f"{seconds:.0f}s"]
    status = _locust(settings, options)
    if status != 0:
        raise BrokenRun(f"Locust ended with status {status}; its lines stand above")


def _serve_ui(settings: LoadTestSettings) -> int:
    port = str(settings.ui_port)
    _say(f"Locust's page: http://127.0.0.1:{port} (Ctrl-C ends it; there is no verdict)")
    options = ["--web-host", "127.0.0.1", "--web-port", port, "--loglevel", "WARNING"]
    return _locust(settings, options)


def _locust(settings: LoadTestSettings, options: Sequence[str]) -> int:
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), *options]
    environment = {**os.environ, **settings.environment()}
    process = subprocess.Popen(command, cwd=_ROOT, env=environment)
    try:
        return process.wait()
    except BaseException:
        # Ctrl-C reached Locust as well; a SIGTERM did not.
        process.terminate()
        process.wait()
        raise


def _load_average() -> float:
    """Return the load average, and say so where other work will be part of every latency."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > _BUSY * cores:
        _say(
            f"note: other work keeps this machine busy (load average {load:.1f} on {cores} cores); "
            "the latencies will not be the services' alone"
        )
    return load


def _conclude(settings: LoadTestSettings, load_before: float) -> int:
    folder = settings.reports
    try:
        observations = read_observations(folder)
    except (OSError, ValueError, KeyError) as error:
        raise BrokenRun(f"Locust left no readable observations: {error}") from error
    consequences = {
        subject.name: consequences_of(subject, observations) for subject in subjects(settings)
    }
    judgements = judge(observations, consequences, settings)
    verdict = write_verdict(folder, observations, judgements, consequences, settings, load_before)
    chart = draw_probes(folder, observations, settings)
    _say("")
    _say(format_probe_table(probe_table(observations)))
    _say("")
    for judgement in judgements:
        _say(f"{'  ok    ' if judgement.kept else '  BREACH'} {judgement}")
    broken = [judgement for judgement in judgements if not judgement.kept]
    _say("")
    _say(f"report: {folder / _HTML}, verdict: {verdict}, chart: {chart}")
    _say(f"{len(broken)} of {len(judgements)} limits broken" if broken else "every limit held")
    return BREACH if broken else PASSED


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
