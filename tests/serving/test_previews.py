"""Guards what the pages ask of the engine beside answers: pictures on their way, and the choice of a scheduler."""

import asyncio

import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler
from paint import safety_checker_parts
from PIL import Image

from viscpm_hf import VisCPMPaint
from viscpm_hf.serving.engine import Engine, Progress, Prompt
from viscpm_hf.tiny import tiny_paint_repo


@pytest.fixture(scope="module")
def painter():
    return VisCPMPaint(tiny_paint_repo(), image_safety_checker=False, prompt_safety_checker=False, add_ranker=False)


def painted(painter, *prompts, **options):
    """For each prompt, all that its stream gives; they wait together."""

    async def stream(engine):
        async def read(prompt):
            return [piece async for piece in engine.stream_picture(prompt)]

        return await asyncio.gather(*map(read, prompts))

    engine = Engine(paint=painter, **options)
    try:
        return asyncio.run(stream(engine))
    finally:
        engine.close()


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_previews_come_on_the_way_and_change_nothing(painter):
    prompt = {"prompt": "草地上有一只猫", "seed": 3, "steps": 9}
    (with_previews,) = painted(painter, Prompt(**prompt, n=2, previews=3))
    (without,) = painted(painter, Prompt(**prompt, n=2))
    *progress, pictures = with_previews
    assert [(one.step, len(one.previews)) for one in progress if one.previews] == [(3, 2), (6, 2)]
    assert [one.step for one in progress] == list(range(1, 10)) and not any(one.previews for one in without[:-1])
    assert all(same(one.image, other.image) for one, other in zip(pictures, without[-1], strict=True))
    late = np.asarray(progress[5].previews[0], float) - np.asarray(pictures[0].image, float)
    early = np.asarray(progress[2].previews[0], float) - np.asarray(pictures[0].image, float)
    assert np.abs(late).mean() < np.abs(early).mean()


def test_previews_of_a_batch_go_to_their_owners(painter):
    """Requests without seeds share a call; each gets as many previews as pictures, or none."""
    wishes = [Prompt("a cat on the grass", steps=4, n=2, previews=2), Prompt("a rocket at night", steps=4, previews=2)]
    first, *others = painted(painter, Prompt("a cat on the grass", steps=4), *wishes)
    assert not any(piece.previews for piece in first[:-1])
    assert [[len(piece.previews) for piece in stream[:-1]] for stream in others] == [[0, 2, 0, 0], [0, 1, 0, 0]]


def test_unsafe_previews_are_black(painter, monkeypatch):
    """What the checker would blacken at the end is not shown before it either."""
    white, black = (Image.new("RGB", (64, 64), colour) for colour in ("white", "black"))
    parts = safety_checker_parts(white, black)
    for name, part in parts.items():
        monkeypatch.setattr(painter.pipeline, name, part)
    parts["safety_checker"].concept_embeds_weights.fill_(-2.0)  # everything is unsafe
    ((*progress, (picture,)),) = painted(painter, Prompt("a cat on the grass", seed=1, steps=4, previews=2))
    shown = [preview for one in progress for preview in one.previews]
    assert picture.blackened and shown and all(preview.getbbox() is None for preview in shown)


def test_a_scheduler_is_of_its_prompt(painter):
    """Prompts of two schedulers never share a call, and the next prompt has the model's own again."""
    own = painter.pipeline.scheduler
    prompt = {"prompt": "夜空中有一枚火箭", "seed": 5, "steps": 6}
    plus, plain = (
        stream[-1][0].image
        for stream in painted(painter, Prompt(**prompt, scheduler="dpm++"), Prompt(**prompt), max_batch=4)
    )
    (ddpm,) = painted(painter, Prompt(**prompt, scheduler="ddpm"))
    painter.pipeline.scheduler = own
    wanted = painter.generate(prompt["prompt"], generator=5, num_inference_steps=6)
    assert same(plain, wanted) and same(ddpm[-1][0].image, wanted) and not same(plus, wanted)
    painter.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(own.config, timestep_spacing="trailing")
    assert same(plus, painter.generate(prompt["prompt"], generator=5, num_inference_steps=6))
    painter.pipeline.scheduler = own


def test_progress_is_told_without_previews(painter):
    ((*progress, _),) = painted(painter, Prompt("a cat on the grass", seed=1, steps=3))
    assert progress == [Progress(step, 3) for step in (1, 2, 3)]
