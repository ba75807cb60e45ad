"""Scenes as pictures: one with Pillow's types, thousands a second as tensors.

draw(scene)                                # PIL.Image, 96×96
draw(scene, size=64)
draw_batch(scenes, 96, "cuda")             # (n, 96, 96, 3) uint8, the same pixels as draw()'s
rows = scene_rows(scenes)                  # (n, 20) int16: keep these, not the pictures
render(random_jitter(rows.cuda()), 96)     # drawn on their device; other flips, shifts and shades every time
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image

from .scenes import BACKGROUNDS, JITTER, SHADE, SIZES, Scene
from .sprites import sprite
from .things import DRAWN, NUMBER

IMAGE_SIZE = 96  # pixels; all measures below are for it and scale with it
SPRITE_PIXELS = {"large": 38, "small": 24}
CELL_CENTRES = (21, 48, 75)  # the same for rows and columns
MOST_THINGS = 3
_FIELDS = 6  # of a thing in a row: number (-1: none), size, cell, flipped, dx, dy; then background and shade
ROW_LENGTH = MOST_THINGS * _FIELDS + 2


def draw(scene: Scene, size: int = IMAGE_SIZE) -> Image.Image:
    """Draws a scene.

    Args:
        scene (`Scene`): what to draw; the same scene always gives the same picture.
        size (`int`, pixels, defaults to 96): side of the picture.

    Returns:
        `PIL.Image.Image` in RGB.
    """
    return Image.fromarray(_pasted(scene_row(scene), size))


def draw_batch(scenes: Sequence[Scene], size: int = IMAGE_SIZE, device: str | torch.device = "cpu") -> torch.Tensor:
    """Draws scenes on a device: `(len(scenes), size, size, 3)` uint8, the same pixels as `draw`'s."""
    return render(scene_rows(scenes).to(device), size)


def scene_rows(scenes: Sequence[Scene]) -> torch.Tensor:
    """Scenes as numbers, `(len(scenes), 20)` int16.

    Three times (number of the thing in `DRAWN` or -1, index of its size, cell, flipped, dx, dy), then the background's
    index and the shade.
    """
    rows = torch.zeros(len(scenes), ROW_LENGTH, dtype=torch.int16)
    for row, scene in zip(rows, scenes, strict=True):
        row.copy_(torch.tensor(scene_row(scene), dtype=torch.int16))
    return rows


def scene_row(scene: Scene) -> list[int]:
    """One row of `scene_rows`."""
    row = []
    for placed in scene.things:
        row += [NUMBER[placed.name], SIZES.index(placed.size), placed.cell, placed.flipped, placed.dx, placed.dy]
    row += [-1, 0, 0, 0, 0, 0] * (MOST_THINGS - len(scene.things))
    return [*row, BACKGROUNDS.index(scene.background), scene.shade]


