"""Exact answers of a Chat model to held-out questions about the drawn world.

python -m viscpm_hf.tiny.measures.exact_answers [REPO] [--beams 3] [--dtype bfloat16]
"""

import argparse
import sys
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from .. import tiny_chat_repo
from ..world.questions import KINDS, LANGUAGES, Sample, held_out_questions


@torch.no_grad()
def answer_questions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: list[Sample],
    batch_size: int = 64,
    **generate_kwargs: Any,
) -> list[str]:
    """The model's answers.

    Args:
        model (`VisCPMChatForConditionalGeneration`): on any device.
        processor (`VisCPMChatProcessor`): its processor.
        samples (`list[Sample]`): questions about drawn pictures, with their context.
        batch_size (`int`, defaults to 64): questions at a time.
        **generate_kwargs: for `model.generate`, over the model's generation config.

    Returns:
        `list[str]`, one answer per sample.
    """
    answers = []
    for start in tqdm(range(0, len(samples), batch_size), desc="answering", leave=False, disable=None):
        batch = samples[start : start + batch_size]
        inputs = processor(
            images=[Image.fromarray(sample.picture) for sample in batch],
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
    lines = [f"| {title} | {' | '.join(samples)} |", "|---|" + "---|" * len(samples)]
    for kind in (*KINDS, "all"):
        cells = []
        for language, asked in samples.items():
            own = [r for r, s in zip(right[language], asked, strict=True) if kind in (s.question.kind, "all")]
            cells.append(f"{100 * sum(own) / len(own):.1f} % of {len(own)}" if own else "–")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "repo", nargs="?", help="converted checkpoint: folder or Hub repo; by default the shipped tiny one"
    )
    parser.add_argument("--beams", type=int, default=1, help="1: greedy; 3: the original's search")
    parser.add_argument("--questions", type=int, default=550, help="per language")
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
    model = model.to(args.device).eval()
    samples = {language: held_out_questions(language, args.questions, args.seed) for language in args.languages}
    answers = {
        language: answer_questions(model, processor, asked, args.batch_size, num_beams=args.beams)
        for language, asked in samples.items()
    }
    wrong = [
        (sample.question, answer)
        for language, asked in samples.items()
        for sample, answer in zip(asked, answers[language], strict=True)
        if answer != sample.question.answer
    ]
    for question, answer in wrong[: args.show_wrong]:
        print(f"{question.context}{question.question} → {answer} (right: {question.answer})")
    search = "greedy" if args.beams == 1 else f"{args.beams} beams"
    print(format_table(samples, answers, f"exact answers, {search}, {args.dtype}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
