"""Tables as text for a terminal or as Markdown."""

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST = 10_000  # nothing is wrapped


def table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool = False) -> str:
    """A table, its first column left-aligned and the others right; Chinese characters are two columns wide.

    Args:
        header: of the columns.
        rows: of cells.
        markdown: or text.
    """
    drawn = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD, pad_edge=markdown)
    for number, title in enumerate(header):
        drawn.add_column(_cell(title, markdown), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*(_cell(each, markdown) for each in row))
    text = io.StringIO()
    Console(file=text, width=WIDEST, color_system=None, legacy_windows=False).print(drawn)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(line for line in lines if line)


def _cell(text: str, markdown: bool) -> Text:
    return Text(text.replace("|", "\\|") if markdown else text)  # Text: brackets are no markup
