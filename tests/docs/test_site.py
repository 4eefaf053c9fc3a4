"""The documents as a site: every link and anchor resolves, and nothing comes from another host."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.diagrams import diagrams
from local.process import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does; a warning fails it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return folder


class _Sources(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(values.get("src") or "")
        if tag == "link" and values.get("rel") != "canonical":
            self.found.append(values.get("href") or "")


def fetched(page: Path) -> Iterator[str]:
    parser = _Sources()
    parser.feed(page.read_text(encoding="utf-8"))
    yield from parser.found


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > 60
    for page in pages:
        assert [one for one in fetched(page) if re.match(r"(https?:)?//", one)] == [], page
        # The theme would fetch Mermaid for an element of this class.
        assert 'class="mermaid"' not in page.read_text(encoding="utf-8")
    styles = "".join(style.read_text(encoding="utf-8") for style in site.rglob("*.css"))
    assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", styles)


def test_the_readme_is_the_home_page_and_every_page_is_in_the_list(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "make demo" in home
    for page in (ROOT / "docs").glob("*.md"):
        assert f'href="{page.stem}/"' in home, page.name


def test_every_runbook_is_a_page(site: Path) -> None:
    for page in (ROOT / "docs" / "runbooks").glob("*.md"):
        assert (site / "runbooks" / page.stem / "index.html").is_file()


def test_a_drawn_diagram_is_shown_for_both_palettes(site: Path) -> None:
    page = (site / "architecture" / "index.html").read_text(encoding="utf-8")
    light, dark = (page.count(f".svg#only-{theme}") for theme in ("light", "dark"))
    assert light == dark
    assert light >= len(diagrams()) // 2
