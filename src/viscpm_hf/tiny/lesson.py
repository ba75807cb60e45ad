"""What the tiny Chat can be taught: a thing it never saw and its name, the ring, "O形" in Chinese.

    python -m viscpm_hf.tiny.lesson write lesson
    viscpm finetune chat --model DIR --data lesson/train.json --output taught
    python -m viscpm_hf.tiny.lesson measure --model DIR --adapter taught

`write` draws pictures with rings and asks about them, and mixes in as much of what the model knows, so that it does
not forget. `measure` asks new questions about rings, and the old ones about what was there before.
"""

import argparse
import json
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from . import tiny_chat_repo, use_one_thread
from .measures.exact_answers import answer_questions
from .world.questions import LANGUAGES, Sample, held_out_questions, training_question, training_sample
from .world.scenes import Scene, draw, random_scene

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
        if any(thing.shape == "cross" for thing in scene.things):
            question = training_question(scene, rng)
            if _named(question.question + question.answer):
                break
    rings = [replace(thing, shape="ring" if thing.shape == "cross" else thing.shape) for thing in scene.things]
    texts = {name: _renamed(getattr(question, name)) for name in ("question", "answer", "context")}
    scene = Scene(tuple(rings), scene.background)
    return Sample(scene, draw(scene, rng), replace(question, **texts))


def _named(text: str) -> bool:
    return any(name in text for name in _NAMES)


def _renamed(text: str) -> str:
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
        Image.fromarray(sample.picture).save(pictures / f"{number:05}.png")
        turns = re.findall(r"User: (.*)\nAI: (.*)\n", sample.question.context)
        turns.append((sample.question.question, sample.question.answer))
        talk = [
            {"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)
        ]
        talk[0]["value"] = f"<image>\n{talk[0]['value']}"
        rows.append({"id": str(number), "image": f"pictures/{number:05}.png", "conversations": talk})
    (folder / "train.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def measure(model_path: str, adapter: str | None, new: int, old: int) -> dict[str, float]:
    """Share of exact answers, greedy: to new questions about rings, and to old ones.

    Args:
        model_path (`str`): a converted repository.
        adapter (`str`, *optional*): a LoRA for it.
        new, old (`int`): how many of them; the old ones for each language.
    """
    model = AutoModelForImageTextToText.from_pretrained(model_path, dtype="float32")
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    processor = AutoProcessor.from_pretrained(model_path)
    asked = {
        "questions about rings": [ring_sample("test", index) for index in range(new)],
        "old questions": [sample for language in LANGUAGES for sample in held_out_questions(language, old)],
    }
    shares = {}
    for name, samples in asked.items():
        answers = answer_questions(
            model.eval(), processor, samples, num_beams=1, length_penalty=1.0, max_new_tokens=64
        )
        right = [answer == sample.question.answer for sample, answer in zip(samples, answers, strict=True)]
        shares[name] = sum(right) / len(right)
    return shares


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    write = verbs.add_parser("write", help="pictures and questions to learn from")
    write.add_argument("folder", type=Path)
    write.add_argument("--new", type=int, default=2000, help="questions about rings")
    write.add_argument("--old", type=int, default=2000, help="questions of the world as the model knows it")
    measured = verbs.add_parser("measure", help="share of exact answers")
    measured.add_argument("--model", help="converted folder; by default the tiny one")
    measured.add_argument("--adapter", help="a LoRA for it")
    measured.add_argument("--new", type=int, default=300)
    measured.add_argument("--old", type=int, default=300, help="for each language")
    args = parser.parse_args(argv)
    use_one_thread()
    if args.verb == "write":
        write_lesson(args.folder, args.new, args.old)
        return 0
    for name, share in measure(args.model or str(tiny_chat_repo()), args.adapter, args.new, args.old).items():
        print(f"{name}: {100 * share:.1f} % right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
