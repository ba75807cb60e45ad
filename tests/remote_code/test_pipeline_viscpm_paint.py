"""Guards the Paint pipeline: the original's pictures, diffusers' conventions, the checkers, saving and loading."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PipelineQuantizationConfig,
    StableDiffusionImg2ImgPipeline,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from hub import LocalHub
from paint import (
    golden_components,
    golden_pipeline,
    paints_the_originals_pictures,
    prompt_checker_parts,
    ranker_parts,
    safety_checker_parts,
)
from PIL import Image

import viscpm_hf
from viscpm_hf import VisCPMPaintPipeline

GOLDEN = Path(__file__).parent.parent / "golden"
PROMPT, LONG = "海上生明月，天涯共此时", "a red car on 鲲鹏 street"
SHORT, UNSAFE = "北京", "坏东西"
EXACT = {"atol": 1e-5, "rtol": 0}  # of images in [0, 1], where a pixel's step is 4e-3
FEW = {"num_inference_steps": 2, "output_type": "pt"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def paint(pipe, prompt=PROMPT, seed=0, **arguments):
    return pipe(prompt, **{**FEW, "generator": seeded(seed), **arguments}).images


def check_close(found, expected):
    """Equal but for rounding: latents and text states have no range, so it is measured by the largest of them."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def record(module, kept):
    """Inputs and outputs of every call of a module."""
    calls = []
    handle = module.register_forward_hook(
        lambda module, args, kwargs, output: calls.append(kept(args, kwargs, output)), with_kwargs=True
    )
    return calls, handle


@pytest.fixture(scope="module")
def pipe():
    """The golden pipeline; shared, so tests leave it as it was."""
    return golden_pipeline()


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("paint_golden.safetensors")


@pytest.fixture(scope="module")
def cases(golden):
    return golden("paint_golden.json")


# The original's numbers


@pytest.mark.parametrize("case", range(3))
def test_text_states_are_the_originals(pipe, cases, recorded, case):
    prompt, tensor = cases["prompts"][case], lambda name: recorded[f"p{case}.{name}"]
    states, handle = record(pipe.text_projection, lambda args, kwargs, output: args[0])
    with torch.no_grad():
        embeds, negative_embeds, mask, negative_mask = pipe.encode_prompt(
            prompt["prompt"], negative_prompt=prompt["negative_prompt"]
        )
    handle.remove()
    # all rows: the original pads to the longer of the two, and the UNet attends to the padding
    expected = torch.cat([tensor("cond.hidden_states"), tensor("uncond.hidden_states")])
    check_close(states[0], expected)
    check_close(embeds, tensor("cond.trans_block"))
    check_close(negative_embeds, tensor("uncond.trans_block"))
    assert mask is None and negative_mask is None


@pytest.mark.parametrize("case", range(3))
def test_one_unet_call_is_the_originals(pipe, cases, recorded, case):
    prompt, tensor = cases["prompts"][case], lambda name: recorded[f"p{case}.unet.{name}"]
    with torch.no_grad():
        embeds, negative_embeds, *_ = pipe.encode_prompt(prompt["prompt"], negative_prompt=prompt["negative_prompt"])
        latents, states = torch.cat([tensor("latents")] * 2), torch.cat([negative_embeds, embeds])
        found = pipe.unet(latents, tensor("timestep"), encoder_hidden_states=states).sample
    check_close(found, tensor("noise_pred_uncond_cond"))


@pytest.mark.parametrize("case", range(3))
def test_every_step_and_the_image_are_the_originals(pipe, cases, recorded, case):
    prompt, tensor = cases["prompts"][case], lambda name: recorded[f"p{case}.gen.{name}"]
    settings = prompt["generate"]
    steps = []
    calls, handle = record(pipe.unet, lambda args, kwargs, output: (args[0], output[0]))
    image = pipe(
        prompt["prompt"],
        negative_prompt=prompt["negative_prompt"],
        height=settings["px"],
        width=settings["px"],
        num_inference_steps=settings["num_inference_steps"],
        guidance_scale=settings["guidance_scale"],
        num_images_per_prompt=settings["num_images_per_prompt"],
        generator=seeded(settings["seed"]),
        output_type="np",
        callback_on_step_end=lambda pipe, i, t, tensors: steps.append((int(t), tensors["latents"])),
    ).images
    handle.remove()
    assert [t for t, _ in steps] == settings["timesteps"]
    drawn = settings["num_images_per_prompt"]
    # at guidance 1 the original runs both halves, to no effect
    half = slice(None) if settings["guidance_scale"] > 1 else slice(drawn, None)
    assert torch.equal(calls[0][0][:drawn], tensor("initial_latents"))
    for i, (_, latents) in enumerate(steps):
        check_close(calls[i][1], tensor(f"step_{i}.noise_pred_uncond_cond")[half])
        check_close(latents, tensor(f"step_{i}.latents"))
    torch.testing.assert_close(torch.from_numpy(image), tensor("image"), **EXACT)


