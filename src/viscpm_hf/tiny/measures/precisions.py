"""Everything that can be measured of the tiny models offline, in one table, for each precision.

Chat's exact answers by kind, what Paint's pictures show by their pixels, and the round trip: what Chat of the same
precision says of them.
"""

import json
from dataclasses import dataclass
from itertools import product

from ...chat import VisCPMChat
from ...paint import VisCPMPaint
from .. import GUIDANCE_SCALE, tiny_chat_repo, tiny_paint_repo
from ..world.prompts import SPLITS, held_out_prompts
from ..world.questions import KINDS, LANGUAGES, held_out_questions
from .exact_answers import answer_questions
from .lossy_methods import options_of
from .painted_prompts import CHECKS, SCHEDULERS, ask_chat, check_picture, load_judge, paint_prompts

PRECISIONS = ("float32", "bfloat16", "int8", "4bit")
Checks = dict[str, dict[str, list[bool]]]  # row of the table → language → right or not


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Args:
        questions (`int`): to Chat, for each language; as many of each kind.
        prompts (`int`): to Paint, for each language and split.
        beams (`int`): of Chat's answers.
        scheduler (`str`), steps (`int`): of Paint's pictures.
        seed (`int`): of questions, prompts and noise.
    """

    questions: int = 550
    prompts: int = 200
    beams: int = 1
    scheduler: str = "dpm++"
    steps: int = 20
    seed: int = 0


def measure(precision: str, settings: Settings, device: str = "cpu") -> Checks:
    """Asks both models in one precision.

    Args:
        precision (`str`): one of `PRECISIONS`; int8 and 4bit are of the language model, as `--quantization` has it.
        settings (`Settings`): how much.
        device (`str`): where.

    Returns:
        `dict`: row → language → for each question or picture whether it is right.
    """
    options = {"device": device, **options_of(precision)}
    chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False, **options)
    checks = _of_chat(chat, settings)
    pipeline = VisCPMPaint(tiny_paint_repo(), False, False, False, **options).pipeline
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = SCHEDULERS[settings.scheduler](pipeline.scheduler.config)
    judge = load_judge(None, pipeline.unet.config.sample_size * pipeline.vae_scale_factor, device)
    sampling = {"num_inference_steps": settings.steps, "guidance_scale": GUIDANCE_SCALE}
    for split in SPLITS:
        for check in CHECKS[split]:
            _row(checks, f"paint, {split}: {check}")
    for split, language in product(SPLITS, LANGUAGES):
        prompts = held_out_prompts(language, settings.prompts, settings.seed, split)
        pictures = paint_prompts(pipeline, prompts, settings.seed, **sampling)
        for prompt, look in zip(prompts, judge.look(pictures), strict=True):
            for check, right in check_picture(prompt, look).items():
                if check in CHECKS[split]:
                    checks[f"paint, {split}: {check}"][language].append(right)
        _row(checks, f"round trip, {split}")[language] += ask_chat(prompts, pictures, chat.model, chat.processor)
    return dict(sorted(checks.items(), key=lambda item: item[0].startswith("round trip")))


def _of_chat(chat, settings):
    checks: Checks = {}
    for kind in (*KINDS, "all"):
        _row(checks, f"chat: {kind}")
    for language in LANGUAGES:
        samples = held_out_questions(language, settings.questions, settings.seed)
        answers = answer_questions(chat.model, chat.processor, samples, num_beams=settings.beams)
        for sample, answer in zip(samples, answers, strict=True):
            for kind in (sample.question.kind, "all"):
                checks[f"chat: {kind}"][language].append(answer == sample.question.answer)
    return checks


def _row(checks, name):
    return checks.setdefault(name, {language: [] for language in LANGUAGES})


def table_rows(measured: dict[str, Checks]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, shares in per cent, Chinese / English.

    Args:
        measured: precision → checks.
    """
    rows = []
    for name in next(iter(measured.values())):
        cells = []
        for checks in measured.values():
            found = [checks[name][language] for language in LANGUAGES]
            cells.append(" / ".join(f"{100 * sum(right) / len(right):.1f}" if right else "–" for right in found))
        rows.append([name, *cells])
    return ["right in %, zh / en", *measured], rows


def as_json(measured: dict[str, Checks], settings: Settings) -> str:
    """Counts: precision → row → language → `right` and `count`."""
    found = {
        precision: {
            name: {language: {"right": sum(right), "count": len(right)} for language, right in each.items()}
            for name, each in checks.items()
        }
        for precision, checks in measured.items()
    }
    return json.dumps({"settings": vars(settings), "precisions": found}, ensure_ascii=False, indent=2)
