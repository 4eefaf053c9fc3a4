"""How long and how often everything is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Times in seconds. Every round starts every server anew, one after the other."""

    rounds: int
    clients: tuple[int, ...]
    warm_up: float
    rate: float
    idle_probes: float
    loaded_probes: float
    saturating_clients: int = 16


FULL = Plan(rounds=3, clients=(1, 8, 16, 64), warm_up=3, rate=6, idle_probes=5, loaded_probes=20)
QUICK = Plan(rounds=1, clients=(1, 8, 16, 64), warm_up=1, rate=2, idle_probes=2, loaded_probes=4)
