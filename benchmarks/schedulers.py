"""The same prompts and seeds with the original's 50 steps of DDPM and with fewer steps of DPM++, as one picture.

python benchmarks/schedulers.py [REPO] --output docs/schedulers.png
"""

import argparse
import time
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from viscpm_hf.tiny import GUIDANCE_SCALE, tiny_paint_repo
from viscpm_hf.tiny.measures.painted_prompts import SCHEDULERS
from viscpm_hf.tiny.world.contact_sheet import contact_sheet
from viscpm_hf.tiny.world.prompts import held_out_prompts

SETTINGS = (("ddpm", 50), ("dpm++", 25), ("dpm++", 20), ("dpm++", 10))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo", nargs="?", help="converted Paint checkpoint; by default the shipped tiny one")
    parser.add_argument("--prompts", nargs="+", help="by default eight that the tiny model never saw")
    parser.add_argument("--guidance-scale", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("schedulers.png"))
    args = parser.parse_args()

    prompts = args.prompts or [prompt.text for language in ("zh", "en") for prompt in held_out_prompts(language, 4)]
    pipeline = DiffusionPipeline.from_pretrained(args.repo or tiny_paint_repo(), trust_remote_code=True)
    pipeline.to(args.device)
    config = pipeline.scheduler.config
    pictures, labels = [], []
    for name, steps in SETTINGS:
        pipeline.scheduler = SCHEDULERS[name](config)
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
        started = time.perf_counter()
        pictures += pipeline(
            prompts, num_inference_steps=steps, guidance_scale=args.guidance_scale, generator=generators
        ).images
        print(f"{name}, {steps} steps: {time.perf_counter() - started:.2f} s for {len(prompts)} pictures")
        labels += [f"{name} {steps}: {prompt}" for prompt in prompts]
    contact_sheet(pictures, labels, columns=len(prompts), scale=2).quantize().save(args.output, optimize=True)
    print(f"The pictures are {args.output.resolve()}")


if __name__ == "__main__":
    main()
