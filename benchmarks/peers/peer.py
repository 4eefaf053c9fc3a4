"""What a server has to tell about itself to be measured beside the others."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.model import ServedModel

JSON = "application/json"
PORTS = 3
_DIGITS = 7


@dataclass(frozen=True)
class Site:
    """Where a server is started: its ports, a folder of its own, the model, the environments.

    `ports` are PORTS free ones: the first serves HTTP, the others are for what a server needs
    besides. `python` has this project's dependencies, `peers_python` those of the peers.
    """

    ports: Sequence[int]
    scratch: Path
    model: ServedModel
    python: Path
    peers_python: Path

    @property
    def port(self) -> int:
        """The port that is measured."""
        return self.ports[0]

    def peers_command(self, name: str) -> str:
        """Return the path of a command that the peers' environment has."""
        return str(self.peers_python.parent / name)


@dataclass(frozen=True)
class Launch:
    """A command and what its environment has beside the common settings."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One POST request, or a GET where there is no body."""

    path: str
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A predicted class and its probability."""

    class_index: int
    confidence: float


class Peer(ABC):
    """One server, started and asked in its own way."""

    key: str
    title: str
    ready_path: str
    health_path: str
    # Whether to measure probes while large images arrive and while models load, too.
    probed_further = False

    def unavailable(self) -> str | None:
        """Return why this machine cannot run it, None where it can."""
        return None

    @abstractmethod
    def launch(self, site: Site) -> Launch:
        """Return how it is started, after writing what it reads into the site's folder."""

    @abstractmethod
    def json_call(self, pixels: NDArray[np.float32]) -> Call:
        """Return the request for one input, float32 [3, 32, 32], as JSON."""

    def binary_call(self, pixels: NDArray[np.float32]) -> Call | None:  # noqa: ARG002
        """Return the request for one input as raw bytes, None where there is no such thing."""
        return None

    def image_call(self, file: bytes) -> Call | None:  # noqa: ARG002
        """Return the request for one image file, None where it takes none."""
        return None

    def read(self, body: bytes) -> Found:
        """Read a prediction; by default `class` and `confidence` of a JSON object."""
        answer = json.loads(body)
        return Found(int(answer["class"]), float(answer["confidence"]))


def flat(pixels: NDArray[np.float32]) -> list[float]:
    """Return the numbers of one input as they are written in JSON, seven digits each."""
    return [round(value, _DIGITS) for value in pixels.astype(np.float64).reshape(-1).tolist()]


def nested(pixels: NDArray[np.float32]) -> list[list[list[float]]]:
    """Return the same numbers as channels of rows."""
    rounded: list[list[list[float]]] = np.reshape(flat(pixels), pixels.shape).tolist()
    return rounded


def dump(content: object) -> bytes:
    """Return compact JSON."""
    return json.dumps(content, separators=(",", ":")).encode()


def found_in_logits(logits: Sequence[float]) -> Found:
    """Return what a row of logits says."""
    values = np.asarray(logits, dtype=np.float64)
    powers = np.exp(values - values.max())
    return found_in_probabilities((powers / powers.sum()).tolist())


def found_in_probabilities(probabilities: Sequence[float]) -> Found:
    """Return what a row of probabilities says."""
    best = int(np.argmax(probabilities))
    return Found(best, float(probabilities[best]))
