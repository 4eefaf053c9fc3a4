"""The servers that are measured, in the order of the table."""

from benchmarks.peers.mlflow_servers import MlflowServe, MlServer
from benchmarks.peers.peer import Peer
from benchmarks.peers.python_servers import LitServe, PlainFastApi, RayServe, StockBentoMl
from benchmarks.peers.this_project import ThisProject
from benchmarks.peers.triton import Triton


def all_peers(*, workers: int) -> list[Peer]:
    """Return every server; this project with one worker, with several, and on a GPU."""
    several = [ThisProject(workers=workers)] if workers > 1 else []
    return [
        ThisProject(),
        *several,
        ThisProject(device="cuda"),
        Triton(),
        MlServer(),
        PlainFastApi(),
        LitServe(),
        RayServe(),
        StockBentoMl(),
        MlflowServe(),
    ]
