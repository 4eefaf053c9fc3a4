"""The one supervisor of processes: for tests, benchmarks, the load test and the local stack."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from local.process import (
    ROOT,
    Process,
    Program,
    Server,
    Servers,
    StepError,
    clean_environment,
    find_program,
    free_port,
    is_taken,
    refusal,
    wait_until,
)

# A server that ignores SIGTERM and whose helper has left its session, as Ray's do.
STUBBORN = """
import signal, subprocess, sys
from http.server import HTTPServer, SimpleHTTPRequestHandler

signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""
# A process that starts another one with the supervisor, tells its id, and sleeps.
CALLER = """
import sys, time
from local.process import Process
print(Process([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
time.sleep(600)
"""
# A server whose readiness fails first.
UNREADY = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

asked = []

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        body = b'{"reason": "model_not_loaded", "load": {"error": "no such version"}}'
        self.send_response(503 if len(asked) < 3 else 200)
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""


def server(directory: Path, script: str) -> Server:
    """Start a server that a script is."""
    port = free_port()
    command = [sys.executable, "-c", script, str(port)]
    return Server(command, port=port, log=directory / "log", environment=clean_environment())


def program(name: str, script: str) -> Program:
    """A server that a script is."""
    port = free_port()
    return Program(
        name=name,
        command=(sys.executable, "-c", script, str(port)),
        port=port,
        ready_path="/",
        port_setting=f"--{name.lower()}-port",
    )


def test_it_is_ended_with_every_process_that_it_started(tmp_path: Path) -> None:
    with server(tmp_path, STUBBORN) as stubborn:
        stubborn.wait_until_answers("/")
        wait_until(lambda: len(stubborn.processes()) == 2, "the helper of its own session")
        processes = stubborn.processes()
        memory = stubborn.memory()
        assert memory.processes == 2
        assert 0 < memory.pss <= memory.rss
        assert stubborn.cpu_seconds().keys() == {process.pid for process in processes}
        assert stubborn.stop(seconds=0.2) == -signal.SIGKILL
        assert stubborn.processes() == []


def test_one_that_ends_in_order_has_its_own_exit_status(tmp_path: Path) -> None:
    code = "import signal, sys; signal.sigwait([signal.SIGTERM]); sys.exit(7)"
    code = f"import signal; signal.pthread_sigmask(0, [15]); print('up', flush=True); {code}"
    with Process([sys.executable, "-c", code], log=tmp_path / "log") as process:
        process.wait_until(lambda: "up" in process.log, "its first line")
        assert process.stop() == 7


def test_it_gets_sigterm_when_the_process_that_started_it_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CALLER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as caller:
        assert caller.stdout is not None
        child = psutil.Process(int(caller.stdout.readline()))
        assert child.is_running()
        caller.kill()
    wait_until(
        lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE,
        "the end of the child",
    )


def test_one_that_ends_while_waited_for_is_an_error_with_its_last_lines(tmp_path: Path) -> None:
    broken = "print('cannot find the model'); raise SystemExit(3)"
    with (
        server(tmp_path, broken) as ended,
        pytest.raises(StepError, match=r"(?s)ended with status 3.*cannot find the model"),
    ):
        ended.wait_until_answers("/")


def test_a_server_is_ready_with_the_first_200_and_says_why_not_until_then(tmp_path: Path) -> None:
    lines: list[str] = []
    with server(tmp_path, UNREADY) as unready:
        assert unready.wait_until_answers("/ready", report=lines.append) > 0
        assert refusal(unready.url) is None
    assert lines[-1].endswith("is not ready yet: model_not_loaded: no such version")


def test_waiting_ends_when_it_is_interrupted(tmp_path: Path) -> None:
    with (
        server(tmp_path, "import time; time.sleep(600)") as silent,
        pytest.raises(StepError, match="stopped before the server was ready"),
    ):
        silent.wait_until_answers("/", interrupted=lambda: True)


def test_a_clean_environment_has_none_of_the_callers_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODEL_NAME", "somebody's")
    environment = clean_environment(WORKERS="2")
    assert "MODEL_NAME" not in environment
    assert environment["WORKERS"] == "2"
    assert environment["PATH"] == os.environ["PATH"]


def test_servers_write_a_log_each_and_stop_together(tmp_path: Path) -> None:
    first, second = program("First", STUBBORN), program("Second", UNREADY)
    lines: list[str] = []
    with Servers(tmp_path / "logs", stop_seconds=0.2) as servers:
        servers.start(first, second)
        servers.wait_until_ready(report=lines.append)
        servers.raise_if_ended()
    assert f"Second is ready at {second.url}" in lines
    assert not is_taken(first.port)
    assert not is_taken(second.port)
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"first.log", "second.log"}


def test_no_server_starts_where_the_port_of_one_is_taken(tmp_path: Path) -> None:
    free = program("Free", UNREADY)
    with server(tmp_path, UNREADY) as other:
        other.wait_until_answers("/")
        taken = Program(
            name="Taken", command=(), port=other.port, ready_path="/", port_setting="TAKEN_PORT"
        )
        with Servers(tmp_path / "logs") as servers:
            with pytest.raises(StepError, match=rf"port {other.port} of Taken is.*TAKEN_PORT"):
                servers.start(free, taken)
            assert not (tmp_path / "logs" / "free.log").exists()


def test_a_missing_program_is_an_error_that_says_how_to_get_it() -> None:
    with pytest.raises(StepError, match=r"no-such-program is not installed; apt-get install it"):
        find_program(("no-such-program",), "apt-get install it")
