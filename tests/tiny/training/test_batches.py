"""The prepared training data of the tiny Chat model: what is in it, and that a batch is what the model is asked."""

import random

import numpy as np
import pytest
import torch

from viscpm_hf.tiny.training.batches import (
    IGNORED,
    LAYOUTS,
    NOTHING,
    Batches,
    assembled,
    encode,
    fitting,
    frame,
    image,
    prepare,
    tiny_processor,
)
from viscpm_hf.tiny.world.questions import Question, training_question
from viscpm_hf.tiny.world.scenes import BACKGROUNDS, CELLS, place_is_held_out, random_scene
from viscpm_hf.tiny.world.things import DRAWN


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    prepare(folder, rows=1500, workers=1, pictures=12)
    return folder


@pytest.fixture(scope="module")
def batches(folder):
    return Batches(folder, "cpu", pictures=16)


def test_no_held_out_combination_is_prepared(folder):
    """Of all scenes on the disk none shows a thing in a place and on a background that are kept for the test."""
    for layout in LAYOUTS:
        for row in np.load(folder / f"{layout}-scenes.npy"):
            for number, _, cell, *_ in row[:-2].reshape(3, 6):
                if number >= 0:
                    assert not place_is_held_out(DRAWN[number].name, int(cell), BACKGROUNDS[row[-2]])


def test_preparing_again_gives_the_same(folder, tmp_path):
    """The data depend on the seed alone, and a folder that is complete is left as it is."""
    prepare(tmp_path / "world", rows=1500, workers=2, pictures=12)
    for path in folder.glob("*-rows.npy"):
        assert np.array_equal(np.load(path), np.load(tmp_path / "world" / path.name))
    before = (folder / "pictures.npy").stat().st_mtime_ns
    prepare(folder, rows=1500, pictures=12)
    assert (folder / "pictures.npy").stat().st_mtime_ns == before
    prepare(tmp_path / "world", rows=7, pictures=1)
    assert len(np.load(tmp_path / "world" / "pictures.npy")) == 1, "asked for others, and kept the old ones"


def test_layouts_suit_fast_attention_and_hold_nearly_all():
    """Lengths are multiples of eight, and hardly a question of training finds no room."""
    assert all(layout.length % 8 == 0 for layout in LAYOUTS.values())
    rng = random.Random(1)
    found = [fitting(encode(training_question(random_scene(rng), rng))) for _ in range(2000)]
    assert found.count(None) < 10 and set(LAYOUTS) <= set(found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_the_processors_prompts(batches, layout):
    """Without padding, a row is what the processor makes of the same texts; answers are followed by the end."""
    batch = batches.batch(layout)
    inputs = assembled(batch["rows"], LAYOUTS[layout], batches.generator)
    tokenizer, length = tiny_processor().tokenizer, LAYOUTS[layout].length
    assert inputs["input_ids"].shape[1] == length and len(batch["pixel_values"]) * LAYOUTS[layout].group == len(
        batch["rows"]
    )
    rows = zip(inputs["input_ids"].tolist(), inputs["real"].tolist(), inputs["labels"].tolist(), strict=True)
    for ids, real, labels in rows:
        ids = [token for token, there in zip(ids, real, strict=True) if there]
        targets = [token for token in labels if token != IGNORED]
        answer = targets[: targets.index(tokenizer.eos_token_id)]
        assert answer and set(targets[len(answer) :]) == {tokenizer.eos_token_id}
        tail = len(targets) - len(answer) - 1
        assert 0 <= tail <= 4
        prompt = ids[: len(ids) - len(answer) - tail]
        assert ids[len(prompt) : len(prompt) + len(answer)] == answer
        assert prompt[-1] == frame()[-1][0] and prompt[: len(frame()[0])] == list(frame()[0])


def test_unknown_words_are_numbered_as_the_processor_does():
    """The first is `<unk>`, the next ones are counted from the size of the vocabulary, over context and question."""
    question = Question("outside", "zh", "法国的首都是哪里？", "猫。", "User: 饿\nAI: 猫。\n")
    context, asked, _ = encode(question)
    expected = tiny_processor().encode_chat(True, question.question, question.context)["input_ids"]
    found = [*context, *asked]
    assert [token for token in found if token in expected] == found
    size = tiny_processor().tokenizer.vocab_size
    assert sorted(token for token in found if token >= size) == [size, size + 1]


def test_pictures_show_what_their_labels_say(batches):
    """Labels name each cell's thing, and a picture of nothing has none."""
    scenes = batches.arrays["short-scenes"]
    pixels, labels = batches.drawn(scenes[:200])
    assert pixels.shape == (len(labels), 3, 96, 96) and pixels.abs().max() < 1.5
    for scene, label in zip(scenes[:200].tolist(), labels.tolist(), strict=True):
        things = [scene[start : start + 3] for start in (0, 6, 12) if scene[start] >= 0]
        expected = [0] * 2 * len(CELLS)
        for number, size, cell in things:
            expected[cell], expected[len(CELLS) + cell] = number + 1, size + 1
        assert label == [*expected, scene[-2]]
        assert bool(things) == (scene[-2] != NOTHING)
    assert image(pixels[0]).size == (96, 96)
    again, _ = batches.drawn(scenes[:200])
    assert not torch.equal(pixels, again), "flips, shifts and noise are the same twice"
