"""Guards the questions: answers are true and unambiguous, and held-out ones are about what training never shows."""

import random
import re
from collections import Counter

import pytest

from viscpm_hf.tiny.world.outside import OUTSIDE_KINDS, held_out_outside, training_outside
from viscpm_hf.tiny.world.questions import (
    KINDS,
    Question,
    ask,
    held_out_questions,
    three_spellings,
    training_question_about_nothing,
    training_sample,
    unanswerable_questions,
)
from viscpm_hf.tiny.world.scenes import BACKGROUNDS, Placed, Scene, random_scene
from viscpm_hf.tiny.world.unknown import UNKNOWN_PICTURES
from viscpm_hf.tiny.world.words import COUNTED_NOUNS, HONEST, LANGUAGES, noun

SCENE = Scene((Placed("cat", "large", 0), Placed("bee", "small", 4), Placed("red circle", "small", 8)), "grass")
CAT, BEE, CIRCLE = SCENE.things
TWINS = Scene((Placed("apple", "small", 3), Placed("apple", "large", 5)), "night")


def asked(kind, language, about=CAT, scene=SCENE, tries=600):
    questions = [ask(scene, kind, language, random.Random(seed), about) for seed in range(tries)]
    return {(q.question, q.answer) for q in questions if q}


@pytest.mark.parametrize(
    "kind, about, question, answer",
    [
        ("what", CAT, "What is in the picture?", "There is a cat, a bee and a red circle."),
        ("what", CAT, "图里有什么？", "图里有一只猫、一只蜜蜂和一个红色的圆形。"),
        (
            "description",
            CAT,
            "Describe the picture.",
            "On grass there is a large cat in the top left, a small bee in the centre and a small red circle in the "
            "bottom right.",
        ),
        (
            "description",
            CAT,
            "描述一下这张图片。",
            "草地上，左上角有一只大猫，正中间有一只小蜜蜂，右下角有一个小的红色的圆形。",
        ),
        ("count", CAT, "How many animals are there?", "There are two animals."),
        ("count", CAT, "图里有几只猫？", "图里有一只猫。"),
        ("exists", CAT, "Is there a cat?", "Yes, there is a cat."),
        ("exists", CAT, "图里有猫吗？", "有，图里有猫。"),
        ("where", BEE, "Where is the bee?", "The bee is in the centre."),
        ("where", CIRCLE, "圆形在哪里？", "圆形在右下角。"),
        ("place", CAT, "What is in the top left?", "There is a cat in the top left."),
        ("place", CAT, "左上角有什么？", "左上角有一只猫。"),
        ("relation", BEE, "What is left of the bee?", "There is a cat left of the bee."),
        ("relation", CAT, "猫在蜜蜂的哪边？", "猫在蜜蜂的左上方。"),
        ("bigger", CAT, "Which is bigger, the cat or the bee?", "The cat is bigger."),
        ("bigger", CIRCLE, "圆形和蜜蜂哪个更大？", "它们一样大。"),
        ("size", BEE, "Is the bee large or small?", "The bee is small."),
        ("background", CAT, "What colour is the background?", "The background colour is green."),
        ("background", CAT, "背景是什么？", "背景是草地。"),
        ("kind", CAT, "What kind of thing is the cat?", "The cat is an animal."),
        ("kind", BEE, "蜜蜂是动物吗？", "是的，蜜蜂是动物。"),
        ("which", CAT, "Which animals are there?", "There is a cat and a bee."),
        ("fact", BEE, "Can the bee fly?", "Yes, the bee can fly."),
        ("fact", CAT, "哪些会飞？", "蜜蜂会飞。"),
        ("colour", CIRCLE, "What colour is the circle?", "The circle is red."),
        ("shape", CIRCLE, "红色的图形是什么形状？", "红色的图形是圆形。"),
        ("count", CAT, "Are there two cats?", "No, there is one cat."),
        ("count", CAT, "图里有一只猫吗？", "是的，图里有一只猫。"),
        ("where", CAT, "Is the cat in the top left?", "Yes, the cat is in the top left."),
        ("where", BEE, "蜜蜂在左上角吗？", "不，蜜蜂不在左上角。"),
        ("place", CAT, "What is on the left?", "There is a cat on the left."),
        ("place", CAT, "上面有什么？", "上面有一只猫。"),
        ("place", CAT, "What do you see at the bottom?", "There is a red circle at the bottom."),
        ("relation", CAT, "What is next to the cat?", "There is a bee next to the cat."),
        ("relation", BEE, "蜜蜂旁边是什么？", "蜜蜂的旁边有一只猫和一个红色的圆形。"),
        ("relation", CAT, "Is the cat next to the red circle?", "No, the cat is not next to the red circle."),
        ("bigger", CAT, "Is the cat bigger than the bee?", "Yes, the cat is bigger than the bee."),
        ("bigger", CIRCLE, "圆形比蜜蜂大吗？", "不，它们一样大。"),
        ("bigger", CAT, "Which is the biggest?", "The cat is the biggest."),
        ("bigger", CAT, "最小的是什么？", "蜜蜂和红色的圆形最小。"),
        ("size", BEE, "Is the bee big?", "No, the bee is small."),
        ("size", CAT, "猫大吗？", "是的，猫是大的。"),
        ("background", CAT, "Is the background grass?", "Yes, the background is grass."),
        ("background", CAT, "背景是绿色吗？", "是的，背景是绿色。"),
        ("background", BEE, "Is the bee on the water?", "No, the bee is not on the water."),
        ("background", BEE, "蜜蜂在草地上吗？", "是的，蜜蜂在草地上。"),
        ("which", CAT, "Which of these is an animal?", "There is a cat and a bee."),
        ("which", CAT, "有什么日常用品？", "图里没有日常用品。"),
        ("colour", CAT, "Is the cat red?", "No, the cat is not red."),
        ("colour", BEE, "蜜蜂是黄色的吗？", "是的，蜜蜂是黄色的。"),
        ("colour", CAT, "Which things are yellow?", "The cat and the bee are yellow."),
        ("colour", CIRCLE, "什么是红色的？", "红色的圆形是红色的。"),
    ],
)
def test_known_questions(kind, about, question, answer):
    """One question of each kind, with the answer that a person would give."""
    language = "en" if question.isascii() else "zh"
    assert (question, answer) in asked(kind, language, about, tries=3000)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ["which", "fact", "colour"])
