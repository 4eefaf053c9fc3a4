"""The page on which people say what kept pictures show: `/review` in a browser.

It is rendered here, in the style of the status page, and can be read without a script; the keys and
buttons that label need the one at SCRIPT_PATH. A page is one picture: the next one is another
page, which the server chooses from the queue as it is then. `pictures` reads it from the store,
`heat` gets the heat maps.
"""

import hashlib
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from bentos.edge.http import Request, Response, ServiceError
from bentos.logging.page.access import is_allowed, sign_in
from bentos.logging.page.html import HtmlPage
from bentos.logging.page.words import shorten
from bentos.logging.request import parse_parameters
from bentos.logging.review.labels import Filters, Key, count_waiting, waiting_keys
from bentos.logging.review.page.heat import HeatMaps, picture_or_error, svg
from bentos.logging.review.page.pictures import (
    ShownPicture,
    count_kept,
    find_choices,
    find_key,
    shown_picture,
)
from bentos.logging.review.request import parse_queue_part
from bentos.logging.review.store import ReviewStore
from bentos.logging.state import REVIEW_PATH

PICTURE_PATH = "/review/picture"
HEAT_PATH = "/review/heat"
SCRIPT_PATH = "/review/page.js"

_FOLDER = Path(__file__).parent
# How long a browser keeps a picture, in seconds: one that is deleted should not be seen for long.
_PICTURE_SECONDS = 600
# All rows are read for the filters' values, a quarter of a second for 100,000 of them.
_CHOICES_SECONDS = 30.0
_MOST_CHARACTERS = 60
_PARAMETERS = (
    *("skip", "model_version", "edge_device_id", "verdict", "differ"),
    *("id", "device", "sign-in"),
)
# What a picture from outside may do in a browser: nothing but be seen.
_HARMLESS = (
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; sandbox"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"vary", b"accept, authorization"),
)


@dataclass(frozen=True)
class _Asked:
    """What a page is asked for; without `key` it is the picture at `skip` of the queue."""

    filters: Filters
    skip: int
    key: tuple[str, str | None] | None
    sign_in: bool


@dataclass(frozen=True)
class _Found:
    """What the store has for a page; `following` is the picture that is probably next."""

    one: ShownPicture | None
    following: Key | None
    at_skip: bool
    waiting: int
    kept: int


class ReviewPage:
    """Answers `/review` for browsers, and what its page loads.

    `require_token` raises ServiceError 401 for an Authorization header without a valid token.
    `protect_reads` says whether looking needs one too, and not only labelling.
    """

    def __init__(
        self,
        store: ReviewStore,
        *,
        require_token: Callable[[bytes | None], None],
        protect_reads: bool,
        heat: HeatMaps | None,
    ) -> None:
        self._store = store
        self._require_token = require_token
        self._protect_reads = protect_reads
        self._heat = heat
        self._choices: tuple[float, Mapping[str, Sequence[str]]] | None = None
        self._script = (_FOLDER / "review.js").read_bytes()
        self._version = hashlib.sha256(self._script).hexdigest()[:12]
        self._html = HtmlPage(
            _FOLDER,
            "review",
            *("script-src 'self'", "connect-src 'self'", "img-src 'self' data:"),
            "form-action 'self'",
        )

    async def close(self) -> None:
        """Close the connection to the inference service."""
        if self._heat is not None:
            await self._heat.close()

    async def page(self, request: Request) -> Response:
        """Return the page of one picture, of the queue's first where none is named.

        Raises ServiceError 400 for a wrong parameter, 401 with which a browser asks for the token,
        404 for a picture that was never kept, and StoreError.
        """
        signed_in = is_allowed(self._require_token, request)
        asked = _asked(request)
        if not signed_in and (self._protect_reads or asked.sign_in):
            raise sign_in("kept pictures and labels")
        found = await self._store.read(lambda connection: _find(connection, asked))
        choices = await self._known_choices()
        return self._html.response(
            self._render(found, choices, asked, signed_in=signed_in),
            (b"vary", b"accept"),
        )

    async def picture(self, request: Request) -> Response:
        """Return the bytes of a picture; raises ServiceError 400, 401, 404 or 410."""
        key = await self._key(request)
        media_type, content = picture_or_error(await self._store.picture(*key))
        return Response(
            content, 200, media_type.encode(), (*_HARMLESS, _kept_for(_PICTURE_SECONDS))
        )

    async def heat(self, request: Request) -> Response:
        """Return the heat map of a picture, as JSON for those who ask for it, else as SVG.

        Raises ServiceError 400, 401, 404, 410, and 503 where there is none now.
        """
        key = await self._key(request)
        if self._heat is None:
            raise ServiceError(
                404, "no_heat_map", "no service makes heat maps: set EXPLAIN_URL to one"
            )
        found = await self._heat.map_of(*key)
        if b"application/json" in (request.header(b"accept") or b"").lower():
            return Response(msgspec.json.encode(found))
        return Response(
            svg(found), 200, b"image/svg+xml", (*_HARMLESS, _kept_for(_PICTURE_SECONDS))
        )

    async def script(self, _request: Request) -> Response:
        """Return the script. Its address changes with it."""
        headers = ((b"x-content-type-options", b"nosniff"), _kept_for(86_400))
        return Response(self._script, 200, b"text/javascript; charset=utf-8", headers)

    async def _key(self, request: Request) -> Key:
        if self._protect_reads and not is_allowed(self._require_token, request):
            raise sign_in("kept pictures")
        asked = _asked(request).key
        if asked is None:
            raise ServiceError(400, "bad_input", "id: expected a prediction's id", field="id")
        return await self._store.read(lambda connection: find_key(connection, *asked))

    async def _known_choices(self) -> Mapping[str, Sequence[str]]:
        """Return what the filters offer, read again when it is no longer fresh."""
        if self._choices is None or time.monotonic() > self._choices[0] + _CHOICES_SECONDS:
            self._choices = time.monotonic(), await self._store.read(find_choices)
        return self._choices[1]

    def _render(
        self,
        found: _Found,
        choices: Mapping[str, Sequence[str]],
        asked: _Asked,
        *,
        signed_in: bool,
    ) -> bytes:
        filters, skip, one = asked.filters, asked.skip, found.one
        links: dict[str, str] = {}
        if one is not None:
            here = _key_query(one.key)
            links = {
                "here_link": _link(REVIEW_PATH, filters, skip, here),
                "picture_link": _link(PICTURE_PATH, more=here) if one.said["picture_kept"] else "",
                "heat_link": _link(HEAT_PATH, more=here) if self._heat else "",
            }
        following = found.following
        return self._html.render(
            title="Review",
            now=time.time(),
            script=f"{SCRIPT_PATH[1:]}?v={self._version}",
            labelled=max(0, found.kept - found.waiting),
            kept=found.kept,
            waiting=found.waiting,
            narrowed=filters != Filters(),
            pick=asked.key is not None,
            choices=choices,
            chosen=filters,
            described=_described(filters),
            one=one,
            skip=skip,
            sign_in="" if signed_in else _link(REVIEW_PATH, filters, skip, {"sign-in": ""}),
            queue_link=_link(REVIEW_PATH, filters),
            stay_link=_link(REVIEW_PATH, filters, skip),
            skip_link=_link(REVIEW_PATH, filters, skip + found.at_skip),
            back_link=_link(REVIEW_PATH, filters, max(0, skip - 1)),
            following=_link(PICTURE_PATH, more=_key_query(following)) if following else "",
            **links,
        )


