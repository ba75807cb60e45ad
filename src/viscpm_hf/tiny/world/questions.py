"""Questions in Chinese and English about a drawn scene, each with one exact answer.

Every answer is a short sentence and ends with a full stop: the original's beam search likes long answers
(length_penalty 3), so no answer may be the beginning of another one.
"""

import random
from dataclasses import dataclass, replace

import numpy as np

from .scenes import BACKGROUNDS, CELLS, COLOURS, SHAPES, SIZES, Scene, Thing, draw, random_scene

LANGUAGES = ("zh", "en")
KINDS = (
    "colour",
    "shape",
    "position",
    "size",
    "what",
    "count",
    "exists",
    "background",
    "description",
    "second turn",
)

CHINESE = {
    **dict(zip(SHAPES, ("圆形", "正方形", "三角形", "五角星", "心形", "十字形"), strict=True)),
    **dict(zip(COLOURS, ("红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "粉色", "棕色"), strict=True)),
    **dict(zip(BACKGROUNDS, ("白色", "灰色", "米色"), strict=True)),
    **dict(zip(SIZES, ("大", "小"), strict=True)),
    **dict(
        zip(
            CELLS,
            ("左上角", "正上方", "右上角", "左侧", "正中间", "右侧", "左下角", "正下方", "右下角"),
            strict=True,
        )
    ),
}
_NUMBERS = {"zh": ("没有", "一个", "两个", "三个"), "en": ("no", "one", "two", "three")}

ASKED = {  # the attribute asked for -> phrasings; {} is the reference to the object
    "zh": {
        "colour": ("{}是什么颜色？", "{}是什么颜色的？", "请问{}的颜色是什么？"),
        "shape": ("{}是什么形状？", "{}是什么形状的？", "请问{}的形状是什么？"),
        "position": ("{}在哪里？", "{}在什么位置？", "请问{}在图片的哪里？"),
        "size": ("{}是大的还是小的？", "{}是大还是小？", "请问{}有多大？"),
    },
    "en": {
        "colour": ("What colour is {}?", "What color is {}?", "Which colour does {} have?"),
        "shape": ("What shape is {}?", "Which shape does {} have?", "What kind of shape is {}?"),
        "position": ("Where is {}?", "Where can I find {}?", "In which part of the picture is {}?"),
        "size": ("Is {} large or small?", "Is {} small or large?", "What size is {}?"),
    },
}
_ANSWERS = {
    "zh": {"colour": "它是{}的。", "shape": "它是{}。", "position": "它在{}。", "size": "它是{}的。"},
    "en": {"colour": "It is {}.", "shape": "It is a {}.", "position": "It is in the {}.", "size": "It is {}."},
}
_ASKED_OF_CELL = {
    "zh": ("{}是什么？", "{}有什么？", "图片的{}有什么？"),
    "en": ("What is in the {}?", "What can you see in the {}?", "Which object is in the {}?"),
}
_ASKED_OF_PICTURE = {
    "zh": {
        "count": ("图里有几个{}？", "图片里有几个{}？", "一共有多少个{}？"),
        "exists": ("图里有{}吗？", "图里有没有{}？", "图片里有{}吗？"),
        "background": ("背景是什么颜色？", "图片的背景是什么颜色？", "请问背景是什么颜色的？"),
        "description": ("描述一下这张图片。", "请描述这张图片。", "图片里有什么？", "图里都有什么？"),
    },
    "en": {
        "count": ("How many {} are there?", "How many {} are in the picture?", "How many {} can you see?"),
        "exists": ("Is there {}?", "Is there {} in the picture?", "Can you see {}?"),
        "background": (
            "What colour is the background?",
            "What color is the background?",
            "Which colour does the background have?",
        ),
        "description": (
            "Describe the picture.",
            "Please describe this picture.",
            "What is in the picture?",
            "What can you see in the picture?",
        ),
    },
}
# how often training asks what: most about one of two objects, which is learned last
_TRAINING_WEIGHTS = {
    "colour": 1.5,
    "shape": 1.5,
    "position": 2.0,
    "size": 2.5,
    "what": 0.7,
    "count": 1.5,
    "exists": 1.5,
    "background": 0.2,
    "description": 0.7,
    "second turn": 2.5,
}


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Args:
        kind (`str`): one of `KINDS`.
        language (`str`): `"zh"` or `"en"`.
        question (`str`): what is asked.
        answer (`str`): the only right answer.
        context (`str`, defaults to `""`): earlier turns in the original's form, `"User: …\\nAI: …\\n"`.
        cell (`int`, *optional*): cell of the one object that is meant; `None` where the question is about the picture.
    """

    kind: str
    language: str
    question: str
    answer: str
    context: str = ""
    cell: int | None = None

    @property
    def as_context(self) -> str:
        return f"{self.context}User: {self.question}\nAI: {self.answer}\n"


@dataclass(frozen=True)
class Sample:
    """A scene, its picture `(64, 64, 3)` uint8 and a question about it."""

    scene: Scene
    picture: np.ndarray
    question: Question


def ask(
    scene: Scene,
    kind: str,
    language: str,
    rng: random.Random,
    about: Thing | None = None,
    unnamed: tuple[str, ...] = (),
) -> Question | None:
    """Asks one question about a scene.

    Args:
        scene (`Scene`): what is asked about.
        kind (`str`): one of `KINDS`.
        language (`str`): `"zh"` or `"en"`.
        rng (`random.Random`): chooses object and phrasing.
        about (`Thing`, *optional*): the object the question is about; by default any of the scene.
        unnamed (`tuple[str, ...]`, defaults to `()`): attributes by which the question may not call the object.

    Returns:
        `Question`, or `None` where this scene allows no unambiguous question of that kind (about that object).
    """
    thing = about or rng.choice(scene.things)
    if kind == "second turn":
        return _second_turn(scene, thing, language, rng)
    if kind in ASKED[language]:
        reference = _reference(scene, thing, language, rng, hidden=(kind, *unnamed))
        if reference is None:
            return None
        question, answer = (
            rng.choice(ASKED[language][kind]).format(reference),
            _attribute_answer(thing, kind, language),
        )
    elif kind == "what":
        cell = _word(CELLS[thing.cell], language)
        question, answer = rng.choice(_ASKED_OF_CELL[language]).format(cell), _naming_answer(thing, language)
    else:
        subject, answer = _PICTURE_ANSWERS[kind](scene, thing, language, rng)
        question = rng.choice(_ASKED_OF_PICTURE[language][kind]).format(subject)
    about_one = kind in ASKED[language] or kind == "what"
    return Question(kind, language, question, answer, cell=thing.cell if about_one else None)


def training_sample(seed: int, index: int) -> Sample:
    """The sample number `index` of the endless training stream `seed`; holds no held-out combination."""
    rng = random.Random(f"training {seed} {index}")
    scene = random_scene(rng)
    return Sample(scene, draw(scene, rng), training_question(scene, rng))


def training_question(scene: Scene, rng: random.Random) -> Question:
    """A question of random kind and language, sometimes after an unrelated turn or sloppily typed."""
    language, question = rng.choice(LANGUAGES), None
    while question is None:
        question = ask(scene, rng.choices(KINDS, [_TRAINING_WEIGHTS[kind] for kind in KINDS])[0], language, rng)
    if question.kind not in ("second turn", "description") and rng.random() < 0.2:
        earlier = ask(scene, rng.choice(KINDS[:-2]), language, rng)
        question = replace(question, context=earlier.as_context) if earlier else question
    if rng.random() > 0.15:
        return question
    sloppy = question.question[0].lower() + question.question[1:]
    if rng.random() < 0.5:
        sloppy = sloppy.rstrip("?？.。")
    return replace(question, question=sloppy)


def held_out_questions(language: str, n: int = 550, seed: int = 0) -> list[Sample]:
    """Questions about pictures with a (shape, colour, position) combination that training never shows.

    Args:
        language (`str`): `"zh"` or `"en"`.
        n (`int`, defaults to 550): how many, in equal shares of every kind (the first kinds take the remainder).
        seed (`int`, defaults to 0): another seed gives other questions of the same split.

    Returns:
        `list[Sample]`, the kinds taking turns. Where a question is about an object, that object is a held-out one.
    """
    rng = random.Random(f"held out {language} {seed}")
    samples = []
    while len(samples) < n:
        scene = random_scene(rng, held_out=True)
        about = rng.choice([thing for thing in scene.things if thing.held_out])
        question = ask(scene, KINDS[len(samples) % len(KINDS)], language, rng, about)
        if question:
            samples.append(Sample(scene, draw(scene, rng), question))
    return samples


def phrases() -> list[str]:
    """Texts that together hold every word the world can say, for building its vocabulary."""
    texts = [" ".join((*SHAPES, *COLOURS, *BACKGROUNDS, *SIZES, *CELLS)), *CHINESE.values()]
    for language in LANGUAGES:
        texts += _NUMBERS[language]
        for group in (*ASKED[language].values(), _ASKED_OF_CELL[language], *_ASKED_OF_PICTURE[language].values()):
            texts += [phrase.format("") for phrase in group]
    rng = random.Random("phrases")
    for _ in range(4000):
        scene = random_scene(rng)
        question = ask(scene, rng.choice(KINDS), rng.choice(LANGUAGES), rng)
        if question:
            texts += [question.as_context]
    return texts


def describe(scene: Scene, language: str) -> str:
    """All objects of a scene in reading order, in one sentence."""
    if language == "zh":
        parts = [f"{_word(CELLS[t.cell], 'zh')}有一个{_noun_phrase('zh', t.colour, t.shape)}" for t in scene.things]
        return "，".join(parts) + "。"
    parts = [f"{_indefinite(t.colour, t.shape)} in the {CELLS[t.cell]}" for t in scene.things]
    listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return f"There is {listed}."


def _word(name: str, language: str) -> str:
    return CHINESE[name] if language == "zh" else name


def _noun_phrase(language: str, colour: str | None = None, shape: str | None = None, size: str | None = None) -> str:
    """'small red circle' / '小的红色的圆形'; what is not given is left out."""
    if language == "zh":
        return "".join(f"{CHINESE[word]}的" for word in (size, colour) if word) + CHINESE.get(shape, "图形")
    return " ".join(word for word in (size, colour, shape or "object") if word)


def _indefinite(colour: str | None, shape: str | None) -> str:
    phrase = _noun_phrase("en", colour, shape)
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _reference(scene: Scene, thing: Thing, language: str, rng: random.Random, hidden: tuple[str, ...]) -> str | None:
    """Words that fit this object and no other of the scene, without naming the hidden attributes."""
    choices = []
    for names in (("shape",), ("colour",), ("position",), ("colour", "shape"), ("size", "shape"), ("size", "colour")):
        same = [other for other in scene.things if all(_value(other, n) == _value(thing, n) for n in names)]
        if len(same) == 1 and not set(names) & set(hidden):
            choices.append(names)
    if not choices:
        return None
    names = rng.choice(choices)
    phrase = _noun_phrase(language, **{name: _value(thing, name) for name in names if name != "position"})
    if "position" in names:
        cell = _word(CELLS[thing.cell], language)
        return f"{cell}的{phrase}" if language == "zh" else f"the {phrase} in the {cell}"
    return phrase if language == "zh" else f"the {phrase}"


def _value(thing: Thing, attribute: str) -> str:
    return CELLS[thing.cell] if attribute == "position" else getattr(thing, attribute)


def _attribute_answer(thing: Thing, attribute: str, language: str) -> str:
    return _ANSWERS[language][attribute].format(_word(_value(thing, attribute), language))


def _naming_answer(thing: Thing, language: str) -> str:
    if language == "zh":
        return f"那里有一个{_noun_phrase('zh', thing.colour, thing.shape)}。"
    return f"It is {_indefinite(thing.colour, thing.shape)}."


def _count(scene: Scene, thing: Thing, language: str, rng: random.Random) -> tuple[str, str]:
    attribute = rng.choice((None, "colour", "shape"))
    shown = {attribute: _value(thing, attribute)} if attribute else {}
    if attribute and rng.random() < 0.2:
        shown = {attribute: rng.choice(_NAMES[attribute])}
    number = sum(all(_value(other, name) == value for name, value in shown.items()) for other in scene.things)
    noun, word = _noun_phrase(language, **shown), _NUMBERS[language][number]
    if language == "zh":
        return noun, f"图里{'' if number == 0 else '有'}{word}{noun}。"
    plural = noun + ("es" if noun.endswith("cross") else "s")
    return plural, f"There {'is' if number == 1 else 'are'} {word} {noun if number == 1 else plural}."


def _exists(scene: Scene, thing: Thing, language: str, rng: random.Random) -> tuple[str, str]:
    """Yes and no equally often; half of the objects that are not there share a colour or a shape with one that is."""
    names = rng.choice((("colour", "shape"), ("colour", "shape"), ("colour",), ("shape",)))
    present = rng.random() < 0.5
    wanted = {name: _value(thing, name) for name in names}
    while not present:
        wanted = {name: rng.choice(_NAMES[name]) for name in names}
        if len(names) == 2 and rng.random() < 0.7:
            kept = rng.choice(names)
            wanted[kept] = _value(thing, kept)
        if not any(all(_value(other, name) == value for name, value in wanted.items()) for other in scene.things):
            break
    if language == "zh":
        noun = _noun_phrase("zh", **wanted)
        return noun, f"有，图里有{noun}。" if present else f"没有，图里没有{noun}。"
    noun = _indefinite(wanted.get("colour"), wanted.get("shape"))
    return noun, f"Yes, there is {noun}." if present else f"No, there is no {noun.split(' ', 1)[1]}."


def _background(scene: Scene, thing: Thing, language: str, rng: random.Random) -> tuple[str, str]:
    colour = _word(scene.background, language)
    return "", f"背景是{colour}的。" if language == "zh" else f"The background is {colour}."


def _description(scene: Scene, thing: Thing, language: str, rng: random.Random) -> tuple[str, str]:
    return "", describe(scene, language)


def _second_turn(scene: Scene, thing: Thing, language: str, rng: random.Random) -> Question | None:
    """'What colour is it?' after a turn that alone says which object is meant."""
    if len(scene.things) == 1:
        return None
    attributes = list(ASKED[language])
    rng.shuffle(attributes)
    asked, told = attributes[:2]
    reference = _reference(scene, thing, language, rng, hidden=(asked, told))
    if reference is None:
        return None
    first = Question(
        told,
        language,
        rng.choice(ASKED[language][told]).format(reference),
        _attribute_answer(thing, told, language),
    )
    question = rng.choice(ASKED[language][asked]).format("它" if language == "zh" else "it")
    return Question(
        "second turn", language, question, _attribute_answer(thing, asked, language), first.as_context, thing.cell
    )


_PICTURE_ANSWERS = {
    "count": _count,
    "exists": _exists,
    "background": _background,
    "description": _description,
}
_NAMES = {"colour": tuple(COLOURS), "shape": SHAPES}
