"""What rounding the language model's weights saves and costs on a CPU, for the shipped tiny Chat and Paint.

    python -m viscpm_hf.tiny.measures.lossy_methods [--models chat paint]

The questions and prompts are those of exact_answers.py and painted_prompts.py. They are dealt into rounds, and in each
round every method answers its share in a process of its own, so that what else the machine does meets all alike.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import torch
from tqdm import tqdm

from ...chat import VisCPMChat
from ...memory.calibration import quantize_paint
from ...paint import VisCPMPaint
from .. import GUIDANCE_SCALE, tiny_chat_repo, tiny_paint_repo
from ..world.prompts import SPLITS, held_out_prompts, training_prompts
from ..world.questions import LANGUAGES, held_out_questions
from .exact_answers import answer_questions
from .painted_prompts import CHECKS, SCHEDULERS, check_picture, load_judge, paint_prompts

CALIBRATED = "4bit, calibrated"
METHODS = {
    "chat": ("stored", "bfloat16", "int8", "int8, weights only", "4bit"),
    "paint": ("stored", "bfloat16", "int8", "4bit", CALIBRATED),
}
COLUMNS = {"chat": ["exact answers"], "paint": [f"{split}: {check}" for split in SPLITS for check in CHECKS[split]]}
CALIBRATION_PROMPTS = 128  # of those the model was trained with
UNITS = {"chat": "answers/s", "paint": "pictures/s"}


def options_of(method: str) -> dict:
    """How the drop-in classes are told of a method."""
    if method in ("int8", "4bit"):
        return {"quantization": method}
    if method == "int8, weights only":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return {"quantization": TorchAoConfig(Int8WeightOnlyConfig(version=2))}
    return {} if method in ("stored", CALIBRATED) else {"dtype": getattr(torch, method)}


def packed_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor, of what it is made of where it is packed."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao's
        return sum(packed_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.nbytes


def measure(kind: str, method: str, share: slice, settings: argparse.Namespace) -> dict:
    """Loads a model and has it answer, or paint.

    Args:
        kind (`str`): `"chat"` or `"paint"`.
        method (`str`): one of `METHODS`.
        share (`slice`): which questions or prompts of each language and split; neighbours, since the noise of a
            picture goes by its number.
        settings (`argparse.Namespace`): of the command line.

    Returns:
        `dict` of `"weights"` (bytes of the language model as saved), `"seconds"` and `"count"` (of what was answered
        or painted), `"peak"` (bytes of the process, libraries and all) and `"right"` (column → language → list of
        bool).
    """
    work = ask_chat if kind == "chat" else ask_paint
    right = {column: {language: [] for language in LANGUAGES} for column in COLUMNS[kind]}
    found = work(method, share, settings, right)
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return found | {"peak": 1024 * int(peak[1]), "right": right}


def ask_chat(method: str, share: slice, settings: argparse.Namespace, right: dict[str, dict[str, list]]) -> dict:
    chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False, device="cpu", **options_of(method))
    # before the first pass, in which bitsandbytes packs anew
    weights = sum(map(packed_bytes, chat.model.model.language_model.state_dict().values()))
    seconds, count = 0.0, 0
    for language in LANGUAGES:
        samples = held_out_questions(language, settings.questions, settings.seed)[share]
        answer_questions(chat.model, chat.processor, samples[:2], num_beams=1)  # warms up
        start = time.perf_counter()
        answers = answer_questions(chat.model, chat.processor, samples, num_beams=settings.beams)
        seconds, count = seconds + time.perf_counter() - start, count + len(samples)
        asked = zip(samples, answers, strict=True)
        right["exact answers"][language] = [answer == sample.question.answer for sample, answer in asked]
    return {"weights": weights, "seconds": seconds, "count": count}


def ask_paint(method: str, share: slice, settings: argparse.Namespace, right: dict[str, dict[str, list]]) -> dict:
    repo = settings.calibrated if method == CALIBRATED else tiny_paint_repo()
    painter = VisCPMPaint(repo, False, False, False, device="cpu", **options_of(method))
    pipeline = painter.pipeline
    weights = sum(map(packed_bytes, pipeline.text_encoder.state_dict().values()))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = SCHEDULERS[settings.scheduler](pipeline.scheduler.config)
    pipeline("月", num_inference_steps=1)  # warms up
    judge = load_judge(settings.judge, pipeline.unet.config.sample_size * pipeline.vae_scale_factor, "cpu")
    seconds, count = 0.0, 0
    for split, language in product(SPLITS, LANGUAGES):
        prompts = held_out_prompts(language, settings.prompts, settings.seed, split)[share]
        sampling = {"num_inference_steps": settings.steps, "guidance_scale": GUIDANCE_SCALE}
        start = time.perf_counter()
        pictures = paint_prompts(pipeline, prompts, settings.seed + share.start, **sampling)
        seconds, count = seconds + time.perf_counter() - start, count + len(prompts)
        for prompt, look in zip(prompts, judge.look(pictures), strict=True):
            for check, is_right in check_picture(prompt, look).items():
                if f"{split}: {check}" in right:
                    right[f"{split}: {check}"][language].append(is_right)
    return {"weights": weights, "seconds": seconds, "count": count}


def format_table(kind: str, measured: dict[str, list[dict]]) -> str:
    """A Markdown table with a row for each method.

    Args:
        kind (`str`): `"chat"` or `"paint"`.
        measured (`dict[str, list[dict]]`): method → what `measure` returned in each round; the first is compared with.

    Returns:
        `str`
    """
    first = next(iter(measured.values()))
    lines = [
        f"| {kind} | language model | peak | {UNITS[kind]} | × first | {' | '.join(COLUMNS[kind])} |",
        "|---" * (5 + len(COLUMNS[kind])) + "|",
    ]
    for method, rounds in measured.items():
        rate = sum(each["count"] for each in rounds) / sum(each["seconds"] for each in rounds)
        # of each round, since a busy machine is busy for a while
        ratios = [before["seconds"] / each["seconds"] for before, each in zip(first, rounds, strict=True)]
        cells = [
            method,
            f"{rounds[0]['weights'] / 1e6:.2f} MB",
            f"{max(each['peak'] for each in rounds) / 1e6:.0f} MB",
        ]
        cells += [f"{rate:.1f}", f"{statistics.median(ratios):.2f}"]
        for column in COLUMNS[kind]:
            shares = []
            for language in LANGUAGES:
                right = [each for part in rounds for each in part["right"][column][language]]
                shares.append(f"{100 * sum(right) / len(right):.1f}" if right else "–")
            cells.append(" / ".join(shares))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=4, help="processes for each method")
    parser.add_argument("--questions", type=int, default=550, help="for Chat, per language")
    parser.add_argument("--beams", type=int, default=1, help="of Chat's answers")
    parser.add_argument("--prompts", type=int, default=200, help="for Paint, per language and split")
    parser.add_argument("--judge", metavar="FILE", help="of judge.py; by default the shipped one")
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="dpm++")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # in a new process: kind, method, round
    parser.add_argument("--calibrated", help=argparse.SUPPRESS)  # made before
    args = parser.parse_args(argv)
    if args.measure:
        kind, method, turn = args.measure
        total = args.questions if kind == "chat" else args.prompts
        share = slice(total * int(turn) // args.rounds, total * (int(turn) + 1) // args.rounds)
        print(json.dumps(measure(kind, method, share, args)))
        return 0

    with tempfile.TemporaryDirectory() as folder:
        calibrated = Path(folder, "repo")
        if "paint" in args.models:
            prompts = training_prompts(CALIBRATION_PROMPTS, args.seed)
            quantize_paint(tiny_paint_repo(), [prompt.text for prompt in prompts], calibrated, "cpu")
        given = sys.argv[1:] if argv is None else argv
        again = [sys.executable, "-m", __spec__.name, *given, "--calibrated", str(calibrated)]
        return compare(args, again)


def compare(args: argparse.Namespace, again: list[str]) -> int:
    """Prints the tables; `again` is a command that measures in a new process."""
    for kind in args.models:
        measured = {method: [] for method in METHODS[kind]}
        turns = list(product(range(args.rounds), METHODS[kind]))
        for turn, method in tqdm(turns, desc=kind, disable=None):
            command = [*again, "--measure", kind, method, str(turn)]
            process = subprocess.run(command, capture_output=True, text=True)
            if process.returncode:
                print(process.stderr, file=sys.stderr)
                return 1
            measured[method].append(json.loads(process.stdout.splitlines()[-1]))
        print(format_table(kind, measured), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
