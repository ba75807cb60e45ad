"""The paper's claim in miniature: a vision side that learned from English pairs alone answers Chinese questions.

    python -m viscpm_hf.tiny.training.english_only --output DIR [--device cuda] [--minutes 4] [--seeds 3]
    python -m viscpm_hf.tiny.training.english_only --output DIR --plot docs/english_only.png

For each seed a bilingual language model learns to answer about scenes that are described to it in words, and a vision
tower learns to see, without any language. Then the language model is frozen, and three copies of the tower, each with
a connector, learn from pictures with questions and answers: in English; in both languages; in both, but without the
pictures. They see the same pictures in the same steps. At the end all answer the same held-out questions in both
languages. The same command goes on where it stopped; once results.json is complete it only prints (and draws) it.
"""

import argparse
import copy
import json
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.nn.attention import sdpa_kernel

from ..measures.exact_answers import answer_questions
from ..world.pictures import IMAGE_SIZE
from ..world.questions import LANGUAGES, Sample, held_out_questions
from ..world.words import description
from .batches import tiny_processor
from .loop import train_for
from .pairs import (
    ARMS,
    BLANK,
    BLIND,
    COUNTS,
    GROUP,
    KINDS_ASKED,
    ArmsLearner,
    LanguageLearner,
    Pairs,
    TowerLearner,
    prepare_pairs,
)
from .train_chat import KERNELS, WEIGHT_DECAY, ChatLearner, learning_rates, tiny_config

NAMES = {"zh": "Chinese", "en": "English"}
FIRST_SHARE = 0.4  # of the time, for language models and towers
_BATCH = {"cuda": {"rows": 384, "seen": 128, "pictures": 48}, "cpu": {"rows": 48, "seen": 24, "pictures": 6}}
_EXAMPLES = 8  # wrong answers kept, of each language


def described_in(language: str) -> str:
    """The row of the table for the language model alone."""
    return f"no vision: described in {NAMES[language]} words"


def new_chat(seed: int, args: argparse.Namespace) -> tuple[ChatLearner, Pairs]:
    """An untrained model of a seed on its device, and the pairs."""
    torch.manual_seed(seed)
    if args.device == "cuda":
        torch.set_float32_matmul_precision("high")
    chat = ChatLearner(tiny_config()).to(args.device)
    if args.device == "cpu":
        chat.set_attn_implementation("eager")  # faster there, see `train_chat`
    return chat, Pairs(**torch.load(args.output / "prepared.pt", weights_only=True)).to(args.device)


def state_file(job: str, seed: int, args: argparse.Namespace) -> Path:
    return args.output / "states" / f"{job}-{seed}.pt"


def learn(
    learner: nn.Module, share: float, rates: dict[str, float], file: Path, args: argparse.Namespace, **more: Any
) -> nn.Module:
    """Trains for a share of the time, from a file if there is one."""
    seed, seconds = int(file.stem.split("-")[1]), 60 * args.minutes * share
    options = {"seed": seed, "speed": args.speed, "weight_decay": WEIGHT_DECAY, **more}
    with sdpa_kernel(KERNELS):
        return train_for(learner.to(args.device), seconds, rates, file, **options)


def learn_language(seed: int, args: argparse.Namespace) -> LanguageLearner:
    """The language model of a seed."""
    chat, pairs = new_chat(seed, args)
    learner = LanguageLearner(chat, pairs, _BATCH[args.device]["rows"])
    return learn(learner, FIRST_SHARE, learning_rates(args.rate), state_file("language", seed, args), args)


def learn_to_see(seed: int, args: argparse.Namespace) -> TowerLearner:
    """The vision tower of a seed."""
    chat, pairs = new_chat(seed, args)
    learner = TowerLearner(chat, pairs, _BATCH[args.device]["seen"])
    return learn(learner, FIRST_SHARE, {"": args.rate}, state_file("tower", seed, args), args)