def test_several_things_answer(kind, language):
    """Held-out questions are also about two or three things of one kind, with one fact, of one colour."""
    samples = held_out_questions(language, n=300, kinds=[kind])
    several = [
        s
        for s in samples
        if sum(noun(p.name).chinese in s.question.answer or p.name in s.question.answer for p in s.scene.things) > 1
    ]
    assert len(several) > {"which": 75, "fact": 20, "colour": 8}[kind], len(several)


def test_two_of_a_kind_are_two():
    """Plurals and places of twins; no question about "the apple" that fits both."""
    about = TWINS.things[0]
    assert ("What is in the picture?", "There are two apples.") in asked("what", "en", about, TWINS)
    assert ("Where is the apple?", "The apples are in the middle left and in the middle right.") in asked(
        "where", "en", about, TWINS
    )
    assert ("苹果在哪里？", "苹果在左侧和右侧。") in asked("where", "zh", about, TWINS)
    assert ("How many apples are there?", "There are two apples.") in asked("count", "en", about, TWINS)
    assert all("no " in answer for _, answer in asked("size", "en", about, TWINS))


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_not_there_is_denied(language):
    """Every kind of question that names a thing is sometimes asked about one that is not there."""
    for kind in ("where", "relation", "bigger", "size", "kind", "fact", "colour", "shape", "exists", "count"):
        start = "There is no " if language == "en" else "图里没有"
        also = ("No, there is no ", "There are no ", "没有，图里没有")
        found = [a for _, a in asked(kind, language, CIRCLE) if a.startswith((start, *also))]
        assert found and not any(
            re.search(r"\b(cat|bee|red circle)\b|没有(猫|蜜蜂|红色的圆形)。", a) for a in found
        ), kind


@pytest.mark.parametrize("language", LANGUAGES)
def test_second_turns_need_the_first(language):
    """Their questions name no thing of the scene, or only another one."""
    rng, names = random.Random(1), [noun(placed.name) for placed in SCENE.things]
    found = [ask(SCENE, "second turn", language, rng, CAT) for _ in range(400)]
    found = [question for question in found if question]
    assert len(found) > 200 and all(question.context for question in found)
    for question in found:
        assert names[0].the(language) not in question.question
        first = question.context.splitlines()[0]
        assert first.startswith("User: ") and ("cat" in question.context or "猫" in question.context)
    spoken = {question.question for question in found}
    assert {"Where is it?", "And the bee?"} <= spoken or {"它在哪里？", "蜜蜂呢？"} <= spoken


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_answer_begins_another(language):
    """Each is one sentence."""
    rng = random.Random(0)
    questions = [ask(random_scene(rng), rng.choice(KINDS), language, rng) for _ in range(5_000)]
    answers = sorted({question.answer for question in questions if question})
    stop = "。" if language == "zh" else "."
    assert all(answer.endswith(stop) and answer.count(stop) == 1 for answer in answers)


