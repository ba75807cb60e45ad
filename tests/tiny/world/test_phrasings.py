"""Guards how questions are put: every phrasing has the places its kind fills, and only training words them widely."""

import random
import re

import pytest

from viscpm_hf.tiny.measures.painted_prompts import named_things
from viscpm_hf.tiny.world.phrasings import (
    CLAUSES,
    MORE_PHRASINGS,
    PHRASINGS,
    STATEMENTS,
    TASKS,
    WideRandom,
    put,
    reworded,
)
from viscpm_hf.tiny.world.questions import KINDS, ask, training_question
from viscpm_hf.tiny.world.scenes import random_scene
from viscpm_hf.tiny.world.words import LANGUAGES

OPTIONAL = {"n", "s", "m", "k", "t"}  # of a noun one form or the other, or its kind


@pytest.mark.parametrize("language", LANGUAGES)
def test_phrasings_of_a_kind_ask_for_the_same(language):
    """A phrasing without its thing would be a question about something else."""

    def about(text):
        slots = set(re.findall(r"\{(\w)\}", text))
        if "q" in slots and not slots & {"p", "y"}:  # "the two cats" for "the cats"
            slots = slots - {"q"} | {"x"}
        if "t" in slots and "c" not in slots:  # "is it a small cat"
            slots |= {"x"}
        return frozenset(slots - OPTIONAL)

    also = (CLAUSES, STATEMENTS, TASKS) if language == "en" else ()
    for name, texts in MORE_PHRASINGS[language].items():
        further = [text for table in also for text in table.get(name, ())]
        wanted = {about(text) for text in (*PHRASINGS[language].get(name, texts), *texts, *further)}
        if name in ("shape", "shape?", "shape of two", "colour?"):  # "which shape is red", "is it a red circle"
            wanted = {each - {"x"} - ({"c"} if name != "colour?" else set()) for each in wanted}
        elif name == "relation or":
            wanted = {each - {"r", "p"} for each in wanted}
        elif name.startswith("count"):
            wanted = {each - {"v", "w"} for each in wanted}
        assert len(wanted) == 1, (name, wanted)
        assert len(set(texts)) == len(texts) and not set(texts) & set(PHRASINGS[language].get(name, ())), name


def test_only_a_wide_random_takes_more_of_them():
    """Held-out questions stay what they are."""
    usual = {put("en", "what", random.Random(seed)) for seed in range(3000)}
    wide = {put("en", "what", WideRandom(seed)) for seed in range(3000)}
    assert usual == set(PHRASINGS["en"]["what"])
    assert wide > usual and len(wide & set(MORE_PHRASINGS["en"]["what"])) > 40
    assert {"Could you tell me what is in the picture?", "Please list what you see."} <= {
        put("en", "what", WideRandom(seed)) for seed in range(30_000)
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_thousands_of_wordings(language):
    """Of every kind of question that has a thing in it."""
    rng = WideRandom(4)
    for name in ("where", "colour?", "relation?", "bigger", "on background?"):
        assert len({put(language, name, rng) for _ in range(6000)}) > 250, name


def test_widely_put_questions_have_one_answer():
    """No wording of one question is that of another."""
    rng, answers = WideRandom(5), {}
    scenes = [random_scene(rng, None, alike=0.3) for _ in range(6)]
    for number in range(20_000):
        scene = rng.choice(scenes)
        question = ask(scene, rng.choice(KINDS[:-1]), LANGUAGES[number % 2], rng)
        if question:
            key = (scene, question.context, question.question.lower())
            assert answers.setdefault(key, question.answer) == question.answer, key
    assert len(answers) > 10_000


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
    assert found >= {"Ye", "No", "是", "不"}, "beside denials of what is not there"
