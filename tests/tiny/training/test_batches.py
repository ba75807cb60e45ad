"""Guards the fast training batches: they equal what the fine-tuning collator makes of the same samples."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from viscpm_hf.finetuning import ChatCollator
from viscpm_hf.tiny.training.batches import (
    MAX_LENGTH,
    PictureBatches,
    PreparedWorld,
    WorldBatches,
    WorldSampler,
    encode_question,
    prepare_world,
    scene_labels,
    tiny_processor,
)
from viscpm_hf.tiny.world.questions import ask, training_sample
from viscpm_hf.tiny.world.scenes import Scene, Thing, random_scene


@pytest.fixture(scope="module")
def world():
    return prepare_world(scenes=30, questions=4, seed=5, workers=1)


def test_batches_equal_the_collators():
    samples = [training_sample(0, index) for index in range(200)]
    columns = zip(*(encode_question(sample.question) for sample in samples), strict=True)
    world = PreparedWorld(
        torch.tensor(np.stack([sample.picture for sample in samples])),
        torch.tensor([scene_labels(sample.scene) for sample in samples]),
        *(torch.tensor(column, dtype=torch.int16) for column in columns),
        torch.zeros(200, dtype=torch.int8),
    )
    batch = WorldBatches(world)(list(range(200)))
    expected = ChatCollator(tiny_processor(), max_length=MAX_LENGTH)(
        [
            {
                "image": Image.fromarray(sample.picture),
                "question": sample.question.question,
                "context": sample.question.context,
                "answer": sample.question.answer,
            }
            for sample in samples
        ]
    )
    pixels = batch["pixel_values"][batch["picture_of"]]
    torch.testing.assert_close(pixels, expected["pixel_values"], atol=1e-6, rtol=0)
    length = batch["input_ids"].shape[1]
    # the collator adds the original's placeholder column, which teaches nothing, and what only generate() needs
    assert expected.keys() - batch.keys() == {
        "ext_table_ids",
        "ext_table_subs",
        "ext_table_mask",
        "labels",
        "unk_allowed",
    }
    for key in expected.keys() & batch.keys() - {"pixel_values"}:
        theirs = expected[key] if key == "segment_rel" else expected[key][:, :length]
        assert torch.equal(batch[key], theirs), key


def test_questions_about_a_picture_share_it(world):
    batches = WorldBatches(world)
    batch = batches([8, 9, 4, 11])  # scenes 2, 2, 1, 2
    assert len(batch["pixel_values"]) == len(batch["scene_labels"]) == 2
    assert batch["picture_of"].tolist() == [1, 1, 0, 1]
    assert torch.equal(batch["pixel_values"][0], PictureBatches(world)([1])["pixel_values"][0])


def test_meant_cells_hold_what_the_question_is_about():
    world = prepare_world(scenes=40, questions=4, seed=1, workers=1)
    batch = WorldBatches(world)(list(range(160)))
    meant, labels = batch["meant_cells"], batch["scene_labels"][batch["picture_of"]]
    about_one = (meant >= 0).nonzero().flatten()
    assert 60 < len(about_one) < 160
    assert all(labels[row, 3 * meant[row]] > 0 for row in about_one)  # there is something in that cell
    rng = random.Random(0)
    scene = Scene((Thing("square", "red", "small", 1), Thing("star", "blue", "large", 5)), "gray")
    star = scene.things[1]
    assert ask(scene, "colour", "en", rng, star).cell == 5 and ask(scene, "second turn", "zh", rng, star).cell == 5
    assert ask(scene, "what", "zh", rng, star).cell == 5 and ask(scene, "count", "zh", rng, star).cell is None


def test_the_sampler_gives_every_row_once_in_batches_of_few_pictures_and_similar_lengths(world):
    sampler = WorldSampler(world, batch_size=8)
    rows = list(sampler)
    assert len(set(rows)) == len(rows) and len(rows) >= len(sampler) - 8
    sampler.set_epoch(1)
    assert list(sampler) != rows and set(rows) <= set(range(120))
    batches = [WorldBatches(world)(rows[i : i + 8]) for i in range(0, len(rows), 8)]
    pictures = sum(len(batch["pixel_values"]) for batch in batches) / len(batches)
    assert pictures < 6, pictures
    assert min(batch["input_ids"].shape[1] for batch in batches) <= 62 < MAX_LENGTH


def test_tails_follow_the_answer_and_ask_for_the_end():
    question = training_sample(0, 0).question
    ids, segments, labels = encode_question(question, tail=[50, 60])
    plain_ids, _, plain_labels = encode_question(question)
    end = max(place for place, label in enumerate(plain_labels) if label >= 0)
    assert ids[: end + 1] == plain_ids[: end + 1] and labels[: end + 1] == plain_labels[: end + 1]
    assert ids[end + 1 : end + 3] == [50, 60] and labels[end : end + 4] == [7, 7, 7, -100]
    assert segments[end + 1 : end + 4] == [8, 8, 0]


def test_no_training_sample_is_too_long():
    assert all(len(encode_question(training_sample(2, index).question)[0]) == MAX_LENGTH for index in range(5_000))


def test_scene_labels():
    labels = scene_labels(Scene((Thing("square", "red", "small", 1),), "gray"))
    assert labels == [0, 0, 0, 2, 1, 2, *[0] * 21, 1]


def test_the_world_depends_on_the_seed_and_not_on_the_number_of_processes(world):
    again = prepare_world(scenes=30, questions=4, seed=5, workers=2)
    assert all(torch.equal(a, b) for a, b in zip(vars(world).values(), vars(again).values(), strict=True))
    rng = random.Random("prepared 5 3")
    assert world.scene_labels[3].tolist() == scene_labels(random_scene(rng))
