"""How often a tiny Paint model paints what held-out prompts ask for, judged by the pixels and by the tiny Chat model.

python -m viscpm_hf.tiny.measures.painted_prompts
"""

import argparse
import random
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from .. import GUIDANCE_SCALE, tiny_chat_repo, tiny_paint_repo
from ..world.contact_sheet import contact_sheet
from ..world.prompts import SPLITS, Prompt, held_out_prompts, painted_scene
from ..world.questions import LANGUAGES, Sample, ask
from .exact_answers import answer_questions
from .pixel_check import find_shapes

CHECKS = ("colour", "shape", "number", "place")
SCHEDULERS = {
    "ddpm": DDPMScheduler.from_config,
    # the spacing of the original's configuration would leave out the highest noise levels
    "dpm++": lambda config: DPMSolverMultistepScheduler.from_config(config, timestep_spacing="trailing"),
}


def paint_prompts(
    pipeline: DiffusionPipeline, prompts: list[Prompt], seed: int = 0, batch_size: int = 20, **kwargs: Any
) -> list[Image.Image]:
    """One picture per prompt; picture i has the seed `seed + i`, whatever the batch size.

    Args:
        pipeline (`VisCPMPaintPipeline`): on any device.
        prompts (`list[Prompt]`): what to paint.
        seed (`int`, defaults to 0): of the first picture.
        batch_size (`int`, defaults to 20): prompts at a time.
        **kwargs: for the pipeline.

    Returns:
        `list[PIL.Image.Image]`
    """
    pictures = []
    for start in tqdm(range(0, len(prompts), batch_size), desc="painting", disable=None):
        texts = [prompt.text for prompt in prompts[start : start + batch_size]]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(texts))]
        pictures += pipeline(texts, generator=generators, **kwargs).images
    return pictures


def check_picture(prompt: Prompt, picture: Image.Image) -> dict[str, bool]:
    """What of a prompt a picture shows: colour, shape, one object, and its place where one was asked for."""
    found = find_shapes(np.asarray(picture.convert("RGB")))
    checks = {
        "colour": any(thing.colour == prompt.colour for thing in found),
        "shape": any(thing.shape == prompt.shape for thing in found),
        "number": len(found) == 1,
    }
    if prompt.cell is not None:
        checks["place"] = any(thing.cell == prompt.cell for thing in found)
    return checks


def name_painted(
    prompts: list[Prompt], pictures: list[Image.Image], model: PreTrainedModel, processor: ProcessorMixin
) -> dict[str, list[bool]]:
    """Whether Chat names the asked colour and shape of painted pictures, in the prompt's language.

    Args:
        prompts (`list[Prompt]`): what was asked for.
        pictures (`list[PIL.Image.Image]`): what was painted.
        model (`VisCPMChatForConditionalGeneration`): answers greedily.
        processor (`VisCPMChatProcessor`): its processor.

    Returns:
        `dict[str, list[bool]]` with `"colour"` and `"shape"`.
    """
    rng, right = random.Random(0), {}
    for kind in ("colour", "shape"):
        samples = []
        for prompt, picture in zip(prompts, pictures, strict=True):
            scene = painted_scene(prompt.shape, prompt.colour, prompt.cell or 0)
            # by its place the question would ask about something else where the place was painted wrongly
            question = ask(scene, kind, prompt.language, rng, unnamed=("position", "size"))
            samples.append(Sample(scene, np.asarray(picture), question))
        answers = answer_questions(model, processor, samples, num_beams=1)
        right[kind] = [answer == s.question.answer for answer, s in zip(answers, samples, strict=True)]
    return right


def format_table(checks: dict[str, dict[str, list[bool]]], title: str) -> str:
    """Shares as a Markdown table; `checks` is column → check → right or not."""
    rows = list(next(iter(checks.values())))
    lines = [f"| {title} | {' | '.join(checks)} |", "|---|" + "---|" * len(checks)]
    for row in rows:
        columns = [own[row] for own in checks.values()]
        cells = [f"{100 * sum(right) / len(right):.1f} % of {len(right)}" if right else "–" for right in columns]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo", nargs="?", help="converted Paint checkpoint; by default the shipped tiny one")
    parser.add_argument("--chat", help="converted Chat checkpoint; by default the shipped tiny one")
    parser.add_argument("--prompts", type=int, default=200, help="per language and split")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="what training never painted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=LANGUAGES)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance-scale", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="ddpm")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="also save the first 24 pictures of each")
    args = parser.parse_args(argv)

    dtype = getattr(torch, args.dtype)
    pipeline = DiffusionPipeline.from_pretrained(args.repo or tiny_paint_repo(), trust_remote_code=True, dtype=dtype)
    pipeline = pipeline.to(args.device)
    pipeline.set_progress_bar_config(leave=False)
    pipeline.scheduler = SCHEDULERS[args.scheduler](pipeline.scheduler.config)
    chat = args.chat or tiny_chat_repo()
    processor = AutoProcessor.from_pretrained(chat, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(chat, trust_remote_code=True, dtype=torch.float32).eval()

    checks, shown = {}, []
    for split, language in product(args.splits, args.languages):
        prompts = held_out_prompts(language, args.prompts, args.seed, split)
        settings = {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale}
        pictures = paint_prompts(pipeline, prompts, args.seed, args.batch_size, **settings)
        found = [check_picture(prompt, picture) for prompt, picture in zip(prompts, pictures, strict=True)]
        own = {check: [each[check] for each in found if check in each] for check in CHECKS}
        named = name_painted(prompts, pictures, model, processor)
        checks[f"{split}: {language}"] = own | {f"{kind}, asking Chat": right for kind, right in named.items()}
        shown += [(picture, prompt.text) for prompt, picture in zip(prompts, pictures, strict=True)][:24]
    print(format_table(checks, f"{args.scheduler}, {args.steps} steps, guidance {args.guidance_scale}, {args.dtype}"))
    if args.sheet:
        contact_sheet(*map(list, zip(*shown, strict=True)), columns=8).save(args.sheet)
        print(f"The contact sheet is {args.sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