def test_fifty_steps_paint_the_originals_pictures(pipe, cases):
    timesteps = []
    assert paints_the_originals_pictures(
        pipe, callback_on_step_end=lambda pipe, i, t, tensors: timesteps.append(int(t))
    )
    assert timesteps == cases["full_generate"]["timesteps"] == list(range(980, -1, -20))


# Text


def test_a_batch_equals_single_runs(pipe):
    prompts, negatives = [PROMPT, SHORT, LONG], ["", "blurry 模糊 qZ", "q"]
    batch = paint(pipe, prompts, negative_prompt=negatives, generator=[seeded(i) for i in range(3)])
    for i in range(3):
        single = paint(pipe, prompts[i], negative_prompt=negatives[i], seed=i)
        torch.testing.assert_close(batch[i : i + 1], single, **EXACT)


@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
def test_a_mask_only_where_lengths_differ(pipe, guidance_scale):
    guided = guidance_scale > 1
    with torch.no_grad():
        *_, mask, negative_mask = pipe.encode_prompt([PROMPT, LONG], do_classifier_free_guidance=guided)
        *_, none, negative_none = pipe.encode_prompt([PROMPT, PROMPT], do_classifier_free_guidance=guided)
    assert mask.sum(1).tolist() == [20, 25] and none is None and negative_none is None
    assert torch.equal(mask, negative_mask) if guided else negative_mask is None
    batch = paint(pipe, [PROMPT, LONG], guidance_scale=guidance_scale, generator=[seeded(0), seeded(1)])
    torch.testing.assert_close(batch[:1], paint(pipe, guidance_scale=guidance_scale), **EXACT)


def test_without_guidance_only_the_conditional_half_runs_with_the_same_padding(pipe):
    calls, handle = record(pipe.unet, lambda args, kwargs, output: kwargs["encoder_hidden_states"])
    rows, text_handle = record(pipe.text_encoder, lambda args, kwargs, output: len(kwargs["input_ids"]))
    negative = "a very long negative prompt"
    paint(pipe, SHORT, negative_prompt=negative)
    paint(pipe, SHORT, negative_prompt=negative, guidance_scale=1.0)
    handle.remove()
    text_handle.remove()
    assert [len(call) for call in calls] == [2, 2, 1, 1] and rows == [2, 1]
    torch.testing.assert_close(calls[2], calls[0][1:], **EXACT)
    assert calls[2].shape[1] > 14  # of the prompt alone


def test_the_empty_prompt_is_encoded_once():
    pipe = golden_pipeline()
    rows, _ = record(pipe.text_encoder, lambda args, kwargs, output: len(kwargs["input_ids"]))
    first, second = paint(pipe, [PROMPT, LONG]), paint(pipe, [PROMPT, LONG])
    assert rows == [3, 2]  # the negative prompt of both is one text
    torch.testing.assert_close(second, first, **EXACT)
    paint(pipe, SHORT)
    paint(pipe, ["", ""])  # nothing is left to encode
    assert rows == [3, 2, 1]

    weight = pipe.text_encoder.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight.mul_(2)
    changed = paint(pipe)
    assert rows[3:] == [2] and (changed - first[:1]).abs().max() > 1e-3
    pipe.text_encoder.to(torch.bfloat16)
    paint(pipe)
    pipe.text_encoder = pipe.text_encoder
    paint(pipe)
    assert rows[4:] == [2, 2]


def test_the_short_empty_prompt_is_remembered_with_its_padding():
    pipe = golden_pipeline()
    expected = golden_pipeline().encode_prompt("", negative_prompt=LONG)
    with torch.no_grad():
        pipe.encode_prompt("")  # its pair has no padding at all
        found = pipe.encode_prompt("", negative_prompt=LONG)
    torch.testing.assert_close(found[0], expected[0], **EXACT)


def test_gradients_reach_the_text_side_past_what_is_remembered():
    pipe = golden_pipeline()
    paint(pipe)
    embeds, negative_embeds, *_ = pipe.encode_prompt(PROMPT)
    negative_embeds.square().sum().backward()
    assert pipe.text_encoder.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_prompts_are_plain_text(pipe):
    ids, handle = record(pipe.text_encoder, lambda args, kwargs, output: kwargs["input_ids"])
    paint(pipe, "a < b <ans> <")
    handle.remove()
    tokens = pipe.tokenizer
    assert tokens.decode(ids[0][0].tolist()).count("<<") == 3


