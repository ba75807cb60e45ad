"""Guards the variation of training pictures: the original's ten changes with Pillow alone, the same for a seed."""

import random

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from viscpm_hf.finetuning.augmentation import CHANGES, augment, random_crop


@pytest.fixture
def picture():
    levels = np.random.default_rng(0).integers(20, 200, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def test_the_same_for_a_seed_and_different_for_others(picture):
    def varied(seed):
        return augment(picture, 24, random.Random(seed)).tobytes()

    assert varied(1) == varied(1)
    assert len({varied(seed) for seed in range(20)}) == 20
    assert augment(picture, 24, random.Random(0)).size == (24, 24)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 3), (64, 64)])
def test_any_shape_can_be_cropped(size):
    for seed in range(20):
        assert random_crop(Image.new("RGB", size, "red"), 16, random.Random(seed)).getpixel((8, 8)) == (255, 0, 0)


def test_changes_are_those_of_the_paper(picture):
    """At level 7 of 10; what comes in from outside is grey."""
    identity, contrast, equal, bright, sharp, shear_x, shear_y, right, down, turn = CHANGES
    levels = np.asarray(picture, dtype=float)
    assert identity(picture, 1) is picture
    assert np.asarray(contrast(picture, 1)).min() == 0 and np.asarray(contrast(picture, 1)).max() == 255
    assert np.allclose(np.asarray(bright(picture, 1)), np.clip(levels * 1.36, 0, 255), atol=1)
    smooth = picture.filter(ImageFilter.SMOOTH)
    assert ImageEnhance.Sharpness(picture).enhance(1.36) == sharp(picture, -1) and smooth != picture
    moved = np.asarray(right(picture, -1))
    assert (moved[:, :7] == 128).all() and (moved[:, 7:] == levels[:, :-7]).all()
    moved = np.asarray(down(picture, 1))
    assert (moved[-7:] == 128).all() and (moved[:-7] == levels[7:]).all()
    for change in (equal, shear_x, shear_y, turn):
        assert change(picture, 1).size == picture.size and change(picture, 1) != picture
    assert (np.asarray(turn(picture, 1))[0, 0] == 128).all() and shear_x(picture, 1) != shear_x(picture, -1)
