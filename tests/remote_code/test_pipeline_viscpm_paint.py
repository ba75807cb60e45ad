"""Guards calls of the Paint pipeline: the original's pictures, prompts, arguments, callbacks, and what is refused."""

import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback
from paint import (
    EXACT,
    FEW,
    LONG,
    PROMPT,
    SHORT,
    golden_pipeline,
    paint,
    paints_the_originals_pictures,
    record,
    seeded,
)


def check_close(found, expected):
    """Equal but for rounding: latents and text states have no range, so it is measured by the largest of them."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


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


def test_texts_are_read_in_one_pass_and_equal_ones_once():
    pipe = golden_pipeline()
    rows, _ = record(pipe.text_encoder, lambda args, kwargs, output: len(kwargs["input_ids"]))
    paint(pipe, [PROMPT, LONG])  # the negative prompt of both is one text
    paint(pipe, ["", ""])
    paint(pipe, [PROMPT, PROMPT], negative_prompt=[LONG, SHORT], guidance_scale=1.0)
    assert rows == [3, 1, 1]


def test_gradients_reach_the_text_side():
    pipe = golden_pipeline()
    embeds, negative_embeds, *_ = pipe.encode_prompt(PROMPT)
    negative_embeds.square().sum().backward()
    assert pipe.text_encoder.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_prompts_are_plain_text(pipe):
    ids, handle = record(pipe.text_encoder, lambda args, kwargs, output: kwargs["input_ids"])
    paint(pipe, "a < b <ans> <")
    handle.remove()
    tokens = pipe.tokenizer
    assert tokens.decode(ids[0][0].tolist()).count("<<") == 3


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


NAN, LATENTS = float("nan"), torch.zeros(1, 4, 8, 8)
NOISE = torch.linspace(-2, 2, 512).view(2, 4, 8, 8)


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


@pytest.mark.parametrize("other", [LONG, PROMPT[::-1]])
def test_a_callback_ends_guidance_of_several_prompts(pipe, other):
    """diffusers' cutoff leaves the last row of all, which would paint every prompt as the last one, or not at all."""

    def halve(pipe, i, t, tensors):
        if i == 0:
            pipe._guidance_scale = 0.0
            tensors = {name: tensor if tensor is None else tensor.chunk(2)[1] for name, tensor in tensors.items()}
        return tensors

    def scale(pipe, *_):
        pipe._guidance_scale = 1.0

    names = ["prompt_embeds", "prompt_embeds_mask"]
    wanted = paint(
        pipe, [PROMPT, other], callback_on_step_end=halve, callback_on_step_end_tensor_inputs=names, latents=NOISE
    )
    for callback in (SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0), scale):
        assert torch.equal(paint(pipe, [PROMPT, other], callback_on_step_end=callback, latents=NOISE), wanted)
    alone = paint(pipe, PROMPT, callback_on_step_end=callback, latents=NOISE[:1])
    torch.testing.assert_close(wanted[:1], alone, **EXACT)


@pytest.mark.parametrize(
    "name, value",
    [
        *(("latents", value) for value in (None, "x", torch.zeros(1), torch.zeros(2, 4, 8, 8), torch.full((), NAN))),
        *(("prompt_embeds", value) for value in (None, torch.zeros(1), torch.zeros(1, 5, 24), torch.zeros(2, 5, 3))),
        *(("prompt_embeds_mask", value) for value in (1, torch.ones(1), torch.ones(2, 999), torch.zeros(2, 5))),
    ],
)
def test_a_callback_returns_tensors_that_fit(pipe, name, value):
    with pytest.raises(ValueError, match=f"{name} (of|after) the callback is") as error:
        paint(pipe, callback_on_step_end=lambda *_: {name: value})
    assert "\n" not in str(error.value)


