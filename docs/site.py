"""What MkDocs needs to make a site of pages that are written for the repository.

Hooks of mkdocs.yml: the README becomes the home page, links to files beside the documents lead to
the repository, diagrams are shown as they were drawn by `python -m docs.diagrams`, and the list
of pages needs no second place where it is kept.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.diagrams import BLOCK, drawing

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/truthful-serving/truthful-serving/blob/main"
# The order of the pages; those that stand nowhere here come last, by name.
SECTIONS = {
    "Begin": ("index", "tutorial", "third-service", "compare"),
    "Use": (
        *("health-endpoints", "quick-reference", "review", "status-page", "v2", "operations"),
        *("monitoring", "dashboards", "compose", "scaling", "load-testing"),
    ),
    "Understand": (
        *("architecture", "delivery", "images", "implementation", "hardening", "benchmarks"),
        *("chaos", "faults", "fuzzing"),
    ),
}
_LINK = re.compile(r"\]\((?!https?:|#)(?P<target>[^)#\s]*)(?P<anchor>#[^)]*)?\)")
_CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the list of pages, so that a new page appears without being named anywhere."""
    names = {path.stem for path in Path(config.docs_dir).glob("*.md")} | {"index"}
    listed = {name for section in SECTIONS.values() for name in section}
    sections: dict[str, list[str]] = {
        title: [f"{name}.md" for name in section if name in names]
        for title, section in SECTIONS.items()
    }
    sections["More"] = [f"{name}.md" for name in sorted(names - listed)]
    config.nav = [{title: pages} for title, pages in sections.items() if pages]
    config.nav.append({"Runbooks": "runbooks/index.md"})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the home page, made of the README, and the list of the runbooks."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=_moved(readme)))
    lines = ["# Runbooks", "", "One page for each alert: what it means, what to do first.", ""]
    for path in sorted((ROOT / "docs" / "runbooks").glob("*.md")):
        severity = path.read_text(encoding="utf-8").splitlines()[2].rstrip(".")
        lines.append(f"- [{path.stem}]({path.name}): {severity[:1].lower()}{severity[1:]}")
    files.append(File.generated(config, "runbooks/index.md", content="\n".join(lines)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead links into the site or the repository, and put drawings in the place of diagrams."""
    folder = posixpath.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        inside = posixpath.normpath(posixpath.join(folder, target))
        if inside.startswith("../"):
            return f"]({REPOSITORY}/{inside.removeprefix('../')}{anchor})"
        if (ROOT / "docs" / inside).is_dir():
            return f"]({target}/index.md{anchor})"
        return match[0]

    drawn = BLOCK.sub(lambda match: _picture(match, folder), markdown)
    parts = _CODE.split(drawn)
    # A link's text may be code, so only the links themselves are looked for, outside of blocks.
    return "".join(
        part if part.startswith("```") else _LINK.sub(link, part) if "](" in part else part
        for part in parts
    )


def _picture(match: re.Match[str], folder: str) -> str:
    """Return a diagram's drawings for both palettes, or the diagram where there are none.

    Each leads to its file, which a browser shows in full size.
    """
    up = "../" * bool(folder)
    light, dark = (drawing(match["text"], theme) for theme in ("light", "dark"))
    if not (light.exists() and dark.exists()):
        return match[0]
    pictures = (
        f"[![Diagram]({up}images/diagrams/{path.name}#only-{theme})]"
        f"({up}images/diagrams/{path.name})"
        for path, theme in ((light, "light"), (dark, "dark"))
    )
    return "\n".join(pictures)


def _moved(readme: str) -> str:
    """Return the README as a page in the folder of the documents."""

    def link(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if target.startswith("docs/"):
            return f"]({target.removeprefix('docs/')}{anchor})"
        return f"](../{target}{anchor})"

    return _LINK.sub(link, readme)
