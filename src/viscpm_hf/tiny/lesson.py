"""What the tiny Chat can be taught: a thing it never saw and its name, the ring, "O形" in Chinese.

    python -m viscpm_hf.tiny.lesson write lesson
    viscpm finetune chat --model DIR --data lesson/train.json --output taught …
    python -m viscpm_hf.tiny.lesson measure --model DIR --adapter taught
    python -m viscpm_hf.tiny.lesson show --model DIR --adapter taught --output lesson.png
    python -m viscpm_hf.tiny.lesson curve taught --output loss.png

`write` draws pictures with rings and asks about them, and mixes in twice as much of what the model knows, so that it
does not forget. `measure` asks new questions about rings, and the old ones about what was there before; `show` puts
pictures over what the model said before and says after; `curve` draws the loss of one or more runs.
"""

import argparse
import json
import math
import random
import re
import sys
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from transformers import AutoModelForImageTextToText, AutoProcessor

from . import tiny_chat_repo, use_one_thread
from .measures.exact_answers import answer_questions
from .world.contact_sheet import contact_sheet
from .world.pictures import draw
from .world.questions import LANGUAGES, Sample, held_out_questions, training_question, training_sample
from .world.scenes import random_scene
from .world.things import COLOURS

# what is drawn as a ring is asked about as a cross; no picture of the lesson has a cross
_NAMES = {"crosses": "rings", "cross": "ring", "十字形": "O形"}


def ring_sample(which: str, index: int) -> Sample:
    """A question about a picture with a ring, which names it or is answered by its name.

    Args:
        which (`str`): `"train"` or `"test"`, which share no choices.
        index (`int`): number of the question.
    """
    rng = random.Random(f"lesson {which} {index}")
    while True:
        scene = random_scene(rng)
        changed = rng.choice(scene.things)
        cross = replace(changed, name=f"{rng.choice(list(COLOURS))} cross", flipped=False)
        scene = replace(scene, things=tuple(cross if thing is changed else thing for thing in scene.things))
        question = training_question(scene, rng)
        if any(name in question.question + question.answer for name in _NAMES):
            break
    rings = replace(scene, things=tuple(replace(thing, name=renamed(thing.name)) for thing in scene.things))
    texts = {name: renamed(getattr(question, name)) for name in ("question", "answer", "context")}
    return Sample(rings, draw(rings), replace(question, **texts))


def renamed(text: str) -> str:
    """What is said of a cross, said of a ring."""
    return re.sub("|".join(_NAMES), lambda found: _NAMES[found[0]], text)