EMBEDS = {"prompt_embeds": torch.zeros(1, 5, 24), "negative_prompt_embeds": torch.zeros(1, 5, 24)}
MASKS = {"prompt_embeds_mask": torch.ones(1, 5), "negative_prompt_embeds_mask": torch.ones(1, 5)}
BAD = [
    ({"prompt": None}, "prompt is a text"),
    ({"prompt": []}, "empty list"),
    ({"prompt": 5}, "prompt is a text"),
    ({"prompt": b"a"}, "prompt is a text"),
    ({"prompt": ["a", None]}, "prompt is a text"),
    ({"prompt": ["a", ["b"]]}, "prompt is a text"),
    ({"prompt": {"a": "b"}}, "prompt is a text"),
    ({"prompt": "a\ud800"}, "prompt is text without halves of characters"),
    ({"prompt": "a" * 4097}, "prompt is at most 4096 characters long, got 4097"),
    ({"negative_prompt": ["\udfff"]}, "negative_prompt is text without halves of characters"),
    ({"negative_prompt": "a" * 10**6}, "negative_prompt is at most 4096 characters long"),
    ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "1 negative prompts for 2 prompts"),
    ({"negative_prompt": 5}, "negative_prompt is a text"),
    ({"height": 30}, "height is a multiple of 4"),
    ({"width": 0}, "width is a multiple of 4"),
    ({"width": -8}, "width is a multiple of 4"),
    ({"width": 32.0}, "width is a multiple of 4"),
    ({"width": "32"}, "width is a multiple of 4"),
    ({"width": NAN}, "width is a multiple of 4"),
    ({"width": 10**400}, "width is a multiple of 4"),
    ({"height": 10**7, "width": 8}, "1 images of 8×10000000 pixels, more than can be painted"),
    ({"height": 10**4, "width": 10**4}, "more than can be painted"),
    ({"num_images_per_prompt": 10**7}, "10000000 images of 32×32 pixels, more than can be painted"),
    ({"num_inference_steps": 0}, "num_inference_steps is a whole number"),
    ({"num_inference_steps": True}, "num_inference_steps is a whole number"),
    ({"num_inference_steps": 2.5}, "num_inference_steps is a whole number"),
    ({"num_inference_steps": None}, "num_inference_steps is a whole number"),
    ({"num_inference_steps": 1001}, "num_inference_steps is a whole number from 1 to 1000, got 1001"),
    ({"timesteps": []}, "at least one entry"),
    ({"timesteps": 5}, "timesteps is a list of falling numbers from 999 to 0"),
    ({"timesteps": "51"}, "timesteps is a list of falling numbers"),
    ({"timesteps": [5, "0"]}, "timesteps is a list of falling numbers"),
    ({"timesteps": [5.5, 0]}, "timesteps is a list of falling numbers"),
    ({"timesteps": [0, 5]}, "timesteps is a list of falling numbers"),
    ({"timesteps": [1000, 5]}, "timesteps is a list of falling numbers"),
    ({"timesteps": [[5], [0]]}, "timesteps is a list of falling numbers"),
    ({"timesteps": torch.tensor(5)}, "timesteps is a list of falling numbers"),
    ({"sigmas": [NAN, 1.0]}, "sigmas is a list of falling numbers"),
    ({"sigmas": [float("inf"), 1.0]}, "sigmas is a list of falling numbers"),
    ({"sigmas": [3.0, -1.0]}, "sigmas is a list of falling numbers"),
    ({"timesteps": [5, 0], "sigmas": [1.0]}, "either timesteps or sigmas"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt is a whole number"),
    ({"num_images_per_prompt": "2"}, "num_images_per_prompt is a whole number"),
    ({"num_images_per_prompt": NAN}, "num_images_per_prompt is a whole number"),
    ({"num_candidates": 2}, "choosing needs a ranker"),
    ({"num_candidates": 0}, "num_candidates is a whole number"),
    ({"guidance_scale": "7.5"}, "guidance_scale is a number"),
    ({"guidance_scale": NAN}, "guidance_scale is a number from -1000 to 1000, got nan"),
    ({"guidance_scale": float("inf")}, "guidance_scale is a number"),
    ({"guidance_scale": 10**5000}, "guidance_scale is a number"),
    ({"guidance_scale": torch.ones(3, 3)}, "guidance_scale is a number"),
    ({"guidance_scale": None}, "guidance_scale is a number"),
    ({"guidance_scale": [7.5]}, "guidance_scale is a number"),
    ({"eta": NAN}, "eta is a number from 0 to 1"),
    ({"eta": 1.5}, "eta is a number from 0 to 1"),
    ({"eta": "0"}, "eta is a number from 0 to 1"),
    ({"output_type": "jpg"}, "output_type is"),
    ({"output_type": ["pil"]}, "output_type is"),
    ({"generator": [seeded()] * 2}, "2 generators for 1 images"),
    ({"generator": []}, "0 generators for 1 images"),
    ({"generator": [1, 2, 3], "num_images_per_prompt": 2}, "3 generators for 2 images"),
    ({"generator": "42"}, "generator is a torch.Generator or a seed"),
    ({"generator": [seeded(), None], "num_images_per_prompt": 2}, "generator is a torch.Generator or a seed"),
    ({"generator": 4.5}, "generator is a torch.Generator or a seed"),
    ({"generator": True}, "generator is a torch.Generator or a seed"),
    ({"generator": 2**64}, "generator is a torch.Generator or a seed"),
    ({"generator": np.random.default_rng(0)}, "generator is a torch.Generator or a seed"),
    ({"latents": torch.zeros(1, 4, 4, 4)}, r"latents is a tensor \(1, 4, 8, 8\)"),
    ({"latents": "noise"}, "latents is a tensor"),
    ({"latents": LATENTS.long()}, "latents is a dense tensor of numbers"),
    ({"latents": LATENTS.to_sparse()}, "latents is a dense tensor of numbers"),
    ({"latents": LATENTS.to("meta")}, "latents is a dense tensor of numbers"),
    ({"latents": LATENTS / 0}, "latents is of finite numbers"),
    ({"callback_on_step_end": "print"}, "callback_on_step_end is a function"),
    ({"callback_on_step_end_tensor_inputs": ["noise"]}, "got noise"),
    ({"callback_on_step_end_tensor_inputs": "noise"}, "is a list of names, got 'noise'"),
    ({"callback_on_step_end_tensor_inputs": [["latents"]]}, "may name latents, .*got .'latents"),
    ({"cross_attention_kwargs": [1]}, "cross_attention_kwargs is a dict"),
    ({"cross_attention_kwargs": {"scale": NAN}}, "scale in cross_attention_kwargs is a number"),
    ({"cross_attention_kwargs": {"scale": "1"}}, "scale in cross_attention_kwargs is a number"),
    ({"prompt_embeds": torch.zeros(1, 5, 24)}, "both prompts and prompt_embeds"),
    ({"negative_prompt_embeds": torch.zeros(1, 5, 24)}, "negative_prompt_embeds without prompt_embeds"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 5, 24)}, "negative_prompt_embeds is a tensor"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 5, 9)}, r"prompt_embeds is a tensor \(1, 5, 24\)"),
    ({"prompt": None, "prompt_embeds": torch.zeros(5, 24)}, "prompt_embeds is a tensor"),
    ({"prompt": None, "prompt_embeds": [1.0]}, "prompt_embeds is a tensor"),
    ({"prompt": None, **EMBEDS, "prompt_embeds": torch.full((1, 5, 24), NAN)}, "prompt_embeds is of finite"),
    ({"prompt": None, **EMBEDS, "prompt_embeds_mask": torch.ones(1, 5)}, "negative_prompt_embeds_mask is a tensor"),
    ({"prompt": None, **EMBEDS, **MASKS, "prompt_embeds_mask": torch.ones(1, 4)}, "prompt_embeds_mask is a tensor"),
    ({"prompt": None, **EMBEDS, **MASKS, "prompt_embeds_mask": torch.zeros(1, 5)}, "prompt_embeds_mask is 1 or True"),
    ({"prompt": None, **EMBEDS, **MASKS, "prompt_embeds_mask": torch.full((1, 5), -1e4)}, "mask is 1 or True"),
]


