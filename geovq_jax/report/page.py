"""A self-contained HTML report: text, tables, figures and the data behind them in one file."""

import base64
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from geovq_jax import processes
from geovq_jax.evaluation.statistics import Interval
from geovq_jax.figures.style import figure_png
from geovq_jax.report.assets import CSS, SCRIPT
from geovq_jax.workdir import to_json

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Table(NamedTuple):
    """A table: `caption`, `columns` (headings), `rows` of strings, numbers, None or `Interval`."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class ReportFigure(NamedTuple):
    """A figure with its `caption`, the matplotlib `figure`, a `name` for its file, and the `data` behind it (JSON)."""

    caption: str
    figure: Figure
    name: str
    data: Any = None


class Section(NamedTuple):
    """A part of the report: `title`, `text` (paragraphs parted by blank lines, `code` in backticks), content, links.

    `links` are pairs of words and relative addresses of files beside the report.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[ReportFigure] = ()
    links: Sequence[tuple[str, str]] = ()


def format_cell(value: Any) -> str:
    """Words of a table cell: about four significant digits, an interval in brackets, a dash for nothing.

    Args:
        value: string, number, None or `Interval`.

    Returns:
        Text, not yet escaped.
    """
    if isinstance(value, Interval):
        return f"{format_cell(value.value)} [{format_cell(value.low)}, {format_cell(value.high)}]"
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        short = f"{value:.4g}"
        if float(short) == value and abs(value) < 1e4 and "e" not in short:
            return short.replace("-", "−")
        digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value != 0.0 else 0
        return f"{value:.3e}" if digits > 7 else f"{value:,.{min(digits, 4)}f}".replace("-", "−")
    return str(value)


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "part"


def _prose(text: str) -> str:
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
    marked = (re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(paragraph)) for paragraph in paragraphs)
    return "\n".join(f"<p>{paragraph}</p>" for paragraph in marked)


def _table(table: Table) -> str:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"expected {len(table.columns)} cells a row in '{table.caption}', got {len(row)}; fill up")

    def cell(tag: str, value: Any, right: bool) -> str:
        kind = ' class="n"' if right else ""
        return f"<{tag}{kind}>{html.escape(format_cell(value))}</{tag}>"

    # A column is set to the right where none of its cells is a word.
    right = [
        bool(table.rows) and not any(isinstance(v, str) for v in column) for column in zip(*table.rows, strict=True)
    ]
    right = right or [False] * len(table.columns)
    head = "".join(cell("th", name, side) for name, side in zip(table.columns, right, strict=True))
    body = "\n".join(
        f"<tr>{''.join(cell('td', value, side) for value, side in zip(row, right, strict=True))}</tr>"
        for row in table.rows
    )
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def _figure(figure: ReportFigure, png: bytes) -> str:
    caption = html.escape(figure.caption)
    source = base64.b64encode(png).decode("ascii")
    # The width in CSS pixels is the size in inches at 96 dpi, so that words in figures match the text around them.
    width = round(figure.figure.get_figwidth() * 96)
    data = ""
    if figure.data is not None:
        text = html.escape(json.dumps(to_json(figure.data), ensure_ascii=False, separators=(", ", ": ")))
        data = f"<details><summary>Data (JSON)</summary><pre>{text}</pre></details>"
    return (
        f'<figure id="{_slug(figure.name)}"><button type="button" aria-label="Enlarge: {caption}">'
        f'<img width="{width}" alt="{caption}" src="data:image/png;base64,{source}"></button>'
        f"<figcaption>{caption}</figcaption>{data}</figure>"
    )


def _section(section: Section, anchor: str, pictures: Mapping[str, bytes]) -> str:
    parts = [f'<section id="{anchor}"><h2>{html.escape(section.title)}</h2>', _prose(section.text)]
    parts += [_table(table) for table in section.tables]
    parts += [_figure(figure, pictures[figure.name]) for figure in section.figures]
    if section.links:
        entries = (f'<li><a href="{html.escape(to)}">{html.escape(words)}</a></li>' for words, to in section.links)
        parts.append(f'<ul class="links">{"".join(entries)}</ul>')
    return "\n".join([*filter(None, parts), "</section>"])


def write_report(path: str | Path, *, title: str, subtitle: str, sections: Sequence[Section], footer: str = "") -> Path:
    """Write one HTML file that holds everything it shows, and each figure as `figures/<name>.png` beside it.

    The page makes no request: pictures are inline, and its content policy forbids everything else. It follows the
    reader's light or dark setting and fits a phone.

    Args:
        path: the HTML file to write; its folder is made.
        title: heading of the page.
        subtitle: one line below it.
        sections: parts in order; each gets an entry in the navigation.
        footer: one line at the end.

    Returns:
        The path written.

    Raises:
        ValueError: two figures share a name, or a table row does not fit its columns.
    """
    path = Path(path)
    figures = [figure for section in sections for figure in section.figures]
    names = [figure.name for figure in figures]
    if len(set(map(_slug, names))) != len(names):
        raise ValueError(f"expected a name of its own for each figure, got {sorted(names)}; rename the repeated ones")
    pictures = {figure.name: figure_png(figure.figure) for figure in figures}
    if not processes.first():
        return path
    folder = path.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in pictures.items():
        (folder / f"{_slug(name)}.png").write_bytes(png)
    anchors = [f"part-{index}-{_slug(section.title)}" for index, section in enumerate(sections, 1)]
    entries = "".join(
        f'<li><a href="#{anchor}">{html.escape(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    body = "\n".join(_section(section, anchor, pictures) for section, anchor in zip(sections, anchors, strict=True))
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1><p class="subtitle">{html.escape(subtitle)}</p></header>
<nav aria-label="Parts"><ol>{entries}</ol></nav>
<main>
{body}
</main>
<footer>{html.escape(footer)}</footer>
<dialog aria-label="Enlarged figure"><img alt=""></dialog>
<script>{SCRIPT}</script>
</body>
</html>
"""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return path
