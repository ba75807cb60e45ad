"""Questions in Chinese and English about a scene, each with one exact answer.

Answers follow from the scene and the question alone: things are named in reading order, in fixed words. Every answer
is one sentence: the original's beam search likes long answers (length_penalty 3), so no answer may be the beginning of
another one. What is not there is denied; what this world does not know gets `HONEST`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from . import about_things, comparisons
from .outside import OUTSIDE_KINDS, held_out_outside, training_outside
from .phrasings import PHRASINGS, WideRandom, reworded
from .pictures import draw
from .scenes import Placed, Scene, random_scene
from .second_turns import second_turn
from .things import BY_NAME, CHINESE_COLOURS
from .unknown import UNKNOWN_PICTURES, unknown_picture
from .wording import FACT_ANSWERS, RELATIONS_ASKED, Question
from .words import (
    ABSENT,
    ANYTHING,
    BACKGROUND_COLOURS,
    BACKGROUND_NAMES,
    COLOUR_NOUNS,
    COUNTED_NOUNS,
    FLOWER,
    HONEST,
    KIND_NOUNS,
    LANGUAGES,
    NUMBERS,
    ON_BACKGROUND,
    PLACES,
    PLACES_ASKED,
    SHAPE_NOUNS,
    SIZE_WORDS,
    noun,
    there_is,
)


@dataclass(frozen=True)
class Sample:
    """A picture and a question about it; `scene` is `None` where the picture shows nothing of this world."""

    scene: Scene | None
    picture: Image.Image
    question: Question


def ask(scene: Scene, kind: str, language: str, rng: random.Random, about: Placed | None = None) -> Question | None:
    """Asks one question about a scene.

    Args:
        scene (`Scene`): what is asked about, with one thing at least.
        kind (`str`): one of `KINDS`.
        language (`str`): `"zh"` or `"en"`.
        rng (`random.Random`): chooses thing and phrasing.
        about (`Placed`, *optional*): the thing the question is about, where it is about one; by default any.

    Returns:
        `Question`, or `None` where this scene allows no unambiguous question of that kind (about that thing).
    """
    asked = _ASKERS[kind](scene, language, rng, about or rng.choice(scene.things))
    return asked and replace(asked, kind=kind)


def three_spellings(scene: Scene, language: str) -> list[Question]:
    """Three ways to ask what there is, which must be answered alike."""
    answer = there_is(scene.things, language)
    return [Question("what", language, text, answer) for text in PHRASINGS[language]["what"][:3]]


def _outside(scene, language, rng, about):
    return Question("", language, training_outside(language, rng), HONEST[language])


_ASKERS = {
    "what": about_things.what,
    "description": about_things.description,
    "count": about_things.count,
    "exists": about_things.exists,
    "where": about_things.where,
    "place": about_things.in_place,
    "relation": comparisons.relation,
    "bigger": comparisons.bigger,
    "size": about_things.size,
    "background": comparisons.background,
    "kind": about_things.kind,
    "which": about_things.which,
    "fact": about_things.fact,
    "colour": about_things.colour,
    "shape": about_things.shape,
    "second turn": second_turn,
    "outside": _outside,
}


KINDS = tuple(_ASKERS)


_SEVERAL = ("which", "fact", "colour")  # what several things may answer


_TRAINING_WEIGHTS = {
    "what": 1.5,
    "description": 2.5,
    "count": 1.8,
    "exists": 1.7,
    "where": 1.8,
    "place": 1.0,
    "relation": 3.2,
    "bigger": 1.6,
    "size": 1.6,
    "background": 1.8,
    "kind": 1.5,
    "which": 2.0,
    "fact": 2.0,
    "colour": 2.0,
    "shape": 3.0,  # rarely possible
    "second turn": 4.0,
    "outside": 3.6,
}


def training_question(scene: Scene, rng: random.Random, hard: bool = False) -> Question:
    """A question of random kind and language, sometimes after an unrelated turn or sloppily typed.

    Args:
        scene (`Scene`): what it is about.
        rng (`random.Random`): source of all choices; a `WideRandom` puts questions in more ways.
        hard (`bool`, defaults to `False`): mostly of the kinds that are learned last.
    """
    language, question = rng.choice(LANGUAGES), None
    while question is None:
        question = ask(scene, rng.choices(KINDS, _HARD_WEIGHTS if hard else _WEIGHTS)[0], language, rng)
    if question.kind != "second turn" and rng.random() < 0.12:
        earlier = ask(scene, rng.choice(KINDS), language, rng)
        if earlier and not earlier.context:
            question = replace(question, context=earlier.as_context)
    if isinstance(rng, WideRandom) and rng.random() < 0.3:
        question = replace(question, question=reworded(question.question, language, rng))
    return sloppy(question, rng) if rng.random() < 0.15 else question


_HARD = {
    "what": 3,
    "count": 2,
    "exists": 1.5,
    "where": 3,
    "place": 3,
    "relation": 8,
    "bigger": 6,
    "size": 3,
    "background": 6,
    "kind": 2,
    "which": 5,
    "fact": 3,
    "colour": 7,
    "shape": 4,
    "second turn": 6,
    "outside": 5,
}


_HARD_WEIGHTS = [_HARD.get(kind, 0.5) for kind in KINDS]


_WEIGHTS = [_TRAINING_WEIGHTS[kind] for kind in KINDS]


def sloppy(question: Question, rng: random.Random) -> Question:
    """The same question in small letters, without its mark, or with the other language's."""
    text = question.question[0].lower() + question.question[1:]
    if isinstance(rng, WideRandom) and rng.random() < 0.2:
        text = text.replace("'", "")  # whats
    text, way = text.rstrip("？?。."), rng.random()
    if way < 0.4:
        text += "?" if question.question[-1] in "?？" else "."
    elif way < 0.5:
        text += "？"
    return replace(question, question=text)


