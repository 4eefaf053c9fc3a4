"""Heat maps: which part of a picture decided, asked of the inference service and kept.

The inference service makes a map by covering one part of the picture after the other (Zeiler and
Fergus 2014, Visualizing and Understanding Convolutional Networks). That takes a second or so, so
a map is asked for when a person wants to see it, and once.
"""

import asyncio
import sqlite3

import httpx

from bentos.edge.http import RETRY_LATER, ServiceError
from bentos.evidence import HeatMap
from bentos.logging.page.neighbour import Neighbour, decode_answer
from bentos.logging.review.store import Picture, ReviewStore

EXPLAIN_PATH = "/explain"
# The inference service makes one map at a time, 429, and first loads the model for it, 503.
_LATER = (429, 503)
_PAUSE_SECONDS = 0.5
_MOST_BYTES = 1_000_000
# The hottest cell hides this much of what is below it.
_MOST_OPACITY = 0.5


def read_map(answer: bytes) -> HeatMap:
    """Return the heat map of an answer of `/explain`; raises ValueError for any other."""
    found = decode_answer(answer, HeatMap)
    if [len(row) for row in found.drops] != [found.columns] * found.rows:
        raise ValueError("drops: expected `rows` lists of `columns` numbers")
    return found


def svg(found: HeatMap) -> bytes:
    """Return a heat map as a picture of any proportions: the hotter a cell, the redder."""
    top = max(max(row) for row in found.drops)
    cells = []
    for y, row in enumerate(found.drops):
        for x, drop in enumerate(row):
            heat = drop / top if top > 0 else 0.0
            if heat > 0.02:
                green = round(210 * (1 - heat))
                cells.append(
                    f'<rect x="{x}" y="{y}" width="1.02" height="1.02" fill="rgb(255,{green},0)"'
                    f' fill-opacity="{_MOST_OPACITY * heat:.3f}"/>'
                )
    size = f'viewBox="0 0 {found.columns} {found.rows}" preserveAspectRatio="none"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(cells)}</svg>'.encode()


class HeatMaps:
    """Asks the inference service at `url` for heat maps, one at a time, and keeps them.

    `seconds` are for all attempts together, less than a request of this service may take: its
    answer says why there is no map.
    """

    def __init__(self, store: ReviewStore, *, url: str, token: str | None, seconds: float) -> None:
        self._store = store
        self._inference = Neighbour(url, seconds=seconds, most_bytes=_MOST_BYTES)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._seconds = seconds
        self._turn = asyncio.Lock()

    async def map_of(self, prediction_id: str, edge_device_id: str) -> HeatMap:
        """Return the heat map of a picture.

        Raises ServiceError 404 or 410 where there is no picture, 503 where the inference service
        makes none now, and StoreError.
        """
        key = (prediction_id, edge_device_id)
        if (kept := await self._store.read(lambda connection: _kept(connection, key))) is not None:
            return read_map(kept)
        try:
            async with asyncio.timeout(self._seconds), self._turn:
                # Somebody else may have waited for the same.
                kept = await self._store.read(lambda connection: _kept(connection, key))
                if kept is not None:
                    return read_map(kept)
                picture = await self._store.picture(*key)
                answer = await self._explain(*picture_or_error(picture))
        except TimeoutError as error:
            raise _none(f"the inference service made none in {self._seconds:g} s") from error
        try:
            found = read_map(answer)
        except ValueError as error:
            raise _none("the inference service's answer is not a heat map") from error
        await self._store.write(lambda connection: _keep(connection, key, answer))
        return found

    async def close(self) -> None:
        """Close the connection."""
        await self._inference.close()

    async def _explain(self, media_type: str, content: bytes) -> bytes:
        """Return the body of a 200, asking again while the inference service is not able to yet."""
        headers = {**self._headers, "Content-Type": media_type}
        try:
            while True:
                status, body = await self._inference.ask(
                    "POST", EXPLAIN_PATH, content=content, headers=headers
                )
                if status not in _LATER:
                    break
                await asyncio.sleep(_PAUSE_SECONDS)
        except (httpx.HTTPError, OSError) as error:
            raise _none("no connection to the inference service of EXPLAIN_URL") from error
        if status == 200:
            return body
        remedies = {
            401: "it wants a token: set EXPLAIN_TOKEN to one that it accepts",
            404: "it makes none: set EXPLAIN=true there",
        }
        said = remedies.get(status, f"it answers {status}")
        raise _none(f"the inference service was asked, but {said}")


def picture_or_error(picture: Picture | None) -> tuple[str, bytes]:
    """Return the media type and the bytes of a picture; raises ServiceError 404 or 410."""
    if picture is None:
        raise ServiceError(404, "not_found", "of this prediction no picture was kept")
    if picture.content is None:
        raise ServiceError(410, "picture_deleted", "the picture was deleted for its age, or space")
    return picture.media_type, picture.content


def _none(why: str) -> ServiceError:
    return ServiceError(503, "no_heat_map", why, headers=RETRY_LATER)


def _kept(connection: sqlite3.Connection, key: tuple[str, str]) -> bytes | None:
    found = connection.execute(
        "SELECT answer FROM heat_maps JOIN evidence USING (sha256)"
        " WHERE prediction_id = ? AND edge_device_id = ?",
        key,
    ).fetchone()
    return None if found is None else bytes(found["answer"])


def _keep(connection: sqlite3.Connection, key: tuple[str, str], answer: bytes) -> None:
    # Not for a picture that was deleted meanwhile.
    connection.execute(
        "INSERT OR REPLACE INTO heat_maps SELECT sha256, ? FROM evidence"
        " JOIN pictures USING (sha256)"
        " WHERE prediction_id = ? AND edge_device_id = ? AND picture_kept = 1",
        (answer, *key),
    )
