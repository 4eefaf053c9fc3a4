"""A Bento as small as one can be on the kit: what every service has, and no part of its own."""

from pathlib import Path
from typing import Any, ClassVar

import bentoml

from bentos.edge.bento import FrontedInstance, FrontedService, service_config
from bentos.edge.openapi import ApiPage
from bentos.kit import Kit
from bentos.process.probe_process import ProbePlan
from bentos.process.settings import ServiceSettings, load_settings
from tests.support.small_state import SERVICE_NAME, small_probes

settings = load_settings(ServiceSettings)


class SmallApp:
    """One worker's parts."""

    def __init__(self, plan: ProbePlan, worker: int) -> None:
        self.kit = Kit(plan, settings, worker=worker)

    def start(self) -> None:
        """Start, and be warm."""
        self.kit.start()
        self.kit.state.warm.set(1)

    async def stop(self) -> None:
        """End."""
        await self.kit.stop()


class Small(FrontedInstance):
    """Answers the probes."""

    service = SERVICE_NAME
    api = ApiPage("Small service", "1.0.0", "As small as one can be.", [])
    app: ClassVar[SmallApp]

    @classmethod
    def make_plan(cls, directory: Path) -> ProbePlan:
        """Return what the probes are made of."""
        return small_probes(settings, directory)

    @classmethod
    def make_app(cls, plan: ProbePlan, worker: int) -> Any:
        """Return the app of a worker."""
        return SmallApp(plan, worker)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]  # BentoML ships no types
    @staticmethod
    def prepare() -> None:
        """Make what the workers share."""
        Small.supervise()

    @bentoml.api  # type: ignore[untyped-decorator]  # BentoML ships no types
    async def echo(self, text: str) -> str:
        """Be the route that BentoML asks for; the front door hands nothing on to it."""
        return text


SmallService = FrontedService(
    name="small_service", config=service_config(settings, port=3000), inner=Small
)
