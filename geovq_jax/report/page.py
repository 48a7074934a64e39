"""A self-contained HTML report: text, tables, figures and the data behind them in one file."""

import base64
import json
import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from geovq_jax.evaluation.statistics import Interval
from geovq_jax.figures.style import figure_png
from geovq_jax.workdir import to_json, write_atomically


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
    """A part of the report.

    `text` is split into paragraphs at blank lines, with `code` in backticks; `links` are pairs of words and relative
    addresses of files beside the report.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[ReportFigure] = ()
    links: Sequence[tuple[str, str]] = ()


def format_cell(value: Any) -> str:
    """Words of a table cell: about four significant digits, an interval in brackets, a dash for None and NaN."""
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


def _paragraphs(text: str) -> list[list[str]]:
    """Paragraphs, each as pieces of plain text and of `code` in turn."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    return [re.split(r"`([^`]+)`", paragraph) for paragraph in paragraphs]


def _numeric_columns(table: Table) -> list[bool]:
    """Whether no cell of a column is a string; such columns are aligned to the right."""
    if not table.rows:
        return [False] * len(table.columns)
    return [not any(isinstance(value, str) for value in column) for column in zip(*table.rows, strict=True)]


def _json_text(value: Any) -> str:
    return json.dumps(to_json(value), ensure_ascii=False, separators=(", ", ": "))


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _environment() -> Environment:
    """Templates of `geovq_jax/report/templates`; every value is escaped."""
    environment = Environment(
        loader=PackageLoader("geovq_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        format_cell=format_cell,
        slug=_slug,
        paragraphs=_paragraphs,
        numeric_columns=_numeric_columns,
        json_text=_json_text,
    )
    return environment


def write_report(path: str | Path, *, title: str, subtitle: str, sections: Sequence[Section], footer: str = "") -> Path:
    """Write one HTML file that holds everything it shows, and each figure as `figures/<name>.png` beside it.

    The page makes no request: pictures are inline, and its content policy forbids everything else. It follows the
    reader's light or dark setting and fits a phone. `footer` is one line at the end; the folder is created.

    Raises ValueError where two figures share a name, or a table row does not fit its columns.
    """
    path = Path(path)
    figures = [figure for section in sections for figure in section.figures]
    names = [figure.name for figure in figures]
    if len(set(map(_slug, names))) != len(names):
        raise ValueError(f"expected a name of its own for each figure, got {sorted(names)}; rename the repeated ones")
    for table in (table for section in sections for table in section.tables):
        for row in table.rows:
            if len(row) != len(table.columns):
                raise ValueError(
                    f"expected {len(table.columns)} cells per row in '{table.caption}', got {len(row)}; add the others"
                )
    pictures = {figure.name: figure_png(figure.figure) for figure in figures}
    template = _environment().get_template("report.html")
    page = template.render(
        title=title,
        subtitle=subtitle,
        footer=footer,
        sections={f"part-{index}-{_slug(section.title)}": section for index, section in enumerate(sections, 1)},
        pictures={name: base64.b64encode(png).decode("ascii") for name, png in pictures.items()},
    )
    for name, png in pictures.items():
        write_atomically(path.parent / "figures" / f"{_slug(name)}.png", partial(_write, png))
    write_atomically(path, partial(_write, page.encode()))
    return path
