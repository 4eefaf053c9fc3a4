"""Who may use a page: people with a browser, who have the token as a password.

A browser sends a password by itself, also with what a page of another site makes it send. What
changes something is therefore refused where it comes from another site's page.
"""

import base64
import binascii
from collections.abc import Callable

from bentos.edge.http import Request, ServiceError

_OWN_SITES = (b"same-origin", b"none")


def as_bearer(header: bytes | None) -> bytes | None:
    """Return a header as programs send it: the password of HTTP Basic (RFC 7617) is the token."""
    scheme, _, given = (header or b"").partition(b" ")
    if scheme.lower() != b"basic":
        return header
    try:
        _, _, password = base64.b64decode(given.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return b"Bearer " + password


def is_allowed(require_token: Callable[[bytes | None], None], request: Request) -> bool:
    """Return whether a request has a token that is valid; `require_token` raises ServiceError.

    A wrong one is no error: it may be meant for a proxy before this service.
    """
    try:
        require_token(as_bearer(request.header(b"authorization")))
    except ServiceError:
        return False
    return True


def sign_in(what: str) -> ServiceError:
    """Return the 401 that makes a browser ask for a password; `what` needs it."""
    return ServiceError(
        401,
        "unauthorized",
        f"{what} need a token: give it as the password, with any name",
        headers={"WWW-Authenticate": 'Basic realm="predictions", charset="UTF-8"'},
    )


def require_own_page(request: Request) -> None:
    """Raise ServiceError 403 for a request that a page of another site makes a browser send.

    Browsers say whose page it is in `Sec-Fetch-Site` (W3C Fetch Metadata), and where that is not
    sent, as over plain HTTP, in `Origin` (RFC 6454). Programs send neither. A Bearer token is known
    to nobody but its owner, and no browser sends it by itself.
    """
    scheme, _, _ = (request.header(b"authorization") or b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return
    site, origin = request.header(b"sec-fetch-site"), request.header(b"origin")
    if site is not None:
        own = site.lower() in _OWN_SITES
    elif origin is not None:
        _, _, host = origin.lower().partition(b"://")
        own = host == (request.header(b"host") or b"").lower()
    else:
        return
    if not own:
        raise ServiceError(
            403,
            "other_site",
            "a page of another site sent this; use this service's own page, or a program",
        )