@pytest.mark.parametrize("arguments, message", BAD)
def test_bad_input_is_refused_before_any_work(pipe, arguments, message):
    calls, handle = record(pipe.text_encoder, lambda args, kwargs, output: 1)
    with pytest.raises(ValueError, match=message) as error:
        pipe(**{"prompt": PROMPT, **arguments})
    handle.remove()
    assert not calls and "\n" not in str(error.value) and len(str(error.value)) < 300


def test_unknown_arguments_are_named(pipe):
    with pytest.raises(TypeError, match="nonsense"):
        pipe(PROMPT, nonsense=1)


def test_a_callback_returns_known_tensors(pipe):
    for returned in ({"latent": 1}, [1], "latents"):
        with pytest.raises(ValueError, match="what the callback returns is"):
            paint(pipe, callback_on_step_end=lambda *_, returned=returned: returned)


def test_numpys_numbers_and_arrays_will_do(pipe):
    arguments = {"height": np.int32(32), "num_inference_steps": np.int64(2), "guidance_scale": np.float32(7.5)}
    assert torch.equal(paint(pipe, **arguments, generator=np.int64(0)), paint(pipe))
    assert torch.equal(paint(pipe, timesteps=np.array([500, 0])), paint(pipe))
    assert torch.equal(paint(pipe, timesteps=torch.tensor([500, 0])), paint(pipe))


@pytest.mark.parametrize("part", ["unet.conv_out", "vae.decoder.conv_out"])
def test_an_image_that_is_not_a_number_raises(part):
    pipe = golden_pipeline()
    name, _, layer = part.partition(".")
    getattr(pipe, name).get_submodule(layer).bias.data[0] = float("inf")
    pipe.text_encoder.half()
    with pytest.raises(RuntimeError, match="half precision.*text_encoder in float16, unet in float32.*bfloat16"):
        paint(pipe)