def test_text_states_make_the_same_image_without_the_text_side(pipe):
    components = golden_components()
    image_side = dict.fromkeys(("unet", "vae", "scheduler"))
    text_side = dict.fromkeys(("tokenizer", "text_encoder", "text_projection"))
    encoder = golden_pipeline(**image_side)
    painter = golden_pipeline(**{**components, **text_side})
    for prompt in (PROMPT, [PROMPT, LONG]):
        with torch.no_grad():
            outputs = encoder.encode_prompt(prompt, negative_prompt="q")
        names = ("prompt_embeds", "negative_prompt_embeds", "prompt_embeds_mask", "negative_prompt_embeds_mask")
        found = paint(painter, None, **dict(zip(names, outputs, strict=True)), num_images_per_prompt=2)
        torch.testing.assert_close(found, paint(pipe, prompt, negative_prompt="q", num_images_per_prompt=2), **EXACT)
    with pytest.raises(ValueError, match="without tokenizer, text_encoder or text_projection"):
        painter(PROMPT)
    with pytest.raises(ValueError, match="needs unet, vae, scheduler"):
        encoder(PROMPT)


# The call


def test_output_types(pipe):
    latents = paint(pipe, output_type="latent")
    pixels = paint(pipe, output_type="pt")
    assert latents.shape == (1, 4, 8, 8) and pixels.shape == (1, 3, 32, 32)
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close(pixels, (decoded / 2 + 0.5).clamp(0, 1), **EXACT)
    array, pictures = paint(pipe, output_type="np"), paint(pipe, output_type="pil")
    assert np.array_equal(array, pixels.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.asarray(pictures[0]), (array[0] * 255).round().astype(np.uint8))
    as_tuple = pipe(PROMPT, **FEW, generator=seeded(), return_dict=False)
    assert len(as_tuple) == 2 and torch.equal(as_tuple[0], pixels) and as_tuple[1] is None


def test_latents_in_place_of_a_draw(pipe):
    shape = (2, 4, 8, 8)
    generator = seeded(3)
    latents = torch.randn(shape, generator=generator)
    given = pipe(PROMPT, **FEW, latents=latents, num_images_per_prompt=2, generator=generator).images
    assert torch.equal(given, paint(pipe, num_images_per_prompt=2, seed=3))


def test_a_generator_for_each_image(pipe):
    images = paint(pipe, num_images_per_prompt=3, generator=[seeded(i) for i in (5, 6, 5)])
    torch.testing.assert_close(images[1:2], paint(pipe, seed=6), **EXACT)
    torch.testing.assert_close(images[2], images[0], **EXACT)


@pytest.mark.parametrize("height, width", [(32, 64), (20, 36), (4, 8)])
def test_rectangles(pipe, height, width):
    assert paint(pipe, height=height, width=width).shape == (1, 3, height, width)


