"""Questions that only the turn before makes clear."""

import random
from dataclasses import replace

from .about_things import what
from .scenes import CELLS, RELATIONS, Placed, Scene, relations
from .things import CHINESE_COLOURS, FACTS
from .wording import (
    FACT_ANSWERS,
    IT,
    RELATION,
    Question,
    absent,
    bare,
    confirmed,
    deny,
    nothing,
    place_asked,
    relation_asked,
    sometimes,
    unique,
    worded,
    yes_or_no,
)
from .words import KIND_NOUNS, SIZE_WORDS, colour_word, kind_of, noun, place, there_is

_ABOUT_ONE = ("where", "size", "colour", "kind", "fact")


def second_turn(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    """A question that only the turn before makes clear: about "it", about the other one, or the same of another."""
    way = rng.random()
    if sometimes(0.12, rng):
        return _what_else(scene, language, rng, about)
    if way < 0.55:
        first = _first_turn(scene, language, rng, about)
        return first and _about_it(scene, language, rng, about, first)
    kind, fact = rng.choice(("where", "size", "colour", "kind")), None
    if sometimes(0.2, rng):
        kind, fact = "fact", rng.choice(FACTS)
    others = [placed for placed in scene.things if placed is not about and unique(scene, placed)]
    if not unique(scene, about) or (about.thing.shape and kind == "colour"):
        return None
    first = _plain(kind, language, rng, about, fact=fact)
    if way < 0.8 and len(scene.things) == 2 and others:
        if others[0].thing.shape and kind == "colour":
            return None
        after = _plain(kind, language, rng, others[0], fact=fact)
        asked = worded(language, rng, "other", after.answer, others[0])
    elif others and rng.random() < 0.85:
        other = rng.choice(others)
        if other.thing.shape and kind == "colour":
            return None
        after = _plain(kind, language, rng, other, fact=fact)
        asked = worded(language, rng, "and", after.answer, other, x=noun(other.name).the(language))
    else:
        word = absent(scene, rng)
        asked = worded(language, rng, "and", deny(word, language), x=word.the(language))
    return replace(asked, context=first.as_context)


def _what_else(scene, language, rng, about):
    """What else is there? Only where something is."""
    others = [placed for placed in scene.things if placed is not about]
    if not others or not unique(scene, about):
        return None
    first = _first_turn(scene, language, rng, about)
    return first and replace(worded(language, rng, "else", there_is(others, language)), context=first.as_context)


def _plain(
    kind: str, language: str, rng: random.Random, about: Placed, x: str | None = None, fact: str | None = None
) -> Question:
    """One of five questions about a thing, by its name or by `x`; about a fact, by default any."""
    words = {"x": x} if x else {"x": noun(about.name).the(language), **bare(noun(about.name), language)}
    x, thing = words["x"], about.thing
    if kind == "fact":
        fact = fact or rng.choice(FACTS)
        yes, no = FACT_ANSWERS[language][fact][:2]
        answer = (yes if fact in thing.facts else no).format(x=x)
        return worded(language, rng, f"{fact}?", answer, about, **words)
    where, size = place(about.cell, language), SIZE_WORDS[language][about.size]
    zh, en = {
        "where": (f"{x}在{where}。", f"{x} is {where}."),
        "size": (f"{x}是{size}的。", f"{x} is {size}."),
        "colour": (f"{x}是{colour_word(thing.colour, 'zh')}的。", f"{x} is {colour_word(thing.colour, 'en')}."),
        "kind": (f"{x}是{kind_of(thing, 'zh')}。", f"{x} is {kind_of(thing, 'en')}."),
    }[kind]
    return worded(language, rng, kind, zh if language == "zh" else en, about, **words)


def _first_turn(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    """A turn that leaves no doubt what "it" is afterwards."""
    if not unique(scene, about):
        return None
    kind = rng.choice(("exists", "what", "place", *_ABOUT_ONE))
    if kind == "what":
        return what(scene, language, rng, about) if len(scene.things) == 1 else None
    if kind == "place":
        answer = there_is([about], language, place(about.cell, language))
        return worded(language, rng, "place", answer, p=place(about.cell, language))
    if kind == "exists":
        word = noun(about.name)
        answer = f"有，图里有{word.chinese}。" if language == "zh" else f"Yes, there is {word.a('en')}."
        name = word.a("en") if language == "en" else word.chinese
        return worded(language, rng, "exists", answer, n=name, s=word.plural)
    return _plain(kind, language, rng, about)


def _about_it(scene, language, rng, about, first: Question) -> Question | None:
    it = IT[language]
    kinds = ["where", "size", "colour", "kind", "fact", "relation"]
    if about.thing.shape:
        kinds = ["where", "size", "kind", "relation", "colour"]
    kind = rng.choice(kinds)
    if kind in ("where", "size", "colour", "kind") and sometimes(0.3, rng):
        asked = _yes_or_no(kind, language, rng, about, it)
    elif kind == "relation":
        relation = rng.choice(RELATIONS)
        found = [placed for placed in scene.things if relation in relations(placed, about)]
        words = RELATION[language][relation]
        where = f"{words} it" if language == "en" else f"它的{words}"
        answer = there_is(found, language, where) if found else nothing(where, language)
        asked = worded(language, rng, "relation", answer, about, x=it, r=relation_asked(relation, language, rng))
    else:
        asked = _plain(kind, language, rng, about, x=it)
        if kind in ("where", "size", "colour", "kind") and sometimes(0.25, rng):
            asked = worded(language, rng, f"and {kind}", asked.answer, about)
    if rng.random() < 0.2:  # one more turn in between
        between = _plain(rng.choice(("where", "size", "kind")), language, rng, about, x=it)
        first = replace(between, context=first.as_context)
    return replace(asked, context=first.as_context)


def _yes_or_no(kind, language, rng, about, it):
    """Is it large? Is it an animal? Is it red? Is it in the top left?"""
    right, thing = rng.random() < 0.5, about.thing
    if kind == "size":
        size, asked = about.size, about.size if right else ("small" if about.size == "large" else "large")
        word = SIZE_WORDS[language][size]
        answer = confirmed(right, f"{it}是{word}的。" if language == "zh" else f"{it} is {word}.", language)
        return worded(language, rng, f"{asked}?", answer, about, x=it)
    if kind == "where":
        cell = about.cell if right else rng.choice([cell for cell in range(len(CELLS)) if cell != about.cell])
        answer = yes_or_no(right, it, (place(cell, "en"), f"在{place(cell, 'zh')}"), language)
        return worded(language, rng, "where?", answer, about, x=it, p=place_asked(cell, language, rng))
    if kind == "colour":
        colours = [each for each in CHINESE_COLOURS if each != thing.colour]
        c = colour_word(thing.colour if right else rng.choice(colours), language)
        return worded(language, rng, "colour?", yes_or_no(right, it, (c, f"是{c}的"), language), about, x=it, c=c)
    kinds = [each for each in KIND_NOUNS[language] if each != thing.kind]
    k = KIND_NOUNS[language][thing.kind if right else rng.choice(kinds)]
    return worded(language, rng, "kind?", yes_or_no(right, it, (k, f"是{k}"), language), about, x=it, k=k)
