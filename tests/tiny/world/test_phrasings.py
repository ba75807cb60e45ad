"""Guards how questions are put: every phrasing has the places its kind fills, and only training words them widely."""

import random
import re

import pytest

from viscpm_hf.tiny.measures.painted_prompts import named_things
from viscpm_hf.tiny.world.phrasings import MORE_PHRASINGS, PHRASINGS, WideRandom, put, reworded
from viscpm_hf.tiny.world.questions import training_question
from viscpm_hf.tiny.world.scenes import random_scene
from viscpm_hf.tiny.world.words import LANGUAGES

OPTIONAL = {"n", "s", "m", "k"}  # of a noun one form or the other, or its kind


@pytest.mark.parametrize("language", LANGUAGES)
def test_phrasings_of_a_kind_ask_for_the_same(language):
    """A phrasing without its thing would be a question about something else."""
    for name, texts in MORE_PHRASINGS[language].items():
        usual = PHRASINGS[language].get(name, texts)
        wanted = {frozenset(re.findall(r"\{(\w)\}", text)) - OPTIONAL for text in (*usual, *texts)}
        assert len(wanted) == 1, (name, wanted)
        assert len(set(texts)) == len(texts) and not set(texts) & set(PHRASINGS[language].get(name, ())), name


def test_only_a_wide_random_takes_more_of_them():
    """Held-out questions stay what they are."""
    usual = {put("en", "what", random.Random(seed)) for seed in range(3000)}
    wide = {put("en", "what", WideRandom(seed)) for seed in range(3000)}
    assert usual == set(PHRASINGS["en"]["what"])
    assert wide == usual | set(MORE_PHRASINGS["en"]["what"])


def test_a_reworded_question_means_the_same():
    """Names of things, and how it ends, are left alone."""
    rng = WideRandom(1)
    for _ in range(300):
        question = training_question(random_scene(rng), random.Random(rng.random()))
        text = reworded(question.question, question.language, rng)
        ends = question.question[-1], text[-1]
        assert ends[0] == ends[1] or all(map(str.isalpha, ends))  # without a mark: "the picture", "the drawing"
        assert named_things(text, question.language) == named_things(question.question, question.language), text


def test_sizes_are_compared_in_training():
    """Is the cat bigger than the apple?"""
    rng, found = WideRandom(2), set()
    for _ in range(4000):
        question = training_question(random_scene(rng, count=2), rng, hard=True)
        if question.kind == "bigger" and re.search("than|比.*吗|是不是比", question.question):
            found.add(question.answer[:2] if question.language == "en" else question.answer[0])
    assert found == {"Ye", "No", "是", "不"}
