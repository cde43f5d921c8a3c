"""A report as Markdown with figures beside it, and as one self-contained HTML file."""

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import NamedTuple

from dynet_jax.analysis.table import Table
from dynet_jax.workdir.files import write_whole

FIGURES = "figures"


class Figure(NamedTuple):
    """A figure in OUT/figures: its file, a PNG and optionally an SVG with the same stem, and its caption."""

    file: Path
    caption: str


class Section(NamedTuple):
    """A section: blocks in order; a string is a paragraph, in which **this** is bold and `this` is code."""

    title: str
    blocks: list[str | Table | Figure]


class Document(NamedTuple):
    """A document: a title, paragraphs, and sections."""

    title: str
    blocks: list[str | Table | Figure]
    sections: list[Section]


def write_markdown(document: Document, file: Path) -> None:
    """Writes Markdown in which figures are linked relative to the file."""
    lines = [f"# {document.title}", *(_markdown(block, file.parent) for block in document.blocks)]
    for section in document.sections:
        lines += [f"## {section.title}", *(_markdown(block, file.parent) for block in section.blocks)]
    write_whole(file, "\n\n".join(lines))


def write_html(document: Document, file: Path) -> None:
    """Writes one HTML file that contains its figures and style, and needs no network."""
    names = [f'<li><a href="#s{i}">{_inline(section.title)}</a></li>' for i, section in enumerate(document.sections)]
    body = [
        f"<h1>{_inline(document.title)}</h1>",
        *map(_html, document.blocks),
        f"<nav><ul>{''.join(names)}</ul></nav>",
    ]
    for index, section in enumerate(document.sections):
        body += [f'<section id="s{index}"><h2>{_inline(section.title)}</h2>', *map(_html, section.blocks), "</section>"]
    write_whole(file, PAGE.substitute(title=html.escape(document.title), body="\n".join(body)))


def _markdown(block: str | Table | Figure, folder: Path) -> str:
    if isinstance(block, Table):
        return block.markdown()
    if isinstance(block, Figure):
        path = block.file.with_suffix(".png").relative_to(folder)
        return f"![{block.caption}]({path})\n\n*{block.caption}*"
    return block


def _html(block: str | Table | Figure) -> str:
    if isinstance(block, Table):
        return "\n".join(_table(block))
    if isinstance(block, Figure):
        svg, png = block.file.with_suffix(".svg"), block.file.with_suffix(".png")
        kind, file = ("svg+xml", svg) if svg.exists() else ("png", png)
        data = base64.b64encode(file.read_bytes()).decode()
        caption = _inline(block.caption)
        image = f'<img alt="{html.escape(block.caption, quote=True)}" src="data:image/{kind};base64,{data}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    return f"<p>{_inline(block)}</p>"


def _table(table: Table) -> Iterator[str]:
    (header, *rows), numeric = table.texts, table.numeric
    yield '<div class="wide"><table><thead><tr>'
    yield from (f"<th{_side(right)}>{_inline(title)}</th>" for title, right in zip(header, numeric))
    yield "</tr></thead><tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td{_side(right)}>{_inline(text)}</td>" for text, right in zip(row, numeric)) + "</tr>"
    yield "</tbody></table></div>"


def _side(right: bool) -> str:
    return ' class="number"' if right else ""


def _inline(text: str) -> str:
    """Returns a paragraph as HTML.

    >>> _inline("**seen** in `a < b`")
    '<strong>seen</strong> in <code>a &lt; b</code>'
    """
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; max-width: 66rem; margin: 2rem auto;
    padding: 0 1rem; }
  h1 { font-size: 1.7rem; line-height: 1.25; }
  h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #bbb; padding-bottom: .2rem; }
  nav ul { columns: 2; padding-left: 1.2rem; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; margin: 1rem 0; font-size: .88rem; }
  th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
  th { border-bottom: 2px solid #555; }
  .number { text-align: right; font-variant-numeric: tabular-nums; }
  td.number { white-space: nowrap; }
  figure { margin: 1.5rem 0; }
  img { max-width: 100%; height: auto; }
  figcaption { font-size: .88rem; color: #444; }
  code { background: #f2f2f2; padding: .05rem .25rem; border-radius: 3px; overflow-wrap: anywhere; }
  @media print { body { max-width: none; font-size: 10pt; } h2 { break-after: avoid; }
    figure, table { break-inside: avoid; } nav { display: none; } }
</style>
</head>
<body>
$body
</body>
</html>
""")