def learn_arms(seed: int, args: argparse.Namespace) -> None:
    """The vision sides of a seed, and what they answer: results-SEED.json."""
    language, tower = learn_language(seed, args), learn_to_see(seed, args)  # from their files
    chat, pairs = new_chat(seed, args)
    chat.model.language_model.load_state_dict(language.language_model.state_dict())
    sides = nn.ModuleList(
        nn.ModuleList([copy.deepcopy(tower.vision_tower), copy.deepcopy(chat.model.connector)]) for _ in ARMS
    )
    learner = ArmsLearner(chat, sides, pairs, _BATCH[args.device]["pictures"])
    file = state_file("arms", seed, args)
    rates = {r"sides\.\d+\.0": args.tower_rate, "": args.rate}  # tower, connector
    learn(learner, 1 - FIRST_SHARE, rates, file, args, apart=sides)

    steps = torch.load(file, weights_only=True, map_location="cpu")["step"]
    samples = {each: held_out_questions(each, args.questions, 0, KINDS_ASKED, COUNTS) for each in LANGUAGES}
    answers = {described_in(each): measured(chat, in_words(samples, each)) for each in LANGUAGES}
    for arm, (vision_tower, connector) in zip(ARMS, sides, strict=True):
        chat.model.vision_tower.load_state_dict(vision_tower.state_dict())
        chat.model.connector.load_state_dict(connector.state_dict())
        answers[arm] = measured(chat, blanked(samples) if arm == BLIND else samples)
    pairs_seen = steps * _BATCH[args.device]["pictures"] * GROUP
    write_json(args.output / f"results-{seed}.json", {"steps": steps, "pairs": pairs_seen, "answers": answers})


def in_words(samples: dict[str, list[Sample]], language: str) -> dict[str, list[Sample]]:
    """The same questions about descriptions in place of pictures."""
    return {
        asked: [
            replace(each, picture=None, question=replace(each.question, context=description(each.scene, language)))
            for each in own
        ]
        for asked, own in samples.items()
    }


def blanked(samples: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
    """The same questions about a grey picture."""
    grey = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (BLANK, BLANK, BLANK))
    return {asked: [replace(each, picture=grey) for each in own] for asked, own in samples.items()}


def measured(chat: ChatLearner, samples: dict[str, list[Sample]]) -> dict[str, dict]:
    """Shares of exact answers and of answers in the language of the question, for each language of questions."""
    model, found = chat.chat(), {}
    for language, asked in samples.items():
        answers = answer_questions(model, tiny_processor(), asked, 256, num_beams=1, max_new_tokens=32)
        right = [answer == sample.question.answer for sample, answer in zip(asked, answers, strict=True)]
        kinds: dict[str, list[bool]] = {}
        for sample, each in zip(asked, right, strict=True):
            kinds.setdefault(sample.question.kind, []).append(each)
        wrong = [
            {"asked": sample.question.question, "answered": answer, "right": sample.question.answer}
            for sample, answer in zip(asked, answers, strict=True)
            if answer != sample.question.answer
        ]
        found[language] = {
            "exact": statistics.mean(right),
            "in its language": statistics.mean(language_of(answer) == language for answer in answers),
            "kinds": {kind: statistics.mean(own) for kind, own in kinds.items()},
            "wrong": wrong[:_EXAMPLES],
        }
    return found


def language_of(answer: str) -> str | None:
    """`"zh"` for what has Chinese characters and no Latin letters, `"en"` the other way round."""
    chinese, latin = (re.search(which, answer) is not None for which in ("[\u4e00-\u9fff]", "[A-Za-z]"))
    return None if chinese == latin else "zh" if chinese else "en"


def summary(results: list[dict]) -> dict[str, dict]:
    """Row → language → what was measured → mean, standard deviation (of the sample) and each seed's share."""
    rows: dict[str, dict] = {}
    for row in results[0]["answers"]:
        for language in LANGUAGES:
            for what in ("exact", "in its language"):
                shares = [each["answers"][row][language][what] for each in results]
                spread = statistics.stdev(shares) if len(shares) > 1 else 0.0
                figures = {"mean": statistics.mean(shares), "sd": spread, "seeds": shares}
                rows.setdefault(row, {}).setdefault(language, {})[what] = figures
    return rows


def format_results(results: dict) -> str:
    """The table of results.json in Markdown."""
    seeds, pairs = len(results["seeds"]), [each["pairs"] for each in results["seeds"]]
    lines = [
        f"| vision learned from | {' | '.join(f'asked in {NAMES[each]}' for each in LANGUAGES)} | "
        f"{' | '.join(f'{NAMES[each]} answers to {NAMES[each]} questions' for each in LANGUAGES)} |",
        "|---|" + "---|" * 2 * len(LANGUAGES),
    ]
    for row, figures in results["summary"].items():
        cells = [figures[each][what] for what in ("exact", "in its language") for each in LANGUAGES]
        shares = [f"{100 * each['mean']:.1f} ± {100 * each['sd']:.1f} %" for each in cells]
        lines.append(f"| {row} | {' | '.join(shares)} |")
    said = f"{results['questions']} held-out questions in each language; mean ± standard deviation of {seeds} seeds; "
    return "\n".join([*lines, "", f"{said}{min(pairs)} to {max(pairs)} pairs for each arm of a seed."])


