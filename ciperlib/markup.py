"""Texts on their way to HTML, Markdown, a script or a figure. Names of classes, files and runs, captions and messages
come from data and from other people; whatever of them reaches a page goes through here, once, where the page is put
together."""

from __future__ import annotations

import html
import re
from typing import Any

NO_FORMULAS = 'class="mathjax_ignore tex2jax_ignore"'  # of an HTML tag: what is in it is no $mathematics$ to Jupyter
_MARKDOWN = re.compile(r"([\\`*_\[\]~$|#]|^[-+])")


def as_html(text: Any) -> str:
    """`text` as HTML that shows it as it is, also inside a quoted attribute."""
    return html.escape(str(text), quote=True)


def as_markdown(text: Any) -> str:
    """`text` as one line of Markdown that shows it as it is: no markup, no HTML, no mathematics, no link."""
    return _MARKDOWN.sub(r"\\\1", " ".join(html.escape(str(text), quote=False).split()))


def as_plotly(text: Any) -> str:
    """`text` for a title, a label, a legend or a hover text of plotly, which takes a little HTML, $mathematics$ and
    %{templates}: it shows it as it is."""
    plain = html.escape(str(text), quote=False)
    return plain.replace("$", "&#36;").replace("%{", "&#37;{")


def as_script(json_text: str) -> str:
    """JSON for the inside of a <script>: the same values, and nothing in it that HTML could take for a tag's end or a
    comment."""
    return json_text.replace("<", "\\u003c")
