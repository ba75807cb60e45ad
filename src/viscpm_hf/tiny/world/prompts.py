"""Prompts in Chinese and English for the tiny Paint model: one thing in a place, two things, or several of a kind.

The world is a part of Chat's: large things only. Where a prompt does not say it, one thing is in the middle, things
that are told one after the other stand from left to right, and the background is white.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .scenes import BACKGROUNDS, CELLS, HELD_OUT_SEED, PAIR_CELLS, RELATIONS, Placed, Scene, jittered
from .things import BY_NAME, COLOURED_SHAPES, COLOURS, SHAPES, THINGS, Thing

LANGUAGES = ("zh", "en")
KINDS = ("thing", "pair", "shape", "number")  # one pictogram, two things, one coloured shape, some of a kind
SIZE, PLAIN, MIDDLE = "large", "white", 4
COUNT_CELLS = {2: (3, 5), 3: (1, 6, 8)}
_KIND_WEIGHTS = (40, 35, 15, 10)

_FIRST = int.from_bytes(hashlib.sha256(f"{HELD_OUT_SEED} paint pairs".encode()).digest()[:4], "big")
# One colour of every shape is never painted in training, wherever it is.
NEVER_PAINTED = frozenset(
    f"{tuple(COLOURS)[(_FIRST + 3 * i) % len(COLOURS)]} {shape}" for i, shape in enumerate(SHAPES)
)

_PLACES = {
    "zh": (
        ("左上角", "左上方", "图片的左上角", "左上"),
        ("正上方", "上面", "上方", "上边", "图片的上面"),
        ("右上角", "右上方", "图片的右上角", "右上"),
        ("左侧", "左边", "左面", "图片的左边"),
        ("正中间", "中间", "中央", "图片的中间", "正中央"),
        ("右侧", "右边", "右面", "图片的右边"),
        ("左下角", "左下方", "图片的左下角", "左下"),
        ("正下方", "下面", "下方", "下边", "图片的下面"),
        ("右下角", "右下方", "图片的右下角", "右下"),
    ),
    "en": (
        ("in the top left", "in the top left corner", "in the upper left", "at the top left"),
        ("at the top", "in the top middle", "at the top middle", "at the top of the picture"),
        ("in the top right", "in the top right corner", "in the upper right", "at the top right"),
        ("on the left", "in the middle left", "on the left side", "to the left"),
        ("in the centre", "in the middle", "in the center", "in the middle of the picture"),
        ("on the right", "in the middle right", "on the right side", "to the right"),
        ("in the bottom left", "in the bottom left corner", "in the lower left", "at the bottom left"),
        ("at the bottom", "in the bottom middle", "at the bottom middle", "at the bottom of the picture"),
        ("in the bottom right", "in the bottom right corner", "in the lower right", "at the bottom right"),
    ),
}
_GROUNDS = {
    "zh": {
        "white": ("白色背景上", "白色的背景上"),
        "sky": ("天空中", "天上", "天空里", "蓝天上", "空中"),
        "grass": ("草地上", "草上", "绿色的草地上"),
        "sand": ("沙滩上", "沙地上", "沙子上", "海滩上"),
        "night": ("夜空中", "夜里", "黑夜里", "夜空里"),
        "water": ("水里", "水中", "水面上", "海里", "水上"),
    },
    "en": {
        "white": ("on a white background", "on white", "in front of a white background"),
        "sky": ("in the sky", "in the blue sky", "in front of the sky", "against the sky"),
        "grass": ("on the grass", "on grass", "in the grass", "on a meadow", "on a lawn"),
        "sand": ("on the sand", "on sand", "on the beach", "in the sand", "in the desert"),
        "night": ("at night", "in the night", "in the night sky", "in the dark"),
        "water": ("in the water", "in water", "on the water", "in the sea", "on the sea"),
    },
}
_GROUND_NAMES = {
    "zh": {
        "white": ("白色的", "白色", "白的"),
        "sky": ("天空", "蓝天"),
        "grass": ("草地", "绿色的草地"),
        "sand": ("沙滩", "沙地", "沙子"),
        "night": ("夜空", "黑夜"),
        "water": ("水", "水面", "大海"),
    },
    "en": {
        "white": ("white",),
        "sky": ("sky", "the sky"),
        "grass": ("grass", "the grass"),
        "sand": ("sand", "the beach"),
        "night": ("night", "the night sky"),
        "water": ("water", "the sea"),
    },
}
_SIDES = {
    "zh": {
        "left": ("左边", "左侧", "左面"),
        "right": ("右边", "右侧", "右面"),
        "above": ("上面", "上方", "上边"),
        "below": ("下面", "下方", "下边"),
    },
    "en": {
        "left": ("to the left of", "left of", "on the left of", "on the left side of"),
        "right": ("to the right of", "right of", "on the right of", "on the right side of"),
        "above": ("above", "over", "on top of"),
        "below": ("below", "under", "beneath", "underneath"),
    },
}
_ENDS = {"left": "on the left", "right": "on the right", "above": "at the top", "below": "at the bottom"}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
_NUMBERS = {"zh": {2: "两", 3: "三"}, "en": {2: "two", 3: "three"}}


@dataclass(frozen=True)
class Prompt:
    """What to paint.

    Args:
        language (`str`): `"zh"` or `"en"`.
        text (`str`): the prompt.
        names (`tuple[str, ...]`): of the things, one for each.
        background (`str`): one of `BACKGROUNDS`.
        cell (`int`, *optional*): index into `CELLS`, of one thing.
        relation (`str`, *optional*): where the first of two things is as seen from the second, one of `RELATIONS`.
        placed (`bool`): whether the text says where it is; else it is what training shows for such a prompt.
        grounded (`bool`): whether the text says the background.
    """

    language: str
    text: str
    names: tuple[str, ...]
    background: str
    cell: int | None
    relation: str | None
    placed: bool
    grounded: bool

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if len(self.names) == 1:
            return "shape" if BY_NAME[self.names[0]].shape else "thing"
        return "pair" if self.relation else "number"


def wish(kind: str, rng: random.Random, things: Sequence[Thing] = THINGS) -> tuple[Scene, str | None]:
    """Something to ask for: a scene without jitter, and for two things the relation of the first told to the other.

    Args:
        kind (`str`): one of `KINDS`.
        rng (`random.Random`): chooses.
        things (`Sequence[Thing]`, defaults to `THINGS`): pictograms to choose from; one that is there twice is chosen
            twice as often.
    """
    background = rng.choice(BACKGROUNDS) if rng.random() < 0.75 else PLAIN
    if kind == "pair":
        first, second = (rng.choice(COLOURED_SHAPES if rng.random() < 0.25 else things).name for _ in range(2))
        relation = rng.choice(RELATIONS)
        placed = [Placed(n, SIZE, c) for n, c in zip((first, second), PAIR_CELLS[relation], strict=True)]
        return Scene(tuple(sorted(placed, key=lambda each: each.cell)), background), relation
    name = rng.choice(COLOURED_SHAPES if kind == "shape" or kind == "number" and rng.random() < 0.2 else things).name
    if kind == "number":
        cells = COUNT_CELLS[rng.choice(tuple(COUNT_CELLS))]
    else:
        cells = (MIDDLE,) if rng.random() < 0.3 else (rng.randrange(len(CELLS)),)
    return Scene(tuple(Placed(name, SIZE, cell) for cell in cells), background), None


def never_painted(scene: Scene) -> bool:
    """Whether training shows no such scene: a combination that is held out, or a pair of shape and colour."""
    return scene.held_out or any(placed.name in NEVER_PAINTED for placed in scene.things)


def training_wish(rng: random.Random, things: Sequence[Thing] = THINGS) -> tuple[Scene, str | None]:
    """A wish that training may show, jittered; `things` as for `wish`."""
    while True:
        scene, relation = wish(rng.choices(KINDS, _KIND_WEIGHTS)[0], rng, things)
        if not never_painted(scene):
            return jittered(scene, rng), relation


SPLITS = ("combinations", "shapes")


def held_out_prompts(language: str, n: int = 300, seed: int = 0, split: str = "combinations") -> list[Prompt]:
    """Prompts for what training never shows.

    Args:
        language (`str`): `"zh"` or `"en"`.
        n (`int`, defaults to 300): how many.
        seed (`int`, defaults to 0): another seed gives other prompts of the same split.
        split (`str`, defaults to `"combinations"`): one of `SPLITS`: `"combinations"` ask for a thing in a place and
            on a background where it is never painted, or for two things never painted in this relation, in turn;
            `"shapes"` for a shape of a colour it is never painted in.

    Returns:
        `list[Prompt]`, all different.
    """
    rng = random.Random(f"prompts {language} {seed} {split}")
    prompts: dict[str, Prompt] = {}
    while len(prompts) < n:
        kind = "shape" if split == "shapes" else ("thing", "pair")[len(prompts) % 2]
        scene, relation = wish(kind, rng)
        coloured = any(placed.name in NEVER_PAINTED for placed in scene.things)
        if coloured if split == "shapes" else scene.held_out and not coloured:
            prompt = write_prompt(language, scene, relation, rng)
            if split == "shapes" or prompt.placed:
                prompts.setdefault(prompt.text, prompt)
    return list(prompts.values())


def write_prompt(language: str, scene: Scene, relation: str | None, rng: random.Random, vague: bool = False) -> Prompt:
    """A prompt for a wish in one of many phrasings.

    Args:
        language (`str`): `"zh"` or `"en"`.
        scene (`Scene`), relation (`str`, *optional*): as from `wish`.
        rng (`random.Random`): chooses the phrasing, and what need not be said.
        vague (`bool`, defaults to `False`): a coloured shape may be called by its shape or its colour alone.
    """
    names = tuple(placed.name for placed in scene.things)
    if relation in ("right", "below"):
        names = names[::-1]  # the first told is the second in reading order
    cell = scene.things[0].cell if len(names) == 1 else None
    grounded = scene.background != PLAIN or rng.random() < 0.4
    by_default = cell == MIDDLE or relation == "left"
    placed = (cell is not None or relation is not None) and not (by_default and rng.random() < 0.5)
    write = _chinese if language == "zh" else _english
    text = write(names, cell if placed else None, relation, placed, scene.background if grounded else None, rng, vague)
    return Prompt(language, text, names, scene.background, cell, relation, placed, grounded)


def write_training_prompts(scene: Scene, relation: str | None, rng: random.Random, number: int) -> list[Prompt]:
    """Some prompts for a wish, both languages in turn, some of them sloppily typed."""
    prompts = [write_prompt(LANGUAGES[i % 2], scene, relation, rng, vague=True) for i in range(number)]
    return [replace(prompt, text=_sloppy(prompt.text, rng)) for prompt in prompts]


def training_prompts(number: int, seed: int = 0) -> list[Prompt]:
    """Some of the prompts that training uses, both languages in turn."""
    rng = random.Random(f"training prompts {seed}")
    return [write_prompt(LANGUAGES[i % 2], *training_wish(rng), rng) for i in range(number)]


def prompt_phrases() -> list[str]:
    """Texts that together hold every word of a prompt, for the vocabulary."""
    texts = []
    for language in LANGUAGES:
        for group in (*_PLACES[language], *_GROUNDS[language].values(), *_GROUND_NAMES[language].values()):
            texts += group
        for group in _SIDES[language].values():
            texts += group
        texts += _NUMBERS[language].values()
    texts += _ENDS.values()
    rng = random.Random("prompt phrases")
    for _ in range(4000):
        scene, relation = wish(rng.choice(KINDS), rng)
        texts += [prompt.text for prompt in write_training_prompts(scene, relation, rng, 2)]
    return texts


def _sloppy(text: str, rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.1:
        return text[0].upper() + text[1:]
    if draw < 0.2:
        return text.lower().rstrip(".。")
    return text


def _chinese(
    names: tuple[str, ...],
    cell: int | None,
    relation: str | None,
    placed: bool,
    background: str | None,
    rng: random.Random,
    vague: bool,
) -> str:
    ground = background and rng.choice(_GROUNDS["zh"][background])
    behind = background and rng.choice(_GROUND_NAMES["zh"][background])
    if relation is None:
        noun = _chinese_noun(BY_NAME[names[0]], len(names), rng, vague)
        place = None if cell is None else rng.choice(_PLACES["zh"][cell])
        told = rng.choice((noun, f"有{noun}", f"画{noun}", f"请画{noun}", noun))
        if place is None and ground is None:
            text = rng.choice((told, told, f"图里有{noun}", f"{noun}的图片", f"画一张{noun}的图片"))
        elif ground is None:
            text = rng.choice((f"{place}有{noun}", f"{noun}在{place}", f"{place}的{noun}", f"{told}，在{place}"))
        elif place is None:
            forms = (f"{ground}有{noun}", f"{ground}的{noun}", f"{noun}在{ground}", f"{told}，背景是{behind}")
            text = rng.choice((*forms, f"{ground}，{noun}"))
        else:
            forms = (f"{ground}的{place}有{noun}", f"{ground}有{noun}，在{place}", f"{noun}在{place}，背景是{behind}")
            forms += (f"{ground}，{place}有{noun}", f"{place}有{noun}，背景是{behind}", f"{place}的{noun}，在{ground}")
            text = rng.choice(forms)
    else:
        first, second = (_chinese_noun(BY_NAME[name], 1, rng, vague) for name in names)
        if not placed:
            both = f"{first}{rng.choice(('和', '、', '与'))}{second}"
            if ground is None:
                text = rng.choice((both, f"有{both}", f"图里有{both}", f"画{both}"))
            else:
                text = rng.choice(
                    (f"{ground}有{both}", f"{both}在{ground}", f"{both}，背景是{behind}", f"{ground}的{both}")
                )
        else:
            side, other = rng.choice(_SIDES["zh"][relation]), rng.choice(_SIDES["zh"][_OPPOSITE[relation]])
            forms = (f"{first}在{second}的{side}", f"{first}在{second}{side}", f"{second}的{side}有{first}")
            forms += (
                f"{second}{side}是{first}",
                f"{side}是{first}，{other}是{second}",
                f"{first}在{side}，{second}在{other}",
            )
            forms += (f"{other}有{second}，{side}有{first}", f"{second}在{first}的{other}")
            text = rng.choice(forms)
            if ground is not None:
                text = rng.choice((f"{ground}，{text}", f"{text}，背景是{behind}", f"{text}，在{ground}"))
    return text + rng.choice(("", "", "。"))


def _chinese_noun(thing: Thing, number: int, rng: random.Random, vague: bool) -> str:
    word = thing.chinese
    if thing.shape:
        colour, shape = word.split("的")
        draw = rng.random() if vague else 1.0
        word = shape if draw < 0.08 else f"{colour}的图形" if draw < 0.16 else word
        if rng.random() < 0.25:
            word = word.replace("的", "")
    if number > 1:
        return f"{_NUMBERS['zh'][number]}{thing.measure}{word}"
    return word if rng.random() < 0.2 else f"一{thing.measure}{word}"


def _english(
    names: tuple[str, ...],
    cell: int | None,
    relation: str | None,
    placed: bool,
    background: str | None,
    rng: random.Random,
    vague: bool,
) -> str:
    ground = background and rng.choice(_GROUNDS["en"][background])
    if background and rng.random() < 0.2:
        ground = f", the background is {rng.choice(_GROUND_NAMES['en'][background])}"
    comma = "" if ground is None or ground.startswith(",") else rng.choice((" ", ", "))
    ground = ground or ""
    if relation is None:
        noun = _english_noun(BY_NAME[names[0]], len(names), rng, vague)
        place = None if cell is None else rng.choice(_PLACES["en"][cell])
        if place is None:
            text = f"{noun}{comma}{ground}"
        else:
            forms = (
                f"{noun} {place}{comma}{ground}",
                f"{noun} {place}{comma}{ground}",
                f"{place}, {noun}{comma}{ground}",
            )
            if comma:
                forms += (f"{noun} {ground}, {place}", f"{noun} {ground} {place}", f"{place} {ground}, {noun}")
            text = rng.choice(forms)
    else:
        first, second = (_english_noun(BY_NAME[name], 1, rng, vague) for name in names)
        if not placed:
            text = f"{first} {rng.choice(('and', 'and', 'next to', 'beside'))} {second}{comma}{ground}"
        else:
            side, other = (rng.choice(_SIDES["en"][each]) for each in (relation, _OPPOSITE[relation]))
            end, other_end = _ENDS[relation], _ENDS[_OPPOSITE[relation]]
            forms = (f"{first} {side} {second}",) * 4 + (f"{second} {other} {first}",)
            forms += (f"{first} {end} and {second} {other_end}", f"{end} {first}, {other_end} {second}")
            text = rng.choice(forms) + comma + ground
    starts_with_thing = text.startswith(("a ", "an ", "two ", "three "))
    if starts_with_thing:
        there = "There are " if len(names) > 1 and relation is None else "There is "
        text = rng.choice(("",) * 5 + (there, there.lower(), "a picture of ", "draw ", "paint ", "Draw ")) + text
    return text + rng.choice(("", "", "."))


def _english_noun(thing: Thing, number: int, rng: random.Random, vague: bool) -> str:
    word, plural = thing.name, thing.plural
    if thing.shape:
        draw = rng.random() if vague else 1.0
        colour, shape = word.split(" ")
        if draw < 0.08:
            word, plural = shape, plural.split(" ")[1]
        elif draw < 0.16:
            word, plural = f"{colour} shape", f"{colour} shapes"
    if number > 1:
        return f"{_NUMBERS['en'][number]} {plural}"
    article = "an" if word[0] in "aeiou" else "a"
    return word if rng.random() < 0.12 else f"{article} {word}"
