"""Scenes of the tiny models' world: one to three things, each in one of nine places, on a background.

    rng = random.Random(0)
    scene = random_scene(rng)                     # of training; held_out=True: with a combination training never shows
    scene = Scene((Placed("cat", "large", 4),), "grass")       # of your own; things in reading order
    picture = draw(scene)                         # pictures.py

What stands left of what follows from the places: see `relations`.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from .things import BY_NAME, COLOURED_SHAPES, KNOWN, THINGS, Thing

BACKGROUNDS = ("white", "sky", "grass", "sand", "night", "water")
SIZES = ("large", "small")
CELLS = (  # reading order
    "top left",
    "top middle",
    "top right",
    "middle left",
    "centre",
    "middle right",
    "bottom left",
    "bottom middle",
    "bottom right",
)
RELATIONS = ("left", "right", "above", "below")
PAIR_CELLS = {"left": (3, 5), "right": (5, 3), "above": (1, 7), "below": (7, 1)}  # of a scene about a relation
JITTER = 2  # pixels of a picture of 96, in either direction
SHADE = 8  # levels by which a background may be lighter or darker
HELD_OUT_SEED = 2026
HELD_OUT_PERCENT = 8


@dataclass(frozen=True)
class Placed:
    """A thing in its place.

    Args:
        name (`str`): of one of `KNOWN`, as `"cat"` or `"red circle"`.
        size (`str`): `"large"` or `"small"`.
        cell (`int`): index into `CELLS`, 0 (top left) to 8 (bottom right).
        flipped (`bool`, defaults to `False`): drawn mirrored.
        dx, dy (`int`, default to 0): jitter, pixels of a picture of 96, at most `JITTER`.
    """

    name: str
    size: str
    cell: int
    flipped: bool = False
    dx: int = 0
    dy: int = 0

    @property
    def thing(self) -> Thing:
        return BY_NAME[self.name]


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Args:
        things (`tuple[Placed, ...]`): none to three, in different cells, in reading order.
        background (`str`): one of `BACKGROUNDS`.
        shade (`int`, defaults to 0): levels added to the background, at most `SHADE`.

    Raises:
        ValueError: two things in one cell, things out of reading order, or an unknown name.
    """

    things: tuple[Placed, ...]
    background: str
    shade: int = 0

    def __post_init__(self) -> None:
        cells = [placed.cell for placed in self.things]
        if cells != sorted(set(cells)) or not set(cells) <= set(range(len(CELLS))):
            raise ValueError(f"Got things in the cells {cells}, expected different ones of 0 to 8 in reading order.")
        unknown = [placed.name for placed in self.things if placed.name not in BY_NAME or placed.size not in SIZES]
        if unknown or self.background not in BACKGROUNDS:
            raise ValueError(f"Got a scene with {unknown or self.background}, which this world does not have.")

    @property
    def held_out(self) -> bool:
        """Whether training never shows a scene like this: a thing in its place, or a pair, is held out."""
        return any(self.held_out_things()) or any(
            pair_is_held_out(a.name, b.name, relation) for a, b, relation in pairs(self)
        )

    def held_out_things(self) -> list[bool]:
        """Whether each thing's (thing, place, background) is held out."""
        return [place_is_held_out(placed.name, placed.cell, self.background) for placed in self.things]


def relations(first: Placed, second: Placed) -> list[str]:
    """Where the first stands as seen from the second: `"left"` or `"right"`, then `"above"` or `"below"`, if any."""
    (row, column), (other_row, other_column) = divmod(first.cell, 3), divmod(second.cell, 3)
    found = []
    if column != other_column:
        found.append("left" if column < other_column else "right")
    if row != other_row:
        found.append("above" if row < other_row else "below")
    return found


def pairs(scene: Scene) -> Iterator[tuple[Placed, Placed, str]]:
    """All (thing, other thing, relation) of a scene, each pair in both orders."""
    for first in scene.things:
        for second in scene.things:
            if first is not second:
                for relation in relations(first, second):
                    yield first, second, relation


