"""Guards the pixel check: on drawn pictures it finds every shape, its colour and its cell."""

import random

import numpy as np

from viscpm_hf.tiny.measures.pixel_check import find_shapes
from viscpm_hf.tiny.world.scenes import BACKGROUNDS, CELLS, COLOURS, SHAPES, SIZES, Scene, Thing, draw, random_scene


def seen(picture):
    return [(found.shape, found.colour, found.cell) for found in find_shapes(picture)]


def test_drawn_pictures_are_read_right():
    rng, right = random.Random(0), 0
    for _ in range(150):
        scene = random_scene(rng)
        right += seen(draw(scene, rng)) == [(thing.shape, thing.colour, thing.cell) for thing in scene.things]
    assert right >= 149  # 99 %


def test_every_shape_colour_size_and_background_is_known():
    rng = random.Random(1)
    for number, shape in enumerate(SHAPES):
        for colour in COLOURS:
            thing = Thing(shape, colour, rng.choice(tuple(SIZES)), rng.randrange(len(CELLS)))
            scene = Scene((thing,), tuple(BACKGROUNDS)[number % len(BACKGROUNDS)])
            assert seen(draw(scene)) == [(shape, colour, thing.cell)]


def test_nothing_is_found_in_nothing_and_noise_fits_badly():
    assert find_shapes(np.full((64, 64, 3), 250, np.uint8)) == []
    blot = np.full((64, 64, 3), 250, np.uint8)
    blot[20:30, 10:50] = (214, 36, 36)
    (found,) = find_shapes(blot)
    assert found.colour == "red" and found.misfit > 0.3
    assert max(found.misfit for found in find_shapes(draw(Scene((Thing("star", "red", "small", 0),), "white")))) < 0.01


def test_shapes_at_the_edge_and_touching_the_border_are_found():
    picture = np.roll(draw(Scene((Thing("circle", "blue", "large", 0),), "white")), (-9, -9), (0, 1))
    assert ("blue", 0) in [(found.colour, found.cell) for found in find_shapes(picture)]
