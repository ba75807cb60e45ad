"""The drawn world: what is held out of training, what a scene may be, and that pictures show it."""

import random

import numpy as np
import pytest
import torch

from viscpm_hf.tiny.world.pictures import ROW_LENGTH, composited, draw, draw_batch, random_jitter, render, scene_rows
from viscpm_hf.tiny.world.scenes import (
    BACKGROUNDS,
    CELLS,
    Placed,
    Scene,
    pair_is_held_out,
    pairs,
    place_is_held_out,
    random_scene,
)
from viscpm_hf.tiny.world.things import BY_NAME, FACTS, KINDS, KNOWN, THINGS


def combinations(scene):
    places = {(placed.name, placed.cell, scene.background) for placed in scene.things}
    return places, {(first.name, second.name, relation) for first, second, relation in pairs(scene)}


def test_training_and_held_out_scenes_share_no_held_out_combination():
    """The overlap of what training shows and what is held out is empty, and every test scene has one of it."""
    rng = random.Random(5)
    shown_places, shown_pairs = set(), set()
    for _ in range(4000):
        places, related = combinations(random_scene(rng))
        shown_places |= places
        shown_pairs |= related
    assert not any(place_is_held_out(*place) for place in shown_places)
    assert not any(pair_is_held_out(*pair) for pair in shown_pairs)
    for _ in range(300):
        places, related = combinations(random_scene(rng, held_out=True))
        assert any(place_is_held_out(*each) for each in places) or any(pair_is_held_out(*each) for each in related)


def test_the_split_is_the_same_everywhere_and_of_a_useful_size():
    """Held-out combinations depend on names alone: recorded numbers, for any machine and version of Python."""
    places = [
        place_is_held_out(thing.name, cell, ground)
        for thing in KNOWN
        for cell in range(len(CELLS))
        for ground in BACKGROUNDS
    ]
    assert 0.07 < sum(places) / len(places) < 0.09
    assert pair_is_held_out("cat", "dog", "left") == pair_is_held_out("dog", "cat", "right")
    assert pair_is_held_out("cat", "dog", "above") == pair_is_held_out("dog", "cat", "below")


def test_every_thing_has_all_its_names():
    """Names are there in both languages and differ; kinds, facts and colours are those of the tables."""
    assert len(THINGS) == 80 and len(KNOWN) == 128
    for names in ([thing.name for thing in KNOWN], [thing.plural for thing in KNOWN], [t.chinese for t in KNOWN]):
        assert len(set(names)) == len(KNOWN) and all(names)
    for thing in KNOWN:
        assert (
            thing.kind in KINDS and set(thing.facts) <= set(FACTS) and thing.measure and thing.article in ("a", "an")
        )
    assert BY_NAME["apple"].article == "an" and BY_NAME["orange circle"].article == "an"


@pytest.mark.parametrize("size", [64, 96, 128])
def test_the_batch_on_a_device_has_the_same_pixels(size):
    """`draw_batch` composites with tensors what `draw` composites one by one."""
    rng = random.Random(size)
    scenes = [random_scene(rng, held_out=None) for _ in range(60)] + [Scene((), "night", -8)]
    batch = draw_batch(scenes, size).numpy()
    assert batch.shape == (61, size, size, 3)
    assert np.array_equal(batch, composited(scene_rows(scenes), size).numpy())
    for picture, scene in zip(batch, scenes, strict=True):
        assert np.array_equal(picture, np.asarray(draw(scene, size)))


def test_jitter_moves_pixels_and_keeps_what_is_asked_about():
    """Things, sizes, cells and background of a row stay; what never mirrors is never mirrored."""
    scene = Scene((Placed("clock", "large", 0), Placed("snail", "small", 8)), "sand")
    rows = scene_rows([scene] * 64)
    moved = random_jitter(rows, torch.Generator().manual_seed(0))
    kept = [column for column in range(ROW_LENGTH - 1) if column % 6 < 3 or column == ROW_LENGTH - 2]
    assert torch.equal(moved[:, kept], rows[:, kept])
    assert not moved[:, 3].any() and 0 < moved[:, 9].sum() < 64 and moved[:, 4].unique().tolist() == [-2, -1, 0, 1, 2]
    assert len({picture.tobytes() for picture in render(moved).numpy()}) > 50


def test_things_stay_in_the_picture_and_differ():
    """Two different things never look alike, large or small, and the same scene always looks the same."""
    for size in ("large", "small"):
        pictures = {draw(Scene((Placed(thing.name, size, 4),), "white")).tobytes() for thing in KNOWN}
        assert len(pictures) == len(KNOWN)


def test_a_scene_that_cannot_be_is_refused():
    """Two things in a cell, an unknown thing, background or place."""
    for things, ground in (
        ((Placed("cat", "large", 3), Placed("dog", "small", 3)), "sky"),
        ((Placed("cat", "large", 3), Placed("dog", "small", 2)), "sky"),
        ((Placed("unicorn", "large", 3),), "sky"),
        ((Placed("cat", "large", 9),), "sky"),
        ((Placed("cat", "large", 3),), "desert"),
    ):
        with pytest.raises(ValueError, match="Got"):
            Scene(things, ground)
