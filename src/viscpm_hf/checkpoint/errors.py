"""The one error a user can cause, and how its sentence is made."""

import os
import shlex
from collections.abc import Iterable

from ..language import printable, shortened


class CheckpointError(ValueError):
    """A file, a configuration or a folder is not what a conversion needs; the message is one sentence for the user.

    Names in it come from files and users: what a terminal would act on is escaped.
    """

    def __init__(self, message: str):
        super().__init__(printable(shortened(message)))


def pasted(path: str | os.PathLike) -> str:
    """A path as a part of a command to be pasted into a shell."""
    path = os.fspath(path)
    return shlex.quote(f"./{path}" if path.startswith("-") else path)  # else it would be taken for an option


def listed(names: Iterable, limit: int = 10) -> str:
    """`a, b and 7 more`"""
    names = [str(name) for name in names]
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return printable(", ".join(names[:limit]) + rest)


def first_line(error: Exception) -> str:
    """What a library says of an error, in a line that fits into a sentence."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
