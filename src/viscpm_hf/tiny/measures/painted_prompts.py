"""How often a tiny Paint model paints what held-out prompts ask for, judged by judge.py and by the tiny Chat model.

python -m viscpm_hf.tiny.measures.painted_prompts [REPO] [--scheduler dpm++ --steps 20] [--sheet painted.png]
"""

import argparse
import re
import sys
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from .. import GUIDANCE_SCALE, tiny_chat_repo, tiny_paint_repo
from ..world.contact_sheet import contact_sheet
from ..world.prompts import LANGUAGES, SPLITS, Prompt, held_out_prompts
from ..world.things import BY_NAME, KNOWN
from .judge import SHIPPED_JUDGE, Found, Judge, Look, read_judge

CHECKS = {
    "combinations": ("thing", "both things", "number", "place", "relation", "background"),
    "shapes": ("colour", "shape", "number", "place", "background"),
}
ASKED = {"zh": "图里有什么？", "en": "What is in the picture?"}
_APART = 0.15  # of the picture at least, between things one of which is left of or above the other
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


def check_picture(prompt: Prompt, look: Look) -> dict[str, bool]:
    """What of a prompt a picture shows; what the prompt does not ask for is left out.

    Args:
        prompt (`Prompt`): what was asked for.
        look (`Look`): what the judge sees.

    Returns:
        `dict[str, bool]` by some of `CHECKS`. `"number"` is right where there is nothing else.
    """
    asked, seen = Counter(prompt.names), look.names
    checks = {"number": len(look.things) == len(prompt.names), "background": look.background == prompt.background}
    checks["both things" if prompt.relation else "thing"] = asked <= seen
    if prompt.cell is not None and prompt.placed:
        checks["place"] = any(thing.cell == prompt.cell for thing in look.things)
    if prompt.relation is not None and prompt.placed:
        first, second = ([thing for thing in look.things if thing.name == name] for name in prompt.names)
        checks["relation"] = any(_stands(a, b, prompt.relation) for a in first for b in second if a is not b)
    if prompt.kind == "shape":
        (thing,) = (BY_NAME[name] for name in prompt.names)
        things = [BY_NAME[found.name] for found in look.things]
        checks["colour"] = any(each.shape and each.colour == thing.colour for each in things)
        checks["shape"] = any(each.shape == thing.shape for each in things)
    return checks


def _stands(first: Found, second: Found, relation: str) -> bool:
    across, down = second.column - first.column, second.row - first.row
    return {"left": across, "right": -across, "above": down, "below": -down}[relation] > _APART


@cache
def _names(language: str) -> tuple[re.Pattern, dict[str, str]]:
    """Finds the names of things in an answer, the longest first (a pineapple is no apple, 熊猫 no 熊)."""
    words = {thing.chinese if language == "zh" else thing.name: thing.name for thing in KNOWN}
    words |= {thing.plural: thing.name for thing in KNOWN} if language == "en" else {}
    longest_first = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(longest_first if language == "zh" else rf"\b(?:{longest_first})\b"), words


def named_things(answer: str, language: str) -> set[str]:
    """The things that an answer of Chat names, as in `KNOWN`."""
    pattern, words = _names(language)
    return {words[word] for word in pattern.findall(answer)}


@torch.no_grad()
def ask_chat(
    prompts: list[Prompt],
    pictures: list[Image.Image],
    model: PreTrainedModel,
    processor: ProcessorMixin,
    batch_size: int = 64,
) -> list[bool]:
    """Whether Chat, asked what is in each picture, names the things of its prompt and no others.

    Args:
        prompts (`list[Prompt]`): what was asked for.
        pictures (`list[PIL.Image.Image]`): what was painted.
        model (`VisCPMChatForConditionalGeneration`): answers greedily.
        processor (`VisCPMChatProcessor`): its processor.
        batch_size (`int`, defaults to 64): questions at a time.

    Returns:
        `list[bool]`
    """
    right = []
    for start in tqdm(range(0, len(prompts), batch_size), desc="asking", leave=False, disable=None):
        asked, shown = prompts[start : start + batch_size], pictures[start : start + batch_size]
        inputs = processor(images=shown, text=[ASKED[prompt.language] for prompt in asked])
        tables = inputs.ext_tables
        output = model.generate(**inputs.to(model.device), num_beams=1)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers = processor.post_process_image_text_to_text(new, skip_special_tokens=True, ext_tables=tables)
        right += [named_things(a, p.language) == set(p.names) for p, a in zip(asked, answers, strict=True)]
    return right


def format_table(checks: dict[str, dict[str, list[bool]]], title: str) -> str:
    """Shares as a Markdown table; `checks` is column → check → right or not."""
    rows = list(dict.fromkeys(row for own in checks.values() for row in own))
    lines = [f"| {title} | {' | '.join(checks)} |", "|---|" + "---|" * len(checks)]
    for row in rows:
        columns = [own.get(row) for own in checks.values()]
        cells = [f"{100 * sum(right) / len(right):.1f} % of {len(right)}" if right else "–" for right in columns]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def load_judge(file: str | Path | None, size: int, device: str) -> Judge:
    """The judge in a file, by default the shipped one.

    Args:
        file (`str` or `Path`, *optional*): that `judge.py` wrote.
        size (`int`): of the pictures.
        device (`str`): where it looks at them.
    """
    return read_judge(Path(file or SHIPPED_JUDGE), size).to(device)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo", nargs="?", help="converted Paint checkpoint; by default the shipped tiny one")
    parser.add_argument("--judge", metavar="FILE", help="of judge.py; by default the shipped one")
    parser.add_argument("--chat", help="converted Chat checkpoint, or none; by default the shipped tiny one")
    parser.add_argument("--prompts", type=int, default=300, help="per language and split")
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
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = SCHEDULERS[args.scheduler](pipeline.scheduler.config)
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    judge, chat = load_judge(args.judge, size, args.device), args.chat or tiny_chat_repo()
    model = None
    if chat != "none":
        processor = AutoProcessor.from_pretrained(chat, trust_remote_code=True)
        model = AutoModelForImageTextToText.from_pretrained(chat, trust_remote_code=True, dtype=torch.float32)
        model = model.eval().to(args.device)

    checks, shown = {}, []
    for split, language in product(args.splits, args.languages):
        prompts = held_out_prompts(language, args.prompts, args.seed, split)
        settings = {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale}
        pictures = paint_prompts(pipeline, prompts, args.seed, args.batch_size, **settings)
        found = [check_picture(prompt, look) for prompt, look in zip(prompts, judge.look(pictures), strict=True)]
        own = {check: [each[check] for each in found if check in each] for check in CHECKS[split]}
        if model is not None:
            own["all things, asking Chat"] = ask_chat(prompts, pictures, model, processor)
        checks[f"{split}: {language}"] = own
        shown += [(picture, prompt.text) for prompt, picture in zip(prompts, pictures, strict=True)][:24]
    print(format_table(checks, f"{args.scheduler}, {args.steps} steps, guidance {args.guidance_scale}, {args.dtype}"))
    if args.sheet:
        contact_sheet(*map(list, zip(*shown, strict=True)), columns=8).save(args.sheet)
        print(f"The contact sheet is {args.sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