@pytest.mark.parametrize(
    "scheduler, options",
    [
        (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
        (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
        (DDIMScheduler, {}),
        (UniPCMultistepScheduler, {}),
        (HeunDiscreteScheduler, {}),
    ],
)
def test_schedulers_swap(pipe, scheduler, options):
    other = golden_pipeline(scheduler=scheduler.from_config(pipe.scheduler.config, **options))
    steps = []
    image = paint(
        other, num_inference_steps=4, eta=0.5, callback_on_step_end=lambda pipe, i, t, tensors: steps.append(int(t))
    )
    assert image.isfinite().all() and steps == sorted(steps, reverse=True) and len(steps) == other.num_timesteps
    assert torch.equal(image, paint(other, num_inference_steps=4, eta=0.5))
    # DDIM alone has an η
    assert torch.equal(image, paint(other, num_inference_steps=4)) == (scheduler is not DDIMScheduler)


def test_custom_schedules(pipe):
    listed = paint(pipe, timesteps=[500, 0])
    assert torch.equal(listed, paint(pipe, num_inference_steps=2))
    euler = golden_pipeline(scheduler=EulerDiscreteScheduler.from_config(pipe.scheduler.config))
    assert (
        paint(euler, sigmas=[10.0, 3.0, 1.0]).isfinite().all() and euler.num_timesteps == 2
    )  # the last sigma is where it ends
    with pytest.raises(ValueError, match="DDPMScheduler takes no sigmas"):
        paint(pipe, sigmas=[3.0, 1.0])


def test_callbacks_see_and_replace_tensors(pipe):
    seen = []

    def callback(pipe, i, t, tensors):
        seen.append(set(tensors))
        if i == pipe.num_timesteps - 1:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    names = pipe._callback_tensor_inputs
    latents = paint(
        pipe, output_type="latent", callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names
    )
    assert seen == [set(names)] * 2 and not latents.any()


def test_a_callback_interrupts(pipe):
    steps = []

    def callback(pipe, i, t, tensors):
        steps.append(tensors["latents"])
        pipe._interrupt = i == 1
        return {}

    latents = paint(pipe, num_inference_steps=5, output_type="latent", callback_on_step_end=callback)
    assert len(steps) == 2 and torch.equal(latents, steps[1])


def test_a_callback_ends_guidance(pipe):
    calls, handle = record(pipe.unet, lambda args, kwargs, output: (len(args[0]), kwargs["encoder_attention_mask"]))
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    paint(pipe, num_inference_steps=3, callback_on_step_end=cutoff)
    with torch.no_grad():
        embeds, negative_embeds, mask, negative_mask = pipe.encode_prompt([PROMPT, LONG])
    embeds = {"prompt_embeds": embeds[:1], "negative_prompt_embeds": negative_embeds[:1]}
    masks = {"prompt_embeds_mask": mask[:1], "negative_prompt_embeds_mask": negative_mask[:1]}
    masked = paint(pipe, None, **embeds, **masks, num_inference_steps=3, callback_on_step_end=cutoff)
    handle.remove()
    assert [rows for rows, _ in calls] == [2, 1, 1] * 2
    assert torch.equal(calls[-1][1], mask[:1])
    torch.testing.assert_close(masked, paint(pipe, num_inference_steps=3, callback_on_step_end=cutoff), **EXACT)


BAD = [
    ({"prompt": None}, "prompt is a text"),
    ({"prompt": []}, "empty list"),
    ({"prompt": 5}, "prompt is a text"),
    ({"prompt": ["a", None]}, "prompt is a text"),
    ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "1 negative prompts for 2 prompts"),
    ({"negative_prompt": 5}, "negative_prompt is a text"),
    ({"height": 30}, "height is a multiple of 4"),
    ({"width": 0}, "width is a multiple of 4"),
    ({"width": 32.0}, "width is a multiple of 4"),
    ({"num_inference_steps": 0}, "num_inference_steps is a whole number"),
    ({"num_inference_steps": 1001}, "1000"),
    ({"timesteps": []}, "at least one entry"),
    ({"timesteps": [5, 0], "sigmas": [1.0]}, "either timesteps or sigmas"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt is a whole number"),
    ({"num_images_per_prompt": "2"}, "num_images_per_prompt is a whole number"),
    ({"num_candidates": 2}, "choosing needs a ranker"),
    ({"num_candidates": 0}, "num_candidates is a whole number"),
    ({"guidance_scale": "7.5"}, "guidance_scale is a number"),
    ({"output_type": "jpg"}, "output_type is"),
    ({"generator": [seeded()] * 2}, "2 generators for 1 images"),
    ({"latents": torch.zeros(1, 4, 4, 4)}, r"latents is a tensor \(1, 4, 8, 8\)"),
    ({"latents": "noise"}, "latents is a tensor"),
    ({"callback_on_step_end_tensor_inputs": ["noise"]}, "got noise"),
    ({"prompt_embeds": torch.zeros(1, 5, 24)}, "both prompts and prompt_embeds"),
    ({"negative_prompt_embeds": torch.zeros(1, 5, 24)}, "negative_prompt_embeds without prompt_embeds"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 5, 24)}, "negative_prompt_embeds is a tensor"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 5, 9)}, r"prompt_embeds is a tensor \(1, 5, 24\)"),
    ({"prompt": None, "prompt_embeds": torch.zeros(5, 24)}, "prompt_embeds is a tensor"),
    ({"prompt": None, "prompt_embeds": [1.0]}, "prompt_embeds is a tensor"),
    (
        {
            "prompt": None,
            "prompt_embeds": torch.zeros(1, 5, 24),
            "negative_prompt_embeds": torch.zeros(1, 5, 24),
            "prompt_embeds_mask": torch.ones(1, 5),
        },
        "negative_prompt_embeds_mask is a tensor",
    ),
]


@pytest.mark.parametrize("arguments, message", BAD)
def test_bad_input_is_refused_before_any_work(pipe, arguments, message):
    calls, handle = record(pipe.text_encoder, lambda args, kwargs, output: 1)
    with pytest.raises(ValueError, match=message) as error:
        pipe(**{"prompt": PROMPT, **arguments})
    handle.remove()
    assert not calls and "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["unet.conv_out", "vae.decoder.conv_out"])
def test_an_image_that_is_not_a_number_raises(part):
    pipe = golden_pipeline()
    name, _, layer = part.partition(".")
    getattr(pipe, name).get_submodule(layer).bias.data[0] = float("inf")
    pipe.text_encoder.half()
    with pytest.raises(RuntimeError, match="half precision.*text_encoder in float16, unet in float32.*bfloat16"):
        paint(pipe)


def test_parts_in_different_precisions(pipe):
    expected = paint(pipe)
    dtypes = {"text_encoder": torch.float16, "text_projection": torch.bfloat16, "vae": torch.bfloat16}
    components = golden_components()
    for name, dtype in dtypes.items():
        components[name].to(dtype)
    image = paint(golden_pipeline(**components))
    assert image.dtype == torch.bfloat16
    assert (image.float() - expected).abs().mean() < 0.01
    components["unet"].to(torch.bfloat16)
    assert (paint(golden_pipeline(**components)).float() - expected).abs().mean() < 0.05


