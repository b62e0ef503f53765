"""The page of an executed notebook: words and figures first, its code at a click, and the ways to the next one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ciperlib.files import write_atomically
from ciperlib.markup import as_html

STYLE = """<style>
.ciper-ways{position:sticky;top:0;z-index:9;display:flex;gap:1.5em;align-items:center;padding:.5em 1em;
font:15px sans-serif;background:#fff;border-bottom:1px solid #ddd}
.ciper-ways button{margin-left:auto;font:inherit}
body:not(.ciper-code) .jp-CodeCell .jp-Cell-inputWrapper{display:none}
</style>"""
TOGGLE = (
    '<button type="button" onclick="this.textContent=document.body.classList.toggle(\'ciper-code\')'
    "?'hide code':'show code'\">show code</button>"
)


class Neighbours(NamedTuple):
    """The pages that a page leads to, by their places in the output folder; empty where there is none."""

    index: str = ""
    back: str = ""
    next: str = ""


ALONE = Neighbours()


def write_page(executed: Path, neighbours: Neighbours = ALONE) -> None:
    """The executed notebook (or as much of it as was reached) as one HTML file beside it."""
    from nbconvert import HTMLExporter

    if executed.exists():
        html, _ = HTMLExporter().from_filename(str(executed))
        head, body, rest = html.partition("<body")
        tag, end, content = rest.partition(">")
        page = f"{head.replace('</head>', STYLE + '</head>', 1)}{body}{tag}{end}{_ways(neighbours)}{content}"
        write_atomically(executed.with_suffix(".html"), page)


def _ways(neighbours: Neighbours) -> str:
    places = {"all notebooks": neighbours.index, "back": neighbours.back, "next": neighbours.next}
    links = [f'<a href="../{as_html(quote(place))}">{name}</a>' for name, place in places.items() if place]
    return f'<nav class="ciper-ways">{"".join(links)}{TOGGLE}</nav>'
