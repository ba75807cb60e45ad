"""Every thing the tiny Paint knows, painted once, as one picture; what the judge takes for something else is told.

python -m viscpm_hf.tiny.measures.painted_sheet [REPO] --output sheet.png
"""

import argparse
import random
import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from .. import GUIDANCE_SCALE, tiny_paint_repo
from ..world.contact_sheet import contact_sheet
from ..world.prompts import LANGUAGES, PLAIN, SIZE, Prompt, write_prompt
from ..world.scenes import BACKGROUNDS, Placed, Scene
from ..world.things import COLOURED_SHAPES, COLOURS, SHAPES, THINGS
from .painted_prompts import SCHEDULERS, check_picture, load_judge, paint_prompts


def sheet_prompts() -> list[Prompt]:
    """A prompt for each pictogram and for some coloured shapes, in the middle; every second one says a background."""
    rng, prompts = random.Random("sheet"), []
    shapes = [COLOURED_SHAPES[number * len(COLOURS) + number] for number in range(len(SHAPES))]
    for number, thing in enumerate((*THINGS, *shapes)):
        ground = BACKGROUNDS[number // 2 % len(BACKGROUNDS)] if number % 2 else PLAIN
        scene = Scene((Placed(thing.name, SIZE, 4),), ground)
        prompts.append(write_prompt(LANGUAGES[number // 2 % 2], scene, None, rng))
    return prompts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo", nargs="?", help="converted Paint checkpoint; by default the shipped tiny one")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    parser.add_argument("--judge", metavar="FILE", help="of judge.py; by default the shipped one")
    parser.add_argument("--steps", type=int, default=20, help="of DPM++")
    parser.add_argument("--guidance-scale", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)

    repo = args.repo or tiny_paint_repo()
    pipeline = DiffusionPipeline.from_pretrained(repo, trust_remote_code=True, dtype=torch.float32).to(args.device)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = SCHEDULERS["dpm++"](pipeline.scheduler.config)
    prompts = sheet_prompts()
    settings = {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale}
    pictures = paint_prompts(pipeline, prompts, args.seed, **settings)
    contact_sheet(pictures, [prompt.text for prompt in prompts], columns=10, scale=1).save(args.output)
    judge = load_judge(args.judge, pictures[0].width, args.device)
    for prompt, look in zip(prompts, judge.look(pictures), strict=True):
        wrong = [check for check, right in check_picture(prompt, look).items() if not right]
        if wrong:
            seen = ", ".join(thing.name for thing in look.things) or "nothing"
            print(f"{prompt.text}: {', '.join(wrong)} wrong; seen: {seen} on {look.background}")
    print(f"The sheet is {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
