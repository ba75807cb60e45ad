"""How many replicas, and what each takes of a GPU."""

import math
import re
from typing import NamedTuple


class Replicas(NamedTuple):
    """How many there are.

    Args:
        least, most: of each model; Ray chooses between them by how many requests there are.
    """

    least: int = 1
    most: int = 1

    @classmethod
    def parse(cls, text: str) -> "Replicas":
        """Of `2` or `1-4`.

        Raises:
            ValueError: it is neither, or not possible.
        """
        found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", text.strip())
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= least <= most:
            raise ValueError(f"Got {text[:40]!r}, expected a number of replicas such as 2, or a range such as 1-4.")
        return cls(least, most)


def parse_gpus(text: str) -> float:
    """How much of a GPU a replica takes, of `0.5`, `1` or `2`.

    Raises:
        ValueError: it is no number, or a fraction above 1, which Ray does not give.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (0 <= number <= 1 or (number == int(number) if math.isfinite(number) else False) and 1 < number <= 64):
        raise ValueError(f"Got {text[:40]!r}, expected GPUs such as 0.5, 1 or 2: above 1 only whole ones.")
    return number
