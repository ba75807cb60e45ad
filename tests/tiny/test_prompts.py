"""Guards the prompts of the tiny Paint model: nothing held out is trained on, and every prompt can be read."""

import pytest

from viscpm_hf.tiny.batches import tiny_processor
from viscpm_hf.tiny.prompts import (
    HELD_OUT_PAIRS,
    LANGUAGES,
    held_out_prompts,
    paint_held_out,
    training_prompts,
    write_prompt,
)
from viscpm_hf.tiny.world import HELD_OUT


def test_held_out_and_training_prompts_share_no_combination():
    trained = {(p.shape, p.colour, p.cell) for p in training_prompts()}
    assert len(HELD_OUT_PAIRS) == 6 and not {(shape, colour) for shape, colour, _ in trained} & HELD_OUT_PAIRS
    assert not trained & set(HELD_OUT)
    for language in LANGUAGES:
        asked = {(p.shape, p.colour, p.cell) for p in held_out_prompts(language)}
        assert not asked & trained
        assert all(paint_held_out(*what) if what[2] is not None else what[:2] in HELD_OUT_PAIRS for what in asked)


@pytest.mark.parametrize("language", LANGUAGES)
def test_half_of_the_held_out_prompts_ask_for_a_place(language):
    prompts = held_out_prompts(language, 200)
    assert len(prompts) == 200 and all(prompt.language == language for prompt in prompts)
    assert sum(prompt.cell is not None for prompt in prompts) == 100
    assert prompts == held_out_prompts(language, 200) != held_out_prompts(language, 200, seed=1)


def test_prompts_say_what_they_mean():
    assert write_prompt("zh", "circle", "red", None, 1).text == "一个红色的圆形"
    assert write_prompt("zh", "star", "blue", 0, 0).text == "左上角有一个蓝色的五角星。"
    assert write_prompt("en", "star", "orange", None, 2).text == "There is an orange star."
    assert write_prompt("en", "heart", "pink", 4, 1).text == "a pink heart in the centre"
    assert len({prompt.text for prompt in training_prompts()}) == len(training_prompts())


def test_the_vocabulary_knows_every_word():
    tokenizer = tiny_processor().tokenizer
    for prompt in [*training_prompts(), *held_out_prompts("zh"), *held_out_prompts("en")]:
        ids, table = tokenizer.encode_segment(prompt.text)
        assert not table and tokenizer.unk_token_id not in ids, prompt.text
