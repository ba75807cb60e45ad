"""Guards the parts of the Paint pipeline, put in, changed or left out: checkers, ranker, schedulers, memory."""

import copy
import logging

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from paint import (
    EXACT,
    FEW,
    LONG,
    PROMPT,
    SHORT,
    UNSAFE,
    golden_components,
    golden_pipeline,
    paint,
    record,
    seeded,
)
from PIL import Image

from viscpm_hf import VisCPMPaintPipeline

# Checkers and ranker


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


# Parts left out, schedulers, precisions


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


ALL = "DDPM DDIM PNDM DPMSolverMultistep DPMSolverSinglestep EulerDiscrete EulerAncestralDiscrete HeunDiscrete"
ALL += " KDPM2Discrete KDPM2AncestralDiscrete UniPCMultistep DEISMultistep LCM TCD SASolver DDIMParallel DDPMParallel"
OPTIONS = [
    ("DPMSolverMultistep", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
    ("EulerDiscrete", {"timestep_spacing": "trailing"}),
    ("DDIM", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
    ("PNDM", {"skip_prk_steps": True}),
]


@pytest.mark.parametrize("scheduler, options", [(name, {}) for name in ALL.split()] + OPTIONS)
def test_schedulers_swap(pipe, scheduler, options):
    other = golden_pipeline(
        scheduler=getattr(diffusers, f"{scheduler}Scheduler").from_config(pipe.scheduler.config, **options)
    )
    steps = []
    image = paint(
        other, num_inference_steps=4, eta=0.5, callback_on_step_end=lambda pipe, i, t, tensors: steps.append(int(t))
    )
    assert image.isfinite().all() and len(steps) == other.num_timesteps and steps[0] == max(steps)
    assert torch.equal(image, paint(other, num_inference_steps=4, eta=0.5))
    # few have an η
    has_eta = scheduler in ("DDIM", "DDIMParallel", "TCD")
    assert torch.equal(image, paint(other, num_inference_steps=4)) == (not has_eta)


UNFIT = "EDMEuler EDMDPMSolverMultistep FlowMatchEulerDiscrete FlowMatchHeunDiscrete FlowMatchLCM IPNDM RePaint"
UNFIT += " CMStochasticIterative ScoreSdeVe DDIMInverse DPMSolverMultistepInverse CogVideoXDDIM CogVideoXDPM"
UNFIT_OPTIONS = [
    ("DPMSolverMultistep", {"use_flow_sigmas": True}),
    ("UniPCMultistep", {"prediction_type": "flow_prediction", "use_flow_sigmas": True}),
    ("DDIM", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
]


@pytest.mark.parametrize("scheduler, options", [(name, {}) for name in UNFIT.split()] + UNFIT_OPTIONS)
def test_schedulers_that_cannot_fit_are_refused_before_any_work(pipe, scheduler, options):
    name = f"{scheduler}Scheduler"
    cls = getattr(diffusers, name)
    for scheduler in (cls.from_config(pipe.scheduler.config, **options), cls(**options)):
        other = golden_pipeline(scheduler=scheduler)
        calls, _ = record(other.text_encoder, lambda args, kwargs, output: 1)
        with pytest.raises(ValueError, match=f"This {name} does not go through the noise levels of a DDPM model"):
            paint(other, num_inference_steps=4)
        assert not calls


def test_what_a_scheduler_says_of_a_number_is_passed_on(pipe):
    other = golden_pipeline(scheduler=diffusers.LCMScheduler.from_config(pipe.scheduler.config))
    with pytest.raises(
        ValueError, match="LCMScheduler makes no steps of .*'num_inference_steps': 51.*: .*smaller than 50"
    ):
        paint(other, num_inference_steps=51)
    other = golden_pipeline(scheduler=diffusers.PNDMScheduler.from_config(pipe.scheduler.config))
    with pytest.raises(ValueError, match="PNDMScheduler makes no steps of .*'num_inference_steps': 2"):
        paint(other)
    other = golden_pipeline(scheduler=EulerDiscreteScheduler.from_config(pipe.scheduler.config))
    with pytest.raises(ValueError, match=r"EulerDiscreteScheduler makes no steps of {'sigmas': \[3.0\]}: pass more"):
        paint(other, sigmas=[3.0])


def test_custom_schedules(pipe):
    listed = paint(pipe, timesteps=[500, 0])
    assert torch.equal(listed, paint(pipe, num_inference_steps=2))
    euler = golden_pipeline(scheduler=EulerDiscreteScheduler.from_config(pipe.scheduler.config))
    assert (
        paint(euler, sigmas=[10.0, 3.0, 1.0]).isfinite().all() and euler.num_timesteps == 2
    )  # the last sigma is where it ends
    with pytest.raises(ValueError, match="DDPMScheduler takes no sigmas"):
        paint(pipe, sigmas=[3.0, 1.0])


def test_parts_in_different_precisions(pipe):
    expected = paint(pipe)
    dtypes = {"text_encoder": torch.float16, "text_projection": torch.bfloat16, "vae": torch.bfloat16}
    components = golden_components()
    for name, dtype in dtypes.items():
        components[name].to(dtype)
    image = paint(golden_pipeline(**components))
    assert image.dtype == torch.bfloat16
    assert (image.float() - expected).abs().mean() < 0.01
    # with nothing drawn on the way: versions of torch differ in what a seed gives in bfloat16
    options = {"latents": torch.randn(1, 4, 8, 8, generator=seeded())}
    components["scheduler"] = DDIMScheduler.from_config(pipe.scheduler.config)
    expected = paint(golden_pipeline(scheduler=components["scheduler"]), **options)
    components["unet"].to(torch.bfloat16)
    assert (paint(golden_pipeline(**components), **options).float() - expected).abs().mean() < 0.05


# More than the original


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
    options = {"offload_type": level, "num_blocks_per_group": 1}
    other.enable_group_offload(torch.device("cpu"), **options)
    rows, _ = record(other.text_encoder, lambda args, kwargs, output: len(kwargs["input_ids"]))
    for _ in range(2):
        assert torch.equal(paint(other), paint(pipe))
    assert rows == [2, 2]
    on_disk = golden_pipeline()
    apply_group_offloading(on_disk.text_encoder, torch.device("cpu"), **options, offload_to_disk_path=str(tmp_path))
    assert torch.equal(paint(on_disk), paint(pipe)) and any(tmp_path.iterdir())


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offload_to_disk_keeps_parts_apart(level, tmp_path, safety_checker, prompt_checker, ranker):
    """Norms of text encoder and projection have the same names, and so have checker and ranker."""
    parts = {**safety_checker, **prompt_checker, **ranker}
    expected = golden_pipeline(**parts)(PROMPT, **FEW, generator=0)
    pipe = golden_pipeline(**copy.deepcopy(parts))
    options = {"offload_type": level, "num_blocks_per_group": 1, "offload_to_disk_path": tmp_path}
    pipe.enable_group_offload(torch.device("cpu"), torch.device("cpu"), exclude_modules="vae", **options)
    for _ in range(2):
        found = pipe(PROMPT, **FEW, generator=0)
        assert torch.equal(found.images, expected.images) and torch.equal(found.rank_scores, expected.rank_scores)
    models = {name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert {path.name for path in tmp_path.iterdir()} == models - {"vae"}
    with pytest.raises(ValueError, match="weights of text_encoder are in .*load the pipeline anew"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    for file in (tmp_path / "text_encoder").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-100])  # as a run leaves it that is killed
    other = golden_pipeline()  # which finds files of an earlier one
    other.unet.conv_out.weight.data.view(-1)[5] *= 200
    expected = paint(other)
    other.enable_group_offload(torch.device("cpu"), **options)
    assert torch.equal(paint(other), expected)
    with pytest.raises(TypeError, match="nonsense"):
        pipe.enable_group_offload(torch.device("cpu"), nonsense=1)


def test_block_level_offload_moves_one_layer_at_a_time():
    text_encoder = golden_components()["text_encoder"]
    apply_group_offloading(text_encoder, torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)
    hooked = {name for name, module in text_encoder.named_modules() if hasattr(module, "_diffusers_hook")}
    assert hooked == {"", "layers.0", "layers.1"}


def test_model_offload(safety_checker, prompt_checker, ranker):
    parts = {**safety_checker, **prompt_checker, **ranker}
    expected = golden_pipeline(**parts)
    expected = [expected(PROMPT, **FEW, generator=seeded()) for _ in range(2)]
    pipe = golden_pipeline(**copy.deepcopy(parts))  # the hooks stay
    pipe.enable_model_cpu_offload(device="cpu")
    rows, _ = record(pipe.text_encoder, lambda args, kwargs, output: len(kwargs["input_ids"]))
    found = [pipe(PROMPT, **FEW, generator=seeded()) for _ in range(2)]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.rank_scores, other.rank_scores)
    models = {name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert set(pipe.model_cpu_offload_seq.split("->")) == models
    assert rows == [2, 2]


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