def write_lesson(folder: Path, new: int, old: int) -> None:
    """Writes train.json in LLaVA's form, and its pictures.

    Args:
        folder (`Path`): to create.
        new (`int`): questions about rings.
        old (`int`): questions of the world as the model knows it.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    samples = [ring_sample("train", index) for index in range(new)]
    samples += [training_sample(77, index) for index in range(old)]  # of another stream than it was trained on
    rows = []
    for number, sample in enumerate(samples):
        sample.picture.save(pictures / f"{number:05}.png")
        turns = re.findall(r"User: (.*)\nAI: (.*)\n", sample.question.as_context)
        talk = [
            {"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)
        ]
        talk[0]["value"] = f"<image>\n{talk[0]['value']}"
        rows.append({"id": str(number), "image": f"pictures/{number:05}.png", "conversations": talk})
    (folder / "train.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def ask(model_path: str, adapter: str | None, samples: list[Sample]) -> list[str]:
    """Greedy answers.

    Args:
        model_path (`str`): a converted repository.
        adapter (`str`, *optional*): a LoRA for it.
        samples (`list[Sample]`): what is asked.
    """
    model = AutoModelForImageTextToText.from_pretrained(model_path, dtype="float32")
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    processor = AutoProcessor.from_pretrained(model_path)
    return answer_questions(model.eval(), processor, samples, num_beams=1, length_penalty=1.0, max_new_tokens=64)


def measure(model_path: str, adapter: str | None, new: int, old: int) -> dict[str, float]:
    """Share of exact answers to new questions about rings, and to old ones.

    Args:
        model_path, adapter: see `ask`.
        new, old (`int`): how many of them; the old ones for each language.
    """
    asked = {
        "questions about rings": [ring_sample("test", index) for index in range(new)],
        "old questions": [sample for language in LANGUAGES for sample in held_out_questions(language, old)],
    }
    shares = {}
    for name, samples in asked.items():
        answers = ask(model_path, adapter, samples)
        right = [answer == sample.question.answer for sample, answer in zip(samples, answers, strict=True)]
        shares[name] = sum(right) / len(right)
    return shares


def show(model_path: str, adapter: str | None, number: int, path: Path) -> None:
    """Pictures with rings over a question, and what the shipped and the taught model answer.

    Args:
        model_path, adapter: of the taught model, see `ask`.
        number (`int`): of pictures.
        path (`Path`): of the sheet.
    """
    asked = (ring_sample("test", index) for index in count())
    named = (each for each in asked if each.question.kind in ("shape", "what") and not each.question.context)
    samples = list(islice(named, number))
    before, after = ask(str(tiny_chat_repo()), None, samples), ask(model_path, adapter, samples)
    labels = [f"{s.question.question} {a} → {b}" for s, a, b in zip(samples, before, after, strict=True)]
    contact_sheet([sample.picture for sample in samples], labels, scale=3).save(path)


def curve(runs: list[Path], path: Path) -> None:
    """Draws the training loss of runs, on a logarithmic scale.

    Args:
        runs (`list[Path]`): output folders of `viscpm finetune chat`.
        path (`Path`): of the picture.
    """
    width, height, left, bottom = 720, 360, 60, 40
    histories = [json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"] for run in runs]
    lines = [[(entry["step"], entry["loss"]) for entry in history if "loss" in entry] for history in histories]
    most = max(step for line in lines for step, _ in line)
    powers = [math.log10(loss) for line in lines for _, loss in line]
    low, high = math.floor(min(powers)), math.ceil(max(powers))
    picture = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)

    def place(step, power):
        return (
            left + (width - left - 20) * step / most,
            20 + (height - bottom - 20) * (high - power) / max(high - low, 1),
        )

    for power in range(low, high + 1):
        x, y = place(0, power)
        pen.line((x, y, width - 20, y), "#dddddd")
        pen.text((x - 8, y), f"{10**power:g}", "black", font, anchor="rm")
    for step in range(0, most + 1, max(most // 7, 1)):
        pen.text((place(step, 0)[0], height - bottom + 8), str(step), "black", font, anchor="mt")
    for number, (run, line) in enumerate(zip(runs, lines, strict=True)):
        colour = ("#2457d6", "#d62424", "#249c42")[number % 3]
        pen.line([place(step, math.log10(loss)) for step, loss in line], colour, 2)
        pen.text((width - 24, 24 + 18 * number), f"loss, {run.name}", colour, font, anchor="ra")
    picture.save(path)


def command_line(description: str, new: int, old: int, tested: int, known: int, shown: int) -> tuple:
    """The parser of a lesson's command line, that of its verbs, and those of the verbs that take a taught model.

    Args:
        description (`str`): of the lesson.
        new, old (`int`): how many samples are written by default.
        tested, known (`int`): how many new questions or prompts are measured by default, and how many old ones in each
            language.
        shown (`int`): how many are shown by default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    write = verbs.add_parser("write", help="what to learn from")
    write.add_argument("folder", type=Path)
    measured = verbs.add_parser("measure", help="share of what is right")
    for each, counts in ((write, (new, old)), (measured, (tested, known))):
        each.add_argument("--new", type=int, default=counts[0], help="with rings")
        each.add_argument("--old", type=int, default=counts[1], help="of what the model knows")
    show = verbs.add_parser("show", help="before and after, as a picture")
    show.add_argument("--number", type=int, default=shown)
    show.add_argument("--output", type=Path, required=True)
    for each in (measured, show):
        each.add_argument("--model", help="converted folder; by default the tiny one")
        each.add_argument("--adapter", help="a LoRA for it")
    return parser, verbs, (measured, show)


def print_shares(shares: dict[str, float]) -> None:
    """What `measure` found, a line each."""
    for name, share in shares.items():
        print(f"{name}: {100 * share:.1f} % right")


def main(argv: list[str] | None = None) -> int:
    parser, verbs, _ = command_line(__doc__, new=4000, old=12000, tested=300, known=300, shown=8)
    drawn = verbs.add_parser("curve", help="loss of runs, of Chat's or of Paint's")
    drawn.add_argument("runs", type=Path, nargs="+")
    drawn.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    use_one_thread()
    if args.verb == "write":
        write_lesson(args.folder, args.new, args.old)
    elif args.verb == "curve":
        curve(args.runs, args.output)
    elif args.verb == "show":
        show(args.model or str(tiny_chat_repo()), args.adapter, args.number, args.output)
    else:
        print_shares(measure(args.model or str(tiny_chat_repo()), args.adapter, args.new, args.old))
    return 0


if __name__ == "__main__":
    sys.exit(main())
