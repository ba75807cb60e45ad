"""Guards that no call of the Paint pipeline changes another: threads, shared parts, changed encoders, broken calls."""

import copy
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from paint import FEW, LONG, PROMPT, SHORT, add_lora, golden_components, golden_pipeline, paint, seeded

from viscpm_hf import VisCPMPaintPipeline
from viscpm_hf.remote_code import pipeline_viscpm_paint


def together(*calls):
    """Runs functions in threads that start at once; their results, and an exception of any of them."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait(timeout=60)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls, timeout=240))


# What an earlier call leaves behind


@pytest.mark.parametrize(
    "change",
    [
        lambda encoder: add_lora(encoder, lora_alpha=32),
        lambda encoder: (add_lora(encoder, lora_alpha=32), encoder.disable_adapters(), encoder.enable_adapters()),
        lambda encoder: encoder.layers[0].mlp.up_proj.weight.data.mul_(2),
        lambda encoder: encoder.norm.register_forward_hook(lambda module, args, output: 2 * output),
        lambda encoder: encoder.to(torch.bfloat16),
        lambda encoder: setattr(encoder.layers[0].self_attn, "scaling", 3.0),
    ],
)
def test_pictures_are_those_of_a_fresh_pipeline_whatever_changed_the_text_encoder(change):
    used, fresh = golden_pipeline(), golden_pipeline()
    before = paint(used)
    change(used.text_encoder)
    change(fresh.text_encoder)
    after = paint(used)
    assert torch.equal(after, paint(fresh)) and torch.equal(after, paint(used)) and not torch.equal(after, before)


def test_adapters_off_and_on_fused_and_unfused_leave_nothing_behind():
    pipe = golden_pipeline()
    plain = paint(pipe)
    add_lora(pipe.text_encoder, lora_alpha=32)
    adapted = paint(pipe)
    assert (adapted - plain).abs().max() > 1e-2
    pipe.disable_lora()
    assert torch.equal(paint(pipe), plain)
    pipe.enable_lora()
    assert torch.equal(paint(pipe), adapted)
    pipe.fuse_lora()
    fresh = golden_pipeline(text_encoder=copy.deepcopy(pipe.text_encoder))
    assert torch.equal(paint(pipe), paint(fresh))
    pipe.unfuse_lora()
    fresh = golden_pipeline(text_encoder=copy.deepcopy(pipe.text_encoder))
    assert torch.equal(paint(pipe), paint(fresh))


def test_the_scale_of_a_call_reaches_both_loras_and_ends_with_it():
    pipe = golden_pipeline()
    plain = paint(pipe)
    add_lora(pipe.text_encoder)
    add_lora(pipe.unet)
    pipe.set_adapters("default", 0.7)
    adapted = paint(pipe)
    scaled = {}
    for scale in (0.0, 0.3, 3):
        scaled[scale] = paint(pipe, cross_attention_kwargs={"scale": scale})
        assert torch.equal(paint(pipe), adapted)  # not even rounding is left
    assert torch.equal(scaled[0.0], plain)
    pipe.set_adapters("default", 0.7 * 0.3)
    torch.testing.assert_close(paint(pipe), scaled[0.3], atol=1e-5, rtol=0)
    pipe.set_adapters("default", 0.7)

    def fail(pipe, i, t, tensors):
        raise KeyError

    with pytest.raises(KeyError):
        paint(pipe, cross_attention_kwargs={"scale": 0.3}, callback_on_step_end=fail)
    assert torch.equal(paint(pipe), adapted)


@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler]
)
def test_a_call_that_broke_or_was_interrupted_leaves_nothing_behind(pipe, scheduler):
    other = golden_pipeline(scheduler=scheduler.from_config(pipe.scheduler.config))
    expected = paint(other, num_inference_steps=4)

    def interrupt(pipe, i, t, tensors):
        pipe._interrupt = True

    def fail(pipe, i, t, tensors):
        raise KeyError

    paint(other, num_inference_steps=7, callback_on_step_end=interrupt)
    with pytest.raises(KeyError):
        paint(other, num_inference_steps=6, callback_on_step_end=fail)
    assert torch.equal(paint(other, num_inference_steps=4), expected)


# Threads


def test_threads_get_their_own_pictures():
    def interrupt(pipe, i, t, tensors):
        pipe._interrupt = i == 1

    pipe = golden_pipeline()
    jobs = [
        {"guidance_scale": 7.5},
        {"guidance_scale": 2.0, "num_inference_steps": 7},
        {"guidance_scale": 1.0, "prompt": LONG, "num_images_per_prompt": 2},
        {"prompt": SHORT, "num_inference_steps": 3, "negative_prompt": LONG},
        {"num_inference_steps": 9, "callback_on_step_end": interrupt},
        {"generator": 7, "height": 16},
    ] * 2
    expected = [paint(pipe, **{"prompt": PROMPT, **job}) for job in jobs]
    with torch.no_grad():
        embeds = pipe.encode_prompt(LONG)[0]
    *found, encoded = together(
        *(lambda job=job: paint(pipe, **{"prompt": PROMPT, **job}) for job in jobs),
        lambda: torch.no_grad()(pipe.encode_prompt)(LONG)[0],
    )
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(encoded, embeds)


def test_threads_swap_schedulers_while_others_paint():
    pipe = golden_pipeline()
    schedulers = [
        cls.from_config(pipe.scheduler.config)
        for cls in (DDIMScheduler, EulerAncestralDiscreteScheduler, DPMSolverMultistepScheduler)
    ]
    expected = [paint(golden_pipeline(scheduler=one), num_inference_steps=6) for one in schedulers]
    started, swapped = threading.Event(), threading.Event()

    def swap():
        started.wait(timeout=60)
        for scheduler in schedulers:
            pipe.scheduler = scheduler
        swapped.set()

    def wait(pipe, i, t, tensors):
        started.set()
        swapped.wait(timeout=60)

    pipe.scheduler = schedulers[0]
    found, _ = together(lambda: paint(pipe, num_inference_steps=6, callback_on_step_end=wait), swap)
    assert torch.equal(found, expected[0])
    assert torch.equal(paint(pipe, num_inference_steps=6), expected[-1])


def test_pipelines_that_share_parts_wait_for_each_other(prompt_checker, ranker):
    pipe = golden_pipeline(**prompt_checker, **ranker)
    add_lora(pipe.unet)
    add_lora(pipe.text_encoder)
    pipe.enable_model_cpu_offload(device="cpu")
    other = VisCPMPaintPipeline.from_pipe(pipe, scheduler=DDIMScheduler.from_config(pipe.scheduler.config))
    other.set_progress_bar_config(disable=True)
    jobs = [(pipe, 0.5), (other, 0.0), (pipe, 1.0), (other, 2.0)] * 2
    expected = [paint(one, cross_attention_kwargs={"scale": scale}) for one, scale in jobs]
    found = together(
        *(lambda job=job: paint(job[0], cross_attention_kwargs={"scale": job[1]}) for job in jobs),
        *(lambda: pipe.run_prompt_checker([PROMPT, SHORT], torch.device("cpu")) for _ in range(2)),
    )
    assert all(torch.equal(one, picture) for one, picture in zip(found, expected, strict=False))
    assert found[-1] == found[-2] == pipe.run_prompt_checker([PROMPT, SHORT], torch.device("cpu"))


def test_pipelines_without_a_common_part_do_not_wait():
    one, other = golden_pipeline(), golden_pipeline()
    arrived = threading.Barrier(2)
    together(
        *(
            lambda pipe=pipe: paint(pipe, callback_on_step_end=lambda *_: arrived.wait(timeout=60) and None)
            for pipe in (one, other)
        )
    )


def test_a_callback_may_use_the_pipeline_but_not_paint_with_it(pipe):
    others, expected, seen = VisCPMPaintPipeline.from_pipe(pipe, scheduler=None), paint(pipe), []
    others.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    others.set_progress_bar_config(disable=True)

    def callback(pipe, i, t, tensors):
        seen.append(pipe.encode_prompt(PROMPT)[0])
        seen.append(paint(others, SHORT))

    assert torch.equal(paint(pipe, callback_on_step_end=callback), expected)
    assert torch.equal(seen[1], paint(others, SHORT))
    with pytest.raises(RuntimeError, match="call from a callback of the same pipeline"):
        paint(pipe, callback_on_step_end=lambda pipe, *_: paint(pipe))
    assert torch.equal(paint(pipe), expected) and not pipeline_viscpm_paint._BUSY


def test_copies_and_pickles(pipe):
    expected = paint(pipe)
    assert torch.equal(paint(copy.deepcopy(pipe)), expected)
    assert torch.equal(paint(pickle.loads(pickle.dumps(pipe))), expected)
    file = io.BytesIO()
    torch.save(pipe.unet, file)
    file.seek(0)
    assert torch.equal(paint(golden_pipeline(unet=torch.load(file, weights_only=False))), expected)


# Pipelines made of others


def test_from_pipe_shares_parts_and_leaves_their_precision(pipe):
    components = golden_components()
    components["text_encoder"].to(torch.bfloat16)
    components["vae"].half()
    original = golden_pipeline(**components)
    scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    shared = VisCPMPaintPipeline.from_pipe(original, scheduler=scheduler, prompt_checker_threshold=0.5)
    assert shared.scheduler is scheduler and shared.config.prompt_checker_threshold == 0.5
    assert not shared.config.requires_safety_checker
    assert all(getattr(shared, name) is part for name, part in original.components.items() if name != "scheduler")
    assert (shared.text_encoder.dtype, shared.unet.dtype, shared.vae.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float16,
    )
    cast = VisCPMPaintPipeline.from_pipe(golden_pipeline(), dtype=torch.bfloat16)
    assert cast.text_encoder.dtype == cast.unet.dtype == torch.bfloat16
    with pytest.raises(TypeError, match="nonsense"):
        VisCPMPaintPipeline.from_pipe(pipe, nonsense=1)


def test_from_pipe_of_another_class_and_back(pipe):
    """Stable Diffusion's pipeline takes our parts and gives them back; what it has not must be passed."""
    other = StableDiffusionPipeline.from_pipe(pipe, dtype=torch.float32, scheduler=DDIMScheduler(steps_offset=1))
    with pytest.raises(ValueError, match="StableDiffusionPipeline has no text_projection: pass"):
        VisCPMPaintPipeline.from_pipe(other)
    back = VisCPMPaintPipeline.from_pipe(other, text_projection=pipe.text_projection, scheduler=pipe.scheduler)
    back.set_progress_bar_config(disable=True)
    assert back.config.prompt_checker_threshold == pipe.config.prompt_checker_threshold
    assert torch.equal(paint(back), paint(pipe))
    with pytest.raises(ValueError, match="tokenizer is a CpmBeeTokenizer, got {}"):
        VisCPMPaintPipeline.from_pipe(pipe, tokenizer={})


def test_seeds_in_place_of_generators(pipe):
    assert torch.equal(paint(pipe, generator=5), paint(pipe, seed=5))
    both = pipe(PROMPT, **FEW, num_images_per_prompt=2, generator=[5, seeded(6)]).images
    assert torch.equal(both, paint(pipe, num_images_per_prompt=2, generator=[seeded(5), seeded(6)]))