# Checkers and ranker


@pytest.fixture(scope="module")
def prompt_checker(tmp_path_factory):
    return prompt_checker_parts(tmp_path_factory.mktemp("prompt_checker"), PROMPT, UNSAFE)


@pytest.fixture(scope="module")
def candidates(pipe):
    """What one seed paints for a prompt, four times."""
    return paint(pipe, num_images_per_prompt=4, output_type="pil")


@pytest.fixture(scope="module")
def safety_checker(candidates):
    """Refuses the first candidate."""
    return safety_checker_parts(candidates[0], candidates[1])


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    return ranker_parts(tmp_path_factory.mktemp("ranker"), [PROMPT, SHORT])


def test_unsafe_prompts_are_refused_before_any_work(prompt_checker):
    pipe = golden_pipeline(**prompt_checker)
    calls, _ = record(pipe.text_encoder, lambda args, kwargs, output: 1)
    # an unsafe end of a prompt longer than the checker reads at once does not slip through
    for prompt in (UNSAFE, [PROMPT, UNSAFE], PROMPT * 6 + UNSAFE * 6):
        with pytest.raises(ValueError, match="refused a prompt with 0.9.*threshold of 0.75.*prompt_checker=None"):
            paint(pipe, prompt)
    assert not calls
    assert torch.equal(paint(pipe, negative_prompt=UNSAFE), paint(golden_pipeline(), negative_prompt=UNSAFE))
    pipe.register_to_config(prompt_checker_threshold=1.0)
    paint(pipe, UNSAFE)


def test_unsafe_images_are_black_and_logged_once(safety_checker, candidates, caplog):
    pipe = golden_pipeline(**safety_checker)
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        output = pipe(PROMPT, num_inference_steps=2, num_images_per_prompt=2, generator=seeded())
    finally:
        logger.removeHandler(caplog.handler)
    assert output.nsfw_content_detected == [True, False] and output.rank_scores is None
    assert output.images[0].getbbox() is None and output.images[1].getbbox() == (0, 0, 32, 32)
    assert ["NSFW" in entry.getMessage() for entry in caplog.records] == [True]
    images = paint(pipe, num_images_per_prompt=2)
    assert not images[0].any() and images[1].any()
    assert paint(pipe, output_type="latent").any()


def test_the_ranker_chooses_among_candidates(ranker, candidates):
    pipe = golden_pipeline(**ranker)
    texts, _ = record(pipe.ranker.text_model, lambda args, kwargs, output: len(kwargs["input_ids"]))
    output = pipe(PROMPT, num_inference_steps=2, generator=seeded())
    assert texts == [1] and len(output.images) == 1 and output.rank_scores.shape == (1, 4)
    inputs = ranker["ranker_processor"](text=[PROMPT], images=candidates, return_tensors="pt")
    with torch.no_grad():
        expected = ranker["ranker"](**inputs).logits_per_image[:, 0]
    torch.testing.assert_close(output.rank_scores[0], expected, atol=1e-3, rtol=1e-3)
    assert expected.argmax() > 0  # so the choice matters
    assert output.images[0] == candidates[expected.argmax()]

    several = {"num_candidates": 3, "num_images_per_prompt": 2, "return_dict": False}
    as_tuple = pipe([PROMPT, SHORT], **FEW, generator=seeded(), **several)
    assert len(as_tuple[0]) == 4 and as_tuple[2].shape == (4, 3)
    images = paint(golden_pipeline(), [PROMPT, SHORT], num_images_per_prompt=6)
    best = as_tuple[2].argmax(-1) + torch.arange(0, 12, 3)
    torch.testing.assert_close(as_tuple[0], images[best], **EXACT)
    assert pipe(PROMPT, **FEW, num_candidates=1).rank_scores is None
    assert paint(pipe, output_type="latent").shape == (1, 4, 8, 8)
    with pytest.raises(ValueError, match="choosing needs"):
        paint(pipe, output_type="latent", num_candidates=2)


