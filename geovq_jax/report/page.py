"""A self-contained HTML report: text, tables, figures and the data behind them in one file."""

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from geovq_jax.evaluation.statistics import Interval
from geovq_jax.figures.style import figure_png, png_address
from geovq_jax.workdir import to_json, write_atomically


class Table(NamedTuple):
    """A table: `caption`, `columns` (headings), `rows` of strings, numbers, None or `Interval`.

    Numbers of a column share their number of decimals; in a `mixed` table, rows with the same [unit] in their name do,
    and every other row has its own. `higher` and `lower` name the columns (rows of a mixed table) that are marked by an
    arrow as better when higher or lower.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    higher: Sequence[str] = ()
    lower: Sequence[str] = ()
    mixed: bool = False


class Cell(NamedTuple):
    """Text of a table cell, and of the interval below it."""

    words: str
    interval: str = ""


class ReportFigure(NamedTuple):
    """A figure: `caption`, matplotlib `figure`, `name` of its file, `data` behind it (JSON), and a sentence on it."""

    caption: str
    figure: Figure
    name: str
    data: Any = None
    finding: str = ""


class Tile(NamedTuple):
    """An image in [0, 1] with its caption `words`; `behind` and its caption replace them on hover.

    `marked` tiles are framed.
    """

    image: Float[np.ndarray, "h w c"]
    words: str
    behind: Float[np.ndarray, "h w c"]
    behind_words: str
    marked: bool = False


class Gallery(NamedTuple):
    """Tiles in rows of `columns` across the page; `caption`, `name` and `finding` as in `ReportFigure`."""

    caption: str
    tiles: Sequence[Tile]
    name: str
    columns: int
    finding: str = ""


class Finding(NamedTuple):
    """A conclusion: `topic`, `sentence`, and as `anchor` the figure name or table caption that shows it."""

    topic: str
    sentence: str
    anchor: str


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
    findings: Sequence[Finding] = ()
    gallery: Gallery | None = None


def format_cell(value: Any) -> str:
    """Text of a table cell: about four significant digits, intervals in brackets, a dash for None and NaN."""
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


def format_table(table: Table) -> list[list[Cell]]:
    """Cells of a table; a column, or the rows of a mixed table with one unit, share their number of decimals."""
    if table.mixed:
        units = [re.search(r"\[.+\]", str(row[0])) for row in table.rows]
        names = [unit[0] if unit else str(index) for index, unit in enumerate(units)]
        values: dict[str, list[Any]] = {}
        for name, row in zip(names, table.rows, strict=True):
            values.setdefault(name, []).extend(row)
        decimals = [[_decimals(values[name])] * len(table.columns) for name in names]
    else:
        columns = [_decimals(column) for column in zip(*table.rows, strict=True)]
        decimals = [columns] * len(table.rows)
    return [list(map(_cell, *parts)) for parts in zip(table.rows, decimals, strict=True)]


def headline_table(
    group: str, rows: Mapping[str, Any], *, higher: Sequence[str] = (), lower: Sequence[str] = ()
) -> Table:
    """A mixed table of named numbers, words or `Interval`."""
    return Table(group.capitalize(), ["figure", "value"], list(rows.items()), higher, lower, mixed=True)


def format_rows(rows: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and interval of named numbers, as text."""
    return [(name.words, value.words, value.interval) for name, value in format_table(headline_table("", rows))]


def _decimals(values: Sequence[Any]) -> int | None:
    """Decimals that show two digits of the median interval width, else four of the largest value; else None."""
    widths = sorted(
        value.high - value.low for value in values if isinstance(value, Interval) and value.high > value.low
    )
    if widths:
        return min(4, max(0, 1 - math.floor(math.log10(widths[len(widths) // 2]))))
    numbers = [value.value if isinstance(value, Interval) else value for value in values]
    sizes = [abs(float(x)) for x in numbers if isinstance(x, float | np.floating) and math.isfinite(x) and x != 0.0]
    if not sizes or max(sizes) < 1e-2:
        return None
    if all(size.is_integer() for size in sizes):
        return 0
    return min(4, max(0, 3 - math.floor(math.log10(max(sizes)))))


def _cell(value: Any, decimals: int | None) -> Cell:
    def words(number: Any) -> str:
        if decimals is None or not isinstance(number, float | np.floating) or not math.isfinite(number):
            return format_cell(number)
        return f"{number:,.{decimals}f}".replace("-", "−")

    if isinstance(value, Interval):
        return Cell(words(value.value), f"{words(value.low)} to {words(value.high)}")
    return Cell(words(value))


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "part"


def _paragraphs(text: str) -> list[list[str]]:
    """Paragraphs, each a list that alternates between plain text and `code`."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    return [re.split(r"`([^`]+)`", paragraph) for paragraph in paragraphs]


def _numeric_columns(table: Table) -> list[bool]:
    """Per column: whether to right-align, as no cell (in a mixed table, not every cell) is a string."""
    if not table.rows:
        return [False] * len(table.columns)
    strings = all if table.mixed else any
    return [not strings(isinstance(value, str) for value in column) for column in zip(*table.rows, strict=True)]


def _is_wide(table: Table) -> bool:
    """Whether a table needs the full width of the page."""
    longest = max((len(value) for row in table.rows for value in row if isinstance(value, str)), default=0)
    return len(table.columns) > 3 or longest > 60


def _arrow(name: Any, table: Table) -> str:
    """Arrow that shows which direction of a column, or of a row of a mixed table, is better."""
    return "↑" if name in table.higher else "↓" if name in table.lower else ""


def _json_text(value: Any) -> str:
    return json.dumps(to_json(value), ensure_ascii=False, separators=(", ", ": "))


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _environment() -> Environment:
    """Templates of `geovq_jax/report/templates`, with every value escaped."""
    environment = Environment(
        loader=PackageLoader("geovq_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        arrow=_arrow,
        is_wide=_is_wide,
        format_table=format_table,
        png=png_address,
        slug=_slug,
        paragraphs=_paragraphs,
        numeric_columns=_numeric_columns,
        json_text=_json_text,
    )
    return environment


def write_summary(path: Path, title: str, groups: Mapping[str, Mapping[str, Any]], picture: bytes) -> None:
    """Write an HTML fragment with the headline numbers by group and a PNG, which notebooks display for a run."""
    tables = [headline_table(group, rows) for group, rows in groups.items()]
    content = (
        _environment()
        .get_template("summary.html")
        .render(title=title, tables=tables, picture=base64.b64encode(picture).decode("ascii"))
    )
    write_atomically(path, partial(_write, content.encode()))


def write_report(path: str | Path, *, title: str, subtitle: str, sections: Sequence[Section], footer: str = "") -> Path:
    """Write one self-contained HTML file, and each figure as `figures/<name>.png` beside it.

    The page makes no requests: images are inline, and its content security policy forbids everything else. It follows
    the light or dark setting of the browser and fits small screens. `footer` is one line at the end; the folder is
    created if needed.

    Raises ValueError if two figures share a name, or if a table row does not match the columns.
    """
    path = Path(path)
    figures = [figure for section in sections for figure in section.figures]
    names = [figure.name for figure in figures] + [part.gallery.name for part in sections if part.gallery]
    if len(set(map(_slug, names))) != len(names):
        raise ValueError(f"expected a distinct name for each figure, got {sorted(names)}; rename the repeated ones")
    for table in (table for section in sections for table in section.tables):
        for row in table.rows:
            if len(row) != len(table.columns):
                raise ValueError(
                    f"expected {len(table.columns)} cells per row in '{table.caption}', got {len(row)}; fill all"
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
