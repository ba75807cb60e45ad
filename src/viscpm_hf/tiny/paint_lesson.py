"""What the tiny Paint can be taught: a thing it never painted and its name, the ring, "O形" in Chinese.

    python -m viscpm_hf.tiny.paint_lesson write lesson
    viscpm finetune paint --model DIR --data lesson/train.json --output taught …
    python -m viscpm_hf.tiny.paint_lesson measure --model taught
    python -m viscpm_hf.tiny.paint_lesson show --model taught --output lesson.png
    python -m viscpm_hf.tiny.lesson curve taught --output loss.png

`write` draws rings, and as many of the things that the model knows, so that it does not forget. `measure` has rings
painted in colours and places that the lesson does not show, and what was known before, and looks at them; `show`
puts pictures that were painted before the lesson over those that are painted after it.
"""

import json
import random
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..remote_code.pipeline_viscpm_paint import VisCPMPaintPipeline
from . import GUIDANCE_SCALE, tiny_paint_repo, use_one_thread
from .lesson import command_line, print_shares
from .measures.painted_prompts import SCHEDULERS, check_picture, load_judge, paint_prompts
from .world.contact_sheet import contact_sheet
from .world.pictures import draw
from .world.prompts import LANGUAGES, PLAIN, SIZE, Prompt, held_out_prompts, training_wish, write_prompt
from .world.scenes import CELLS, Placed, Scene, jittered
from .world.things import BY_NAME, COLOURS

NEW = "ring"
_PHRASINGS = 3  # of each prompt for a ring, in each language


def ring_scene(colour: str, cell: int) -> Scene:
    """A ring on white."""
    return Scene((Placed(f"{colour} {NEW}", SIZE, cell),), PLAIN)


def ring_prompts(held_out: bool) -> list[Prompt]:
    """Different prompts for a ring of every colour in every place: the lesson's, or a quarter that it leaves out."""
    rng, prompts = random.Random(f"rings {held_out}"), {}
    for number, colour in enumerate(COLOURS):
        for cell, language in product(range(len(CELLS)), LANGUAGES):
            if ((number + cell) % 4 == 0) == held_out:
                scene, wanted = ring_scene(colour, cell), len(prompts) + _PHRASINGS
                while len(prompts) < wanted:
                    prompt = write_prompt(language, scene, None, rng)
                    prompts.setdefault(prompt.text, prompt)
    return list(prompts.values())


def write_lesson(folder: Path, new: int, old: int) -> None:
    """Writes train.json, a caption a row, and its pictures.

    Args:
        folder (`Path`): to create.
        new, old (`int`): pictures of rings, and of what the model knows.
    """
    (folder / "pictures").mkdir(parents=True)
    rng, rows = random.Random("lesson"), []
    rings = ring_prompts(held_out=False)
    for number in range(new + old):
        if number < new:
            prompt = rng.choice(rings)
            scene = jittered(ring_scene(BY_NAME[prompt.names[0]].colour, prompt.cell), rng)
        else:
            scene, relation = training_wish(rng)
            prompt = write_prompt(LANGUAGES[number % 2], scene, relation, rng)
        name = f"pictures/{number:05}.png"
        draw(scene).save(folder / name)
        rows.append({"image": name, "text": prompt.text})
    (folder / "train.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def is_ring(picture: Image.Image, prompt: Prompt) -> bool:
    """Whether a picture shows nothing but a ring, of the colour and in the place that was asked for."""
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    side = len(pixels)
    inked = np.linalg.norm(pixels - pixels[0, 0], axis=-1) > 60
    if not inked.any():
        return False
    rows, columns = np.nonzero(inked)
    y, x = np.mgrid[:side, :side]
    centre = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    radius = max(np.ptp(rows), np.ptp(columns)) / 2
    away = np.hypot(y - centre[0], x - centre[1]) / radius
    tone = np.median(pixels[inked], 0)
    colour = min(COLOURS, key=lambda name: np.linalg.norm(tone - COLOURS[name]))
    cell = 3 * int(3 * centre[0] / side) + int(3 * centre[1] / side)
    asked = (BY_NAME[prompt.names[0]].colour, prompt.cell)
    round_it_is = inked[away < 0.4].mean() < 0.1 and inked[(away > 0.7) & (away < 0.9)].mean() > 0.9
    return bool((colour, cell) == asked and radius < 0.3 * side and round_it_is)


def load(model_path: str, adapter: str | None = None) -> VisCPMPaintPipeline:
    """A pipeline, with a LoRA if there is one.

    Args:
        model_path (`str`): a converted repository.
        adapter (`str`, *optional*): a folder that `viscpm finetune paint` wrote.
    """
    pipeline = VisCPMPaintPipeline.from_pretrained(model_path, dtype=torch.float32)
    if adapter is not None:
        pipeline.load_lora_weights(adapter)
    pipeline.scheduler = SCHEDULERS["dpm++"](pipeline.scheduler.config)  # good pictures in 20 steps
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure(pipeline: VisCPMPaintPipeline, new: int, old: int, **options: int) -> dict[str, float]:
    """Shares of pictures that show what was asked for: rings, and what was known before.

    Args:
        pipeline (`VisCPMPaintPipeline`): that paints.
        new, old (`int`): how many of them; of the old ones as many in each language.
        options: for the pipeline.
    """
    rings = random.Random(0).sample(ring_prompts(held_out=True), new)
    known = [prompt for language in LANGUAGES for prompt in held_out_prompts(language, old)]
    options = {"guidance_scale": GUIDANCE_SCALE, **options}
    pictures = zip(rings, paint_prompts(pipeline, rings, **options), strict=True)
    right = [is_ring(picture, prompt) for prompt, picture in pictures]
    judge = load_judge(None, pipeline.unet.config.sample_size * pipeline.vae_scale_factor, "cpu")
    looks = judge.look(paint_prompts(pipeline, known, **options))
    checks = [check_picture(prompt, look) for prompt, look in zip(known, looks, strict=True)]
    return {
        "new prompts for rings": sum(right) / len(right),
        "old prompts": sum(all(check.values()) for check in checks) / len(checks),
    }


def show(pipeline: VisCPMPaintPipeline, number: int, path: Path, **options: int) -> None:
    """Pictures as they were painted before over those after the lesson, of the same seeds.

    Args:
        pipeline (`VisCPMPaintPipeline`): the taught one.
        number (`int`): of prompts.
        path (`Path`): of the sheet.
        options: for the pipeline.
    """
    prompts = random.Random(1).sample(ring_prompts(held_out=True), number)
    options = {"guidance_scale": GUIDANCE_SCALE, **options}
    before, after = (paint_prompts(each, prompts, **options) for each in (load(str(tiny_paint_repo())), pipeline))
    labels = [*(prompt.text for prompt in prompts), *[""] * number]
    contact_sheet([*before, *after], labels, columns=number).save(path)


def main(argv: list[str] | None = None) -> int:
    parser, _, taught = command_line(__doc__, new=1200, old=1200, tested=108, known=50, shown=6)
    for each in taught:
        each.add_argument("--steps", type=int, default=20)
    args = parser.parse_args(argv)
    use_one_thread()
    if args.verb == "write":
        write_lesson(args.folder, args.new, args.old)
        return 0
    pipeline, options = load(args.model or str(tiny_paint_repo()), args.adapter), {"num_inference_steps": args.steps}
    if args.verb == "show":
        show(pipeline, args.number, args.output, **options)
    else:
        print_shares(measure(pipeline, args.new, args.old, **options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
