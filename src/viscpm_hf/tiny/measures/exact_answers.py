"""Exact answers of a Chat model to held-out questions about the drawn world, and honest ones to all others.

python -m viscpm_hf.tiny.measures.exact_answers [REPO] [--beams 3] [--dtype bfloat16]
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from .. import tiny_chat_repo
from ..world.pictures import draw
from ..world.questions import (
    LANGUAGES,
    Sample,
    held_out_questions,
    three_spellings,
    unanswerable_questions,
)
from ..world.scenes import random_scene


@torch.no_grad()
def answer_questions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: Sequence[Sample],
    batch_size: int = 64,
    **generate_kwargs: Any,
) -> list[str]:
    """The model's answers.

    Args:
        model (`VisCPMChatForConditionalGeneration`): on any device.
        processor (`VisCPMChatProcessor`): its processor.
        samples (`Sequence[Sample]`): questions about pictures, with their context.
        batch_size (`int`, defaults to 64): questions at a time.
        **generate_kwargs: for `model.generate`, over the model's generation config.

    Returns:
        `list[str]`, one answer per sample.
    """
    answers = []
    for start in tqdm(range(0, len(samples), batch_size), desc="answering", leave=False, disable=None):
        batch = samples[start : start + batch_size]
        inputs = processor(
            images=[sample.picture for sample in batch],
            text=[sample.question.question for sample in batch],
            context=[sample.question.context for sample in batch],
        )
        tables = inputs.ext_tables
        output = model.generate(**inputs.to(model.device), **generate_kwargs)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers += processor.post_process_image_text_to_text(new, skip_special_tokens=True, ext_tables=tables)
    return answers


def format_table(samples: dict[str, list[Sample]], answers: dict[str, list[str]], title: str) -> str:
    """Share of exact answers per kind and language as a Markdown table.

    Args:
        samples (`dict[str, list[Sample]]`): language → questions.
        answers (`dict[str, list[str]]`): language → what was answered.
        title (`str`): heads the first column.

    Returns:
        `str`
    """
    right = {
        language: [answer == sample.question.answer for sample, answer in zip(asked, answers[language], strict=True)]
        for language, asked in samples.items()
    }
    kinds = dict.fromkeys(sample.question.kind for asked in samples.values() for sample in asked)
    lines = [f"| {title} | {' | '.join(samples)} |", "|---|" + "---|" * len(samples)]
    for kind in (*kinds, "all"):
        cells = []
        for language, asked in samples.items():
            own = [r for r, s in zip(right[language], asked, strict=True) if kind in (s.question.kind, "all")]
            cells.append(f"{100 * sum(own) / len(own):.1f} % of {len(own)}" if own else "–")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spelling_samples(language: str, scenes: int, seed: int = 0) -> list[Sample]:
    """Three ways to ask what there is, for each of some held-out scenes."""
    rng = random.Random(f"spellings {language} {seed}")
    drawn = [random_scene(rng, held_out=True) for _ in range(scenes)]
    return [Sample(scene, draw(scene), question) for scene in drawn for question in three_spellings(scene, language)]


def print_tables(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    questions: int = 1020,
    path: Path | None = None,
    *,
    languages: Sequence[str] = LANGUAGES,
    seed: int = 0,
    show_wrong: int = 0,
    title: str = "exact answers, greedy",
    batch_size: int = 256,
    **generate_kwargs: Any,
) -> None:
    """Prints three tables: held-out questions by kind, unanswerable ones by sort, and whether spellings agree.

    Args:
        model, processor: as of `answer_questions`.
        questions (`int`, defaults to 1020): held-out ones per language; a fifth as many unanswerable ones.
        path (`Path`, *optional*): file that gets the tables, and after them wrong answers.
        languages (`Sequence[str]`): some of `LANGUAGES`.
        seed (`int`, defaults to 0): another seed asks other questions of the same split.
        show_wrong (`int`, defaults to 0): how many wrong answers to print.
        title (`str`): heads the first table.
        batch_size (`int`, defaults to 256): questions at a time.
        **generate_kwargs: by default greedy.
    """
    generate_kwargs = {"num_beams": 1, "max_new_tokens": 64, **generate_kwargs}
    asked = {
        title: {language: held_out_questions(language, questions, seed) for language in languages},
        "honest answers": {
            language: unanswerable_questions(language, max(questions // 5, 10), seed) for language in languages
        },
        "spellings": {language: spelling_samples(language, max(questions // 20, 3), seed) for language in languages},
    }
    report, wrong = [], []
    for name, samples in asked.items():
        answers = {
            language: answer_questions(model, processor, each, batch_size, **generate_kwargs)
            for language, each in samples.items()
        }
        wrong += [
            f"{sample.question.kind}: {sample.question.context.replace(chr(10), ' / ')}{sample.question.question} → "
            f"{answer} (right: {sample.question.answer})"
            for language, each in samples.items()
            for sample, answer in zip(each, answers[language], strict=True)
            if answer != sample.question.answer
        ]
        if name == "spellings":
            agreed = {
                language: [len(set(each[start : start + 3])) == 1 for start in range(0, len(each), 3)]
                for language, each in answers.items()
            }
            cells = [f"{100 * sum(each) / len(each):.1f} % of {len(each)}" for each in agreed.values()]
            report.append(f"| three spellings agree | {' | '.join(cells)} |\n|---|{'---|' * len(cells)}")
        else:
            report.append(format_table(samples, answers, name))
        print(report[-1], "\n", flush=True)
    for line in wrong[:show_wrong]:
        print(line)
    if path:
        path.write_text("\n\n".join(report) + "\n\n" + "\n".join(wrong) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "repo", nargs="?", help="converted checkpoint: folder or Hub repo; by default the shipped tiny one"
    )
    parser.add_argument("--beams", type=int, default=1, help="1: greedy; 3: the original's search")
    parser.add_argument("--questions", type=int, default=1020, help="per language")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=LANGUAGES)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--show-wrong", type=int, default=0, metavar="N", help="print the first N wrong answers")
    args = parser.parse_args(argv)

    repo = args.repo or tiny_chat_repo()
    processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(repo, dtype=args.dtype, trust_remote_code=True)
    search = "greedy" if args.beams == 1 else f"{args.beams} beams"
    print_tables(
        model.to(args.device).eval(),
        processor,
        args.questions,
        languages=args.languages,
        seed=args.seed,
        show_wrong=args.show_wrong,
        title=f"exact answers, {search}, {args.dtype}",
        batch_size=args.batch_size,
        num_beams=args.beams,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
