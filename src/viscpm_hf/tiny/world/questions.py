"""Questions in Chinese and English about a scene, each with one exact answer.

Answers follow from the scene and the question alone: things are named in reading order, in fixed words. Every answer
is one sentence: the original's beam search likes long answers (length_penalty 3), so no answer may be the beginning of
another one. What is not there is denied; what this world does not know gets `HONEST`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from .outside import OUTSIDE_KINDS, held_out_outside, training_outside
from .phrasings import PHRASINGS, WideRandom, put, reworded
from .pictures import draw
from .scenes import BACKGROUNDS, CELLS, RELATIONS, Placed, Scene, random_scene, relations, touch
from .things import BY_NAME, CHINESE_COLOURS, CHINESE_SHAPES, FACTS, KNOWN
from .unknown import UNKNOWN_PICTURES, unknown_picture
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
    NOUNS_OF_KINDS,
    NUMBERS,
    ON_BACKGROUND,
    PLACES,
    PLACES_ASKED,
    SHAPE_NOUNS,
    SIZE_WORDS,
    Noun,
    capital,
    colour_word,
    description,
    grouped,
    joined,
    kind_of,
    noun,
    place,
    related,
    there_is,
)

_RELATIONS_ASKED = {
    "en": {
        "left": ("left of", "to the left of", "on the left of"),
        "right": ("right of", "to the right of", "on the right of"),
        "above": ("above", "over"),
        "below": ("below", "under"),
    },
    "zh": {
        "left": ("左边", "左侧", "左面"),
        "right": ("右边", "右侧", "右面"),
        "above": ("上面", "上方", "上边"),
        "below": ("下面", "下方", "下边"),
    },
}
_FACT_ANSWERS = {  # yes, no, all that do (singular, plural), none
    "zh": {
        "fly": ("会，{x}会飞。", "不会，{x}不会飞。", "{x}会飞。", "{x}会飞。", "它们都不会飞。"),
        "eat": ("可以，{x}可以吃。", "不可以，{x}不可以吃。", "{x}可以吃。", "{x}可以吃。", "它们都不可以吃。"),
        "water": (
            "是的，{x}生活在水里。",
            "不，{x}不生活在水里。",
            "{x}生活在水里。",
            "{x}生活在水里。",
            "它们都不生活在水里。",
        ),
        "wheels": ("有，{x}有轮子。", "没有，{x}没有轮子。", "{x}有轮子。", "{x}有轮子。", "它们都没有轮子。"),
    },
    "en": {
        "fly": (
            "Yes, {x} can fly.",
            "No, {x} cannot fly.",
            "{x} can fly.",
            "{x} can fly.",
            "None of them can fly.",
        ),
        "eat": (
            "Yes, {x} can be eaten.",
            "No, {x} cannot be eaten.",
            "{x} can be eaten.",
            "{x} can be eaten.",
            "None of them can be eaten.",
        ),
        "water": (
            "Yes, {x} lives in water.",
            "No, {x} does not live in water.",
            "{x} lives in water.",
            "{x} live in water.",
            "None of them lives in water.",
        ),
        "wheels": (
            "Yes, {x} has wheels.",
            "No, {x} has no wheels.",
            "{x} has wheels.",
            "{x} have wheels.",
            "None of them has wheels.",
        ),
    },
}
_IT = {"zh": "它", "en": "it"}
_SIDES_ASKED = {
    "en": {
        "left": ("on the left", "on the left side"),
        "right": ("on the right", "on the right side"),
        "above": ("at the top",),
        "below": ("at the bottom",),
    },
    "zh": {"left": ("左边", "左面"), "right": ("右边", "右面"), "above": ("上面", "上边"), "below": ("下面", "下边")},
}


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Args:
        kind (`str`): one of `KINDS`.
        language (`str`): `"zh"` or `"en"`.
        question (`str`): what is asked.
        answer (`str`): the only right answer.
        context (`str`, defaults to `""`): earlier turns in the original's form, `"User: …\\nAI: …\\n"`.
        cell (`int`, *optional*): of the one thing that is meant; `None` where the question is about more or less.
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


def _asked(language: str, rng: random.Random, phrasing: str, answer: str, about: Placed | None = None, **words: str):
    text = capital(put(language, phrasing, rng).format(**words))
    return Question("", language, text, capital(answer), cell=about.cell if about else None)


def _reference(scene: Scene, about: Placed, rng: random.Random) -> Noun:
    """A word that fits this thing and no other in the scene; of a coloured shape not always the whole name."""
    thing = about.thing
    if thing.shape and rng.random() < 0.6:
        choices = [SHAPE_NOUNS[thing.shape], COLOUR_NOUNS[thing.colour]]
        rng.shuffle(choices)
        for choice in choices:
            if {placed.name for placed in choice.found(scene)} == {about.name}:
                return choice
    return noun(about.name)


def _unique(scene: Scene, about: Placed) -> bool:
    return sum(placed.name == about.name for placed in scene.things) == 1


def _absent(scene: Scene, rng: random.Random) -> Noun:
    """A word for what is not there."""
    while True:
        if rng.random() < 0.25:
            return rng.choice(ABSENT)
        thing = rng.choice(KNOWN)
        choice = noun(thing.name)
        if thing.shape and rng.random() < 0.4:
            choice = rng.choice((SHAPE_NOUNS[thing.shape], COLOUR_NOUNS[thing.colour]))
        if not choice.found(scene):
            return choice


def deny(word: Noun, language: str) -> str:
    """ "There is no dog in the picture.", 图里没有狗。"""
    return f"图里没有{word.chinese}。" if language == "zh" else f"There is no {word.singular} in the picture."


def _denied(scene: Scene, language: str, rng: random.Random, phrasings: tuple[str, ...], **words: str) -> Question:
    """A question about something that is not there."""
    word = _absent(scene, rng)
    return _asked(language, rng, rng.choice(phrasings), deny(word, language), x=word.the(language), **words)


def _what(scene, language, rng, about):
    return _asked(language, rng, "what", there_is(scene.things, language))


def _description(scene, language, rng, about):
    return _asked(language, rng, "description", description(scene, language))


def _count(scene, language, rng, about):
    which = rng.random()
    if which < 0.2:
        word = ANYTHING
    elif which < 0.4:
        kind = about.thing.kind
        word = COUNTED_NOUNS[kind if kind in COUNTED_NOUNS and rng.random() < 0.6 else rng.choice(list(COUNTED_NOUNS))]
    elif which < 0.75:
        word = _reference(scene, about, rng)
        if about.thing.shape and rng.random() < 0.5:
            word = rng.choice((SHAPE_NOUNS[about.thing.shape], COLOUR_NOUNS[about.thing.colour]))
        elif about.name in FLOWER.names and rng.random() < 0.5:
            word = FLOWER
    else:
        word = _absent(scene, rng)
    number = len(word.found(scene))
    if rng.random() < 0.12:
        return _count_yes_or_no(language, rng, word, number)
    if language == "zh":
        answer = f"图里{'有' if number else ''}{word.counted(number, 'zh')}。"
    else:
        answer = f"There {'is' if number == 1 else 'are'} {word.counted(number, 'en')}."
    return _asked(language, rng, "count", answer, m=word.measure, n=word.chinese, s=word.plural)


def _count_yes_or_no(language, rng, word, number):
    """Are there two cats?"""
    asked = number if number and rng.random() < 0.5 else rng.choice([n for n in (1, 2, 3) if n != number])
    yes = ("Yes", "是的") if asked == number else ("No", "不")
    if language == "zh":
        answer = f"{yes[1]}，图里{'有' if number else ''}{word.counted(number, 'zh')}。"
    else:
        answer = f"{yes[0]}, there {'is' if number == 1 else 'are'} {word.counted(number, 'en')}."
    is_what = f"{'is' if asked == 1 else 'are'} there"
    return _asked(language, rng, "count?", answer, v=is_what, n=word.counted(asked, language))


def _exists(scene, language, rng, about):
    """Yes and no equally often."""
    if rng.random() < 0.5:
        word = _reference(scene, about, rng)
        if about.thing.kind in COUNTED_NOUNS and rng.random() < 0.15:
            word = COUNTED_NOUNS[about.thing.kind]
    else:
        word = _absent(scene, rng)
        if rng.random() < 0.15:
            word = rng.choice((*COUNTED_NOUNS.values(), FLOWER))
    there = bool(word.found(scene))
    if language == "zh":
        answer = f"有，图里有{word.chinese}。" if there else f"没有，图里没有{word.chinese}。"
    else:
        answer = f"Yes, there is {word.a('en')}." if there else f"No, there is no {word.singular}."
    name = word.a("en") if language == "en" else word.chinese
    return _asked(language, rng, "exists", answer, about if there else None, n=name, s=word.plural)


def _where(scene, language, rng, about):
    if rng.random() < 0.15:
        return _denied(scene, language, rng, ("where",))
    if rng.random() < 0.12 and _unique(scene, about):
        return _where_yes_or_no(scene, language, rng, about)
    word = _reference(scene, about, rng)
    found = word.found(scene)
    places = joined([place(placed.cell, language) for placed in found], language)
    if language == "zh":
        answer = f"{word.chinese}在{places}。"
    else:
        answer = (
            f"The {word.singular if len(found) == 1 else word.plural} {'is' if len(found) == 1 else 'are'} {places}."
        )
    return _asked(language, rng, "where", answer, about if len(found) == 1 else None, x=word.the(language))


def yes_or_no(right: bool, x: str, is_what: tuple[str, str], language: str) -> str:
    """ "Yes, the cat is white.", "No, the cat is not white."; 是的，猫是白色的。

    Args:
        right (`bool`): whether it is so.
        x (`str`): the thing, in this language.
        is_what (`tuple[str, str]`): what follows "is", and what follows in Chinese, with its verb.
        language (`str`): `"zh"` or `"en"`.
    """
    english, chinese = is_what
    if language == "zh":
        return f"是的，{x}{chinese}。" if right else f"不，{x}不{chinese}。"
    return f"Yes, {x} is {english}." if right else f"No, {x} is not {english}."


def _where_yes_or_no(scene, language, rng, about):
    right, x = rng.random() < 0.5, _reference(scene, about, rng).the(language)
    cell = about.cell if right else rng.choice([cell for cell in range(len(CELLS)) if cell != about.cell])
    answer = yes_or_no(right, x, (place(cell, "en"), f"在{place(cell, 'zh')}"), language)
    return _asked(language, rng, "where?", answer, about, x=x, p=place(cell, language))


def _place_asked(cell: int, language: str, rng: random.Random) -> str:
    others = PLACES_ASKED[language].get(cell)
    return rng.choice(others) if others and rng.random() < 0.3 else place(cell, language)


def _side(scene, language, rng):
    """What stands in the left column, in the top row."""
    side = rng.choice(RELATIONS)
    row_or_column = {"left": (1, 0), "right": (1, 2), "above": (0, 0), "below": (0, 2)}[side]
    found = [placed for placed in scene.things if divmod(placed.cell, 3)[row_or_column[0]] == row_or_column[1]]
    asked = _SIDES_ASKED[language][side]
    where, asked = asked[0], rng.choice(asked)
    answer = there_is(found, language, where) if found else nothing(where, language)
    return _asked(language, rng, "side", answer, p=asked)


def _place(scene, language, rng, about):
    if rng.random() < 0.25:
        return _side(scene, language, rng)
    cell = about.cell
    if rng.random() < 0.25:
        cell = rng.randrange(len(CELLS))
    found = [placed for placed in scene.things if placed.cell == cell]
    answer = there_is(found, language, place(cell, language)) if found else nothing(place(cell, language), language)
    return _asked(language, rng, "place", answer, found[0] if found else None, p=_place_asked(cell, language, rng))


def nothing(where: str, language: str) -> str:
    """ "There is nothing in the centre.", 正中间没有东西。"""
    return f"{where}没有东西。" if language == "zh" else f"There is nothing {where}."


def _relation(scene, language, rng, about):
    which, relation = rng.random(), rng.choice(RELATIONS)
    asked = rng.choice(_RELATIONS_ASKED[language][relation])
    if which < 0.1:
        return _denied(scene, language, rng, ("relation",), r=asked)
    if not _unique(scene, about):
        return None
    word = _reference(scene, about, rng)
    if which < 0.2:
        found = [placed for placed in scene.things if placed is not about and touch(placed.cell, about.cell)]
        where = f"next to {word.the('en')}" if language == "en" else f"{word.chinese}的旁边"
        answer = there_is(found, language, where) if found else nothing(where, language)
        return _asked(language, rng, "beside", answer, about, x=word.the(language))
    others = [placed for placed in scene.things if placed is not about and _unique(scene, placed)]
    if which < 0.55 or not others:
        if rng.random() < 0.7:  # what is there more often than nothing
            there = [r for r in RELATIONS if any(r in relations(placed, about) for placed in scene.things)]
            relation = rng.choice(there or RELATIONS)
            asked = rng.choice(_RELATIONS_ASKED[language][relation])
        found = [placed for placed in scene.things if relation in relations(placed, about)]
        where = f"{RELATION[language][relation]} {word.the('en')}"
        if language == "zh":
            where = f"{word.chinese}的{RELATION['zh'][relation]}"
        answer = there_is(found, language, where) if found else nothing(where, language)
        return _asked(language, rng, "relation", answer, about, x=word.the(language), r=asked)
    other = rng.choice(others)
    second, found = _reference(scene, other, rng), relations(about, other)
    x, y = word.the(language), second.the(language)
    if which < 0.78:
        where = related(found, language)
        answer = f"{x}在{y}的{where}。" if language == "zh" else f"{x} is {where} {y}."
        return _asked(language, rng, "relation of", answer, about, x=x, y=y)
    if rng.random() < 0.2:
        words = ("next to", "旁边")
        answer = yes_or_no(touch(about.cell, other.cell), x, (f"next to {y}", f"在{y}的旁边"), language)
        return _asked(language, rng, "relation?", answer, about, x=x, y=y, r=words[language == "zh"])
    if rng.random() < 0.5:
        relation = rng.choice(found)
        asked = rng.choice(_RELATIONS_ASKED[language][relation])
    english, chinese = (RELATION[each][relation] for each in ("en", "zh"))
    answer = yes_or_no(relation in found, x, (f"{english} {y}", f"在{y}的{chinese}"), language)
    return _asked(language, rng, "relation?", answer, about, x=x, y=y, r=asked)


RELATION = {language: {each: words[0] for each, words in _RELATIONS_ASKED[language].items()} for language in LANGUAGES}


def _bigger(scene, language, rng, about):
    if rng.random() < 0.15:
        return _superlative(scene, language, rng)
    phrasing = rng.choice(("bigger", "smaller"))
    if rng.random() < 0.12:
        word, other = _absent(scene, rng), _reference(scene, about, rng)
        x, y = rng.sample((word.the(language), other.the(language)), 2)
        return _asked(language, rng, phrasing, deny(word, language), x=x, y=y)
    others = [placed for placed in scene.things if placed is not about and _unique(scene, placed)]
    if not others or not _unique(scene, about):
        return None
    other = rng.choice(others)
    x, y = _reference(scene, about, rng).the(language), _reference(scene, other, rng).the(language)
    if rng.random() < 0.25:
        return _compared(language, rng, phrasing, about, other, x, y)
    if len(scene.things) == 2 and rng.random() < 0.4:
        x, y = noun(about.name).the(language), noun(other.name).the(language)
        name = f"{phrasing} of two"
    else:
        name = phrasing
    if about.size == other.size:
        answer = "它们一样大。" if language == "zh" else "They are the same size."
    else:
        wins = x if (about.size == "large") == (phrasing == "bigger") else y
        more = "更大" if phrasing == "bigger" else "更小"
        answer = f"{wins}{more}。" if language == "zh" else f"{wins} is {phrasing}."
    return _asked(language, rng, name, answer, x=x, y=y)


def _compared(language, rng, phrasing, about, other, x, y):
    """Yes or no."""
    right, more = (about.size == "large") == (phrasing == "bigger"), "大" if phrasing == "bigger" else "小"
    if about.size == other.size:
        answer = "不，它们一样大。" if language == "zh" else "No, they are the same size."
    else:
        answer = yes_or_no(right, x, (f"{phrasing} than {y}", f"比{y}{more}"), language)
    return _asked(language, rng, f"{phrasing}?", answer, x=x, y=y)


def _superlative(scene, language, rng):
    """The biggest, or the smallest; one alone is that, too."""
    name, size = rng.choice((("biggest", "large"), ("smallest", "small")))
    found = [placed for placed in scene.things if placed.size == size]
    if len(scene.things) > 1 and len(found) in (0, len(scene.things)):
        return _asked(language, rng, name, "它们一样大。" if language == "zh" else "They are the same size.")
    return _asked(
        language,
        rng,
        name,
        _all_that(found or scene.things, language, f"the {name}", "最大" if size == "large" else "最小"),
    )


def _all_that(found: Sequence[Placed], language: str, english: str, chinese: str) -> str:
    """ "The cat and the dogs are red."; 猫和狗是红色的。"""
    things = _all_of(found, language)
    return f"{things}{chinese}。" if language == "zh" else f"{things} {'is' if len(found) == 1 else 'are'} {english}."


def _all_of(found: Sequence[Placed], language: str) -> str:
    """ "the cat and the dogs", 猫和狗."""
    nouns = [(noun(name), n) for name, n in grouped(found).items()]
    if language == "zh":
        return joined([word.chinese for word, _ in nouns], "zh")
    return joined([f"the {word.singular if n == 1 else word.plural}" for word, n in nouns], "en")


def _size(scene, language, rng, about):
    if rng.random() < 0.12:
        return _denied(scene, language, rng, ("size",))
    if not _unique(scene, about):
        return None
    x, size = _reference(scene, about, rng).the(language), SIZE_WORDS[language][about.size]
    if rng.random() < 0.3:
        asked = rng.choice(("large", "small"))
        right = about.size == asked
        yes = ("Yes", "是的") if right else ("No", "不")
        answer = f"{yes[1]}，{x}是{size}的。" if language == "zh" else f"{yes[0]}, {x} is {size}."
        return _asked(language, rng, f"{asked}?", answer, about, x=x)
    return _asked(language, rng, "size", f"{x}是{size}的。" if language == "zh" else f"{x} is {size}.", about, x=x)


def _background(scene, language, rng, about):
    if rng.random() < 0.4:
        return _background_yes_or_no(scene, language, rng, about)
    phrasing = rng.choice(("background", "background colour"))
    if phrasing == "background":
        word = BACKGROUND_NAMES[language][scene.background]
        answer = f"背景是{word}。" if language == "zh" else f"The background is {word}."
    else:
        word = BACKGROUND_COLOURS[language][scene.background]
        answer = f"背景是{word}的。" if language == "zh" else f"The background colour is {word}."
    return _asked(language, rng, phrasing, answer)


def _background_yes_or_no(scene, language, rng, about):
    right, way = rng.random() < 0.5, rng.random()
    asked = scene.background if right else rng.choice([each for each in BACKGROUNDS if each != scene.background])
    if way < 0.4:
        x, where = noun(about.name).the(language), ON_BACKGROUND[language][asked]
        answer = yes_or_no(right, x, (where, f"在{where}"), language)
        if not _unique(scene, about):
            return None
        return _asked(language, rng, "on background?", answer, about, x=x, b=where)
    table, name = BACKGROUND_NAMES, "background?"
    if way < 0.7:
        table, name = BACKGROUND_COLOURS, "background?" if language == "zh" else "background colour?"
        right = table[language][asked] == table[language][scene.background]
    word = table[language][asked]
    x = "背景" if language == "zh" else "the background"
    return _asked(language, rng, name, yes_or_no(right, x, (word, f"是{word}"), language), b=word)


def _kind(scene, language, rng, about):
    which, right = rng.random(), about.thing.kind
    wrong = rng.choice([kind for kind in KIND_NOUNS[language] if kind != right])
    first, second = rng.sample((KIND_NOUNS[language][right], KIND_NOUNS[language][wrong]), 2)
    if which < 0.1:
        return _denied(scene, language, rng, ("kind", "kind of two", "kind?"), k=first, l=second)
    word, kind = _reference(scene, about, rng), kind_of(about.thing, language)
    x = word.the(language)
    answer = f"{x}是{kind}。" if language == "zh" else f"{x} is {kind}."
    if which < 0.2:
        empty = [cell for cell in range(len(CELLS)) if all(placed.cell != cell for placed in scene.things)]
        cell = rng.choice(empty) if rng.random() < 0.2 else about.cell
        x = noun(about.name).the(language)
        answer = f"{x}是{kind}。" if language == "zh" else f"{x} is {kind}."
        if cell != about.cell:
            answer, about = nothing(place(cell, language), language), None
        return _asked(language, rng, "kind at", answer, about, p=_place_asked(cell, language, rng))
    if which < 0.4:
        asked = rng.choice((right, wrong))
        k = KIND_NOUNS[language][asked]
        if language == "zh":
            answer = f"是的，{x}是{k}。" if asked == right else f"不，{x}不是{k}。"
        else:
            answer = f"Yes, {x} is {k}." if asked == right else f"No, {x} is not {k}."
        return _asked(language, rng, "kind?", answer, x=x, k=k)
    if which < 0.6:
        return _asked(language, rng, "kind of two", answer, x=x, k=first, l=second)
    if word.names != frozenset((about.name,)):  # "what is the red shape?" asks for its shape
        return None
    return _asked(language, rng, "kind", answer, x=x)


def _which(scene, language, rng, about):
    kind = about.thing.kind if rng.random() < 0.75 else rng.choice(list(NOUNS_OF_KINDS))
    word, name = NOUNS_OF_KINDS[kind], "which"
    if rng.random() < 0.05 or (about.name in FLOWER.names and rng.random() < 0.3):
        word = FLOWER
    elif rng.random() < 0.3:
        name = "which is"
    found = word.found(scene)
    if found:
        answer = there_is(found, language)
    else:
        answer = f"图里没有{word.chinese}。" if language == "zh" else f"There are no {word.plural} in the picture."
    k = word.chinese if language == "zh" else KIND_NOUNS["en"][kind]
    return _asked(language, rng, name, answer, k=k, s=word.plural)


def _fact(scene, language, rng, about):
    fact = rng.choice(about.thing.facts) if about.thing.facts and rng.random() < 0.6 else rng.choice(FACTS)
    yes, no, one, many, none = _FACT_ANSWERS[language][fact]
    which = rng.random()
    if which < 0.07:
        return _denied(scene, language, rng, (f"{fact}?",))
    if which < 0.5:
        x = _reference(scene, about, rng).the(language)
        answer = (yes if fact in about.thing.facts else no).format(x=x)
        return _asked(language, rng, f"{fact}?", answer, x=x)
    found = [placed for placed in scene.things if fact in placed.thing.facts]
    answer = (one if len(found) == 1 else many).format(x=_all_of(found, language)) if found else none
    return _asked(language, rng, fact, answer)


def _colour(scene, language, rng, about):
    if rng.random() < 0.12:
        return _denied(scene, language, rng, ("colour",))
    word, thing = noun(about.name), about.thing
    if rng.random() < 0.2:
        return _of_colour(scene, language, rng, thing.colour)
    if thing.shape:
        word = SHAPE_NOUNS[thing.shape]
        if len(word.found(scene)) > 1:
            return None
    x, colour = word.the(language), colour_word(thing.colour, language)
    if rng.random() < 0.25:
        right = rng.random() < 0.5
        asked = thing.colour if right else rng.choice([each for each in CHINESE_COLOURS if each != thing.colour])
        c = colour_word(asked, language)
        return _asked(language, rng, "colour?", yes_or_no(right, x, (c, f"是{c}的"), language), about, x=x, c=c)
    return _asked(
        language, rng, "colour", f"{x}是{colour}的。" if language == "zh" else f"{x} is {colour}.", about, x=x
    )


def _of_colour(scene, language, rng, colour):
    """What is red: of each thing its main colour counts."""
    if rng.random() < 0.25:
        colour = rng.choice(list(CHINESE_COLOURS))
    found = [placed for placed in scene.things if placed.thing.colour == colour]
    c = colour_word(colour, language)
    if found:
        answer = _all_that(found, language, c, f"是{c}的")
    else:
        answer = f"它们都不是{c}的。" if language == "zh" else f"None of them is {c}."
    return _asked(language, rng, "of colour", answer, c=c)


def _shape(scene, language, rng, about):
    if not about.thing.shape:
        return None
    word = COLOUR_NOUNS[about.thing.colour]
    if rng.random() < 0.12:
        missing = [each for each in COLOUR_NOUNS.values() if not each.found(scene)]
        word = rng.choice(missing)
        return _asked(language, rng, "shape", deny(word, language), x=word.the(language))
    if len(word.found(scene)) > 1:
        return None
    x, shape = word.the(language), about.thing.shape
    answer = f"{x}是{CHINESE_SHAPES[shape]}。" if language == "zh" else f"{x} is a {shape}."
    return _asked(language, rng, "shape", answer, about, x=x)


_ABOUT_ONE = ("where", "size", "colour", "kind", "fact")


def _second_turn(scene, language, rng, about):
    """A question that only the turn before makes clear: about "it", about the other one, or the same of another."""
    first = None
    way = rng.random()
    if way < 0.55:
        first = _first_turn(scene, language, rng, about)
        return first and _about_it(scene, language, rng, about, first)
    kind = rng.choice(("where", "size", "colour", "kind"))
    others = [placed for placed in scene.things if placed is not about and _unique(scene, placed)]
    if not _unique(scene, about) or (about.thing.shape and kind == "colour"):
        return None
    first = _plain(kind, language, rng, about)
    if way < 0.8 and len(scene.things) == 2 and others:
        if others[0].thing.shape and kind == "colour":
            return None
        after = _plain(kind, language, rng, others[0])
        asked = _asked(language, rng, "other", after.answer, others[0])
    elif others and rng.random() < 0.85:
        other = rng.choice(others)
        if other.thing.shape and kind == "colour":
            return None
        after = _plain(kind, language, rng, other)
        asked = _asked(language, rng, "and", after.answer, other, x=noun(other.name).the(language))
    else:
        word = _absent(scene, rng)
        asked = _asked(language, rng, "and", deny(word, language), x=word.the(language))
    return replace(asked, context=first.as_context)


def _plain(kind: str, language: str, rng: random.Random, about: Placed, x: str | None = None) -> Question:
    """One of four questions about a thing, by its name or by `x`."""
    x, thing = x or noun(about.name).the(language), about.thing
    where, size = place(about.cell, language), SIZE_WORDS[language][about.size]
    zh, en = {
        "where": (f"{x}在{where}。", f"{x} is {where}."),
        "size": (f"{x}是{size}的。", f"{x} is {size}."),
        "colour": (f"{x}是{colour_word(thing.colour, 'zh')}的。", f"{x} is {colour_word(thing.colour, 'en')}."),
        "kind": (f"{x}是{kind_of(thing, 'zh')}。", f"{x} is {kind_of(thing, 'en')}."),
    }[kind]
    return _asked(language, rng, kind, zh if language == "zh" else en, about, x=x)


def _first_turn(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    """A turn that leaves no doubt what "it" is afterwards."""
    if not _unique(scene, about):
        return None
    kind = rng.choice(("exists", "what", "place", *_ABOUT_ONE))
    if kind == "what":
        return ask(scene, "what", language, rng) if len(scene.things) == 1 else None
    if kind == "place":
        answer = there_is([about], language, place(about.cell, language))
        return _asked(language, rng, "place", answer, p=place(about.cell, language))
    if kind == "exists":
        word = noun(about.name)
        answer = f"有，图里有{word.chinese}。" if language == "zh" else f"Yes, there is {word.a('en')}."
        name = word.a("en") if language == "en" else word.chinese
        return _asked(language, rng, "exists", answer, n=name, s=word.plural)
    if kind == "fact":
        fact, x = rng.choice(FACTS), noun(about.name).the(language)
        yes, no = _FACT_ANSWERS[language][fact][:2]
        return _asked(language, rng, f"{fact}?", (yes if fact in about.thing.facts else no).format(x=x), x=x)
    return _plain(kind, language, rng, about)


def _about_it(scene, language, rng, about, first: Question) -> Question | None:
    it = _IT[language]
    kinds = ["where", "size", "colour", "kind", "fact", "relation"]
    if about.thing.shape:
        kinds = ["where", "size", "kind", "relation", "colour"]
    kind = rng.choice(kinds)
    if kind == "fact":
        fact = rng.choice(FACTS)
        yes, no = _FACT_ANSWERS[language][fact][:2]
        answer = (yes if fact in about.thing.facts else no).format(x=it)
        asked = _asked(language, rng, f"{fact}?", answer, about, x=it)
    elif kind == "relation":
        relation = rng.choice(RELATIONS)
        found = [placed for placed in scene.things if relation in relations(placed, about)]
        words = RELATION[language][relation]
        where = f"{words} it" if language == "en" else f"它的{words}"
        answer = there_is(found, language, where) if found else nothing(where, language)
        asked = _asked(
            language, rng, "relation", answer, about, x=it, r=rng.choice(_RELATIONS_ASKED[language][relation])
        )
    else:
        asked = _plain(kind, language, rng, about, x=it)
    if rng.random() < 0.2:  # one more turn in between
        between = _plain(rng.choice(("where", "size", "kind")), language, rng, about, x=it)
        first = replace(between, context=first.as_context)
    return replace(asked, context=first.as_context)


def _outside(scene, language, rng, about):
    return Question("", language, training_outside(language, rng), HONEST[language])


_ASKERS = {
    "what": _what,
    "description": _description,
    "count": _count,
    "exists": _exists,
    "where": _where,
    "place": _place,
    "relation": _relation,
    "bigger": _bigger,
    "size": _size,
    "background": _background,
    "kind": _kind,
    "which": _which,
    "fact": _fact,
    "colour": _colour,
    "shape": _shape,
    "second turn": _second_turn,
    "outside": _outside,
}
KINDS = tuple(_ASKERS)
_SEVERAL = ("which", "fact", "colour")  # what several things may answer
# how often training asks what
_TRAINING_WEIGHTS = {
    "what": 1.5,
    "description": 2.5,
    "count": 1.5,
    "exists": 1.5,
    "where": 1.5,
    "place": 1.0,
    "relation": 2.5,
    "bigger": 1.2,
    "size": 1.2,
    "background": 0.8,
    "kind": 1.2,
    "which": 1.6,
    "fact": 2.0,
    "colour": 1.3,
    "shape": 2.0,  # rarely possible
    "second turn": 3.5,
    "outside": 3.0,
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
    if isinstance(rng, WideRandom) and rng.random() < 0.25:
        question = replace(question, question=reworded(question.question, language, rng))
    return sloppy(question, rng) if rng.random() < 0.15 else question


_HARD = {
    "relation": 7,
    "bigger": 6,
    "what": 3,
    "which": 4,
    "where": 2,
    "place": 3,
    "second turn": 3,
    "shape": 2,
    "fact": 3,
    "colour": 7,
    "background": 6,
    "size": 2,
    "outside": 5,
}
_HARD_WEIGHTS = [_HARD.get(kind, 0.5) for kind in KINDS]
_WEIGHTS = [_TRAINING_WEIGHTS[kind] for kind in KINDS]


def sloppy(question: Question, rng: random.Random) -> Question:
    """The same question in small letters, without its mark, or with the other language's."""
    text = question.question[0].lower() + question.question[1:]
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
    texts += [
        text.format(x="") for language in LANGUAGES for each in _FACT_ANSWERS[language].values() for text in each
    ]
    texts += [f" {word.a('en')} {word.plural} {word.measure}" for word in nouns]
    for language in LANGUAGES:
        texts += [*NUMBERS[language], HONEST[language], *SIZE_WORDS[language].values(), *KIND_NOUNS[language].values()]
        texts += [word for each in _RELATIONS_ASKED[language].values() for word in each]
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
