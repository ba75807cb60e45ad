"""The original's augmentation of training pictures: crop, mirror, and two of ten small changes; with Pillow alone."""

import math
import random

from PIL import Image, ImageEnhance, ImageOps

LEVEL = 7 / 10
_GREY = (128, 128, 128)  # what comes in from outside


def augment(picture: Image.Image, size: int, rng: random.Random) -> Image.Image:
    """A random variation of a picture.

    A mirrored picture makes answers about left and right wrong; the original does not mind.

    Args:
        picture (`PIL.Image`): in RGB.
        size (`int`, pixels): side of what is returned.
        rng (`random.Random`): source of all choices.

    Returns:
        `PIL.Image`, `size` × `size`.
    """
    picture = random_crop(picture, size, rng)
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    for change in rng.choices(CHANGES, k=2):
        if rng.random() <= 0.5:
            picture = change(picture, rng.choice((-1, 1)))
    return picture


def random_crop(picture: Image.Image, size: int, rng: random.Random) -> Image.Image:
    """Half to all of the area, of a shape between 3:4 and 4:3, resized to `size` × `size`."""
    width, height = picture.size
    for _ in range(10):
        area = width * height * rng.uniform(0.5, 1)
        shape = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            break
    else:  # the middle, as much as has a shape in between
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
        return _resized(picture, (left, top, left + w, top + h), size)
    left, top = rng.randint(0, width - w), rng.randint(0, height - h)
    return _resized(picture, (left, top, left + w, top + h), size)


def _resized(picture, box, size):
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _identity(picture, sign):
    return picture


def _auto_contrast(picture, sign):
    return ImageOps.autocontrast(picture)


def _equalize(picture, sign):
    return ImageOps.equalize(picture)


def _brightness(picture, sign):
    return ImageEnhance.Brightness(picture).enhance(LEVEL * 1.8 + 0.1)


def _sharpness(picture, sign):
    return ImageEnhance.Sharpness(picture).enhance(LEVEL * 1.8 + 0.1)


def _moved(picture, *matrix):
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_GREY)


def _shear_x(picture, sign):
    return _moved(picture, 1, sign * LEVEL * 0.3, 0, 0, 1, 0)


def _shear_y(picture, sign):
    return _moved(picture, 1, 0, 0, sign * LEVEL * 0.3, 1, 0)


def _translate_x(picture, sign):
    return _moved(picture, 1, 0, sign * LEVEL * 10, 0, 1, 0)


def _translate_y(picture, sign):
    return _moved(picture, 1, 0, 0, 0, 1, sign * LEVEL * 10)


def _rotate(picture, sign):
    return picture.rotate(sign * LEVEL * 30, Image.Resampling.BILINEAR, fillcolor=_GREY)


CHANGES = (
    *(_identity, _auto_contrast, _equalize, _brightness, _sharpness),
    *(_shear_x, _shear_y, _translate_x, _translate_y, _rotate),
)
