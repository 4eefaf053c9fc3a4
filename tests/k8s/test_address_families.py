"""HOST with a real service: on a node with IPv6 only, on a dual-stack one and on one with IPv4."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from loadtests.kubelet.driver import Address
from local import fetch
from tests.k8s.manifests import EXTENDED, LOGGING, rendered, workload
from tests.k8s.manifests import environment as environment_of
from tests.support.servers import Server, free_port

pytestmark = [pytest.mark.slow, pytest.mark.case(39)]


@contextmanager
def served(overlay: str, directory: Path) -> Iterator[tuple[int, int]]:
    """Serve the logging service with the HOST of a manifest; yield its port and its probe port."""
    objects = rendered(overlay)
    variables = environment_of(workload(LOGGING, objects).container, objects)
    port, probe_port = free_port(), free_port()
    environment = {
        "PATH": str(Path(sys.executable).parent),
        "HOME": str(directory),
        "BENTOML_HOME": str(directory / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "DATABASE_PATH": str(directory / "predictions.db"),
        "LOGGING_PORT": str(port),
        "PROBE_PORT": str(probe_port),
        "HOST": variables.get("HOST", ""),
    }
    (directory / "bentoml").mkdir()
    # As in the image: nothing but the settings says where it listens.
    command = [sys.executable, "-m", "bentoml", "serve", "bentos.logging.service:LoggingService"]
    log_path = directory / "service.log"
    with Server(command, port=port, environment=environment, log_path=log_path) as server:
        server.wait_until_ready()
        yield port, probe_port


def ready(address: Address) -> bool:
    """Tell whether a ready service answers at an address."""
    try:
        answer = fetch.get(f"http://{address}/ready", timeout=20)
    except httpx.ConnectError:
        return False
    assert answer.status_code == 200, answer.text
    return True


def test_a_pod_with_the_ipv6_component_is_reached_over_ipv6_and_ipv4(tmp_path: Path) -> None:
    """HOST=`::`, for an IPv6-only node: both ports answer over IPv6, and over IPv4 as well.

    A dual-stack cluster may give the kubelet either of the pod's addresses.
    """
    with served(EXTENDED, tmp_path) as ports:
        for port in ports:
            assert ready(Address("::1", port)), port
            assert ready(Address("127.0.0.1", port)), port


def test_a_pod_without_the_component_is_reached_over_ipv4(tmp_path: Path) -> None:
    """The default binds IPv4 alone: it works on nodes on which IPv6 is switched off."""
    with served("production", tmp_path) as ports:
        for port in ports:
            assert ready(Address("127.0.0.1", port)), port
            assert not ready(Address("::1", port)), port
