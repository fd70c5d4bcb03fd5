"""What people see: tables and details, on terminals in colour. Nothing in a job can control the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

if TYPE_CHECKING:  # imported on use: the commands that print no table start faster
    from rich.console import Console
    from rich.text import Text

# Wide enough for any table of ours: what is not a terminal has no width to fit into.
UNBOUNDED: Final = 4_096
MAX_TEXT: Final = 20_000

STATUS_STYLES: Final = {
    "completed": "green",
    "failed": "red",
    "canceled": "yellow",
    "running": "cyan",
    "retrying": "magenta",
}
_COLOURS: Final = frozenset({"green", "red", "yellow", "cyan", "magenta"})


def printable(text: str, *, lines: bool = False) -> str:
    """`text` with everything escaped that a terminal would obey or hide; with `lines`, its line breaks stay."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or (lines and char == "\n") else _escaped(char) for char in text.expandtabs(4)
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def raw(body: bytes) -> None:
    """The body of an answer on stdout, unchanged."""
    sys.stdout.flush()
    sys.stdout.buffer.write(body + b"\n")
    sys.stdout.buffer.flush()


def as_json(value: Any, *, indent: int = 2) -> str:
    """A decoded value as JSON for people."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=indent).decode("utf-8")
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}\n... {len(text) - MAX_TEXT:,} characters more: see --json"
    return printable(text, lines=True)


def moment(value: datetime | None) -> str:
    return "" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def age(seconds: float | None) -> str:
    """A number of seconds, to the two largest units."""
    if seconds is None:
        return ""
    left = round(seconds)
    for unit, size, lower, lower_size in (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60), ("m", 60, "s", 1)):
        if left >= size:
            rest = left % size // lower_size
            return f"{left // size}{unit} {rest}{lower}" if rest else f"{left // size}{unit}"
    return f"{left}s" if left else f"{seconds:.1f}s"


def rate(per_second: float | None) -> str:
    """Jobs a second; nothing where that is not known."""
    if per_second is None:
        return ""
    return f"{per_second:,.1f}" if per_second else "0"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """A table on stdout; `numbers` names the columns that are aligned to the right."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column in numbers
        made.add_column(column, justify="right" if right else "left", no_wrap=right or column == "id")
    for row in rows:
        made.add_row(*(_cell(cell, number=column in numbers) for column, cell in zip(columns, row, strict=True)))
    _console().print(made)


def _cell(cell: str, *, number: bool) -> Text:
    from rich.text import Text

    text = Text(printable(cell), style=STATUS_STYLES.get(cell, ""))
    if not number:
        # Where there is no room it is folded and not cut: ids, keys and secrets are copied from here.
        text.overflow, text.no_wrap = "fold", False
    return text


def details(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values on stdout; values may have lines. Those without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        if value:
            made.add_row(name, Text(printable(value, lines=True), style=STATUS_STYLES.get(value, "")))
    _console().print(made)


def say(text: str, style: str = "") -> None:
    """One line on stdout, at once; `style` is a status or a colour, seen on a terminal."""
    colour = STATUS_STYLES.get(style, style)
    plain = not colour or colour not in _COLOURS or not sys.stdout.isatty()
    click.echo(text if plain else click.style(text, fg=colour))
    sys.stdout.flush()


def _console() -> Console:
    from rich.console import Console

    # Each cell is a Text: nothing in it is read as markup, highlighted or replaced by an emoji.
    return Console(
        file=sys.stdout,
        width=None if sys.stdout.isatty() else UNBOUNDED,
        markup=False,
        highlight=False,
        emoji=False,
    )
