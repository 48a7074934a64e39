"""Output of a run on the terminal: progress bars, one line per stage, tables. Text is never read as markup."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

ProgressCallback = Callable[[int, int], None]


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[ProgressCallback]:
    """A bar for one long loop, removed at its end; the callback takes (done, total)."""
    columns = (
        TextColumn("  {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(description, total=None, rate="")
        start, first = time.monotonic(), None

        def report(done: int, total: int) -> None:
            nonlocal first
            first = done if first is None else first
            rate = (done - first) / max(time.monotonic() - start, 1e-9)
            progress.update(task, completed=done, total=total, rate=f"{rate:.1f}/s" if done > first else "")

        yield report


def say(stage: str, text: str) -> None:
    """One line of a stage's outcome."""
    console.print(Text.assemble((f"{stage:<10}", "bold"), f" {text}"))


def show_figures(title: str, groups: Mapping[str, Mapping[str, object]]) -> None:
    """A table of figures in their groups; floats with four significant digits."""
    table = Table(title=title, title_justify="left")
    for column, justify in (("", "left"), ("figure", "left"), ("value", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for group, figures in groups.items():
        table.add_section()
        for index, (name, value) in enumerate(figures.items()):
            words = f"{value:.4g}" if isinstance(value, float) else str(value)
            table.add_row(group if index == 0 else "", name, words)
    console.print(table)
