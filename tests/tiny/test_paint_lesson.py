"""Guards the lesson for the tiny Paint: what is new in it, what is measured, and what is drawn of it."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from viscpm_hf.finetuning.paint_data import PaintDataset
from viscpm_hf.tiny import paint_lesson
from viscpm_hf.tiny.world.pictures import draw
from viscpm_hf.tiny.world.things import BY_NAME, SHAPES


def asked(prompt):
    (name,) = prompt.names
    return BY_NAME[name].colour, prompt.cell


def test_new_prompts_are_not_in_the_lesson():
    taught, new = (paint_lesson.ring_prompts(held_out) for held_out in (False, True))
    assert len(new) == len({prompt.text for prompt in new}) == 108
    assert not {prompt.text for prompt in taught} & {prompt.text for prompt in new}
    assert not set(map(asked, taught)) & set(map(asked, new))
    assert all("ring" in prompt.text or "O形" in prompt.text for prompt in taught + new)


@pytest.mark.parametrize("shape", ["ring", *SHAPES])
def test_a_ring_is_told_from_all_else(shape):
    for prompt in paint_lesson.ring_prompts(held_out=True)[::6]:
        colour, cell = asked(prompt)
        scene = paint_lesson.ring_scene(colour, cell)
        drawn = replace(scene, things=(replace(scene.things[0], name=f"{colour} {shape}"),))
        assert paint_lesson.is_ring(draw(drawn), prompt) == (shape == "ring")
        assert not paint_lesson.is_ring(draw(paint_lesson.ring_scene(colour, (cell + 1) % 9)), prompt)


def test_what_is_written_can_be_learned_from(tmp_path):
    assert paint_lesson.main(["write", str(tmp_path / "lesson"), "--new", "3", "--old", "2"]) == 0
    rows = json.loads((tmp_path / "lesson" / "train.json").read_text(encoding="utf-8"))
    dataset = PaintDataset(tmp_path / "lesson" / "train.json", resolution=96)
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
