"""Finds the coloured shapes in a picture of the tiny world by looking at its pixels."""

from dataclasses import dataclass

import numpy as np

from ..world.scenes import COLOURS, IMAGE_SIZE, SHAPES, SIZES, coverage

_LEAST_CONTRAST = 40.0  # RGB distance from the background
_LEAST_PIXELS = 12
_SHIFTS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))


@dataclass(frozen=True)
class Found:
    """A shape that was found.

    Args:
        shape (`str`): the one of `SHAPES` that fits best.
        colour (`str`): the nearest of `COLOURS`.
        cell (`int`): index into `CELLS`.
        misfit (`float`): mean difference in coverage to the drawn shape, 0 to 1; a drawn one stays below 0.01.
    """

    shape: str
    colour: str
    cell: int
    misfit: float


def find_shapes(picture: np.ndarray) -> list[Found]:
    """Every shape in a picture, in reading order.

    Args:
        picture (`np.ndarray`): `(64, 64, 3)` uint8 RGB.

    Returns:
        `list[Found]`
    """
    pixels = picture.astype(np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    distance = np.linalg.norm(pixels - np.median(border, 0), axis=-1)
    labels = _components(distance > _LEAST_CONTRAST)
    areas = [(labels == label) for label in np.unique(labels[labels > 0])]
    found = [_describe(pixels, distance, area) for area in areas if area.sum() >= _LEAST_PIXELS]
    return sorted(found, key=lambda thing: thing.cell)


def _components(mask: np.ndarray) -> np.ndarray:
    """Numbers the connected parts of a mask (neighbours also across corners); 0 is nothing."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        height, width = labels.shape
        spread = np.max([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0) * mask
        if (spread == labels).all():
            return labels
        labels = spread


def _describe(pixels: np.ndarray, distance: np.ndarray, area: np.ndarray) -> Found:
    core = area & (distance >= np.quantile(distance[area], 0.5))
    tone, names = np.median(pixels[core], 0), tuple(COLOURS)
    colour = names[np.argmin([np.linalg.norm(tone - COLOURS[name]) for name in names])]
    covered = np.clip(distance / np.median(distance[core]), 0, 1) * _grown(area)
    rows, columns = np.nonzero(area)
    centre = (rows.min() + rows.max() + 1) // 2, (columns.min() + columns.max() + 1) // 2
    misfit, shape = min(
        (float(np.abs(covered - _placed(shape, size, centre[0] + dy, centre[1] + dx)).sum()) / area.sum(), shape)
        for shape in SHAPES
        for size in SIZES
        for dy, dx in _SHIFTS
    )
    row, column = (min(3 * middle // IMAGE_SIZE, 2) for middle in centre)
    return Found(shape, colour, int(3 * row + column), misfit)


def _grown(area: np.ndarray) -> np.ndarray:
    """The area and the half-covered pixels around it."""
    padded, (height, width) = np.pad(area, 1), area.shape
    return np.max([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)


def _placed(shape: str, size: str, row: int, column: int) -> np.ndarray:
    """Coverage of a whole picture by a shape whose centre is there."""
    alpha = coverage(shape, size)[..., 0]
    radius = alpha.shape[0] // 2
    canvas = np.zeros((IMAGE_SIZE + 4 * radius,) * 2, np.float32)  # room for shapes over the edge
    top, left = row + radius, column + radius
    canvas[top : top + 2 * radius, left : left + 2 * radius] = alpha
    return canvas[2 * radius : 2 * radius + IMAGE_SIZE, 2 * radius : 2 * radius + IMAGE_SIZE]
