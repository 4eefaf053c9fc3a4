"""docs/tutorial.md from its first command to its last, then the commands of all other pages."""

import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress

import pytest

from docs.generate import DOCUMENTS
from local.process import ROOT, Process, StepError, wait_until
from tests.docs.console import Machine, Step, disagreement, machine, steps
from tests.support.tools import missing_tool

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
# Commands that stay in the foreground of a terminal of their own, and what they say when all runs.
FOREGROUND = {
    "make serve": "Ctrl-C stops both",
    "make monitoring": "Ctrl-C stops all",
    "mlflow server": "Application startup complete",
}
# make ends with 2, with 130 or with the signal, by its version.
ENDED = (0, 2, 130, -signal.SIGINT)
# Two minutes of patience before the alert, and 15 s between scrapes, are too long for a test.
SHORTENED = {
    "monitoring/prometheus/rules/inference-mlflow.yml": (r"for: 2m", "for: 2s"),
    "monitoring/prometheus/prometheus.yml": (
        r"(scrape_interval|scrape_timeout|evaluation_interval): \w+",
        r"\1: 1s",
    ),
}
# Pages whose commands have a test of their own.
ELSEWHERE = {
    "operations.md": "tests/k8s/test_operations_commands.py",
    "third-service.md": "tests/docs/test_third_service.py",
    "tutorial.md": "tests/docs/test_tutorial.py",
}
# What is not run here, by how it begins, and why.
NOT_RUN: Mapping[str, str] = {
    ".venv/bin/pip": "installs a package",
    "LOADTEST_": "a load test; tests/loadtests",
    "amtool": "is in no package of its own; tests/monitoring/test_alertmanager.py checks the file",
    "apt-get": "installs packages of the system",
    "curl -s http://127.0.0.1:9090/api/v1/rules | grep": "finds nothing while all is well",
    "curl -s -F image=@picture.png": "a picture of the reader's",
    "createdb": "needs PostgreSQL; tests/integration/test_postgres_service.py",
    "dmesg": "reads the log of the kernel",
    "duckdb": "is not installed everywhere",
    "docker compose": "the stack in containers; tests/compose",
    "env | grep -c": "prints 0, and so fails, where there is no token",
    "export DATABASE_URL": "a database of the reader's",
    "fuser": "is not installed everywhere",
    "iostat": "is not installed everywhere",
    "kubectl": "needs a cluster; tests/k8s/test_operations_commands.py runs those of operations.md",
    "locust": "a load test on several machines",
    "make bench": "takes forty minutes; tests/unit/test_benchmarks.py",
    "make build": "takes minutes; tests/integration/test_bentos.py",
    "make compare": "needs two versions and labelled pictures; tests/unit/test_compare.py",
    "make containerize": "takes minutes; tests/images",
    "make demo": "the tutorial",
    "make deploy": "needs a cluster; tests/k8s/test_deploy.py",
    "make lint": ".ci/run",
    "make loadtest": "a load test; tests/loadtests",
    "make monitoring": "the tutorial",
    "make serve": "the tutorial",
    "make setup": ".ci/run",
    "make test": ".ci/run",
    "make up": "the stack in containers; tests/compose",
    "pip install": "installs a package",
    "podman": "needs an image; tests/images",
    "ps -eo pid,ppid,rss": "shows the processes of a container",
    "python -m benchmarks": "takes minutes; tests/unit/test_benchmarks.py",
    "python -m bentos.logging.store": "tests/unit/test_logging_store_commands.py",
    "python -m loadtests.run --shape": "a load test; tests/loadtests",
    "python -m monitoring.generate": "writes the files that tests/monitoring compares",
    "python -m monitoring.grafana.render": "the tutorial",
    "python -m monitoring.stack": "stays in the foreground; tests/monitoring/test_stack.py",
    "ss -": "is not installed everywhere",
    "watch": "does not end",
    "MLFLOW_TRACKING_URI=http": "needs an MLflow server; tests/compose",
    'curl -si "$MLFLOW_TRACKING_URI': "needs an MLflow server",
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    try:
        with machine(tmp_path_factory.mktemp("reader")) as made:
            for name, (pattern, replacement) in SHORTENED.items():
                path = made.directory / name
                text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"))
                assert count, f"{name} has no {pattern}"
                path.write_text(text, encoding="utf-8")
            yield made
    except OSError as error:
        missing_tool(str(error))


@pytest.fixture(scope="module")
def terminals() -> Iterator[dict[str, Process]]:
    """The foreground commands that run; at the end Ctrl-C has to end them, the last one first.

    What the tutorial has left running serves the commands of the other pages.
    """
    running: dict[str, Process] = {}
    try:
        yield running
        for process in reversed([*running.values()]):
            end(process)
    finally:
        for process in running.values():
            process.kill()


def end(process: Process) -> None:
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(seconds=60) in ENDED, process.tail()


def sign_of(command: str) -> str:
    """Return what a command says when all of it runs; empty for one that ends by itself."""
    return next((sign for part, sign in FOREGROUND.items() if part in command), "")


def start(reader: Machine, command: str) -> Process:
    process, sign = reader.start(command), sign_of(command)
    process.wait_until(lambda: sign in process.log, sign, seconds=300)
    return process


@pytest.mark.slow
def test_every_step_of_the_tutorial_works_in_its_order(
    reader: Machine, terminals: dict[str, Process]
) -> None:
    for step in steps(TUTORIAL):
        if step.not_run:
            continue
        if step.ends:
            end(terminals.pop(step.command))
            continue
        if sign_of(step.command):
            terminals[step.command] = start(reader, step.command)
            printed = terminals[step.command].log
        else:
            printed = reader.run(step.command)
        sys.stdout.write(f"$ {step.command}\n{printed}\n")
        missing = disagreement(step.output, printed)
        assert not missing, f"$ {step.command}\ndid not print {missing}\nbut\n{printed}"


@pytest.mark.slow
def test_every_command_of_every_other_page_works(
    reader: Machine, terminals: dict[str, Process]
) -> None:
    failed: dict[str, str] = {}
    settings = 'PATH="$PWD/.venv/bin:$PATH" MLFLOW_TRACKING_URI=sqlite:///.data/mlflow.db'
    for command in ("make serve", "make monitoring"):
        if not any(command in one for one in terminals):
            terminals[command] = start(reader, command)

    def works(command: str) -> bool:
        try:
            reader.run(f"export {settings}; {command}")
        except AssertionError as error:
            failed[command] = str(error)
            return False
        failed.pop(command, None)
        return True

    for command in dict.fromkeys(step.command for step in other_steps() if not why(step)):
        works(command)
    # Prometheus and Alertmanager need a moment until they have something to show.
    with suppress(StepError):
        wait_until(lambda: all(works(one) for one in [*failed]), "all work", seconds=45)
    assert not failed, "\n".join(failed.values())


def other_steps() -> list[Step]:
    pages = [path for path in (*DOCUMENTS, ROOT / "CONTRIBUTING.md") if path.name not in ELSEWHERE]
    return [step for path in pages for step in steps(path.read_text(encoding="utf-8"))]


def why(step: Step) -> str:
    """Return why a command is not run, empty where it is."""
    rules = (text for start, text in NOT_RUN.items() if step.command.startswith(start))
    return step.not_run or next(rules, "")


def test_no_rule_about_commands_is_idle() -> None:
    commands = [step.command for step in other_steps()]
    idle = [rule for rule in NOT_RUN if not any(one.startswith(rule) for one in commands)]
    assert not idle
    assert sum(not why(step) for step in other_steps()) > 60
    for test in ELSEWHERE.values():
        assert (ROOT / test).is_file()


def test_the_tutorial_breaks_and_mends_what_it_says() -> None:
    commands = [step.command for step in steps(TUTORIAL)]
    assert {"make demo", "make train DATA=.data/mine", "make monitoring"} <= set(commands)
    (broken,) = [step.command for step in steps(TUTORIAL) if step.ends]
    assert commands.count(broken) == 3


def test_a_step_that_prints_something_else_is_noticed() -> None:
    assert disagreement(('{"status":"ready","errors":1}',), '{"status":"ready"}')
    assert not disagreement(('{"status":"ready","errors":1}',), 'x\n{"status":"x","errors":0}')
    assert disagreement(("5 images", "done"), "done\n7 images")
    assert not disagreement(("5 images", "...", "done"), "7 images\nmore\ndone")
