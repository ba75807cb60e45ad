"""JSON of others, read within bounds and checked before it is used."""

import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import CheckpointError, listed
from .disk import read_small

MAX_BYTES = 4 << 20  # which in memory become fifty times as many
MAX_DEPTH = 50
MAX_DIGITS = 100  # of a whole number, which a float can still hold

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def quoted(value: object) -> str:
    """What a file or a user says, short and without its line breaks and escape sequences."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"


def named(value: object) -> str:
    """The same where nothing in it can mislead, else `quoted`: for names and words."""
    sound = isinstance(value, str) and 0 < len(value) <= 80 and value.isprintable() and " " not in value
    return value if sound else quoted(value)


def read_json_file(path: str | Path, what: str | None = None) -> dict:
    """A JSON object in a file.

    Args:
        path: the file.
        what: begins messages about its contents, by default the path.

    Raises:
        CheckpointError: as for `files_on_disk.read_small` and `load_json`.
    """
    return load_json(read_small(path, MAX_BYTES), what or str(path))


def load_json(text: str | bytes, what: str) -> dict:
    """A JSON object whose keys are all different and whose numbers are finite.

    Raises:
        CheckpointError: `text` is anything else; `what` begins the message.
    """
    repeated = []

    def unique(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            repeated.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return found

    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(
            text, object_pairs_hook=unique, parse_int=_whole, parse_float=_finite, parse_constant=_finite
        )
        if "\\u" in text:  # half a character can be written so, and no longer be printed or saved
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not valid JSON ({_reason(error)}).") from error
    if repeated:
        raise CheckpointError(f"{what} has keys that come twice: {listed(map(named, repeated))}.")
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} holds a JSON {type(value).__name__}, expected an object.")
    if _depth_exceeds(value, MAX_DEPTH):
        raise CheckpointError(f"{what} is nested more than {MAX_DEPTH} deep, which no configuration is.")
    return value


def require_sizes(config: Mapping, what: str, sizes: Mapping[str, int | None], most: int = 2**24) -> dict[str, int]:
    """The whole numbers under some keys of a configuration.

    Args:
        config: of others.
        what: it is, for messages.
        sizes: what counts where a key is absent, by key; None where it must be there.
        most: they may be.

    Raises:
        CheckpointError: one is something else than a number from 1 to `most`.
    """
    values = {key: config.get(key, default) for key, default in sizes.items()}
    for key, value in values.items():
        if not is_size(value, most):
            raise CheckpointError(f"{what} has {key}={quoted(value)}, expected a whole number from 1 to {most}.")
    return values


def is_size(value: object, most: int = 2**24) -> bool:
    return type(value) is int and 1 <= value <= most


def is_size_list(value: object, most: int = 2**24, length: int = 16) -> bool:
    """Whether a value is a list of at most `length` sizes."""
    return isinstance(value, list) and 1 <= len(value) <= length and all(is_size(each, most) for each in value)


def require_section(config: Mapping, what: str, key: str) -> dict:
    """The object under a key of a configuration.

    Raises:
        CheckpointError: there is none.
    """
    value = config.get(key)
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} has {key}={quoted(value)}, expected an object.")
    return value


def _whole(digits):
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{quoted(text)} is not a finite number")
    return number


def _reason(error):
    if isinstance(error, UnicodeError):
        return "its text is not UTF-8"
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def _depth_exceeds(value, limit):
    layer: Iterable = [value]
    for _ in range(limit):
        layer = [
            inner
            for each in layer
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (dict, list))
        ]
        if not layer:
            return False
    return True
