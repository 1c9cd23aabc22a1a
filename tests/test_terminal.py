"""Tables hold every word of theirs at any width, on a terminal and where there is none."""

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from nvlm_jax.terminal import fitted, print_tables

HEADERS = ("benchmark", "score", "95 % interval", "NVLM-D-72B", "NVLM-D-34B", "items", "unparsed", "cut", "items/s")
ROWS = (
    ("MathVista testmini, word at [k]", "66.4", "65.1 to 66.9", "65.2", "59.9", "1,000", "12", "3", "12.5"),
    ("AI2D test with its letters masked", "94.2", "93.1 to 95.3", "85.2", "84.3", "3,088", "0", "1", "31.0"),
)
TITLE, CAPTION = "a run of some length, step 12,000: 4 variants, 12 runs, matched: samples", "all seeds: 134 GFLOP"


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def table() -> Table:
    shown = Table(title=TITLE, caption=CAPTION)
    for name in HEADERS:
        shown.add_column(name, justify="left" if name == "benchmark" else "right")
    for row in ROWS:
        shown.add_row(*row)
    return shown


def words(text: str) -> list[str]:
    """Of what was printed, in the order of the alphabet."""
    return sorted(words_in_order(text))


def words_in_order(text: str) -> list[str]:
    """Neither borders nor colours."""
    return re.sub(r"[\u2500-\u257f]", " ", re.sub(r"\x1b\[[0-9;]*m", "", text)).split()


def at_width(width: int) -> str:
    console = Console(width=width, file=io.StringIO(), markup=False)
    console.print(fitted(table(), console))
    return console.file.getvalue()


def test_a_pipe_gets_the_whole_width_whatever_columns_says(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    file = io.StringIO()
    print_tables(table(), file=file)
    lines = file.getvalue().splitlines()
    assert lines[0] == TITLE and lines[-1] == CAPTION
    assert [cell.strip() for cell in re.split("[│]", lines[4])[1:-1]] == list(ROWS[0])
    assert len(lines) == 2 + 3 + len(ROWS) + 1 and "…" not in file.getvalue()


@pytest.mark.parametrize("width", [200, 110, 100, 80, 60, 40])
def test_no_width_loses_or_breaks_a_word(width):
    text = at_width(width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    names = HEADERS * (len(ROWS) if text.count("unparsed") > 1 else 1)  # in blocks they stand in each
    assert words(text) == words(" ".join([*names, *ROWS[0], *ROWS[1]]))


def test_a_narrow_terminal_gets_a_block_for_each_row():
    lines = [re.split("│", line) for line in at_width(60).splitlines() if "│" in line]
    assert [(name.strip(), value.strip()) for _, name, value, _ in lines[: len(HEADERS)]] == list(
        zip(HEADERS, ROWS[0], strict=True)
    )


def test_a_word_longer_than_the_terminal_is_folded():
    shown = Table("name", "value", show_header=False)
    shown.add_row("checkpoint", "/a/very/long/path" * 6)
    console = Console(width=40, file=io.StringIO())
    console.print(fitted(shown, console))
    assert "/a/very/long/path" * 6 in "".join(words_in_order(console.file.getvalue()))


def test_a_terminal_of_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    print_tables(table(), file=file)
    text = file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(len(line) for line in plain.splitlines()) <= 80
    assert set(words(" ".join([*HEADERS, *ROWS[0], *ROWS[1], TITLE, CAPTION]))) == set(words(text))
