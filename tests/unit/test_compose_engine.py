"""Which program runs compose.yaml: the first that works, or a message that says why none does."""

import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from compose.engine import find_engine
from local.process import StepError


def install(folder: Path, programs: Mapping[str, str]) -> None:
    """Put programs into a folder; each is a line of shell that sees its arguments."""
    for name, line in programs.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    return tmp_path


def test_docker_is_taken_before_podman(programs: Path) -> None:
    install(programs, {"docker": "exit 0", "podman": "exit 0"})
    found = find_engine(None, {})
    assert (found.name, found.backend) == ("docker compose", "docker")


def test_podman_compose_is_taken_where_podman_has_no_compose_command(programs: Path) -> None:
    install(
        programs,
        {"podman": 'test "$1" != compose', "podman-compose": "exit 0"},
    )
    found = find_engine(None, {})
    assert (found.name, found.backend) == ("podman-compose", "podman")


def test_docker_without_a_running_daemon_gives_way_to_podman(programs: Path) -> None:
    install(programs, {"docker": 'test "$1" = compose', "podman": "exit 0"})
    assert find_engine(None, {}).name == "podman compose"


def test_backend_chooses_one_where_both_work(programs: Path) -> None:
    install(programs, {"docker": "exit 0", "podman": "exit 0"})
    assert find_engine("podman", {}).name == "podman compose"


def test_an_unknown_backend_is_an_error_that_names_those_that_are_known(programs: Path) -> None:
    with pytest.raises(StepError, match="BACKEND is 'buildah'; `make up` takes docker or podman"):
        find_engine("buildah", {})


def test_the_error_says_of_each_program_why_it_does_not_work(programs: Path) -> None:
    install(
        programs,
        {
            "docker": 'test "$1" = compose || { echo "no daemon is running" >&2; exit 1; }',
            "podman": 'test "$1" != compose || { echo "unrecognized command" >&2; exit 1; }',
        },
    )
    with pytest.raises(StepError) as raised:
        find_engine(None, {})
    said = str(raised.value)
    assert "docker compose: docker is installed but does not work: no daemon is running" in said
    assert "podman compose: unrecognized command" in said
    assert "podman-compose: it is not installed" in said
    assert "Install Docker with its compose plugin, or podman" in said


def test_a_command_that_fails_is_an_error_that_names_it(programs: Path) -> None:
    install(programs, {"docker": 'test "$2" != up'})
    with pytest.raises(StepError, match="docker compose up failed"):
        find_engine(None, {}).run("up", "--detach")


def test_a_command_gets_the_values_for_the_file(programs: Path, tmp_path: Path) -> None:
    written = tmp_path / "written"
    install(programs, {"docker": f'echo "$GRAFANA_PORT" > {written}'})
    find_engine(None, {"GRAFANA_PORT": "13000"}).run("up")
    assert written.read_text() == "13000\n"


def test_an_image_that_is_not_there_has_no_fingerprint(programs: Path) -> None:
    install(programs, {"docker": 'test "$1 $2" != "image inspect"'})
    assert find_engine(None, {}).fingerprint("inference_service:0.1.0") is None