def test_the_same_question_about_the_same_scene_has_one_answer():
    """Whoever draws the question: (scene, context, question) decides the answer."""
    rng, answers = random.Random(3), {}
    scenes = [random_scene(rng, held_out=None) for _ in range(40)]
    for number in range(8_000):
        scene = rng.choice(scenes)
        question = ask(scene, rng.choice(KINDS[:-1]), LANGUAGES[number % 2], rng)
        if question:
            key = (scene, question.context, question.question)
            assert answers.setdefault(key, question.answer) == question.answer, key
    assert len(answers) > 2_500


def test_yes_and_no_are_balanced():
    """Nobody can guess whether something is there."""
    rng = random.Random(0)
    answers = [ask(random_scene(rng), "exists", "en", rng).answer for _ in range(4_000)]
    assert 0.44 < sum(answer.startswith("Yes") for answer in answers) / len(answers) < 0.56


def test_numbers_agree_with_an_independent_count():
    """Of what the question names, read from its words."""
    rng = random.Random(7)
    plurals = {word.plural: word.names for word in [*map(noun, noun_names()), *COUNTED_NOUNS.values()]}
    checked = 0
    for _ in range(3_000):
        scene = random_scene(rng)
        question = ask(scene, "count", "en", rng)
        word = re.search(r"(?:many|number of) (.+?)(?: are| can| do|\?)", question.question)
        if not word:  # "Are there two cats?"
            continue
        word = word[1]
        if word in plurals:
            number = sum(placed.name in plurals[word] for placed in scene.things)
            assert question.answer.split()[2] == ("no", "one", "two", "three")[number], question
            checked += 1
    assert checked > 1_500


def noun_names():
    from viscpm_hf.tiny.world.things import KNOWN

    return [thing.name for thing in KNOWN]


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_questions(language):
    """At least a thousand, of every kind as many, each about a scene with something new; the same every time."""
    samples = held_out_questions(language)
    assert len(samples) >= 1000
    kinds = Counter(sample.question.kind for sample in samples)
    assert set(kinds) == set(KINDS) and max(kinds.values()) - min(kinds.values()) <= 1
    assert all(sample.scene.held_out for sample in samples)
    again = held_out_questions(language, n=100)
    assert [each.question for each in again] == [each.question for each in samples[:100]]
    assert again[5].picture.tobytes() == samples[5].picture.tobytes()


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_cannot_be_answered(language):
    """Two hundred, of every sort; training has seen none of the texts outside of this world."""
    samples = unanswerable_questions(language)
    assert len(samples) == 200
    assert {sample.question.kind for sample in samples} == {*UNKNOWN_PICTURES, *OUTSIDE_KINDS}
    assert {sample.question.answer for sample in samples} == {HONEST[language]}
    assert all((sample.scene is None) == (sample.question.kind in UNKNOWN_PICTURES) for sample in samples)
    rng = random.Random(0)
    trained = {training_outside(language, rng) for _ in range(8_000)}
    assert not trained & {held_out_outside(language, rng) for _ in range(2_000)}
    assert training_question_about_nothing(rng).answer in HONEST.values()


def test_three_spellings_have_one_answer():
    """图里有什么？ 图片里有什么？ 图中有什么？"""
    for language in LANGUAGES:
        questions = three_spellings(SCENE, language)
        assert len({each.question for each in questions}) == 3 and len({each.answer for each in questions}) == 1
        assert isinstance(questions[0], Question)


def test_training_stream():
    """Holds no held-out combination, every kind of question, and is the same every time."""
    samples = [training_sample(0, index) for index in range(2_000)]
    assert not any(sample.scene.held_out for sample in samples)
    again = training_sample(0, 17)
    assert again.question == samples[17].question and again.picture.tobytes() == samples[17].picture.tobytes()
    kinds = Counter(sample.question.kind for sample in samples)
    assert set(kinds) == set(KINDS) and min(kinds.values()) >= 14
    assert {sample.scene.background for sample in samples} == set(BACKGROUNDS)