def _find(connection: sqlite3.Connection, asked: _Asked) -> _Found:
    """Read everything that a page shows, in one transaction."""
    keys = waiting_keys(connection, asked.filters, skip=asked.skip, limit=2)
    key = keys[0] if keys else None
    if asked.key is not None:
        key = find_key(connection, *asked.key)
    others = [one for one in keys if one != key]
    return _Found(
        one=shown_picture(connection, key) if key else None,
        following=others[0] if others else None,
        at_skip=bool(keys) and key == keys[0],
        waiting=count_waiting(connection, asked.filters),
        kept=count_kept(connection, asked.filters),
    )


def _asked(request: Request) -> _Asked:
    """Return what a request asks for; raises ServiceError 400 for a wrong parameter."""
    given = parse_parameters(request.query, *_PARAMETERS)
    # The form sends the filters that are not chosen as empty.
    values = {name: value for name, value in given.items() if value}
    filters, skip = parse_queue_part(values)
    key = (values["id"], values.get("device")) if "id" in values else None
    return _Asked(filters, skip, key, sign_in="sign-in" in given)


def _key_query(key: Key) -> dict[str, str]:
    return {"id": key[0], "device": key[1]}


def _link(
    path: str,
    filters: Filters | None = None,
    skip: int = 0,
    more: Mapping[str, str] | None = None,
) -> str:
    """Return an address relative to the page's, so that a proxy may put all below a prefix."""
    query = {
        **(more or {}),
        **({} if filters is None else _filter_query(filters)),
        **({"skip": str(skip)} if skip else {}),
    }
    # Half of a surrogate pair has no UTF-8; such a picture is not found by it, and breaks nothing.
    return path.removeprefix("/") + ("?" + urlencode(query, errors="replace") if query else "")


def _filter_query(filters: Filters) -> dict[str, str]:
    """Return the parameters that ask for the same filters."""
    chosen = {name: value for name, value in asdict(filters).items() if value}
    return {name: "true" if value is True else value for name, value in chosen.items()}


def _described(filters: Filters) -> str:
    """Return the filters in words, empty for none."""
    said = {
        "model_version": f"version {shorten(filters.model_version, _MOST_CHARACTERS)}",
        "edge_device_id": f"device {shorten(filters.edge_device_id, _MOST_CHARACTERS)}",
        "verdict": f"verdict {filters.verdict}",
        "differ": "the challenger differs",
    }
    return ", ".join(said[name] for name in _filter_query(filters))


def _kept_for(seconds: int) -> tuple[bytes, bytes]:
    return (b"cache-control", f"private, max-age={seconds}".encode())
