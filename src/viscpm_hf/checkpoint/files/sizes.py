"""Sizes of memory and of files, as people write them."""

import numbers
import re

from ..errors import CheckpointError
from .json_file import quoted

# the original's unit is a plain g, a binary gigabyte; the other letters are read alike
UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", 1):
    UNITS |= {_letter: 2 ** (10 * _power), f"{_letter}b": 10 ** (3 * _power), f"{_letter}ib": 2 ** (10 * _power)}
LEAST = 10**6  # bytes that a number without a unit can mean
MOST = 10**18


def parse_size(size: str | int | float, what: str = "a memory limit") -> int:
    """Bytes that a size such as `"5GB"`, `"500MiB"`, `"1g"` (2³⁰) or a number means.

    Args:
        size: a number counts bytes.
        what: it is of, for messages.

    Raises:
        CheckpointError: it means nothing, nothing positive, or a number so small that its unit was forgotten.
    """
    if isinstance(size, str):
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([a-z]*)", size.strip().lower())
        number, unit = (float(found[1]), found[2]) if found else (0, "")
    else:
        number, unit = size if isinstance(size, numbers.Real) and not isinstance(size, bool) else 0, ""
    if not 0 < number * UNITS.get(unit, 0) <= MOST:
        raise CheckpointError(
            f"Got {quoted(size)} as {what}, expected bytes or a size such as '5GB' or '500MiB', more than 0."
        )
    if not unit and number < LEAST:
        meant = f"{number:g}{'GB' if number < 200 else 'MB'}"
        raise CheckpointError(f"Got {quoted(size)} as {what}, which is {number:g} bytes; did you mean {meant}?")
    return max(1, round(number * UNITS[unit]))


def shown(nbytes: float) -> str:
    """`4.7 GB` or `386 MB`."""
    unit, word = next((unit for unit in ((1e9, "GB"), (1e6, "MB")) if nbytes >= unit[0]), (1e3, "kB"))
    return f"{nbytes / unit:.{int(unit == 1e9)}f} {word}"
