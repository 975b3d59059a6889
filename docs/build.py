"""Make HTML of these pages: ``python docs/build.py DIRECTORY``. Needs docutils and pygments.

A warning of docutils is an error, and so is a link that leads nowhere.
"""

import re
import shutil
import sys
from pathlib import Path

from docutils.core import publish_parts
from docutils.utils import SystemMessage
from pygments.formatters import HtmlFormatter

DOCS = Path(__file__).parent
LONG = 4  # sections: a page that has as many gets a table of contents

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
<nav><details open><summary>httpx_net</summary>
{menu}
</details></nav>
{body}
<footer>{neighbours}</footer>
<script>if (innerWidth < 900) document.querySelector("nav details").open = false</script>
</body>
</html>
"""


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    html(DOCS.parent / "README.rst")  # only checked: the index is the first page here
    pages = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.rst"))}
    pages["adapters"] = sources()
    order = ["index", *re.findall(r"`[^`<]+<(\w+)\.rst>`_", pages["index"]), "adapters"]
    missing = set(pages) - set(order)
    assert not missing, f"index.rst has no link to {missing}"
    parts = {name: html(DOCS / f"{name}.rst", pages[name]) for name in order}
    titles = {name: part["title"] or name.capitalize() for name, part in parts.items()}
    for name in order:
        page = PAGE.format(
            title=titles[name] if name == "index" else f"{titles[name]} · httpx_net",
            menu=menu(titles, name),
            body=linked(parts[name]["html_body"], pages, name),
            neighbours=neighbours(order, titles, order.index(name)),
        )
        (target / f"{name}.html").write_text(page, encoding="utf-8")
    for figure in DOCS.glob("*.svg"):
        shutil.copy(figure, target)
    (target / "style.css").write_text(style(), encoding="utf-8")


def html(path: Path, source: str | None = None) -> dict[str, str]:
    """The parts of a page that docutils makes of it."""
    source = path.read_text(encoding="utf-8") if source is None else source
    if len(re.findall(r"\n-{3,}\n", source)) >= LONG:
        contents = "\n.. contents:: On this page\n   :depth: 2\n"
        source = re.sub(
            r"^=+\n", lambda line: line[0] + contents, source, count=1, flags=re.MULTILINE
        )
    settings = {"halt_level": 2, "syntax_highlight": "short", "initial_header_level": 2}
    return publish_parts(source, source_path=str(path), writer="html5", settings_overrides=settings)


def sources() -> str:
    """A page of the adapters' sources, one section each."""
    text = "Adapters\n========\n\n`Embedding <embedding.rst>`_ says how to use them.\n"
    for path in sorted((DOCS / "adapters").glob("*.py")):
        text += f"\n\n{path.name}\n{'-' * len(path.name)}\n\n.. code-block:: python\n\n"
        text += re.sub(r"^(?=.)", "    ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return text


def linked(body: str, pages: dict[str, str], name: str) -> str:
    """*body* with links to the HTML of other pages."""

    def link(match: re.Match[str]) -> str:
        page = match["page"]
        assert page in pages, f"{name}.rst has a link to {page}, which is no page"
        return f'href="{page}.html'

    body = re.sub(r'href="(?!https?:|#)(?P<page>\w+)(\.rst)?(?=["#])', link, body)
    for figure in re.findall(r'src="([^"]+)"', body):
        assert (DOCS / figure).exists(), f"{name}.rst shows {figure}, which is not there"
    return re.sub(r"<img [^>]+>", r'<div class="figure">\g<0></div>', body)


def menu(titles: dict[str, str], here: str) -> str:
    items = []
    for name, title in titles.items():
        current = ' aria-current="page"' if name == here else ""
        label = "Overview" if name == "index" else title
        items.append(f'<li><a href="{name}.html"{current}>{label}</a></li>')
    return "<ul>\n" + "\n".join(items) + "\n</ul>"


def neighbours(order: list[str], titles: dict[str, str], at: int) -> str:
    links = []
    if at > 0:
        links.append(f'<a rel="prev" href="{order[at - 1]}.html">← {titles[order[at - 1]]}</a>')
    if at + 1 < len(order):
        links.append(f'<a rel="next" href="{order[at + 1]}.html">{titles[order[at + 1]]} →</a>')
    return "\n".join(links)


def style() -> str:
    """The stylesheet, with the colours of code for light and dark."""
    light = HtmlFormatter(style="default").get_style_defs("pre.code")
    dark = HtmlFormatter(style="github-dark").get_style_defs("pre.code")
    css = (DOCS / "style.css").read_text(encoding="utf-8")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{css}"


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (SystemMessage, AssertionError) as error:
        sys.exit(f"{error}")