def random_jitter(rows: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """The same scenes with other flips, shifts and shades; arguments and result as of `scene_rows`, on any device."""
    rows = rows.clone()
    things = rows[:, :-2].view(len(rows), MOST_THINGS, _FIELDS)

    def integers(low, high, shape):
        return torch.randint(low, high + 1, shape, device=rows.device, generator=generator, dtype=rows.dtype)

    things[..., 3] = integers(0, 1, things.shape[:2]) * _may_flip(rows.device)[things[..., 0].long()]
    things[..., 4:] = integers(-JITTER, JITTER, (*things.shape[:2], 2))
    rows[:, -1] = integers(-SHADE, SHADE, (len(rows),))
    return rows


def render(rows: torch.Tensor, size: int = IMAGE_SIZE) -> torch.Tensor:
    """Draws rows of `scene_rows` on the device where they lie.

    Args:
        rows (`torch.Tensor`): `(n, 20)`, any integer type.
        size (`int`, pixels, defaults to 96): side of the pictures.

    Returns:
        `torch.Tensor`, `(n, size, size, 3)` uint8.
    """
    if rows.device.type == "cpu":
        return torch.from_numpy(np.stack([_pasted(row, size) for row in rows.tolist()]))
    return composited(rows, size)


def _pasted(row: list[int], size: int) -> np.ndarray:
    """One row drawn by pasting, `(size, size, 3)` uint8."""
    picture = np.clip(background(BACKGROUNDS[row[-2]], size).astype(np.int32) + row[-1], 0, 255)
    for slot in range(MOST_THINGS):
        number, which, cell, flipped, dx, dy = row[slot * _FIELDS : (slot + 1) * _FIELDS]
        if number < 0:
            continue
        ink = sprite(DRAWN[number].name, _sprite_pixels(SIZES[which], size), bool(flipped)).astype(np.int32)
        side = len(ink)
        top, left = (
            _corner(CELL_CENTRES[place], shift, side, size) for place, shift in ((cell // 3, dy), (cell % 3, dx))
        )
        # the part of the sprite inside of the picture
        rows, columns = (slice(max(start, 0), min(start + side, size)) for start in (top, left))
        ink = ink[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        picture[rows, columns] = (picture[rows, columns] * (255 - ink[..., 3:]) + 127) // 255 + ink[..., :3]
    return np.minimum(picture, 255).astype(np.uint8)


def composited(rows: torch.Tensor, size: int = IMAGE_SIZE) -> torch.Tensor:
    """What `render` does on a GPU, with tensor operations alone; on a CPU pasting is faster."""
    rows = rows.long()
    sprites, sides = _sprites(size, rows.device)
    grounds, centres = _backgrounds(size, rows.device), _centres(rows.device)
    picture = (grounds[rows[:, -2]].int() + rows[:, -1].int()[:, None, None, None]).clamp_(0, 255)
    axis = torch.arange(size, device=rows.device)
    largest = sprites.shape[1] - 2
    for slot in range(MOST_THINGS):
        number, which, cell, flipped, dx, dy = rows[:, slot * _FIELDS : (slot + 1) * _FIELDS].unbind(1)
        side = sides[which]
        # each axis: where on the sprite a pixel of the picture lies; 0 and largest + 1 are its empty margin
        down, across = (
            (axis - _corner(centres[place], shift, side, size)[:, None]).clamp(-1, largest) + 1
            for place, shift in ((cell // 3, dy), (cell % 3, dx))
        )
        sheet = (number * len(SIZES) + which) * 2 + flipped
        sheet = torch.where(number < 0, len(sprites) - 1, sheet)  # the last one is empty
        ink = sprites[sheet[:, None, None], down[:, :, None], across[:, None, :]].int()  # (n, size, size, 4)
        picture = (picture * (255 - ink[..., 3:]) + 127) // 255 + ink[..., :3]
    return picture.clamp_(max=255).to(torch.uint8)


def _sprite_pixels(name: str, size: int) -> int:
    return round(SPRITE_PIXELS[name] * size / IMAGE_SIZE)


def _corner(centre, shift, side, size):
    """First pixel of a sprite along an axis; numbers or tensors, in whole numbers so that both round alike."""
    return (2 * (centre + shift) * size - side * IMAGE_SIZE + IMAGE_SIZE) // (2 * IMAGE_SIZE)


@cache
def _sprites(size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """All sprites `(number × size × flipped, then an empty one)`, each in a margin of one pixel, and the sides."""
    sides = [_sprite_pixels(name, size) for name in SIZES]
    side = max(sides)
    sheets = np.zeros((len(DRAWN) * len(SIZES) * 2 + 1, side + 2, side + 2, 4), np.uint8)
    for number, thing in enumerate(DRAWN):
        for which, pixels in enumerate(sides):
            for flipped in (0, 1):
                ink = sprite(thing.name, pixels, bool(flipped))
                sheets[(number * len(SIZES) + which) * 2 + flipped, 1 : pixels + 1, 1 : pixels + 1] = ink
    return torch.from_numpy(sheets).to(device), torch.tensor(sides, device=device)


@cache
def _backgrounds(size: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.stack([background(name, size) for name in BACKGROUNDS])).to(device)


@cache
def _centres(device: torch.device) -> torch.Tensor:
    return torch.tensor(CELL_CENTRES, device=device)  # once: a CUDA graph cannot wait for a copy


@cache
def _may_flip(device: torch.device) -> torch.Tensor:
    # the number -1, nothing, finds the last one
    return torch.tensor([thing.may_flip for thing in DRAWN], dtype=torch.int16, device=device)


@cache
def background(name: str, size: int = IMAGE_SIZE) -> np.ndarray:
    """A background without anything on it.

    Args:
        name (`str`): one of `BACKGROUNDS`.
        size (`int`, pixels, defaults to 96): side.

    Returns:
        `np.ndarray` of shape `(size, size, 3)`, uint8.
    """
    samples = 4
    axis = (np.arange(size * samples) + 0.5) / (size * samples)
    x, y = np.meshgrid(axis, axis)
    picture = _PAINTERS[name](x, y).reshape(size, samples, size, samples, 3).mean((1, 3))
    return np.round(picture).clip(0, 255).astype(np.uint8)


def _mixed(share: np.ndarray, start: tuple[int, ...], end: tuple[int, ...]) -> np.ndarray:
    share = np.clip(share, 0, 1)[..., None]
    return (1 - share) * np.array(start, float) + share * np.array(end, float)


def _dots(x: np.ndarray, y: np.ndarray, number: int, radius: float) -> np.ndarray:
    """1 inside of dots scattered evenly (the golden ratio's way), else 0."""
    centres = np.arange(number)
    across, down = (centres * 0.754878 + 0.07) % 1, (centres * 0.569840 + 0.11) % 1
    distance = np.hypot(x[..., None] - across, y[..., None] - down).min(-1)
    return (distance < radius).astype(float)


def _grass(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ground = _mixed(y, (178, 222, 120), (142, 200, 88))
    blades = (np.abs((x * 12 + np.floor(y * 8) * 0.5) % 1 - 0.5) < 0.10 * ((y * 8) % 1)) & ((y * 8) % 1 > 0.45)
    return ground - 14.0 * blades[..., None]


def _water(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ground = _mixed(y, (96, 188, 220), (40, 130, 190))
    waves = np.abs((y * 8 + 0.18 * np.sin(x * 8 * np.pi)) % 1 - 0.5) < 0.08
    return ground + 22.0 * waves[..., None]


_PAINTERS = {
    "white": lambda x, y: _mixed(y, (250, 250, 250), (250, 250, 250)),
    "sky": lambda x, y: _mixed(y, (150, 206, 250), (214, 236, 252)),
    "grass": _grass,
    "sand": lambda x, y: _mixed(y, (244, 222, 168), (230, 200, 140)) - 16.0 * _dots(x, y, 60, 0.007)[..., None],
    "night": lambda x, y: np.maximum(_mixed(y, (18, 22, 58), (44, 48, 96)), 215.0 * _dots(x, y, 24, 0.008)[..., None]),
    "water": _water,
}
