"""Guards the contact sheet: every picture is on it, enlarged, over its label in both scripts."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from viscpm_hf.tiny.training.make_font import FONT, characters
from viscpm_hf.tiny.world.contact_sheet import contact_sheet
from viscpm_hf.tiny.world.prompts import prompt_phrases

WHITE = np.array([255, 255, 255])


def test_pictures_are_enlarged_in_rows():
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
    sheet = np.asarray(contact_sheet(pictures, ["a", "b", "c"], columns=2, scale=3))
    for colour in ([255, 0, 0], [0, 255, 0], [0, 0, 255]):
        rows, columns = np.nonzero((sheet == colour).all(-1))
        assert len(rows) == 192 * 192 and np.ptp(rows) == np.ptp(columns) == 191
    assert sheet.shape[1] < 3 * 192  # two columns


@pytest.mark.parametrize("label", ["左上角有一个蓝色的五角星。", "There is a blue star in the top left."])
def test_labels_are_written_below_and_wrapped(label):
    sheet = np.asarray(contact_sheet([Image.new("RGB", (64, 64), "white")], [label], scale=2))
    ink = (sheet < 100).all(-1)
    rows = np.nonzero(ink.any(1))[0]
    assert rows.min() > 64 * 2 and np.ptp(rows) > 20  # two lines
    assert not ink[:, -2:].any()


def test_every_character_of_the_prompts_has_a_glyph():
    characters = sorted({character for text in prompt_phrases() for character in text})
    blank = Image.new("RGB", (64, 64), "white")
    drawn = {c: np.asarray(contact_sheet([blank], [c], scale=1))[74:].tobytes() for c in characters if c.strip()}
    missing = np.asarray(contact_sheet([blank], ["鑫"], scale=1))[74:].tobytes()
    assert missing not in drawn.values() and len(set(drawn.values())) == len(drawn)


def test_the_shipped_font_has_every_character_of_the_vocabulary():
    """Whatever fonts the system has."""
    font = ImageFont.truetype(FONT, 14)
    nothing = bytes(font.getmask("\U0010ffff"))
    assert len(characters()) > 300
    assert not [character for character in characters() if bytes(font.getmask(character)) == nothing]
