"""Pictures for the documentation: all things with their names, and questions with the tiny Chat's answers.

python -m viscpm_hf.tiny.measures.sheets known docs/known.png
python -m viscpm_hf.tiny.measures.sheets asked docs/asked.png [--model REPO]
"""

import argparse
import random
import sys
from pathlib import Path

from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor

from .. import tiny_chat_repo, use_one_thread
from ..world.contact_sheet import arranged, contact_sheet
from ..world.pictures import draw
from ..world.questions import Question, Sample, held_out_questions
from ..world.scenes import BACKGROUNDS, Placed, Scene
from ..world.things import CHINESE_COLOURS, COLOURED_SHAPES, COLOURS, KINDS, SHAPES, THINGS
from ..world.unknown import unknown_picture
from ..world.words import BACKGROUND_COLOURS, BACKGROUND_NAMES, HONEST
from .exact_answers import answer_questions

# of the kinds that show most, and one picture that shows nothing
ASKED = (
    ("zh", "description"),
    ("en", "what"),
    ("zh", "fact"),
    ("en", "relation"),
    ("zh", "where"),
    ("en", "count"),
    ("zh", "bigger"),
    ("en", "second turn"),
    ("zh", "second turn"),
    ("en", "description"),
    ("zh", "exists"),
)


_FACT_WORDS = {"fly": "会飞 can fly", "eat": "可以吃 edible", "water": "在水里 in water", "wheels": "有轮子 wheels"}


def known_things() -> Image.Image:
    """Every thing over its names, colour and facts, kind by kind, and the backgrounds."""
    # each colour once, on one shape after the other
    shapes = [COLOURED_SHAPES[number % len(SHAPES) * len(COLOURS) + number] for number in range(len(COLOURS))]
    sheets, headings = [], []
    for kind, (_, plural, chinese, _) in KINDS.items():
        things = [thing for thing in (*THINGS, *shapes) if thing.kind == kind]
        pictures = [
            draw(Scene((Placed(thing.name, "large", 4),), "white"), 128).crop((36, 36, 92, 92)) for thing in things
        ]
        labels = []
        for thing in things:
            facts = [f"{CHINESE_COLOURS[thing.colour]} {thing.colour}"] if not thing.shape else []
            facts += [_FACT_WORDS[fact] for fact in thing.facts]
            labels.append("\n".join((f"{thing.chinese} {thing.name}", *facts)))
        sheets.append(contact_sheet(pictures, labels, columns=13, scale=2))
        headings.append(f"{chinese} {plural}")
    pictures = [draw(Scene((), name), 56) for name in BACKGROUNDS]
    labels = [
        f"{BACKGROUND_NAMES['zh'][name]} {BACKGROUND_NAMES['en'][name]}\n"
        f"{BACKGROUND_COLOURS['zh'][name]} {BACKGROUND_COLOURS['en'][name]}"
        for name in BACKGROUNDS
    ]
    sheets.append(contact_sheet(pictures, labels, columns=13, scale=2))
    return arranged(sheets, [*headings, "背景 backgrounds"], width=sheets[0].width)


def asked_samples() -> list[Sample]:
    """One held-out question of each of `ASKED`, and one about noise."""
    samples = {
        language: {sample.question.kind: sample for sample in held_out_questions(language, n=68, seed=7)}
        for language in ("zh", "en")
    }
    chosen = [samples[language][kind] for language, kind in ASKED]
    noise = unknown_picture("texture", random.Random(4), held_out=True)
    return [*chosen, Sample(None, noise, Question("texture", "en", "What do you see?", HONEST["en"]))]


def asked_sheet(repo: str) -> Image.Image:
    """Pictures over question and answer; a frame says whether the answer is right."""
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(repo, dtype="float32"),
        AutoProcessor.from_pretrained(repo),
    )
    samples = asked_samples()
    answers = answer_questions(model.eval(), processor, samples, num_beams=1, max_new_tokens=64)
    pictures, labels = [], []
    for sample, answer in zip(samples, answers, strict=True):
        colour = "#249c42" if answer == sample.question.answer else "#d62424"
        pictures.append(ImageOps.expand(sample.picture, 2, colour))
        labels.append(f"{sample.question.context}User: {sample.question.question}\nAI: {answer}")
    return contact_sheet(pictures, labels, columns=4, scale=2)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("known", "asked"))
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", help="converted folder; by default the shipped tiny one")
    args = parser.parse_args(argv)
    use_one_thread()
    sheet = known_things() if args.what == "known" else asked_sheet(args.model or str(tiny_chat_repo()))
    sheet.quantize(256, dither=Image.Dither.NONE).save(args.output, optimize=True)  # a third of the size
    return 0


if __name__ == "__main__":
    sys.exit(main())
