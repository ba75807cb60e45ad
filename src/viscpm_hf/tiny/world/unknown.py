"""Pictures that show nothing of this world: blank, noise, textures like photographs, screenshots, strange figures."""

import colorsys
import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .pictures import IMAGE_SIZE, background
from .scenes import BACKGROUNDS

_LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789"


def unknown_picture(sort: str, rng: random.Random, held_out: bool = False) -> Image.Image:
    """A picture without anything known.

    Args:
        sort (`str`): one of `UNKNOWN_PICTURES`.
        rng (`random.Random`): source of all choices.
        held_out (`bool`, defaults to `False`): of the test; those are made with other parameters than training's.

    Returns:
        `PIL.Image.Image`, 96×96, RGB.
    """
    numbers = np.random.default_rng(rng.getrandbits(32))
    return UNKNOWN_PICTURES[sort](rng, numbers, held_out)


def _image(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return tuple(rng.randrange(256) for _ in range(3))


def _muted(rng: random.Random) -> tuple[int, int, int]:
    """A colour as photographs have: of earth, leaves, skin, stone, sky."""
    hue, saturation, value = (
        rng.choice((0.06, 0.1, 0.25, 0.55, 0.6)) + rng.gauss(0, 0.03),
        rng.uniform(0, 0.5),
        rng.random(),
    )
    return tuple(round(255 * level) for level in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _blank(rng, numbers, held_out):
    if rng.random() < 0.5:
        picture = background(rng.choice(BACKGROUNDS)).astype(float) + rng.randint(-10, 10)
        return _image(picture)
    if rng.random() < 0.3:
        return Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), rng.choice(("white", "black", "gray")))
    if rng.random() < 0.5:
        return Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), _colour(rng))
    share = np.linspace(0, 1, IMAGE_SIZE)
    share = (share[:, None] if rng.random() < 0.5 else share[None, :])[..., None]
    picture = share * np.array(_colour(rng)) + (1 - share) * np.array(_colour(rng))
    return _image(np.broadcast_to(picture, (IMAGE_SIZE, IMAGE_SIZE, 3)))