def training_question_about_nothing(rng: random.Random) -> Question:
    """Any question, about a picture that shows nothing of this world."""
    question = training_question(random_scene(rng), rng)
    honest, context = HONEST[question.language], ""
    if question.context and rng.random() < 0.5:
        context = f"{question.context.splitlines()[0]}\nAI: {honest}\n"
    return replace(question, answer=honest, context=context, cell=None, kind="outside")


def training_sample(seed: int, index: int) -> Sample:
    """The sample number `index` of the endless training stream `seed`; holds no held-out combination."""
    rng = random.Random(f"training {seed} {index}")
    scene = random_scene(rng)
    return Sample(scene, draw(scene), training_question(scene, rng))


def held_out_questions(
    language: str, n: int = 1020, seed: int = 0, kinds: Sequence[str] = KINDS, counts: Sequence[int] | None = None
) -> list[Sample]:
    """Questions about pictures with a combination that training never shows.

    Args:
        language (`str`): `"zh"` or `"en"`.
        n (`int`, defaults to 1020): how many, in equal shares of every kind (the first kinds take the remainder).
        seed (`int`, defaults to 0): another seed gives other questions of the same split.
        kinds (`Sequence[str]`, defaults to all): what is asked.
        counts (`Sequence[int]`, *optional*): how many things a picture may show; by default one to three.

    Returns:
        `list[Sample]`, the kinds taking turns. Where a question is about a thing, it is one whose place or whose
        neighbour is new. Questions outside of this world are other ones than those of training.
    """
    rng = random.Random(f"held out {language} {seed}")
    samples: list[Sample] = []
    while len(samples) < n:
        kind = kinds[len(samples) % len(kinds)]
        alike = 0.5 if kind in _SEVERAL else 0.0
        scene = random_scene(rng, held_out=True, count=rng.choice(counts) if counts else None, alike=alike)
        new = [placed for placed, held_out in zip(scene.things, scene.held_out_things(), strict=True) if held_out]
        about = rng.choice(new or scene.things)
        if kind == "outside":
            text = held_out_outside(language, rng)
            samples.append(Sample(scene, draw(scene), Question(kind, language, text, HONEST[language])))
        elif question := ask(scene, kind, language, rng, about):
            samples.append(Sample(scene, draw(scene), question))
    return samples