def test_a_generator_for_each_image_paints_its_candidates(ranker):
    pipe = golden_pipeline(**ranker)
    batch = pipe([PROMPT, SHORT], **FEW, generator=[seeded(0), seeded(1)], num_candidates=2)
    single = pipe(SHORT, **FEW, generator=[seeded(1)], num_candidates=2)
    torch.testing.assert_close(batch.rank_scores[1:], single.rank_scores, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(batch.images[1:], single.images, **EXACT)


def test_black_images_take_part_in_the_ranking(ranker, safety_checker, candidates):
    checked = golden_pipeline(**ranker, **safety_checker)
    found = checked(PROMPT, num_inference_steps=2, generator=seeded())
    black = [Image.new("RGB", candidates[0].size), *candidates[1:]]
    inputs = ranker["ranker_processor"](text=[PROMPT], images=black, return_tensors="pt")
    with torch.no_grad():
        expected = ranker["ranker"](**inputs).logits_per_image[:, 0]
    torch.testing.assert_close(found.rank_scores[0], expected, atol=1e-3, rtol=1e-3)
    assert found.nsfw_content_detected == [expected.argmax().item() == 0]


@pytest.mark.parametrize("part", ["safety_checker", "prompt_checker", "ranker"])
def test_a_checker_without_its_preprocessor_is_refused(part, safety_checker, prompt_checker, ranker):
    parts = {**safety_checker, **prompt_checker, **ranker}
    with pytest.raises(ValueError, match=f"{part} without"):
        golden_pipeline(**{part: parts[part]})


def test_a_missing_safety_checker_is_said(caplog):
    VisCPMPaintPipeline(**golden_components())
    assert "no safety_checker" in caplog.text


# More than the original


def test_lora_on_the_unet(pipe, tmp_path, caplog):
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    expected = paint(pipe)
    trained = golden_pipeline()
    torch.manual_seed(0)
    trained.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_k", "to_v"], init_lora_weights=False))
    with_lora = paint(trained)
    assert (with_lora - expected).abs().max() > 1e-3
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(trained.unet))
    VisCPMPaintPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)

    fresh = golden_pipeline()
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    fresh.load_lora_weights(tmp_path)
    logger.removeHandler(caplog.handler)
    assert not caplog.records
    torch.testing.assert_close(paint(fresh), with_lora, **EXACT)
    torch.testing.assert_close(paint(fresh, cross_attention_kwargs={"scale": 0.0}), expected, **EXACT)
    fresh.set_adapters("default_0", 0.0)
    torch.testing.assert_close(paint(fresh), expected, **EXACT)
    fresh.set_adapters("default_0")
    fresh.fuse_lora()
    torch.testing.assert_close(paint(fresh), with_lora, **EXACT)
    fresh.unfuse_lora()
    fresh.unload_lora_weights()
    torch.testing.assert_close(paint(fresh), expected, **EXACT)


def test_a_loras_text_part_is_left_out(caplog):
    pipe = golden_pipeline()
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora"
    unet = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora"
    pipe.load_lora_weights(
        {
            **{f"{layer}_A.weight": torch.ones(2, 32), f"{layer}_B.weight": torch.ones(24, 2)},
            **{f"{unet}_A.weight": torch.ones(2, 24), f"{unet}_B.weight": torch.ones(8, 2)},
        }
    )
    assert "left out" in caplog.text and pipe.get_active_adapters() == ["default_0"]


def test_image_to_image_through_diffusers(pipe):
    source = paint(pipe, output_type="pil")[0]
    other = StableDiffusionImg2ImgPipeline(
        vae=pipe.vae,
        unet=pipe.unet,
        scheduler=DDIMScheduler.from_config(pipe.scheduler.config),
        **dict.fromkeys(["text_encoder", "tokenizer", "safety_checker", "feature_extractor"]),
        requires_safety_checker=False,
    )
    other.set_progress_bar_config(disable=True)
    with torch.no_grad():
        prompt_embeds, negative_prompt_embeds, *_ = pipe.encode_prompt(LONG)
    embeds = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
    near, far = (
        other(**embeds, image=source, strength=strength, num_inference_steps=10, generator=seeded(), output_type="np")
        for strength in (0.2, 0.9)
    )
    distance = [np.abs(output.images[0] - np.asarray(source) / 255).mean() for output in (near, far)]
    assert distance[0] < distance[1]
    assert pipe.scheduler.config.steps_offset == 0  # a scheduler of its own: diffusers rewrites it


def test_vae_tiling_slicing_and_the_tiny_autoencoder():
    pipe = golden_pipeline()
    expected = paint(pipe, num_images_per_prompt=2, height=64, width=64)
    pipe.vae.enable_slicing()
    torch.testing.assert_close(paint(pipe, num_images_per_prompt=2, height=64, width=64), expected, **EXACT)
    pipe.vae.enable_tiling()
    tiled = paint(pipe, num_images_per_prompt=2, height=64, width=64)
    assert 0 < (tiled - expected).abs().mean() < 0.2
    torch.manual_seed(0)
    channels = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
    blocks = {"num_encoder_blocks": (1,) * 3, "num_decoder_blocks": (1,) * 3}
    preview = golden_pipeline(vae=AutoencoderTiny(**channels, **blocks))
    assert paint(preview).shape == (1, 3, 32, 32)


def test_freeu_and_fused_projections(pipe):
    other = golden_pipeline()
    other.fuse_qkv_projections()
    torch.testing.assert_close(paint(other), paint(pipe), **EXACT)