def draw_results(results: dict, path: Path) -> None:
    """Bars of exact answers for each row and language, with the standard deviation and a dot for each seed.

    Args:
        results (`dict`): of results.json.
        path (`Path`): of the picture.
    """
    width, left, top, line, colours = 880, 300, 50, 26, {"zh": "#d62424", "en": "#2457d6"}
    rows = results["summary"]
    height = top + len(rows) * (2 * line + 22) + 30
    picture = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(15)

    def place(share):
        return left + (width - left - 150) * share

    for percent in range(0, 101, 25):
        pen.line((place(percent / 100), top - 8, place(percent / 100), height - 30), "#dddddd")
        pen.text((place(percent / 100), height - 22), f"{percent} %", "black", font, anchor="ma")
    pen.text((left, 14), "exact answers to held-out questions,", "black", font)
    for number, language in enumerate(LANGUAGES):
        pen.text((left + 250 + 140 * number, 14), f"asked in {NAMES[language]}", colours[language], font)
    for number, (row, figures) in enumerate(rows.items()):
        y = top + number * (2 * line + 22)
        pen.text((left - 12, y + line), row, "black", font, anchor="rm")
        for which, language in enumerate(LANGUAGES):
            exact, start = figures[language]["exact"], y + which * line
            pen.rectangle((left, start + 2, place(exact["mean"]), start + line - 3), colours[language])
            low, high, middle = exact["mean"] - exact["sd"], exact["mean"] + exact["sd"], start + line / 2
            pen.line((place(low), middle, place(high), middle), "black", 2)
            for share in exact["seeds"]:
                x = place(share)
                pen.ellipse((x - 4, middle - 4, x + 4, middle + 4), "white", "black")
            said = f"{100 * exact['mean']:.1f} ± {100 * exact['sd']:.1f} %"
            pen.text((place(max(high, *exact["seeds"])) + 12, middle), said, "black", font, "lm")
    picture.save(path)


def write_json(path: Path, content: dict) -> None:
    path.with_suffix(".partial").write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    path.with_suffix(".partial").replace(path)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def run(args: argparse.Namespace) -> dict:
    """All that is not done yet; returns what results.json then holds."""
    done, seeds, started = args.output / "results.json", range(args.seeds), time.monotonic()
    if done.exists() and len(read_json(done)["seeds"]) >= args.seeds:
        return read_json(done)
    args.output.mkdir(parents=True, exist_ok=True)
    prepared = args.output / "prepared.pt"
    if not prepared.exists():
        torch.save(prepare_pairs(args.scenes, 0, args.workers), prepared.with_suffix(".partial"))
        prepared.with_suffix(".partial").replace(prepared)
    print(f"prepared after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    open_seeds = [seed for seed in seeds if not (args.output / f"results-{seed}.json").exists()]
    for jobs in ((learn_language, learn_to_see), (learn_arms,)):
        tasks = [partial(_do, job, seed, args) for seed in open_seeds for job in jobs]
        if args.device == "cpu":
            for task in tasks:
                task()
        elif tasks:
            with ProcessPoolExecutor(len(tasks), multiprocessing.get_context("spawn")) as pool:
                for future in [pool.submit(task) for task in tasks]:
                    future.result()
        print(f"{jobs[-1].__name__} done after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    results = [read_json(args.output / f"results-{seed}.json") for seed in seeds]
    write_json(done, {"questions": args.questions, "summary": summary(results), "seeds": results})
    return read_json(done)


def _do(job: Callable, seed: int, args: argparse.Namespace) -> None:
    job(seed, args)  # what it returns is in its file, and stays in its process


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--output", type=Path, required=True, help="folder for states and results.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if cuda else "cpu")
    parser.add_argument(
        "--minutes",
        type=float,
        default=4 if cuda else 120,
        help="of training for a seed; on a CPU 1.4 times that, one thing after another",
    )
    parser.add_argument("--seeds", type=int, default=3, help="on a GPU all at once")
    parser.add_argument("--scenes", type=int, default=100_000 if cuda else 30_000, help="to prepare")
    parser.add_argument("--workers", type=int, help="processes that prepare; by default one for each processor")
    parser.add_argument("--questions", type=int, default=440, help="held-out ones, in each language")
    parser.add_argument("--rate", type=float, default=8e-4, help="learning rate of all but the next")
    parser.add_argument("--tower-rate", type=float, default=3e-4, help="learning rate of a tower that has learned")
    parser.add_argument(
        "--speed", choices=("graph", "eager"), default="graph", help="of a step on a GPU, see `train_for`"
    )
    parser.add_argument("--plot", type=Path, help="picture to draw of the results")
    args = parser.parse_args(argv)
    results = run(args)
    print(format_results(results))
    if args.plot:
        draw_results(results, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