def _noise(rng, numbers, held_out):
    channels = rng.choice((1, 3))
    way = rng.random()
    size = rng.choice((3, 6, 24) if held_out else (1, 2, 4, 8, 12))
    shape = (-(-IMAGE_SIZE // size),) * 2 + (channels,)
    levels = numbers.uniform(0, 255, shape) if way < 0.5 else numbers.normal(128, rng.uniform(20, 90), shape)
    if way > 0.85:
        levels = 255.0 * (levels > 128)
    levels = np.repeat(np.repeat(levels, size, 0), size, 1)[:IMAGE_SIZE, :IMAGE_SIZE]
    return _image(np.broadcast_to(levels, (IMAGE_SIZE, IMAGE_SIZE, 3)))


def _cloud(numbers, slope: float) -> np.ndarray:
    """Noise whose spectrum falls like that of photographs, mean 0, deviation 1."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(IMAGE_SIZE), np.fft.rfftfreq(IMAGE_SIZE), indexing="ij"))
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(numbers.normal(size=(IMAGE_SIZE, IMAGE_SIZE))) / frequency**slope
    spectrum[0, 0] = 0
    picture = np.fft.irfft2(spectrum, s=(IMAGE_SIZE, IMAGE_SIZE))
    return picture / picture.std()


def _texture(rng, numbers, held_out):
    """Like a photograph: soft fields, an horizon, blurred bodies with light and shadow, grain."""
    colour = _muted if rng.random() < 0.6 else _colour
    slope = rng.uniform(1.3, 1.7) if held_out else rng.uniform(0.7, 2.2)
    shared, own = _cloud(numbers, slope), rng.uniform(0.1, 0.9)
    layers = [shared * (1 - own) + _cloud(numbers, slope) * own for _ in range(3)]
    picture = np.stack(layers, -1) * rng.uniform(15, 70) + np.array(colour(rng)) * 0.7 + 40
    image = _image(picture)
    pen = ImageDraw.Draw(image)
    if rng.random() < 0.5:
        horizon = rng.randrange(20, 80)
        pen.rectangle((0, horizon, IMAGE_SIZE, IMAGE_SIZE), fill=colour(rng))
    for _ in range(rng.randrange(0, 9)):
        x, y = rng.randrange(-20, IMAGE_SIZE), rng.randrange(-20, IMAGE_SIZE)
        w, h = rng.randrange(6, 60), rng.randrange(6, 60)
        draw = rng.choice((pen.ellipse, pen.rectangle, pen.pieslice))
        extra = {"start": rng.randrange(360), "end": rng.randrange(360)} if draw == pen.pieslice else {}
        draw((x, y, x + w, y + h), fill=colour(rng), **extra)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 6)))
    levels = np.asarray(image).astype(float)
    levels += _cloud(numbers, rng.uniform(0.5, 1.5))[..., None] * rng.uniform(3, 30)
    levels += numbers.normal(0, rng.uniform(0, 14), levels.shape)
    return _image(levels * rng.uniform(0.6, 1.2))


def _screen(rng, numbers, held_out):
    """Like a screenshot: a window with a bar, lines of text, buttons, a table."""
    dark = rng.random() < 0.3
    paper, ink = ((30, 32, 36), (210, 210, 210)) if dark else ((250, 250, 250), (40, 40, 40))
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), paper)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(rng.choice((9, 13) if held_out else (7, 8, 10, 11, 14)))
    if rng.random() < 0.6:
        pen.rectangle((0, 0, IMAGE_SIZE, rng.randrange(6, 16)), fill=_colour(rng))
    if rng.random() < 0.4:
        pen.rectangle((0, 0, rng.randrange(10, 30), IMAGE_SIZE), fill=_colour(rng))
    y, left = rng.randrange(4, 20), rng.randrange(2, 30)
    while y < IMAGE_SIZE:
        way = rng.random()
        colour = _colour(rng) if way < 0.2 else ink
        if way < 0.65:
            pen.text((left, y), "".join(rng.choices(_LETTERS, k=rng.randrange(3, 20))), fill=colour, font=font)
        elif way < 0.75:
            pen.rectangle((left, y, left + rng.randrange(10, 60), y + 8), fill=_colour(rng), outline=ink)
        elif way < 0.85:
            pen.line((left, y, IMAGE_SIZE, y), fill=colour)
        elif way < 0.92:
            for column in range(left, IMAGE_SIZE, rng.randrange(10, 30)):
                pen.rectangle((column, y, column + 8, y + 8), outline=ink)
        y += rng.randrange(7, 18)
    return image


def _figure(rng, numbers, held_out):
    """Lines, curves and patches that are no thing, on one of the backgrounds or a plain one."""
    levels = (
        background(rng.choice(BACKGROUNDS)) if rng.random() < 0.6 else np.full((96, 96, 3), _colour(rng), np.uint8)
    )
    image = Image.fromarray(levels)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randrange(1, 6)):
        way, x, y = rng.random(), rng.randrange(8, 88), rng.randrange(8, 88)
        points = [(x, y)]
        for _ in range(rng.randrange(2, 9)):
            x, y = x + rng.gauss(0, 16), y + rng.gauss(0, 16)
            points.append((x, y))
        if way < 0.4:
            pen.line(points, fill=_colour(rng), width=rng.randrange(1, 6), joint="curve")
        elif way < 0.7 and len(points) > 3:
            pen.polygon(points, fill=_colour(rng))
        else:
            start = rng.randrange(360)
            radius = rng.randrange(8, 30)
            box = (points[0][0] - radius, points[0][1] - radius, points[0][0] + radius, points[0][1] + radius)
            pen.arc(box, start, start + rng.randrange(60, 200), fill=_colour(rng), width=rng.randrange(2, 7))
    return image


def _stripes(rng, numbers, held_out):
    """Waves, checks and rings over the whole picture."""
    axis = np.arange(IMAGE_SIZE)
    x, y = np.meshgrid(axis, axis)
    angle, period = rng.uniform(0, math.pi), rng.uniform(9, 15) if held_out else rng.uniform(3, 40)
    wave = np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period)
    way = rng.random()
    if way < 0.3:
        wave = np.sign(wave)
    elif way < 0.5:
        wave = np.sign(np.sin(math.pi * x / period) * np.sin(math.pi * y / period))
    elif way < 0.7:
        wave = np.sin(2 * math.pi * np.hypot(x - rng.randrange(96), y - rng.randrange(96)) / period)
    share = ((wave + 1) / 2)[..., None]
    return _image(share * np.array(_colour(rng)) + (1 - share) * np.array(_colour(rng)))


UNKNOWN_PICTURES = {
    "blank": _blank,
    "noise": _noise,
    "texture": _texture,
    "screenshot": _screen,
    "figures": _figure,
    "pattern": _stripes,
}
