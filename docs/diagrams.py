"""Draws the Mermaid diagrams of the documents, for readers whose page has no script for them.

    npm install --prefix build/mermaid mermaid
    python -m docs.diagrams --mermaid build/mermaid/node_modules/mermaid/dist/mermaid.min.js

needs Chromium. Each drawing is named by its diagram's text, so one that is out of date is not
shown.
"""

import argparse
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRAWINGS = ROOT / "docs" / "images" / "diagrams"
BLOCK = re.compile(r"```mermaid\n(?P<text>.*?)```", re.DOTALL)
THEMES = {"light": "default", "dark": "dark"}
_WAIT_MILLISECONDS = 20_000

_PAGE = """\
<!doctype html><meta charset="utf-8"><body><script src="{mermaid}"></script><script>
const diagrams = {diagrams};
(async () => {{
  const drawn = {{}};
  for (const [name, theme, text] of diagrams) {{
    mermaid.initialize({{startOnLoad: false, theme: theme, htmlLabels: false,
      flowchart: {{htmlLabels: false}}, fontFamily: "Helvetica, Arial, sans-serif",
      gantt: {{useWidth: 900}}}});
    try {{ drawn[name] = (await mermaid.render("d" + Object.keys(drawn).length, text)).svg; }}
    catch (error) {{ drawn[name] = "error: " + error; }}
  }}
  document.body.innerHTML = "";
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(drawn);
  document.body.appendChild(result);
}})();
</script>
"""


def diagrams() -> list[str]:
    """Return the text of every diagram of the README and the documents."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = (page.read_text(encoding="utf-8") for page in pages)
    return [match["text"] for text in texts for match in BLOCK.finditer(text)]


def drawing(text: str, theme: str) -> Path:
    """Return where the drawing of a diagram is, for a light or a dark page."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return DRAWINGS / f"{digest}-{theme}.svg"


def draw(mermaid: Path) -> dict[str, str]:
    """Return the drawings' names and contents; RuntimeError where one cannot be drawn."""
    wanted = [
        (drawing(text, theme).name, mermaid_theme, text)
        for text in dict.fromkeys(diagrams())
        for theme, mermaid_theme in THEMES.items()
    ]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise RuntimeError("chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        content = json.dumps(wanted).replace("</", "<\\/")
        page.write_text(_PAGE.format(mermaid=mermaid.resolve().as_uri(), diagrams=content))
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={folder}/profile", "--window-size=1200,900"]
        command += [f"--virtual-time-budget={_WAIT_MILLISECONDS}", page.as_uri()]
        finished = subprocess.run(  # noqa: S603 - a browser by its full path, no shell
            command, capture_output=True, text=True, timeout=300, check=True
        )
    found = re.search(r'<pre id="result">(.*?)</pre>', finished.stdout, re.DOTALL)
    if found is None:
        raise RuntimeError(f"Chromium drew nothing: {finished.stderr[-2000:]}")
    drawn: dict[str, str] = json.loads(html.unescape(found[1]))
    for name, content in drawn.items():
        if not content.startswith("<svg"):
            text = next(text for other, _, text in wanted if other == name)
            raise RuntimeError(f"{content}\n{text}")
    return drawn


def main() -> int:
    """Draw every diagram and remove the drawings of diagrams that are gone."""
    parser = argparse.ArgumentParser(prog="python -m docs.diagrams")
    parser.add_argument("--mermaid", type=Path, required=True, help="mermaid.min.js")
    drawn = draw(parser.parse_args().mermaid)
    DRAWINGS.mkdir(parents=True, exist_ok=True)
    for path in DRAWINGS.glob("*.svg"):
        path.unlink()
    for name, content in drawn.items():
        (DRAWINGS / name).write_text(content + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(drawn)} drawings in {DRAWINGS.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