# Memory


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offload(pipe, level, tmp_path):
    other = golden_pipeline()
    other.enable_group_offload(torch.device("cpu"), offload_type=level, num_blocks_per_group=1)
    rows, _ = record(other.text_encoder, lambda args, kwargs, output: len(kwargs["input_ids"]))
    for _ in range(2):
        torch.testing.assert_close(paint(other), paint(pipe), **EXACT)
    assert rows == [2, 1]
    on_disk = golden_pipeline()
    options = {"offload_type": level, "num_blocks_per_group": 1, "offload_to_disk_path": str(tmp_path)}
    apply_group_offloading(on_disk.text_encoder, torch.device("cpu"), **options)
    assert torch.equal(paint(on_disk), paint(pipe)) and any(tmp_path.iterdir())


def test_block_level_offload_moves_one_layer_at_a_time():
    text_encoder = golden_components()["text_encoder"]
    apply_group_offloading(text_encoder, torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)
    hooked = {name for name, module in text_encoder.named_modules() if hasattr(module, "_diffusers_hook")}
    assert hooked == {"", "layers.0", "layers.1"}


def test_model_offload(safety_checker, prompt_checker, ranker):
    parts = {**safety_checker, **prompt_checker, **ranker}
    expected = golden_pipeline(**parts)
    expected = [expected(PROMPT, **FEW, generator=seeded()) for _ in range(2)]
    pipe = golden_pipeline(**parts)
    pipe.enable_model_cpu_offload(device="cpu")
    rows, _ = record(pipe.text_encoder, lambda args, kwargs, output: len(kwargs["input_ids"]))
    found = [pipe(PROMPT, **FEW, generator=seeded()) for _ in range(2)]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.rank_scores, other.rank_scores)
    models = {name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert set(pipe.model_cpu_offload_seq.split("->")) == models
    assert rows == [2, 1]


def test_layerwise_casting(pipe):
    other = golden_pipeline()
    expected = paint(pipe)
    apply_layerwise_casting(
        other.text_encoder, torch.float8_e4m3fn, torch.float32, skip_modules_pattern=["embed", "norm", "bias"]
    )
    assert other.text_encoder.layers[0].mlp.up_proj.weight.dtype == torch.float8_e4m3fn
    assert 0 < (paint(other) - expected).abs().mean() < 0.1
    whole = golden_pipeline()
    for part in (whole.text_projection, whole.unet, whole.vae):
        part.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert 0 < (paint(whole) - expected).abs().mean() < 0.2


# Saving and loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory, safety_checker, prompt_checker, ranker):
    """A pipeline with all parts, saved by the installed class."""
    folder = tmp_path_factory.mktemp("saved") / "paint"
    golden_pipeline(**safety_checker, **prompt_checker, **ranker).save_pretrained(folder)
    return folder


FILES = {
    "model_index.json",
    "pipeline_viscpm_paint.py",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/modeling_cpmbee.py",
    "text_projection/config.json",
    "text_projection/diffusion_pytorch_model.safetensors",
    "text_projection/modeling_viscpm_paint.py",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.txt",
    "tokenizer/tokenization_cpmbee.py",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
}


def check_folder(folder):
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert FILES <= found
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_viscpm_paint", "VisCPMPaintPipeline"]
    assert index["text_encoder"] == ["modeling_cpmbee", "CpmBeeModel"]
    assert index["text_projection"] == ["modeling_viscpm_paint", "VisCPMPaintTextProjection"]
    assert index["tokenizer"] == ["tokenization_cpmbee", "CpmBeeTokenizer"]
    source = Path(viscpm_hf.__file__).parent / "remote_code"
    for path in folder.rglob("*.py"):
        assert path.read_bytes() == (source / path.name).read_bytes()
    return index


def load(cls, folder, **options):
    pipe = cls.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_saved_pipeline_loads_without_trust(folder, pipe):
    index = check_folder(folder)
    assert index["feature_extractor"] == ["transformers", "CLIPImageProcessor"]
    assert index["ranker_processor"] == ["transformers", "ChineseCLIPProcessor"]
    loaded = load(VisCPMPaintPipeline, folder)
    assert type(loaded) is VisCPMPaintPipeline and type(loaded.text_encoder) is viscpm_hf.CpmBeeModel
    alone = {"num_candidates": 1, "num_images_per_prompt": 2}
    assert torch.equal(paint(loaded, **alone)[1], paint(pipe, num_images_per_prompt=2)[1])
    without = load(VisCPMPaintPipeline, folder, safety_checker=None, prompt_checker=None, ranker=None)
    assert torch.equal(paint(without), paint(pipe))
    given = load(VisCPMPaintPipeline, folder, text_encoder=loaded.text_encoder, tokenizer=loaded.tokenizer)
    assert given.text_encoder is loaded.text_encoder


def test_parts_are_switched_off_and_saved_so(folder, tmp_path, pipe):
    text = dict.fromkeys(("tokenizer", "text_encoder", "text_projection"))
    loaded = load(VisCPMPaintPipeline, folder, **text)
    assert loaded.text_encoder is None and loaded.unet is not None
    off = dict.fromkeys(("safety_checker", "feature_extractor", "ranker", "ranker_processor"))
    load(VisCPMPaintPipeline, folder, **off).save_pretrained(tmp_path)
    assert check_folder(tmp_path)["ranker"] == [None, None] and not (tmp_path / "ranker").exists()
    again = load(VisCPMPaintPipeline, tmp_path)
    assert again.ranker is None and again.prompt_checker is not None
    assert torch.equal(paint(again), paint(pipe))


def test_optional_parts_can_be_taken_out_later(folder, tmp_path, pipe):
    loaded = load(VisCPMPaintPipeline, folder)
    assert set(loaded.components) == set(pipe.components)
    for name in loaded._optional_components:
        setattr(loaded, name, None)
    assert torch.equal(paint(loaded), paint(pipe))
    loaded.save_pretrained(tmp_path)
    again = load(VisCPMPaintPipeline, tmp_path)
    assert all(getattr(again, name) is None for name in again._optional_components)


def test_a_variant_that_is_not_there_is_an_error(folder):
    with pytest.raises(ValueError, match="no such modeling files are available"):
        VisCPMPaintPipeline.from_pretrained(folder, variant="fp16")


def test_mixed_and_stored_precisions(folder, tmp_path):
    dtype = {"text_encoder": torch.float16, "default": torch.float32}
    faithful = load(VisCPMPaintPipeline, folder, dtype=dtype)
    assert faithful.text_encoder.dtype == torch.float16 and faithful.unet.dtype == torch.float32
    assert paint(faithful, num_candidates=2).isfinite().all()
    faithful.to(torch.bfloat16).save_pretrained(tmp_path, variant="bf16")
    loaded = load(VisCPMPaintPipeline, tmp_path, variant="bf16", dtype=torch.bfloat16)
    assert (tmp_path / "unet/diffusion_pytorch_model.bf16.safetensors").exists()
    assert paint(loaded, num_candidates=2).dtype == torch.bfloat16


REMOTE = """
import json, sys
sys.modules["viscpm_hf"] = None  # from here on every import of it is an ImportError
import torch
from diffusers import DiffusionPipeline

folder, again, prompt = sys.argv[1:]
found = []
for source in (folder, again, "local/paint"):
    pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True, ranker=None, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(prompt, num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)).images
    found.append({"image": image.flatten().tolist(), "class": type(pipe).__module__, "ranker": pipe.ranker is None})
    if source == folder:
        pipe.save_pretrained(again, push_to_hub=True, repo_id="local/paint")
print(json.dumps(found))
"""


def test_a_process_without_the_package_loads_saves_and_uploads(folder, tmp_path, pipe):
    with LocalHub(tmp_path / "hub") as hub:
        env = hub.environment(tmp_path / "home")
        arguments = [sys.executable, "-c", REMOTE, str(folder), str(tmp_path / "again"), PROMPT]
        done = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for found in json.loads(done.stdout):
        assert found["class"] == "diffusers_modules.local.pipeline_viscpm_paint" and found["ranker"]
        torch.testing.assert_close(torch.tensor(found["image"]), paint(pipe).flatten(), **EXACT)
    for saved in (tmp_path / "again", tmp_path / "hub/local/paint"):
        assert check_folder(saved)["ranker"] == [None, None]


def test_trust_is_asked_for_where_remote_code_runs(folder):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(folder)


def test_quantized_text_encoder(folder, pipe):
    torchao = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    config = PipelineQuantizationConfig(
        quant_mapping={"text_encoder": TorchAoConfig(torchao.Int8WeightOnlyConfig(version=2))}
    )
    off = dict.fromkeys(("safety_checker", "prompt_checker", "ranker"))
    loaded = load(VisCPMPaintPipeline, folder, quantization_config=config, dtype=torch.float32, **off)
    assert "Int8" in type(loaded.text_encoder.layers[0].mlp.up_proj.weight).__name__
    rows, _ = record(loaded.text_encoder, lambda args, kwargs, output: len(kwargs["input_ids"]))
    image = paint(loaded)
    assert 0 < (image - paint(pipe)).abs().mean() < 0.05
    torch.testing.assert_close(paint(loaded), image, **EXACT)
    assert rows == [2, 1]


def test_the_package_exports_it_lazily():
    script = "import sys, viscpm_hf as v; assert 'diffusers' not in sys.modules; print(v.VisCPMPaintPipeline.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "VisCPMPaintPipeline", done.stderr[-3000:]
