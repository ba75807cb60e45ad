"""Prompts in Chinese and English for the tiny Paint model: one coloured shape on white, sometimes at a given place.

The world is a part of Chat's: large shapes, one to a picture.
"""

import hashlib
import random
from dataclasses import dataclass

from .questions import CHINESE, LANGUAGES
from .scenes import CELLS, COLOURS, HELD_OUT, HELD_OUT_SEED, SHAPES, Scene, Thing, is_held_out

BACKGROUND, SIZE = "white", "large"
_ANYWHERE = {
    "zh": ("{0}的{1}", "一个{0}的{1}", "图里有一个{0}的{1}。"),
    "en": ("{0} {1}", "a {0} {1}", "There is a {0} {1}."),
}
_SOMEWHERE = {
    "zh": ("{2}有一个{0}的{1}。", "{2}的{0}的{1}", "一个{0}的{1}，在{2}"),
    "en": ("There is a {0} {1} in the {2}.", "a {0} {1} in the {2}", "In the {2} there is a {0} {1}."),
}


@dataclass(frozen=True)
class Prompt:
    """What to paint.

    Args:
        language (`str`): `"zh"` or `"en"`.
        text (`str`): the prompt.
        shape (`str`): one of `SHAPES`.
        colour (`str`): a key of `COLOURS`.
        cell (`int`, *optional*): index into `CELLS`; `None` where no place is asked for.
    """

    language: str
    text: str
    shape: str
    colour: str
    cell: int | None = None


def write_prompt(language: str, shape: str, colour: str, cell: int | None, phrasing: int) -> Prompt:
    """The prompt for these things in one of the `PHRASINGS`."""
    template = (_ANYWHERE if cell is None else _SOMEWHERE)[language][phrasing]
    words = [shape, colour] if cell is None else [shape, colour, CELLS[cell]]
    shape_word, colour_word, *place = (CHINESE[word] for word in words) if language == "zh" else words
    text = template.format(colour_word, shape_word, *place)
    return Prompt(
        language, text.replace(" a orange", " an orange").replace("a orange", "an orange"), shape, colour, cell
    )


PHRASINGS = 3
SPLITS = ("combinations", "pairs")
# One colour of every shape is never painted in training, wherever it is.
_FIRST = int.from_bytes(hashlib.sha256(f"{HELD_OUT_SEED} paint".encode()).digest()[:4], "big")
HELD_OUT_PAIRS = frozenset((shape, tuple(COLOURS)[(_FIRST + 3 * i) % len(COLOURS)]) for i, shape in enumerate(SHAPES))


def paint_held_out(shape: str, colour: str, cell: int) -> bool:
    """Whether training never paints this: a held-out pair, or a combination that Chat's training leaves out too."""
    return (shape, colour) in HELD_OUT_PAIRS or is_held_out(shape, colour, cell)


def painted_scene(shape: str, colour: str, cell: int) -> Scene:
    """The scene that shows this and nothing else."""
    return Scene((Thing(shape, colour, SIZE, cell),), BACKGROUND)


def held_out_prompts(language: str, n: int = 200, seed: int = 0, split: str = "combinations") -> list[Prompt]:
    """Prompts for what training never shows.

    Args:
        language (`str`): `"zh"` or `"en"`.
        n (`int`, defaults to 200): how many.
        seed (`int`, defaults to 0): another seed gives other prompts of the same split.
        split (`str`, defaults to `"combinations"`): one of `SPLITS`; `"combinations"` ask for a shape of a colour in a
            place where it is never painted, though elsewhere it is; `"pairs"` ask for a shape of a colour that is not
            painted anywhere, every second one in some place.

    Returns:
        `list[Prompt]`
    """
    rng = random.Random(f"prompts {language} {seed} {split}")
    pairs = sorted(HELD_OUT_PAIRS)
    combinations = [what for what in HELD_OUT if what[:2] not in HELD_OUT_PAIRS]
    prompts = []
    for index in range(n):
        if split == "combinations":
            what = rng.choice(combinations)
        else:
            what = *rng.choice(pairs), rng.randrange(len(CELLS)) if index % 2 else None
        prompts.append(write_prompt(language, *what, rng.randrange(PHRASINGS)))
    return prompts


def training_prompts() -> list[Prompt]:
    """Every prompt training uses, in a fixed order."""
    return [
        write_prompt(language, shape, colour, cell, phrasing)
        for language in LANGUAGES
        for shape in SHAPES
        for colour in COLOURS
        if (shape, colour) not in HELD_OUT_PAIRS
        for cell in (None, *(p for p in range(len(CELLS)) if not is_held_out(shape, colour, p)))
        for phrasing in range(PHRASINGS)
    ]
