"""Questions about single things: whether and where they are, what they are, and what is true of them.

Each function takes a scene, a language, a source of choices and the thing that the question is about.
"""

import random

from . import synonyms
from .scenes import CELLS, RELATIONS, Placed, Scene
from .synonyms import wider
from .things import CHINESE_COLOURS, CHINESE_SHAPES, FACTS, SHAPES
from .wording import (
    FACT_ANSWERS,
    SIDES_ASKED,
    Question,
    absent,
    all_of,
    all_that,
    bare,
    confirmed,
    denied,
    deny,
    nothing,
    place_asked,
    reference,
    shape_asked,
    sometimes,
    unique,
    worded,
    yes_or_no,
)
from .words import (
    ANYTHING,
    COLOUR_NOUNS,
    COUNTED_NOUNS,
    FLOWER,
    KIND_NOUNS,
    NOUNS_OF_KINDS,
    SHAPE_NOUNS,
    SIZE_WORDS,
    colour_word,
    joined,
    kind_of,
    noun,
    place,
    there_is,
)
from .words import description as described


def what(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    return worded(language, rng, "what", there_is(scene.things, language))


def description(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    return worded(language, rng, "description", described(scene, language))


def count(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    which = rng.random()
    if which < 0.2:
        word = ANYTHING
    elif which < 0.4:
        kind = about.thing.kind
        word = COUNTED_NOUNS[kind if kind in COUNTED_NOUNS and rng.random() < 0.6 else rng.choice(list(COUNTED_NOUNS))]
    elif which < 0.75:
        word = reference(scene, about, rng)
        if about.thing.shape and rng.random() < 0.5:
            word = rng.choice((SHAPE_NOUNS[about.thing.shape], COLOUR_NOUNS[about.thing.colour]))
        elif about.name in FLOWER.names and rng.random() < 0.5:
            word = FLOWER
    else:
        word = absent(scene, rng)
    number = len(word.found(scene))
    if rng.random() < 0.12:
        return _count_yes_or_no(language, rng, word, number)
    if language == "zh":
        answer = f"图里{'有' if number else ''}{word.counted(number, 'zh')}。"
    else:
        answer = f"There {'is' if number == 1 else 'are'} {word.counted(number, 'en')}."
    name = "count all" if word is ANYTHING and sometimes(0.6, rng) else "count"
    return worded(language, rng, name, answer, m=word.measure, n=word.chinese, s=word.plural)


def _count_yes_or_no(language, rng, word, number):
    """Are there two cats?"""
    asked = number if number and rng.random() < 0.5 else rng.choice([n for n in (1, 2, 3) if n != number])
    if language == "zh":
        counted = f"图里{'有' if number else ''}{word.counted(number, 'zh')}。"
    else:
        counted = f"there {'is' if number == 1 else 'are'} {word.counted(number, 'en')}."
    answer = confirmed(asked == number, counted, language)
    verb = "is" if asked == 1 else "are"
    return worded(language, rng, "count?", answer, v=f"{verb} there", w=verb, n=word.counted(asked, language))


def exists(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    """Yes and no equally often."""
    if rng.random() < 0.5:
        word = reference(scene, about, rng)
        if about.thing.kind in COUNTED_NOUNS and rng.random() < 0.15:
            word = COUNTED_NOUNS[about.thing.kind]
    else:
        word = absent(scene, rng)
        if rng.random() < 0.15:
            word = rng.choice((*COUNTED_NOUNS.values(), FLOWER))
    there = bool(word.found(scene))
    if language == "zh":
        answer = f"有，图里有{word.chinese}。" if there else f"没有，图里没有{word.chinese}。"
    else:
        answer = f"Yes, there is {word.a('en')}." if there else f"No, there is no {word.singular}."
    name = word.a("en") if language == "en" else word.chinese
    return worded(language, rng, "exists", answer, about if there else None, n=name, s=word.plural)


def where(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    if rng.random() < 0.15:
        if sometimes(0.4, rng):
            return denied(scene, language, rng, ("where?",), p=place_asked(rng.randrange(len(CELLS)), language, rng))
        return denied(scene, language, rng, ("where",))
    if (rng.random() < 0.12 or sometimes(0.3, rng)) and unique(scene, about):
        return (_on_side if sometimes(0.35, rng) else _where_yes_or_no)(scene, language, rng, about)
    word = reference(scene, about, rng)
    found = word.found(scene)
    places = joined([place(placed.cell, language) for placed in found], language)
    if language == "zh":
        answer = f"{word.chinese}在{places}。"
    else:
        answer = (
            f"The {word.singular if len(found) == 1 else word.plural} {'is' if len(found) == 1 else 'are'} {places}."
        )
    if len(found) > 1 and sometimes(0.6, rng):
        some = word.counted(len(found), language)
        x, q = (f"the {word.plural}", f"the {some}") if language == "en" else (word.chinese, some)
        return worded(language, rng, "where all", answer, x=x, q=q, m=word.measure)
    return worded(language, rng, "where", answer, about if len(found) == 1 else None, x=word.the(language))


def _where_yes_or_no(scene, language, rng, about):
    right, x = rng.random() < 0.5, reference(scene, about, rng).the(language)
    cell = about.cell if right else rng.choice([cell for cell in range(len(CELLS)) if cell != about.cell])
    answer = yes_or_no(right, x, (place(cell, "en"), f"在{place(cell, 'zh')}"), language)
    where = place_asked(cell, language, rng) if sometimes(0.7, rng) else place(cell, language)
    return worded(language, rng, "where?", answer, about, x=x, p=where)


_ROWS_AND_COLUMNS = {"left": (1, 0), "right": (1, 2), "above": (0, 0), "below": (0, 2)}


def _is_on(placed: Placed, side: str) -> bool:
    """Whether it stands in the left column, in the top row …"""
    which, number = _ROWS_AND_COLUMNS[side]
    return divmod(placed.cell, 3)[which] == number


def _on_side(scene, language, rng, about):
    """Is it on the left? Is it on the left or on the right?"""
    x = reference(scene, about, rng).the(language)
    sides = [side for side in RELATIONS if _is_on(about, side)]
    if sides and rng.random() < 0.4:
        pairs = [pair for pair in (("left", "right"), ("above", "below")) if set(pair) & set(sides)]
        where = place(about.cell, language)
        answer = f"{x}在{where}。" if language == "zh" else f"{x} is {where}."
        p, q = (SIDES_ASKED[language][side][0] for side in rng.sample(rng.choice(pairs), 2))
        return worded(language, rng, "where or", answer, about, x=x, p=p, q=q)
    side = rng.choice(sides if sides and rng.random() < 0.5 else RELATIONS)
    english, chinese = (SIDES_ASKED[each][side][0] for each in ("en", "zh"))
    answer = yes_or_no(side in sides, x, (english, f"在{chinese}"), language)
    return worded(language, rng, "where?", answer, about, x=x, p=_side_asked(side, language, rng))


def _side_asked(side: str, language: str, rng: random.Random) -> str:
    return wider(rng.choice(SIDES_ASKED[language][side]), synonyms.SIDES[language][side], rng)


def _side(scene, language, rng):
    """What stands in the left column, in the top row."""
    side = rng.choice(RELATIONS)
    found = [placed for placed in scene.things if _is_on(placed, side)]
    where = SIDES_ASKED[language][side][0]
    answer = there_is(found, language, where) if found else nothing(where, language)
    return worded(language, rng, "side", answer, p=_side_asked(side, language, rng))


def in_place(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    if rng.random() < 0.25:
        return _side(scene, language, rng)
    cell = about.cell
    if rng.random() < 0.25:
        cell = rng.randrange(len(CELLS))
    found = [placed for placed in scene.things if placed.cell == cell]
    answer = there_is(found, language, place(cell, language)) if found else nothing(place(cell, language), language)
    return worded(language, rng, "place", answer, found[0] if found else None, p=place_asked(cell, language, rng))


def kind(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    which, right = rng.random(), about.thing.kind
    wrong = rng.choice([kind for kind in KIND_NOUNS[language] if kind != right])
    first, second = rng.sample((KIND_NOUNS[language][right], KIND_NOUNS[language][wrong]), 2)
    if which < 0.1:
        return denied(scene, language, rng, ("kind", "kind of two", "kind?"), k=first, l=second)
    word, kind = reference(scene, about, rng), kind_of(about.thing, language)
    x = word.the(language)
    answer = f"{x}是{kind}。" if language == "zh" else f"{x} is {kind}."
    if which < 0.2:
        empty = [cell for cell in range(len(CELLS)) if all(placed.cell != cell for placed in scene.things)]
        cell = rng.choice(empty) if rng.random() < 0.2 else about.cell
        x = noun(about.name).the(language)
        answer = f"{x}是{kind}。" if language == "zh" else f"{x} is {kind}."
        if cell != about.cell:
            answer, about = nothing(place(cell, language), language), None
        return worded(language, rng, "kind at", answer, about, p=place_asked(cell, language, rng))
    if which < 0.4:
        asked = rng.choice((right, wrong))
        k = KIND_NOUNS[language][asked]
        answer = yes_or_no(asked == right, x, (k, f"是{k}"), language)
        return worded(language, rng, "kind?", answer, x=x, k=k)
    if which < 0.6:
        return worded(language, rng, "kind of two", answer, x=x, k=first, l=second)
    if word.names != frozenset((about.name,)):  # "what is the red shape?" asks for its shape
        return None
    return worded(language, rng, "kind", answer, x=x)


def which(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
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
    return worded(language, rng, name, answer, k=k, s=word.plural)


def fact(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    fact = rng.choice(about.thing.facts) if about.thing.facts and rng.random() < 0.6 else rng.choice(FACTS)
    yes, no, one, many, none = FACT_ANSWERS[language][fact]
    which = rng.random()
    if which < 0.07:
        return denied(scene, language, rng, (f"{fact}?",))
    if which < 0.5:
        x = reference(scene, about, rng).the(language)
        answer = (yes if fact in about.thing.facts else no).format(x=x)
        return worded(language, rng, f"{fact}?", answer, x=x)
    found = [placed for placed in scene.things if fact in placed.thing.facts]
    answer = (one if len(found) == 1 else many).format(x=all_of(found, language)) if found else none
    return worded(language, rng, fact, answer)


def colour(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    if rng.random() < 0.12:
        asked = colour_word(rng.choice(list(CHINESE_COLOURS)), language) if sometimes(0.4, rng) else ""
        return denied(scene, language, rng, ("colour?",) if asked else ("colour",), c=asked)
    word, thing = noun(about.name), about.thing
    if rng.random() < 0.2:
        return _of_colour(scene, language, rng, thing.colour)
    if thing.shape:
        word = SHAPE_NOUNS[thing.shape]
        if len(word.found(scene)) > 1:
            return None
    x, colour = word.the(language), colour_word(thing.colour, language)
    if rng.random() < 0.25 or sometimes(0.2, rng):
        right = rng.random() < 0.5
        asked = thing.colour if right else rng.choice([each for each in CHINESE_COLOURS if each != thing.colour])
        c = colour_word(asked, language)
        answer = yes_or_no(right, x, (c, f"是{c}的"), language)
        return worded(language, rng, "colour?", answer, about, x=x, c=c, **bare(word, language))
    answer = f"{x}是{colour}的。" if language == "zh" else f"{x} is {colour}."
    return worded(language, rng, "colour", answer, about, x=x, **bare(word, language))


def _of_colour(scene, language, rng, colour):
    """What is red: of each thing its main colour counts."""
    if rng.random() < 0.25:
        colour = rng.choice(list(CHINESE_COLOURS))
    found = [placed for placed in scene.things if placed.thing.colour == colour]
    c = colour_word(colour, language)
    if found:
        answer = all_that(found, language, c, f"是{c}的")
    else:
        answer = f"它们都不是{c}的。" if language == "zh" else f"None of them is {c}."
    return worded(language, rng, "of colour", answer, c=c)


def shape(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    if not about.thing.shape:
        return None
    word = COLOUR_NOUNS[about.thing.colour]
    if rng.random() < 0.12:
        missing = [each for each in COLOUR_NOUNS.values() if not each.found(scene)]
        word = rng.choice(missing)
        colour = next(each for each in COLOUR_NOUNS if COLOUR_NOUNS[each] is word)
        words = {"x": word.the(language), "c": colour_word(colour, language)}
        if sometimes(0.3, rng):
            k = shape_asked(rng.choice(SHAPES), language)
            return worded(language, rng, "shape?", deny(word, language), k=k, **words)
        return worded(language, rng, "shape", deny(word, language), **words)
    if len(word.found(scene)) > 1:
        return None
    x, shape = word.the(language), about.thing.shape
    answer = f"{x}是{CHINESE_SHAPES[shape]}。" if language == "zh" else f"{x} is a {shape}."
    words = {"x": x, "c": colour_word(about.thing.colour, language)}
    if sometimes(0.4, rng):
        return _shape_yes_or_no(language, rng, about, answer, words)
    return worded(language, rng, "shape", answer, about, **words)


def _shape_yes_or_no(language, rng, about, answer, words):
    """Is the red shape a circle? Is it a circle or a star?"""
    shape = about.thing.shape
    asked = [shape, rng.choice([each for each in SHAPES if each != shape])]
    rng.shuffle(asked)
    k, second = (shape_asked(each, language) for each in asked)
    if rng.random() < 0.3:
        return worded(language, rng, "shape of two", answer, about, k=k, l=second, **words)
    answer = yes_or_no(asked[0] == shape, words["x"], (k, f"是{k}"), language)
    return worded(language, rng, "shape?", answer, about, k=k, **words)


def size(scene: Scene, language: str, rng: random.Random, about: Placed) -> Question | None:
    if rng.random() < 0.12:
        return denied(scene, language, rng, ("size", "large?", "small?") if sometimes(0.6, rng) else ("size",))
    if not unique(scene, about):
        return None
    word, size = reference(scene, about, rng), SIZE_WORDS[language][about.size]
    words = {"x": word.the(language), **bare(word, language)}
    answer = f"{words['x']}是{size}的。" if language == "zh" else f"{words['x']} is {size}."
    if rng.random() < 0.3 or sometimes(0.2, rng):
        asked = rng.choice(("large", "small"))
        return worded(language, rng, f"{asked}?", confirmed(about.size == asked, answer, language), about, **words)
    return worded(language, rng, "size", answer, about, **words)
