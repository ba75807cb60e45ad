"""What all questions are made with: words for what they ask about, and sentences that answer them."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from . import synonyms
from .phrasings import WideRandom, put
from .scenes import Placed, Scene
from .synonyms import wider
from .things import CHINESE_SHAPES, KNOWN, article
from .words import (
    ABSENT,
    COLOUR_NOUNS,
    LANGUAGES,
    PLACES_ASKED,
    SHAPE_NOUNS,
    Noun,
    capital,
    grouped,
    joined,
    noun,
    place,
)

IT = {"zh": "它", "en": "it"}
_NAMED = re.compile(r"\{t\}|\{m\}|图里的?\{x\}|\{x\}: |\{x\}'s")  # where "it" would not do
RELATIONS_ASKED = {
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


RELATION = {language: {each: words[0] for each, words in RELATIONS_ASKED[language].items()} for language in LANGUAGES}


SIDES_ASKED = {
    "en": {
        "left": ("on the left", "on the left side"),
        "right": ("on the right", "on the right side"),
        "above": ("at the top",),
        "below": ("at the bottom",),
    },
    "zh": {"left": ("左边", "左面"), "right": ("右边", "右面"), "above": ("上面", "上边"), "below": ("下面", "下边")},
}


FACT_ANSWERS = {  # yes, no, all that do (singular, plural), none
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


def worded(
    language: str, rng: random.Random, phrasing: str, answer: str, about: Placed | None = None, **words: str
) -> Question:
    """A question in one of the phrasings of that name, which `words` fill."""
    text = put(language, phrasing, rng)
    while words.get("x") == IT[language] and _NAMED.search(text):
        text = put(language, phrasing, rng)
    text = capital(text.format(**words))
    return Question("", language, text, capital(answer), cell=about.cell if about else None)


def reference(scene: Scene, about: Placed, rng: random.Random) -> Noun:
    """A word that fits this thing and no other in the scene; of a coloured shape not always the whole name."""
    thing = about.thing
    if thing.shape and rng.random() < 0.6:
        choices = [SHAPE_NOUNS[thing.shape], COLOUR_NOUNS[thing.colour]]
        rng.shuffle(choices)
        for choice in choices:
            if {placed.name for placed in choice.found(scene)} == {about.name}:
                return choice
    return noun(about.name)


def unique(scene: Scene, about: Placed) -> bool:
    """Whether no other thing has its name."""
    return sum(placed.name == about.name for placed in scene.things) == 1


def absent(scene: Scene, rng: random.Random) -> Noun:
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


def denied(scene: Scene, language: str, rng: random.Random, phrasings: tuple[str, ...], **words: str) -> Question:
    """A question about something that is not there."""
    word = absent(scene, rng)
    words = {"x": word.the(language), **bare(word, language), **words}
    return worded(language, rng, rng.choice(phrasings), deny(word, language), **words)


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


def confirmed(right: bool, statement: str, language: str) -> str:
    """ "Yes, …" or "No, …" before what is so; 是的，… 不，…"""
    if language == "zh":
        return f"{'是的' if right else '不'}，{statement}"
    return f"{'Yes' if right else 'No'}, {statement}"


def nothing(where: str, language: str) -> str:
    """ "There is nothing in the centre.", 正中间没有东西。"""
    return f"{where}没有东西。" if language == "zh" else f"There is nothing {where}."


def place_asked(cell: int, language: str, rng: random.Random) -> str:
    """ "in the top left", "in the upper left" …"""
    others = PLACES_ASKED[language].get(cell)
    usual = rng.choice(others) if others and rng.random() < 0.3 else place(cell, language)
    return wider(usual, synonyms.PLACES[language][cell], rng)


def relation_asked(relation: str, language: str, rng: random.Random) -> str:
    """ "left of", "to the left of" …"""
    return wider(rng.choice(RELATIONS_ASKED[language][relation]), synonyms.RELATIONS[language][relation], rng)


def bare(word: Noun, language: str) -> dict[str, str]:
    """The word without its article and its measure word, where phrasings of training want them: {t}, {m}."""
    return {"t": word.singular if language == "en" else word.chinese, "m": word.measure}


def shape_asked(shape: str, language: str) -> str:
    """ "a circle", 圆形."""
    return CHINESE_SHAPES[shape] if language == "zh" else f"{article(shape)} {shape}"


def sometimes(share: float, rng: random.Random) -> bool:
    """Whether to ask what only training asks, in a share of questions."""
    return isinstance(rng, WideRandom) and rng.random() < share


def all_that(found: Sequence[Placed], language: str, english: str, chinese: str) -> str:
    """ "The cat and the dogs are red."; 猫和狗是红色的。"""
    things = all_of(found, language)
    return f"{things}{chinese}。" if language == "zh" else f"{things} {'is' if len(found) == 1 else 'are'} {english}."


def all_of(found: Sequence[Placed], language: str) -> str:
    """ "the cat and the dogs", 猫和狗."""
    nouns = [(noun(name), n) for name, n in grouped(found).items()]
    if language == "zh":
        return joined([word.chinese for word, _ in nouns], "zh")
    return joined([f"the {word.singular if n == 1 else word.plural}" for word, n in nouns], "en")
