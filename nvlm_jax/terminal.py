"""Tables for a terminal of any width, and for none: nothing of a cell is cut off.

What goes to a file or a pipe is as wide as it needs to be. A terminal that is too narrow for a table gets it with lines
broken between words; where not even that fits, each row becomes a block of `column  value` lines.
"""

from __future__ import annotations

import copy
from typing import TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

UNBOUNDED = 100_000  # columns: wider than any table
BORDER, PADDING = 1, 2  # characters: before each column and after the last; around the text of each column


def print_tables(*tables: Table, file: TextIO | None = None) -> None:
    """Print tables whole, each as the width of the terminal allows; title and caption are lines of their own.

    Args:
        tables: of `rich`, with its usual borders.
        file: where to; default: standard output.
    """
    # Without markup: `[k]` in a cell is text, and rich would take it for a style.
    console = Console(file=file, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = UNBOUNDED
    for table in tables:
        if table.title:
            console.print(table.title, style="italic")
        console.print(fitted(table, console))
        if table.caption:
            console.print(table.caption, style="dim italic")


def fitted(table: Table, console: Console) -> Table:
    """A copy of the table, without title and caption, in the form that a console has room for.

    Args:
        table: of `rich`.
        console: gives the width.
    """
    whole = copy.deepcopy(table)
    whole.title = whole.caption = None
    if not _fits(whole, console) and whole.show_header and len(whole.columns) > 2:
        whole = _blocks(whole)
        _fits(whole, console)
    return whole


def _fits(table: Table, console: Console) -> bool:
    """Set each column's width so that no word is broken, if there is room; rich alone breaks words before it need."""
    for column in table.columns:
        column.overflow = "fold"  # by default rich ends what is too long in "…"
    needs = [_need(column, table.show_header, console) for column in table.columns]
    room = console.width - BORDER - (BORDER + PADDING) * len(needs)
    if sum(need.minimum for need in needs) > room:
        return False
    rest = room - sum(need.minimum for need in needs)
    wish = sum(need.span for need in needs)
    if wish > rest:
        for column, need in zip(table.columns, needs, strict=True):
            column.width = need.minimum + rest * need.span // wish
    return True


def _need(column: Column, with_header: bool, console: Console) -> Measurement:
    """The width of a column's longest word, and of its longest line."""
    options = console.options.update(max_width=UNBOUNDED)
    texts = [*([column.header] if with_header else []), *column.cells]
    needs = [Measurement.get(console, options, text) for text in texts]
    return Measurement(max((n.minimum for n in needs), default=1), max((n.maximum for n in needs), default=1))


def _blocks(table: Table) -> Table:
    """Two columns: a section for each row, a line for each of its cells with the name of the column."""
    shown = Table("", "", show_header=False)
    cells = [list(column.cells) for column in table.columns]
    for row in range(table.row_count):
        for column, own in zip(table.columns, cells, strict=True):
            shown.add_row(column.header, own[row])
        shown.add_section()
    return shown
