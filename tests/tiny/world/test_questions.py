"""Guards the questions: answers are true and unambiguous, and held-out questions are about held-out objects."""

import random
import re
from collections import Counter

import pytest

from viscpm_hf.tiny.world.questions import CHINESE, KINDS, LANGUAGES, ask, held_out_questions, training_sample
from viscpm_hf.tiny.world.scenes import BACKGROUNDS, CELLS, COLOURS, SHAPES, Scene, Thing, random_scene

SCENE = Scene(
    (Thing("circle", "red", "large", 0), Thing("star", "orange", "small", 4), Thing("circle", "blue", "small", 8)),
    "white",
)
RED, STAR, BLUE = SCENE.things


def asked(kind, language, about, scene=SCENE, tries=200):
    questions = [ask(scene, kind, language, random.Random(seed), about) for seed in range(tries)]
    return {(q.context, q.question, q.answer) for q in questions if q}


@pytest.mark.parametrize(
    "kind, language, about, question, answer",
    [
        ("colour", "en", STAR, "What colour is the star?", "It is orange."),
        ("colour", "zh", STAR, "五角星是什么颜色？", "它是橙色的。"),
        ("shape", "en", BLUE, "What shape is the object in the bottom right?", "It is a circle."),
        ("shape", "zh", RED, "红色的图形是什么形状？", "它是圆形。"),
        ("position", "en", RED, "Where is the red circle?", "It is in the top left."),
        ("position", "zh", STAR, "五角星在哪里？", "它在正中间。"),
        ("size", "en", STAR, "Is the star large or small?", "It is small."),
        ("size", "zh", RED, "左上角的图形是大的还是小的？", "它是大的。"),
        ("what", "en", STAR, "What is in the centre?", "It is an orange star."),
        ("what", "zh", BLUE, "右下角有什么？", "那里有一个蓝色的圆形。"),
        ("count", "en", RED, "How many circles are there?", "There are two circles."),
        ("count", "en", STAR, "How many stars are there?", "There is one star."),
        ("count", "zh", RED, "图里有几个图形？", "图里有三个图形。"),
        ("exists", "en", STAR, "Is there an orange star?", "Yes, there is an orange star."),
        ("exists", "zh", RED, "图里有红色的圆形吗？", "有，图里有红色的圆形。"),
        ("background", "en", RED, "What colour is the background?", "The background is white."),
        ("background", "zh", RED, "背景是什么颜色？", "背景是白色的。"),
        (
            "description",
            "en",
            RED,
            "Describe the picture.",
            "There is a red circle in the top left, an orange star in the centre and a blue circle in the "
            "bottom right.",
        ),
    ],
)
def test_known_questions(kind, language, about, question, answer):
    assert ("", question, answer) in asked(kind, language, about)


def test_second_turns_need_the_first():
    for language, context, question, answer in (
        ("en", "User: Where is the star?\nAI: It is in the centre.\n", "What colour is it?", "It is orange."),
        ("zh", "User: 大的圆形在哪里？\nAI: 它在左上角。\n", "它是什么颜色？", "它是红色的。"),
    ):
        about = {"en": STAR, "zh": RED}[language]
        found = asked("second turn", language, about, tries=4000)
        assert (context, question, answer) in found
        values = {*SHAPES, *COLOURS, *CELLS, *CHINESE.values()} - {"大", "小"}
        assert all(context and not any(value in question for value in values) for context, question, _ in found)


def test_no_reference_fits_two_objects():
    twins = Scene((Thing("heart", "red", "large", 1), Thing("heart", "red", "large", 6)), "gray")
    assert all("top middle" in question for _, question, _ in asked("size", "en", twins.things[0], twins))
    assert not asked("position", "en", twins.things[0], twins)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_answer_begins_another(language):
    rng = random.Random(0)
    questions = [ask(random_scene(rng), rng.choice(KINDS), language, rng) for _ in range(5_000)]
    answers = sorted({question.answer for question in questions if question})
    stop = "。" if language == "zh" else "."
    assert all(answer.endswith(stop) and answer.count(stop) == 1 for answer in answers)


def test_yes_and_no_are_balanced():
    rng = random.Random(0)
    answers = [ask(random_scene(rng), "exists", "en", rng).answer for _ in range(4_000)]
    assert 0.45 < sum(answer.startswith("Yes") for answer in answers) / len(answers) < 0.55


def test_answers_agree_with_an_independent_reading_of_the_scene():
    rng = random.Random(7)
    for _ in range(3_000):
        scene = random_scene(rng)
        for kind in ("count", "exists"):
            question = ask(scene, kind, "en", rng)
            colour = next((name for name in COLOURS if re.search(rf"\b{name}\b", question.question)), None)
            shape = next((name for name in SHAPES if name in question.question), None)
            number = sum(
                thing.colour == (colour or thing.colour) and thing.shape == (shape or thing.shape)
                for thing in scene.things
            )
            if kind == "count":
                word = ("no", "one", "two", "three")[number]
                assert question.answer.split()[2] == word, question
            else:
                assert question.answer.startswith("Yes" if number else "No"), question


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_questions(language):
    samples = held_out_questions(language)
    assert len(samples) == 550
    assert set(Counter(sample.question.kind for sample in samples).values()) == {55}
    assert all(any(thing.held_out for thing in sample.scene.things) for sample in samples)
    again = held_out_questions(language)
    assert all(
        a.question == b.question and (a.picture == b.picture).all() for a, b in zip(samples, again, strict=True)
    )
    for sample in samples:
        if sample.question.kind == "what":
            cells = [_place(cell, language) for cell in CELLS]
            named = max((cell for cell in cells if cell in sample.question.question), key=len)
            assert any(t.held_out and _place(CELLS[t.cell], language) == named for t in sample.scene.things)


def _place(cell, language):
    return CHINESE[cell] if language == "zh" else cell


def test_training_stream():
    samples = [training_sample(0, index) for index in range(3_000)]
    assert not any(thing.held_out for sample in samples for thing in sample.scene.things)
    again = training_sample(0, 17)
    assert again.question == samples[17].question and (again.picture == samples[17].picture).all()
    kinds = Counter(sample.question.kind for sample in samples)
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 30
    assert {sample.scene.background for sample in samples} == set(BACKGROUNDS)
