"""Questions about two things, about the biggest, and about what is behind them.

Each function takes a scene, a language, a source of choices and the thing that the question is about.
"""

import random

from . import synonyms
from .phrasings import WideRandom
from .scenes import BACKGROUNDS, RELATIONS, Placed, Scene, relations, touch
from .synonyms import wider
from .wording import (
    RELATION,
    Question,
    absent,
    all_that,
    denied,
    deny,
    nothing,
    reference,
    relation_asked,
    sometimes,
    unique,
    worded,
    yes_or_no,
)
from .words import (
    BACKGROUND_COLOURS,
    BACKGROUND_NAMES,
    ON_BACKGROUND,
    noun,
    related,
    there_is,
)


def relation(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    which, relation = rng.random(), rng.choice(RELATIONS)
    asked = relation_asked(relation, language, rng)
    if which < 0.1:
        if sometimes(0.5, rng):
            return _absent_neighbour(scene, language, rng, about, asked)
        return denied(scene, language, rng, ("relation",), r=asked)
    if not unique(scene, about):
        return None
    word = reference(scene, about, rng)
    if which < 0.2 or sometimes(0.12, rng):
        found = [placed for placed in scene.things if placed is not about and touch(placed.cell, about.cell)]
        where = f"next to {word.the('en')}" if language == "en" else f"{word.chinese}的旁边"
        answer = there_is(found, language, where) if found else nothing(where, language)
        return worded(language, rng, "beside", answer, about, x=word.the(language))
    others = [placed for placed in scene.things if placed is not about and unique(scene, placed)]
    if which < 0.55 or not others:
        if rng.random() < 0.7:  # what is there more often than nothing
            there = [r for r in RELATIONS if any(r in relations(placed, about) for placed in scene.things)]
            relation = rng.choice(there or RELATIONS)
            asked = relation_asked(relation, language, rng)
        found = [placed for placed in scene.things if relation in relations(placed, about)]
        where = f"{RELATION[language][relation]} {word.the('en')}"
        if language == "zh":
            where = f"{word.chinese}的{RELATION['zh'][relation]}"
        answer = there_is(found, language, where) if found else nothing(where, language)
        return worded(language, rng, "relation", answer, about, x=word.the(language), r=asked)
    other = rng.choice(others)
    second, found = reference(scene, other, rng), relations(about, other)
    x, y = word.the(language), second.the(language)
    if which < 0.78:
        where = related(found, language)
        answer = f"{x}在{y}的{where}。" if language == "zh" else f"{x} is {where} {y}."
        if sometimes(0.3, rng):
            each = rng.choice(found)
            first, last, behind = rng.choice(synonyms.OPPOSITES[language][_AXES[each]])
            p, q = rng.sample((first, last), 2)
            return worded(language, rng, "relation or", answer, about, x=x, y=y, p=p, q=q + behind, r=p + behind)
        return worded(language, rng, "relation of", answer, about, x=x, y=y)
    if rng.random() < 0.2 or sometimes(0.2, rng):
        words = ("next to", "旁边")
        answer = yes_or_no(touch(about.cell, other.cell), x, (f"next to {y}", f"在{y}的旁边"), language)
        name = "near?" if sometimes(0.8, rng) else "relation?"
        return worded(language, rng, name, answer, about, x=x, y=y, r=words[language == "zh"])
    if rng.random() < 0.5:
        relation = rng.choice(found)
        asked = relation_asked(relation, language, rng)
    english, chinese = (RELATION[each][relation] for each in ("en", "zh"))
    answer = yes_or_no(relation in found, x, (f"{english} {y}", f"在{y}的{chinese}"), language)
    return worded(language, rng, "relation?", answer, about, x=x, y=y, r=asked)


_AXES = {"left": "left", "right": "left", "above": "above", "below": "above"}


def _absent_neighbour(scene, language, rng, about, asked):
    """About two things, one of which is not there, or about what is next to nothing."""
    word, other = absent(scene, rng), reference(scene, about, rng)
    x, y = rng.sample((word.the(language), other.the(language)), 2)
    name = rng.choice(("relation?", "relation of", "near?", "beside"))
    if name == "beside":
        x = word.the(language)
    return worded(language, rng, name, deny(word, language), x=x, y=y, r=asked)


def bigger(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    if rng.random() < 0.15:
        return _superlative(scene, language, rng)
    phrasing = rng.choice(("bigger", "smaller"))
    if rng.random() < 0.12:
        word, other = absent(scene, rng), reference(scene, about, rng)
        x, y = rng.sample((word.the(language), other.the(language)), 2)
        name = rng.choice((f"{phrasing}?", "same?")) if sometimes(0.4, rng) else phrasing
        return worded(language, rng, name, deny(word, language), x=x, y=y)
    others = [placed for placed in scene.things if placed is not about and unique(scene, placed)]
    if not others or not unique(scene, about):
        return None
    other = rng.choice(others)
    x, y = reference(scene, about, rng).the(language), reference(scene, other, rng).the(language)
    if rng.random() < 0.25 or sometimes(0.15, rng):
        if sometimes(0.3, rng):
            return _same_size(language, rng, about, other, x, y)
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
    return worded(language, rng, name, answer, x=x, y=y)


def _compared(language, rng, phrasing, about, other, x, y):
    """Yes or no."""
    right, more = (about.size == "large") == (phrasing == "bigger"), "大" if phrasing == "bigger" else "小"
    if about.size == other.size:
        answer = "不，它们一样大。" if language == "zh" else "No, they are the same size."
    else:
        answer = yes_or_no(right, x, (f"{phrasing} than {y}", f"比{y}{more}"), language)
    return worded(language, rng, f"{phrasing}?", answer, x=x, y=y)


def _same_size(language, rng, about, other, x, y):
    """Are the cat and the apple the same size?"""
    if about.size == other.size:
        answer = "是的，它们一样大。" if language == "zh" else "Yes, they are the same size."
    else:
        bigger = x if about.size == "large" else y
        answer = f"不，{bigger}更大。" if language == "zh" else f"No, {bigger} is bigger."
    return worded(language, rng, "same?", answer, x=x, y=y)


def _superlative(scene, language, rng):
    """The biggest, or the smallest; one alone is that, too."""
    name, size = rng.choice((("biggest", "large"), ("smallest", "small")))
    found = [placed for placed in scene.things if placed.size == size]
    if len(scene.things) > 1 and len(found) in (0, len(scene.things)):
        return worded(language, rng, name, "它们一样大。" if language == "zh" else "They are the same size.")
    return worded(
        language,
        rng,
        name,
        all_that(found or scene.things, language, f"the {name}", "最大" if size == "large" else "最小"),
    )


def background(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    if rng.random() < 0.4 or sometimes(0.3, rng):
        return _background_yes_or_no(scene, language, rng, about)
    phrasing = rng.choice(("background", "background colour"))
    if phrasing == "background":
        word = BACKGROUND_NAMES[language][scene.background]
        answer = f"背景是{word}。" if language == "zh" else f"The background is {word}."
    else:
        word = BACKGROUND_COLOURS[language][scene.background]
        answer = f"背景是{word}的。" if language == "zh" else f"The background colour is {word}."
    return worded(language, rng, phrasing, answer)


def _background_yes_or_no(scene, language, rng, about):
    right, way = rng.random() < 0.5, rng.random()
    asked = scene.background if right else rng.choice([each for each in BACKGROUNDS if each != scene.background])
    if way < 0.4:
        x, where = noun(about.name).the(language), ON_BACKGROUND[language][asked]
        answer = yes_or_no(right, x, (where, f"在{where}"), language)
        if not unique(scene, about):
            return None
        asked = wider(where, synonyms.GROUNDS[language][asked], rng)
        if sometimes(0.1, rng):
            return denied(scene, language, rng, ("on background?",), b=asked)
        return worded(language, rng, "on background?", answer, about, x=x, b=asked)
    table, name = BACKGROUND_NAMES, "background?"
    if way < 0.7:
        usual = language == "zh" and not isinstance(rng, WideRandom)
        table, name = BACKGROUND_COLOURS, "background?" if usual else "background colour?"
        right = table[language][asked] == table[language][scene.background]
    word = table[language][asked]
    x = "背景" if language == "zh" else "the background"
    return worded(language, rng, name, yes_or_no(right, x, (word, f"是{word}"), language), b=word)
