"""The things as small pictures: pictograms from sprites.png (Noto Color Emoji, OFL-1.1), coloured shapes computed."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .things import BY_NAME, COLOURS, NUMBER, THINGS, Thing

SHEET = Path(__file__).parent / "sprites.png"
SPRITE_SIZE = 64  # pixels of a sprite on the sheet
COLUMNS = 10


@cache
def sprite(name: str, pixels: int, flipped: bool = False) -> np.ndarray:
    """A thing at some size.

    Args:
        name (`str`): of one of `DRAWN`.
        pixels (`int`): side.
        flipped (`bool`, defaults to `False`): mirrored.

    Returns:
        `np.ndarray` of shape `(pixels, pixels, 4)`, uint8: red, green, blue, each times alpha, and alpha.
    """
    thing = BY_NAME[name]
    if thing.shape:
        picture = _shape(thing, pixels)
    else:
        # colours of transparent pixels must not leak in: RGBa has them times alpha
        picture = np.asarray(_sheet_of(NUMBER[name]).resize((pixels, pixels), Image.Resampling.LANCZOS)).copy()
        picture[..., :3] = np.minimum(picture[..., :3], picture[..., 3:])
    return np.ascontiguousarray(picture[:, ::-1]) if flipped else picture


@cache
def _sheet() -> Image.Image:
    with Image.open(SHEET) as sheet:
        return sheet.convert("RGBA").convert("RGBa")


def _sheet_of(number: int) -> Image.Image:
    assert number < len(THINGS)
    row, column = divmod(number, COLUMNS)
    left, top = column * SPRITE_SIZE, row * SPRITE_SIZE
    return _sheet().crop((left, top, left + SPRITE_SIZE, top + SPRITE_SIZE))


def _shape(thing: Thing, pixels: int, samples: int = 8) -> np.ndarray:
    """A coloured shape, its edges smooth by supersampling."""
    axis = 2 * (np.arange(pixels * samples) + 0.5) / (pixels * samples) - 1
    x, y = np.meshgrid(axis, axis)  # y grows downwards
    inside = _INSIDE[thing.shape](x, y).astype(np.float32)
    alpha = inside.reshape(pixels, samples, pixels, samples).mean((1, 3))[..., None]
    return np.round(alpha * np.array([*COLOURS[thing.colour], 255])).astype(np.uint8)


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
    "ring": lambda x, y: (x**2 + y**2 <= 0.92) & (x**2 + y**2 >= 0.36),
}