def unanswerable_questions(language: str, n: int = 200, seed: int = 0) -> list[Sample]:
    """Questions that only `HONEST` answers: about pictures of nothing known, and about something else.

    Args:
        language (`str`): `"zh"` or `"en"`.
        n (`int`, defaults to 200): how many; the sorts of pictures and of questions take turns.
        seed (`int`, defaults to 0): another seed gives others.

    Returns:
        `list[Sample]` whose kinds are those of `UNKNOWN_PICTURES` and `OUTSIDE_KINDS`.
    """
    rng = random.Random(f"unanswerable {language} {seed}")
    samples: list[Sample] = []
    sorts = (*UNKNOWN_PICTURES, *OUTSIDE_KINDS)
    while len(samples) < n:
        sort = sorts[len(samples) % len(sorts)]
        scene = random_scene(rng, held_out=None)
        if sort in OUTSIDE_KINDS:
            question = Question(sort, language, held_out_outside(language, rng, sort), HONEST[language])
            samples.append(Sample(scene, draw(scene), question))
        elif question := ask(
            scene, rng.choice([k for k in KINDS if k not in ("second turn", "outside")]), language, rng
        ):
            asked = Question(sort, language, question.question, HONEST[language])
            samples.append(Sample(None, unknown_picture(sort, rng, held_out=True), asked))
    return samples


def phrases() -> tuple[list[str], list[str]]:
    """Texts that together hold every word the world can say, and the Chinese names, for building its vocabulary."""
    nouns = [*map(noun, BY_NAME), *SHAPE_NOUNS.values(), *COLOUR_NOUNS.values(), *COUNTED_NOUNS.values()]
    nouns += [ANYTHING, FLOWER, *ABSENT]
    words = {letter: "" for letter in "bcxyprklmnsv"}
    texts = [
        phrase.format(**words) for language in LANGUAGES for each in PHRASINGS[language].values() for phrase in each
    ]
    texts += [text.format(x="") for language in LANGUAGES for each in FACT_ANSWERS[language].values() for text in each]
    texts += [f" {word.a('en')} {word.plural} {word.measure}" for word in nouns]
    for language in LANGUAGES:
        texts += [*NUMBERS[language], HONEST[language], *SIZE_WORDS[language].values(), *KIND_NOUNS[language].values()]
        texts += [word for each in RELATIONS_ASKED[language].values() for word in each]
        texts += [f" {word}" for each in PLACES_ASKED[language].values() for word in each]
        for table in (BACKGROUND_NAMES, BACKGROUND_COLOURS):
            texts += [f" {word}" for word in table[language].values()]
    texts += [f" {colour} {chinese}" for colour, chinese in CHINESE_COLOURS.items()]
    texts += EXTRA_WORDS
    rng = random.Random("phrases")
    for _ in range(6000):
        question = ask(
            random_scene(rng, None), rng.choice([k for k in KINDS if k != "outside"]), rng.choice(LANGUAGES), rng
        )
        if question:
            texts.append(question.as_context)
            texts += [question.question, question.answer]
    chinese = [word.chinese for word in nouns if "的" not in word.chinese]
    chinese += [*CHINESE_COLOURS.values(), *BACKGROUND_COLOURS["zh"].values(), *BACKGROUND_NAMES["zh"].values()]
    return texts, [*chinese, *PLACES["zh"], *ON_BACKGROUND["zh"].values()]


EXTRA_WORDS = [
    # of Paint's prompts
    " a drawing of painting with one two three",
    "一幅画 画 张 图 里面 有 与 旁边 放着 的图画",
    " to the there is are and",
    # what people often ask with
    " here largest behind position near",
    "Who",
    "List",
    "Count",
    "啥数体找后告诉得总跟照给附近要展示",
]