@cache
def place_is_held_out(name: str, cell: int, background: str) -> bool:
    """Whether training never shows this thing in this place on this background.

    The split depends on the names alone, so it is the same on every machine and in every run.
    """
    return _hash(f"{name} {CELLS[cell]} {background}") < HELD_OUT_PERCENT


@cache
def pair_is_held_out(first: str, second: str, relation: str) -> bool:
    """Whether training never shows the first thing left of (right of, above, below) the second."""
    if relation in ("right", "below"):  # the same seen from the other one
        first, second, relation = second, first, {"right": "left", "below": "above"}[relation]
    return _hash(f"{first} {relation} {second}") < HELD_OUT_PERCENT


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{HELD_OUT_SEED} {text}".encode()).digest()[:4], "big") % 100


def random_scene(
    rng: random.Random, held_out: bool | None = False, count: int | None = None, alike: float = 0.0
) -> Scene:
    """Draws a scene at random.

    Args:
        rng (`random.Random`): source of all choices.
        held_out (`bool`, *optional*, defaults to `False`): `False`: no held-out combination occurs (training); `True`:
            at least one does; `None`: whatever comes.
        count (`int`, *optional*): number of things, 1 to 3; by default two most often.
        alike (`float`, defaults to 0): how often a further thing is of the same kind as the one before it, or has a
            fact or the colour in common with it.

    Returns:
        `Scene`
    """
    while True:
        scene = _any_scene(rng, count or rng.choices((1, 2, 3), weights=(3, 5, 3))[0], alike)
        if held_out is None or scene.held_out == held_out:
            return jittered(scene, rng)


def jittered(scene: Scene, rng: random.Random) -> Scene:
    """The same scene with other flips, shifts and shade."""
    things = [
        replace(
            placed,
            flipped=placed.thing.may_flip and rng.random() < 0.5,
            dx=rng.randint(-JITTER, JITTER),
            dy=rng.randint(-JITTER, JITTER),
        )
        for placed in scene.things
    ]
    return replace(scene, things=tuple(things), shade=rng.randint(-SHADE, SHADE))


@cache
def _alike(name: str) -> tuple[tuple[Thing, ...], ...]:
    """Other things of the same kind, with each fact, and of the same colour."""
    thing = BY_NAME[name]
    same = [[other for other in KNOWN if other.kind == thing.kind]]
    same += [[other for other in KNOWN if fact in other.facts] for fact in thing.facts]
    same += [[other for other in KNOWN if other.colour == thing.colour]]
    return tuple(tuple(other for other in each if other is not thing) for each in same if len(each) > 1)


def _any_scene(rng: random.Random, count: int, alike: float) -> Scene:
    if count == 2 and rng.random() < 0.3:
        cells = sorted(rng.choice((PAIR_CELLS["left"], PAIR_CELLS["above"])))
    else:
        cells = sorted(rng.sample(range(len(CELLS)), count))
    names: list[str] = []
    for _ in cells:
        if names and rng.random() < 0.15:  # independent draws alone would never make two cats
            names.append(rng.choice(names))
        elif names and alike and rng.random() < alike:
            names.append(rng.choice(rng.choice(_alike(names[-1]))).name)
        else:
            names.append(rng.choice(COLOURED_SHAPES if rng.random() < 0.2 else THINGS).name)
    rng.shuffle(names)
    sizes = [rng.choice(SIZES) for _ in cells]
    for first in range(count):  # neighbours are not both large: they would overlap
        for second in range(first):
            if sizes[first] == sizes[second] == "large" and touch(cells[first], cells[second]):
                sizes[rng.choice((first, second))] = "small"
    things = tuple(Placed(*each) for each in zip(names, sizes, cells, strict=True))
    return Scene(things, rng.choice(BACKGROUNDS))


def touch(first: int, second: int) -> bool:
    """Whether two cells are neighbours, diagonally, too."""
    (row, column), (other_row, other_column) = divmod(first, 3), divmod(second, 3)
    return max(abs(row - other_row), abs(column - other_column)) == 1
