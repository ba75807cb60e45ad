"""Guards the lesson for the tiny Chat: what is new in it, what is measured, and what is drawn of it."""

import json

import numpy as np
import pytest
from PIL import Image

from viscpm_hf.finetuning import ChatDataset
from viscpm_hf.tiny import lesson
from viscpm_hf.tiny.world.sprites import sprite


def test_questions_about_rings_name_them_and_nothing_is_a_cross():
    samples = [lesson.ring_sample(which, index) for which in ("train", "test") for index in range(60)]
    texts = [f"{s.question.context}{s.question.question}{s.question.answer}" for s in samples]
    assert all("ring" in text or "O形" in text for text in texts)
    assert not any("cross" in text or "十字" in text for text in texts)
    assert {s.question.language for s in samples} == {"zh", "en"} and len({s.question.kind for s in samples}) > 6
    assert len({s.picture.tobytes() for s in samples}) == 120
    assert lesson.ring_sample("test", 3).picture.tobytes() == samples[63].picture.tobytes()
    ring = sprite("red ring", 40)[..., 3]
    assert ring[18:22, 18:22].max() == 0 and ring[20, 3] == 255


def test_what_is_written_can_be_learned_from(tmp_path):
    assert lesson.main(["write", str(tmp_path / "lesson"), "--new", "3", "--old", "5"]) == 0
    dataset = ChatDataset(tmp_path / "lesson" / "train.json")
    assert len(dataset.sources[0].rows) == 8 and len(dataset) >= 8
    sample = lesson.ring_sample("train", 0)
    (found,) = [dataset[i] for i in range(len(dataset)) if tuple(dataset.places[i][1:]) == (0, turns(sample))]
    assert (found["question"], found["answer"]) == (sample.question.question, sample.question.answer)
    assert found["context"] == sample.question.context
    assert np.array_equal(np.asarray(found["image"]), np.asarray(sample.picture))


def turns(sample):
    return sample.question.context.count("User: ")


def test_before_the_lesson_rings_are_unknown(tmp_path, capsys):
    assert lesson.main(["measure", "--new", "60", "--old", "30"]) == 0
    new, old = (float(line.partition(": ")[2].split()[0]) for line in capsys.readouterr().out.splitlines())
    assert new < 45 and old > 90
    assert lesson.main(["show", "--number", "2", "--output", str(tmp_path / "a.png")]) == 0
    run = tmp_path / "run"
    run.mkdir()
    history = [{"step": step, "loss": 1 / step} for step in (1, 10, 20)] + [{"step": 20, "train_loss": 1}]
    (run / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    assert lesson.main(["curve", str(run), "--output", str(tmp_path / "b.png")]) == 0
    for name, width in (("a", 200), ("b", 700)):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > width and len(picture.convert("L").getcolors()) > 2
    with pytest.raises(SystemExit):
        lesson.main(["sing"])
