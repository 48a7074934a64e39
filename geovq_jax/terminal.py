"""Output of a run: stages and their progress through `logging`, progress bars and tables on the terminal.

The logger is `geovq_jax`; the command line shows it by `log_to_console`, other programs configure it as they like. Text
is never interpreted as markup.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

ProgressCallback = Callable[[int, int], None]

PROGRESS_SECONDS = 5.0  # least time between two logged lines of progress, so that short loops log none
_logger = logging.getLogger("geovq_jax")


class _ConsoleHandler(logging.Handler):
    """Prints each record, the name of its stage in bold."""

    def emit(self, record: logging.LogRecord) -> None:
        text = Text(record.getMessage())
        if isinstance(record.args, tuple) and record.args:
            text.stylize("bold", 0, len(str(record.args[0])))
        console.print(text)


def log_to_console() -> None:
    """Show what the package logs on the console, and nowhere else."""
    _logger.handlers = [_ConsoleHandler()]
    _logger.setLevel(logging.INFO)
    _logger.propagate = False


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[ProgressCallback]:
    """A progress bar for one long loop, called with (done, total); off a terminal one logged line per 10 %."""
    if not console.is_terminal:
        yield _log_tenths(description)
        return
    columns = (
        TextColumn("  {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=None, rate="")
        start, first = time.monotonic(), None

        def report(done: int, total: int) -> None:
            nonlocal first
            first = done if first is None else first
            rate = (done - first) / max(time.monotonic() - start, 1e-9)
            progress.update(task, completed=done, total=total, rate=f"{rate:.1f}/s" if done > first else "")

        yield report


def _log_tenths(description: str) -> ProgressCallback:
    tenth, logged = 0, time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal tenth, logged
        now, reached = time.monotonic(), 10 * done // max(total, 1)
        if reached > tenth and now - logged >= PROGRESS_SECONDS:
            tenth, logged = reached, now
            _logger.info("%s: %d of %d (%d %%)", description, done, total, 100 * done // total)

    return report


def say(stage: str, text: str) -> None:
    """Log a stage's outcome."""
    _logger.info("%-10s %s", stage, text)


def show_figures(title: str, groups: Mapping[str, Sequence[tuple[str, str, str]]]) -> None:
    """A table of metrics in groups: name, value and 95 % interval of each."""
    table = Table(title=title, title_justify="left")
    for column, justify in (("", "left"), ("figure", "left"), ("value", "right"), ("95 % interval", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for group, figures in groups.items():
        table.add_section()
        for index, row in enumerate(figures):
            table.add_row(group if index == 0 else "", *row)
    console.print(table)
