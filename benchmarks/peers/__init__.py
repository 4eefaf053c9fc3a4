"""The servers that are measured, in the order of the table."""

from benchmarks.peers.mlflow_servers import MlflowServe, MlServer
from benchmarks.peers.peer import Peer
from benchmarks.peers.python_servers import LitServe, PlainFastApi, RayServe, StockBentoMl
from benchmarks.peers.this_project import ThisProject
from benchmarks.peers.triton import Triton


def all_peers(*, device: str, workers: int) -> list[Peer]:
    """Return every server; this project with one worker, with several, and on `device`."""
    ours = [ThisProject(), ThisProject(workers=workers)] if workers > 1 else [ThisProject()]
    if device != "cpu":
        ours.append(ThisProject(device=device))
    return [
        *ours,
        Triton(),
        MlServer(),
        PlainFastApi(),
        LitServe(),
        RayServe(),
        StockBentoMl(),
        MlflowServe(),
    ]
