"""Guards the lesson for the tiny Paint: what is new in it, what is measured, and what is drawn of it."""

import json
import random

import pytest
from PIL import Image

from viscpm_hf.finetuning.paint_data import PaintDataset
from viscpm_hf.tiny import paint_lesson
from viscpm_hf.tiny.world.prompts import painted_scene
from viscpm_hf.tiny.world.scenes import SHAPES, draw


def test_new_prompts_are_not_in_the_lesson():
    taught, new = (paint_lesson.ring_prompts(held_out) for held_out in (False, True))
    assert len(new) == 108 and len({prompt.text for prompt in new}) == 108
    assert not {(p.colour, p.cell) for p in taught} & {(p.colour, p.cell) for p in new}
    assert all("ring" in prompt.text or "O形" in prompt.text for prompt in taught + new)
    assert not any("cross" in prompt.text or "十字" in prompt.text for prompt in taught + new)


@pytest.mark.parametrize("shape", ["ring", *SHAPES])
def test_a_ring_is_told_from_all_else(shape):
    for number, prompt in enumerate(paint_lesson.ring_prompts(held_out=True)[::6]):
        picture = draw(painted_scene(shape, prompt.colour, prompt.cell), random.Random(number))
        assert paint_lesson.is_ring(Image.fromarray(picture), prompt) == (shape == "ring")
        elsewhere = draw(painted_scene("ring", prompt.colour, (prompt.cell + 1) % 9))
        assert not paint_lesson.is_ring(Image.fromarray(elsewhere), prompt)


def test_what_is_written_can_be_learned_from(tmp_path):
    assert paint_lesson.main(["write", str(tmp_path / "lesson"), "--new", "3", "--old", "2"]) == 0
    rows = json.loads((tmp_path / "lesson" / "train.json").read_text(encoding="utf-8"))
    dataset = PaintDataset(tmp_path / "lesson" / "train.json", resolution=64)
    assert [dataset[index]["caption"] for index in range(5)] == [row["text"] for row in rows]
    assert ["ring" in row["text"] or "O形" in row["text"] for row in rows] == [True] * 3 + [False] * 2


def test_before_the_lesson_rings_are_unknown(tmp_path, capsys):
    assert paint_lesson.main(["measure", "--new", "3", "--old", "2", "--steps", "8"]) == 0
    new, old = (float(line.partition(": ")[2].split()[0]) for line in capsys.readouterr().out.splitlines())
    assert new == 0 and old >= 50
    assert paint_lesson.main(["show", "--number", "2", "--steps", "2", "--output", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.width > 200
    with pytest.raises(SystemExit):
        paint_lesson.main(["sing"])
