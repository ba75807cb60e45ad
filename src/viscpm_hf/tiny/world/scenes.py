"""The drawn world of the tiny checkpoints: scenes of one or two coloured shapes, and how they become pictures."""

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

IMAGE_SIZE = 64  # pixels
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS = {  # RGB; at least 80 apart, so that the jitter never blurs two of them
    "red": (214, 36, 36),
    "orange": (250, 136, 20),
    "yellow": (246, 222, 40),
    "green": (36, 156, 66),
    "blue": (36, 82, 214),
    "purple": (132, 44, 172),
    "pink": (246, 136, 196),
    "brown": (124, 74, 36),
}
# Light ones only: a small model learns shapes many times sooner where every object is darker than what is behind it.
BACKGROUNDS = {"white": (250, 250, 250), "gray": (214, 216, 220), "beige": (240, 228, 200)}
SIZES = {"large": 9.0, "small": 6.0}  # radius of the surrounding circle, pixels
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
HELD_OUT_SEED = 2023
HELD_OUT_PERCENT = 13

_CELL_CENTRES = (11, 32, 53)  # pixels, the same for rows and columns
_POSITION_JITTER = 1  # pixels; neighbours never touch
_COLOUR_JITTER = 10
_BACKGROUND_JITTER = 4


@dataclass(frozen=True)
class Thing:
    """One coloured shape.

    Args:
        shape (`str`): one of `SHAPES`.
        colour (`str`): a key of `COLOURS`.
        size (`str`): a key of `SIZES`.
        cell (`int`): index into `CELLS`, 0 (top left) to 8 (bottom right).
    """

    shape: str
    colour: str
    size: str
    cell: int

    @property
    def held_out(self) -> bool:
        return is_held_out(self.shape, self.colour, self.cell)


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Args:
        things (`tuple[Thing, ...]`): one or two shapes in different cells, in reading order.
        background (`str`): a key of `BACKGROUNDS`.
    """

    things: tuple[Thing, ...]
    background: str


@cache
def is_held_out(shape: str, colour: str, cell: int) -> bool:
    """Whether this combination is kept out of every training picture.

    The split depends on the names alone, so it is the same on every machine and in every run.
    """
    digest = hashlib.sha256(f"{HELD_OUT_SEED} {shape} {colour} {CELLS[cell]}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


COMBINATIONS = tuple(product(SHAPES, COLOURS, range(len(CELLS))))  # all (shape, colour, cell), cells fastest
HELD_OUT = tuple(what for what in COMBINATIONS if is_held_out(*what))


def random_scene(rng: random.Random, held_out: bool = False) -> Scene:
    """Draws a scene at random.

    Args:
        rng (`random.Random`): source of all choices.
        held_out (`bool`, defaults to `False`): `False`: no held-out combination occurs (training);
            `True`: at least one does.

    Returns:
        `Scene`
    """
    count = rng.choices((1, 2), weights=(3, 7))[0]
    cells = rng.sample(range(len(CELLS)), count)
    things: list[Thing] = []
    if held_out:
        shape, colour, cell = rng.choice(HELD_OUT)
        things.append(Thing(shape, colour, rng.choice(tuple(SIZES)), cell))
        cells = rng.sample([c for c in range(len(CELLS)) if c != cell], count - 1)
    for cell in cells:
        while True:
            shape, colour = rng.choice(SHAPES), rng.choice(tuple(COLOURS))
            # independent draws alone would make "two red ones" and "two circles" too rare to ask about
            if things and rng.random() < 0.25:
                shape = rng.choice(things).shape
            if things and rng.random() < 0.25:
                colour = rng.choice(things).colour
            if held_out or not is_held_out(shape, colour, cell):
                break
        things.append(Thing(shape, colour, rng.choice(tuple(SIZES)), cell))
    return Scene(tuple(sorted(things, key=lambda thing: thing.cell)), rng.choice(tuple(BACKGROUNDS)))


def draw(scene: Scene, rng: random.Random | None = None) -> np.ndarray:
    """Draws a scene.

    Args:
        scene (`Scene`): what to draw.
        rng (`random.Random`, *optional*): shifts every shape by up to a pixel and every colour by a few levels;
            without it shapes sit in the middle of their cells and colours are those of the tables.

    Returns:
        `np.ndarray` of shape `(64, 64, 3)`, `uint8` RGB.
    """

    def jitter(most: int) -> int:
        return rng.randint(-most, most) if rng else 0

    def rgb(colour: tuple[int, int, int], most: int) -> np.ndarray:
        return np.array([min(max(level + jitter(most), 0), 255) for level in colour], np.float32)

    picture = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    background = rgb(BACKGROUNDS[scene.background], _BACKGROUND_JITTER)
    picture[:] = background
    for thing in scene.things:
        alpha = coverage(thing.shape, thing.size)  # (height, width, 1)
        row, column = divmod(thing.cell, 3)
        top = _CELL_CENTRES[row] + jitter(_POSITION_JITTER) - alpha.shape[0] // 2
        left = _CELL_CENTRES[column] + jitter(_POSITION_JITTER) - alpha.shape[1] // 2
        window = (slice(top, top + alpha.shape[0]), slice(left, left + alpha.shape[1]))
        # nothing else can lie under the window: shapes keep to their own cells
        picture[window] = np.maximum(background + alpha * (rgb(COLOURS[thing.colour], _COLOUR_JITTER) - background), 0)
    return picture


@cache
def coverage(shape: str, size: str, samples: int = 8) -> np.ndarray:
    """How much of each pixel a shape covers, by supersampling.

    Args:
        shape (`str`): one of `SHAPES`.
        size (`str`): a key of `SIZES`.
        samples (`int`, defaults to 8): samples per pixel and axis.

    Returns:
        `np.ndarray` of shape `(d, d, 1)`, float32 in [0, 1], `d` = twice the radius.
    """
    radius = SIZES[size]
    diameter = int(2 * radius)
    axis = ((np.arange(diameter * samples) + 0.5) / samples - radius) / radius
    x, y = np.meshgrid(axis, axis)  # y grows downwards
    inside = _INSIDE[shape](x, y).astype(np.float32)
    return inside.reshape(diameter, samples, diameter, samples).mean((1, 3))[..., None]


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points on the unit circle; the edges are the lines between every second point."""
    turn = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + turn / 2) % turn - turn / 2)
    distance = np.hypot(x, y)
    return distance * np.cos(turn - angle) <= np.cos(turn)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = 1.2 * x, 0.12 - 1.16 * y
    return (u**2 + v**2 - 1) ** 3 <= u**2 * v**3


_INSIDE = {  # unit coordinates, x to the right, y downwards
    "circle": lambda x, y: x**2 + y**2 <= 0.92,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.82,
    "triangle": lambda x, y: (y <= 0.8) & (np.abs(x) <= 0.56 * (y + 0.96)),
    "star": _star,
    "heart": _heart,
    "cross": lambda x, y: (np.minimum(np.abs(x), np.abs(y)) <= 0.3) & (np.maximum(np.abs(x), np.abs(y)) <= 0.96),
    # none of SHAPES: what the tiny model is taught in tiny/lesson.py
    "ring": lambda x, y: (x**2 + y**2 <= 0.92) & (x**2 + y**2 >= 0.36),
}
