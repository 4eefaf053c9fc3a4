"""A picture with a part of it masked: what a model says of it then tells how much the part counts.

Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.inference.model.spec import ModelSpec


class MaskedPictures:
    """A picture, then the same with each cell of the grid masked, row by row.

    `values` is one input of a model that sees pictures, of `rows` there should be. A mask has the
    picture's mean colour: grey, on a picture that is dark, would be seen as something itself. Each
    picture is made when it is asked for, since a hundred large ones would fill the memory.
    """

    def __init__(self, values: NDArray[Any], spec: ModelSpec, *, rows: int) -> None:
        picture = spec.picture
        if picture is None:
            raise ValueError("the model sees no pictures")
        self._values = values
        self._first = picture.layout == "CHW"
        grid_rows, grid_columns = picture.grid
        self._cells = [
            (slice(top, bottom), slice(left, right))
            for top, bottom in pairwise(_edges(picture.height, grid_rows))
            for left, right in pairwise(_edges(picture.width, grid_columns))
        ]
        if rows != len(self):
            # The one that asked knew the model before this one.
            raise ServiceError(
                503, "model_replaced", "the model was just replaced", headers=RETRY_LATER
            )
        mean = values.mean(axis=(1, 2) if self._first else (0, 1), keepdims=True)
        self._mask = (mean if values.dtype.kind == "f" else np.rint(mean)).astype(values.dtype)

    def __len__(self) -> int:
        return 1 + len(self._cells)

    def __getitem__(self, row: int, /) -> NDArray[Any]:
        if row == 0:
            return self._values
        cell = self._cells[row - 1]
        masked = self._values.copy()
        masked[(slice(None), *cell) if self._first else cell] = self._mask
        return masked


def _edges(size: int, cells: int) -> list[int]:
    return [size * cell // cells for cell in range(cells + 1)]
