"""The rows of a file of JSON lines, read one by one however large it is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from ...checkpoint.files.json_file import load_json, quoted

# fields that tell what came of a row, beside "error"
ANSWER = ("answer", "context", "finish_reason", "prompt_tokens", "completion_tokens")
PICTURE = ("file", "seed", "blackened")
LONGEST = 32 << 20  # bytes of a line
_SHOWN = 1000  # characters of a line that is no row


@dataclass(frozen=True)
class Row:
    """A row of the input.

    Args:
        number (`int`): from 1 on; lines without anything do not count.
        fields (`dict`): the JSON object; of a line that holds none, its beginning as `"line"`.
        error (`str`, *optional*): what is wrong with such a line, one sentence.
    """

    number: int
    fields: Mapping[str, Any]
    error: str | None = None


@dataclass(frozen=True)
class Result:
    """What came of a row.

    Args:
        fields (`dict`): for the output, beside the row's own; `"error"` is among them if it could not be answered.
        picture (`bytes`, *optional*): a PNG file.
    """

    fields: Mapping[str, Any]
    picture: bytes | None = None


def read_rows(file: BinaryIO) -> Iterator[Row]:
    """The rows of a file, which is read to its end once.

    Args:
        file: lines of JSON in UTF-8.
    """
    for number, (line, is_whole) in enumerate(_lines(file), 1):
        try:
            if not is_whole:
                raise ValueError(f"The line has more than {LONGEST >> 20} MB, which no row needs.")
            row = Row(number, load_json(line, "The line"))
        except ValueError as error:
            beginning = line[: 4 * _SHOWN].decode("utf-8", "backslashreplace").strip()[:_SHOWN]
            row = Row(number, {"line": beginning}, str(error))
        yield row


def count_rows(file: BinaryIO) -> int:
    """How many `read_rows` would find."""
    return sum(1 for _ in _lines(file))


def text_of(fields: Mapping[str, Any], name: str, default: str | None = None) -> str | None:
    """The text under a name; the default where there is none, or null.

    Raises:
        ValueError: it is something else.
    """
    value = fields.get(name)
    if not isinstance(value, str | None):
        raise ValueError(f"Got {name}={quoted(value)}, expected a text.")
    return default if value is None else value


def _lines(file):
    """Lines with something in them, and whether that is all of them."""
    while line := file.readline(LONGEST):
        is_whole = len(line) < LONGEST or line.endswith(b"\n")
        rest = line
        while len(rest) == LONGEST and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST)
        if line.strip():
            yield line, is_whole
