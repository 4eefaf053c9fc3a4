"""Exported models whose archives a test changes, as somebody who can register a model could."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"
SHAPE = (3, 8, 8)


def export(path: Path, *, classes: int = 2) -> Path:
    """Write a small exported model of pictures [batch, 3, 8, 8]."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes)
    ).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    example = (torch.zeros(2, *SHAPE),)
    program = torch.export.export(module, example, dynamic_shapes=({0: batch},))
    torch.export.save(program, str(path))
    return path


class Archive:
    """The members of an archive, by name without its folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
            self.members = {
                name.partition("/")[2]: archive.read(name) for name in archive.namelist()
            }

    def json(self, name: str) -> Any:
        return json.loads(self.members[name])

    def put(self, name: str, content: object) -> None:
        """Replace a member, bytes or what becomes JSON."""
        encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.members[name] = encoded

    def write(self, *, compression: int = zipfile.ZIP_STORED) -> None:
        """Write the archive anew."""
        with zipfile.ZipFile(self._path, "w", compression) as archive:
            for name, content in self.members.items():
                archive.writestr(f"model/{name}", content)


def change(path: Path, edit: Callable[[Archive], None], **options: Any) -> Path:
    """Change an archive in place."""
    archive = Archive(path)
    edit(archive)
    archive.write(**options)
    return path


class Payload:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self._marker,))


def pickled(marker: Path, *, by_torch: bool = True) -> bytes:
    """Return bytes that make the marker when they are unpickled."""
    if not by_torch:
        return pickle.dumps(Payload(marker))
    buffer = io.BytesIO()
    torch.save(Payload(marker), buffer)
    return buffer.getvalue()
