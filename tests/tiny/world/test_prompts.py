"""Guards the prompts of the tiny Paint model: nothing held out is trained on, and every prompt can be read."""

import pytest

from viscpm_hf.tiny.training.batches import tiny_processor
from viscpm_hf.tiny.world.prompts import HELD_OUT_PAIRS, LANGUAGES, held_out_prompts, training_prompts, write_prompt
from viscpm_hf.tiny.world.scenes import HELD_OUT


def test_held_out_and_training_prompts_share_no_combination():
    trained = {(p.shape, p.colour, p.cell) for p in training_prompts()}
    assert len(HELD_OUT_PAIRS) == 6 and not {(shape, colour) for shape, colour, _ in trained} & HELD_OUT_PAIRS
    assert not trained & set(HELD_OUT)
    for language in LANGUAGES:
        for prompt in held_out_prompts(language):
            what = (prompt.shape, prompt.colour, prompt.cell)
            assert prompt.cell is not None and what not in trained and what[:2] not in HELD_OUT_PAIRS
        assert all((p.shape, p.colour) in HELD_OUT_PAIRS for p in held_out_prompts(language, split="pairs"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_prompts_are_the_same_every_time(language):
    pairs = held_out_prompts(language, 200, split="pairs")
    assert sum(prompt.cell is not None for prompt in pairs) == 100
    for split, prompts in (("pairs", pairs), ("combinations", held_out_prompts(language, 200))):
        assert len(prompts) == 200 and all(prompt.language == language for prompt in prompts)
        assert prompts == held_out_prompts(language, 200, 0, split) != held_out_prompts(language, 200, 1, split)


def test_prompts_say_what_they_mean():
    assert write_prompt("zh", "circle", "red", None, 1).text == "一个红色的圆形"
    assert write_prompt("zh", "star", "blue", 0, 0).text == "左上角有一个蓝色的五角星。"
    assert write_prompt("en", "star", "orange", None, 2).text == "There is an orange star."
    assert write_prompt("en", "heart", "pink", 4, 1).text == "a pink heart in the centre"
    assert len({prompt.text for prompt in training_prompts()}) == len(training_prompts())


def test_the_vocabulary_knows_every_word():
    tokenizer = tiny_processor().tokenizer
    for prompt in [*training_prompts(), *held_out_prompts("zh", split="pairs"), *held_out_prompts("en")]:
        ids, table = tokenizer.encode_segment(prompt.text)
        assert not table and tokenizer.unk_token_id not in ids, prompt.text
