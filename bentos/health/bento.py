"""The joint between the probe kit and BentoML: a service whose front door is ours."""

from collections.abc import Callable, Mapping
from typing import Any

from _bentoml_sdk import Service
from bentoml._internal.context import server_context

from bentos.health.door import Door, FrontDoor
from bentos.health.probes import HEALTH_PATH, READY_PATH


class FrontedService(Service[Any]):  # type: ignore[misc]  # BentoML ships no types
    """A BentoML service that answers its own routes before BentoML's middlewares.

    Its class, `inner`, has a class method `door` that returns the running instance's Door, or
    None before there is one. BentoML's own pages and routes stay behind it as they are.
    """

    __slots__ = ()

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return the ASGI app that a worker serves."""
        find_door: Callable[[], Door | None] = self.inner.door
        return FrontDoor(super().to_asgi(is_main), find_door)


def service_config(*, workers: int, port: int) -> Mapping[str, Any]:
    """Return BentoML's settings of a service behind the front door.

    BentoML's request metrics and access log are off: they label raw paths and count probes, so
    a scan would make series without bound. The probe paths are named for its limiter as well.
    """
    return {
        "workers": workers,
        "http": {"port": port},
        "metrics": {"enabled": False, "namespace": "bentoml_service"},
        "logging": {"access": {"enabled": False}},
        "endpoints": {"livez": HEALTH_PATH, "readyz": READY_PATH},
        "runner_probe": {"enabled": False, "timeout": 1, "period": 10},
    }


def worker_index() -> int:
    """Return the calling worker's index, 1 the first; 1 too outside `bentoml serve`."""
    return int(server_context.worker_index or 1)
