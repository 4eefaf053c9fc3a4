"""What the pages for people have in common: templates, styles, and headers that bound a page.

A page is rendered here, asks no other host for anything and may not be shown in a frame.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from bentos import __version__
from bentos.edge.http import Response
from bentos.edge.openapi import source_hash
from bentos.logging.page import words

_BASE = Path(__file__).with_name("base.css")


class HtmlPage:
    """A template and its style, `NAME.html` and `NAME.css` of a folder, and the headers of it.

    `policy` are directives of its Content-Security-Policy beside those that every page has; what
    none of them allows is refused.
    """

    def __init__(self, folder: Path, name: str, *policy: str) -> None:
        environment = Environment(
            loader=FileSystemLoader(folder),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {
            "count": words.count,
            "percent": "{:.1%}".format,
            "short": words.shorten,
            "moment": words.moment,
            "ago": words.ago,
        }
        self._template: Template = environment.get_template(f"{name}.html")
        files = (_BASE, folder / f"{name}.css")
        self._style = "".join(file.read_text(encoding="utf-8") for file in files)
        self._headers = (
            (b"content-security-policy", _policy(self._style, policy).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        )

    def render(self, **values: object) -> bytes:
        """Return the page; whatever text is given is shown as it is."""
        page = self._template.render(style=self._style, version=__version__, **values)
        # A device may be named with half of a surrogate pair.
        return page.encode("utf-8", "replace")

    def response(self, page: bytes, *headers: tuple[bytes, bytes]) -> Response:
        """Return a rendered page as an answer, with further headers."""
        return Response(page, 200, b"text/html; charset=utf-8", (*self._headers, *headers))


def _policy(style: str, more: tuple[str, ...]) -> str:
    return "; ".join(
        (
            *("default-src 'none'", f"style-src {source_hash(style)}", *more),
            *("base-uri 'none'", "frame-ancestors 'none'"),
        )
    )
