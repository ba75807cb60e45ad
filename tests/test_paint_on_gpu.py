"""Guards Paint on a GPU: its pictures are the CPU's and the original's, however its parts are placed or adapted."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from paint import PROMPT, SHORT, UNSAFE, golden_pipeline, paint, paints_the_originals_pictures
from peft import LoraConfig
from PIL import Image
from transformers import BitsAndBytesConfig

from viscpm_hf import UnsafeContentError, VisCPMPaint, VisCPMPaintPipeline
from viscpm_hf.memory.calibration import quantize_paint
from viscpm_hf.memory.machine import this_machine
from viscpm_hf.memory.placement import load_paint
from viscpm_hf.memory.plans import list_plans
from viscpm_hf.memory.sizes import read_model

CUDA = torch.device("cuda")
NEAR = {"atol": 1 / 255, "rtol": 0}  # of pictures in [0, 1]
PLANS = ["resident", "int8", "4bit", "stream", "stream all", "spread"]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or not VISCPM_GPU_TESTS=1")


@pytest.fixture(autouse=True, scope="module")
def exact_convolutions():
    """In float32 itself; torch's default for convolutions, unlike for products, is TF32."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Both checkers and a ranker; nothing painted here is refused."""
    from paint import prompt_checker_parts, ranker_parts, safety_checker_parts

    folder = tmp_path_factory.mktemp("parts")
    white, black = (Image.new("RGB", (32, 32), colour) for colour in ("white", "black"))
    return {
        **prompt_checker_parts(folder, PROMPT, UNSAFE),
        **safety_checker_parts(unsafe=black, safe=white),
        **ranker_parts(folder, [PROMPT, SHORT]),
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The shipped tiny checkpoint, which was trained and has widths that bitsandbytes takes."""
    from viscpm_hf.tiny import convert_tiny_paint

    return convert_tiny_paint(tmp_path_factory.mktemp("tiny") / "repo")


@pytest.fixture(scope="module")
def expected(pipe_on_cpu):
    return paint(pipe_on_cpu)


@pytest.fixture(scope="module")
def pipe_on_cpu():
    return golden_pipeline()


def on_gpu(**components):
    return golden_pipeline(**components).to(CUDA)


def painted(pipe, prompt="草地上有一只猫", **arguments):
    options = {"num_inference_steps": 4, "output_type": "np", "generator": torch.Generator().manual_seed(0)}
    return pipe(prompt, **{**options, **arguments}).images


def test_it_paints_the_originals_pictures():
    pipe = on_gpu()
    assert paints_the_originals_pictures(pipe)
    assert {part.device.type for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {"cuda"}


def test_with_torchs_own_settings_the_pictures_are_near():
    """TF32 in convolutions, which is what users have."""
    with torch.backends.cudnn.flags(allow_tf32=True):
        torch.testing.assert_close(paint(on_gpu()).cpu(), paint(golden_pipeline()), atol=0.02, rtol=0)


def test_the_drop_in_class_is_on_the_gpu_by_default(paint_repo):
    painter = VisCPMPaint(paint_repo, False, False, False)
    assert painter.pipeline.unet.device.type == painter.pipeline.text_encoder.device.type == "cuda"
    pictures = painter.generate(PROMPT, num_inference_steps=2, num_images_per_prompt=2, generator=3)
    expected = golden_pipeline()(PROMPT, num_inference_steps=2, num_images_per_prompt=2, generator=3).images
    for one, other in zip(pictures, expected, strict=True):
        assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"guidance_scale": 1.0},
        {"num_images_per_prompt": 3},
        {"prompt": [PROMPT, SHORT], "negative_prompt": ["", "blurry 模糊 qZ"]},  # lengths differ: with a mask
        {"seeds": [1, 2], "num_images_per_prompt": 2},
    ],
    ids=["plain", "unguided", "three", "batch", "generators"],
)
def test_a_call_paints_as_on_a_cpu(pipe_on_cpu, arguments):
    arguments = {"prompt": PROMPT, **arguments}
    seeds = arguments.pop("seeds", 0)

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in seeds] if seeds else torch.Generator().manual_seed(0)

    expected = paint(pipe_on_cpu, **arguments, generator=generators())
    torch.testing.assert_close(paint(on_gpu(), **arguments, generator=generators()).cpu(), expected, **NEAR)


def test_a_generator_of_the_gpu_and_other_schedulers():
    pipe = on_gpu()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")

    def seeded(seed):
        return paint(pipe, generator=torch.Generator(CUDA).manual_seed(seed))

    assert torch.equal(seeded(1), seeded(1)) and not torch.equal(seeded(1), seeded(2))


def test_embeddings_from_anywhere(pipe_on_cpu, expected):
    pipe = on_gpu()
    names = ("prompt_embeds", "negative_prompt_embeds", "prompt_embeds_mask", "negative_prompt_embeds_mask")
    for source in (pipe, pipe_on_cpu):
        embeds = dict(zip(names, source.encode_prompt(PROMPT), strict=True))
        torch.testing.assert_close(paint(pipe, None, **embeds).cpu(), expected, **NEAR)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near(tiny, dtype):
    exact = VisCPMPaintPipeline.from_pretrained(tiny, requires_safety_checker=False, dtype=torch.float32).to(CUDA)
    half = VisCPMPaintPipeline.from_pretrained(tiny, requires_safety_checker=False, dtype=dtype).to(CUDA)
    assert half.unet.dtype == half.text_encoder.dtype == dtype
    noise, pictures = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), []
    for pipe in (half, exact):  # noise drawn in half precision is other noise
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
        pictures.append(painted(pipe, latents=noise))
    assert abs(pictures[0] - pictures[1]).mean() < 0.02


@pytest.mark.parametrize(
    "offload",
    [
        lambda pipe: pipe.enable_model_cpu_offload(),
        lambda pipe: pipe.enable_sequential_cpu_offload(),
        lambda pipe: pipe.enable_group_offload(CUDA, offload_type="leaf_level", use_stream=True),
        lambda pipe: pipe.enable_group_offload(CUDA, offload_type="block_level", num_blocks_per_group=1),
        lambda pipe: pipe.enable_group_offload(
            CUDA, offload_type="block_level", num_blocks_per_group=1, use_stream=True, exclude_modules=["vae"]
        ),
        lambda pipe: pipe.enable_group_offload(
            CUDA, offload_type="leaf_level", use_stream=True, record_stream=True, low_cpu_mem_usage=True
        ),
    ],
    ids=["model", "sequential", "leaf-stream", "block", "block-stream", "leaf-record-stream"],
)
def test_offloading_changes_no_picture(parts, offload):
    arguments = {"num_inference_steps": 2, "output_type": "pt"}
    expected = [on_gpu(**copy.deepcopy(parts))(PROMPT, **arguments, generator=seed) for seed in (0, 1)]
    pipe = golden_pipeline(**copy.deepcopy(parts))
    offload(pipe)
    for seed, other in enumerate(expected):
        found = pipe(PROMPT, **arguments, generator=seed)
        torch.testing.assert_close(found.images.cpu(), other.images.cpu(), **NEAR)
        torch.testing.assert_close(found.rank_scores.cpu(), other.rank_scores.cpu(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_offloading_to_disk_changes_no_picture(parts, level, tmp_path):
    arguments = {"num_inference_steps": 2, "output_type": "pt", "generator": 0}
    expected = on_gpu(**copy.deepcopy(parts))(PROMPT, **arguments)
    pipe = golden_pipeline(**copy.deepcopy(parts))
    options = {"offload_type": level, "num_blocks_per_group": 1, "offload_to_disk_path": str(tmp_path)}
    pipe.enable_group_offload(CUDA, **options, use_stream=True)
    for _ in range(2):
        torch.testing.assert_close(pipe(PROMPT, **arguments).images.cpu(), expected.images.cpu(), **NEAR)


@pytest.mark.parametrize("method", PLANS)
def test_every_plan_paints_alike(tiny, method):
    model, machine = read_model(tiny), this_machine(CUDA, tiny)
    plans = list_plans(model, machine, dtype=torch.float32)
    if method == "spread":  # with no room for one of the blocks
        budget = next(plan for plan in plans if plan.method == "resident").peak - 1
        plans = list_plans(model, machine, budget, dtype=torch.float32)
    plan = next(plan for plan in plans if plan.method == method)
    exact = VisCPMPaintPipeline.from_pretrained(tiny, requires_safety_checker=False, dtype=torch.float32).to(CUDA)
    pipe = load_paint(VisCPMPaintPipeline, tiny, plan, CUDA, requires_safety_checker=False)
    for seed in range(2):  # the first time is what prefetching learns the order from
        found, expected = (painted(one, generator=torch.Generator().manual_seed(seed)) for one in (pipe, exact))
        difference = abs(found - expected)
        assert difference.max() < 1 / 255 if plan.lossless else difference.mean() < 0.1


def test_the_least_budget_and_the_originals_variable(tiny, monkeypatch):
    plans = list_plans(read_model(tiny), this_machine(CUDA))
    least = min(plan.peak for plan in plans if plan.lossless)
    small = VisCPMPaint(tiny, False, False, False, memory=least)
    monkeypatch.setenv("CUDA_MEMORY_CPMBEE_MAX", "1MB")
    for painter in (small, VisCPMPaint(tiny, False, False, False)):
        assert next(painter.pipeline.text_encoder.layers.parameters()).device.type == "cpu"
        assert painter.pipeline.text_encoder.dtype == torch.float16
        assert torch.Tensor(painted(painter.pipeline)).isfinite().all()


@pytest.mark.parametrize("quantization", ["int8", "4bit", "config"])
def test_rounded_weights_paint_nearly_alike(tiny, quantization):
    pytest.importorskip("bitsandbytes")
    if quantization == "config":
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float16)
    exact = VisCPMPaint(tiny, False, False, False)
    rounded = VisCPMPaint(tiny, False, False, False, quantization=quantization)
    assert abs(painted(rounded.pipeline) - painted(exact.pipeline)).mean() < 0.15


def test_weights_are_fitted_to_prompts_on_the_gpu(tiny, tmp_path):
    pytest.importorskip("bitsandbytes")
    prompts = ["草地上有一只猫", "a rocket at night", "三个苹果", "a yellow heart"] * 4
    quantize_paint(tiny, prompts, tmp_path / "repo", device=CUDA, progress=False)
    fitted, nearest = (
        VisCPMPaint(repo, False, False, False, **options).pipeline
        for repo, options in ((tmp_path / "repo", {}), (tiny, {"quantization": "4bit"}))
    )
    exact = VisCPMPaint(tiny, False, False, False).pipeline.encode_prompt(prompts[:4])[0]
    errors = [(pipe.encode_prompt(prompts[:4])[0] - exact).norm() for pipe in (fitted, nearest)]
    assert errors[0] < errors[1] / 2


def test_refused_prompts_black_pictures_and_ranking(parts):
    pipe = on_gpu(**copy.deepcopy(parts))
    with pytest.raises(ValueError, match="refused a prompt"):
        paint(pipe, UNSAFE)
    found = pipe(PROMPT, num_inference_steps=2, output_type="pt", generator=0)
    other = golden_pipeline(**copy.deepcopy(parts))(PROMPT, num_inference_steps=2, output_type="pt", generator=0)
    torch.testing.assert_close(found.rank_scores.cpu(), other.rank_scores, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.images.cpu(), other.images, **NEAR)
    assert found.nsfw_content_detected == other.nsfw_content_detected


def test_the_drop_in_class_with_all_parts(parts, tmp_path):
    golden_pipeline(**copy.deepcopy(parts)).save_pretrained(tmp_path)
    painter = VisCPMPaint(tmp_path)
    assert {part.device.type for part in (painter.pipeline.ranker, painter.pipeline.prompt_checker)} == {"cuda"}
    assert painter.generate(PROMPT, num_inference_steps=1).size == (32, 32)
    with pytest.raises(UnsafeContentError):
        painter.generate(UNSAFE)


@pytest.mark.parametrize("placed", ["resident", "model offload", "streamed"])
def test_calls_from_threads_get_their_own_pictures(placed):
    pipe = golden_pipeline() if placed != "resident" else on_gpu()
    if placed == "model offload":
        pipe.enable_model_cpu_offload()
    if placed == "streamed":
        pipe.enable_group_offload(CUDA, offload_type="leaf_level", use_stream=True)
    calls = [(prompt, seed) for prompt in (PROMPT, SHORT) for seed in range(3)]
    expected = [paint(pipe, prompt, seed) for prompt, seed in calls]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda call: paint(pipe, *call), calls))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **NEAR)


def test_a_lora_is_loaded_weighed_and_taken_away(tmp_path):
    from peft.utils import get_peft_model_state_dict

    trained, fresh = on_gpu(), on_gpu()
    plain, layers = paint(fresh), {}
    for name, targets in (("unet", ["to_k", "to_v"]), ("text_encoder", ["q_proj", "v_proj"])):
        torch.manual_seed(0)
        model = getattr(trained, name)
        model.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=targets))
        layers[f"{name}_lora_layers"] = get_peft_model_state_dict(model)
    adapted = paint(trained)
    VisCPMPaintPipeline.save_lora_weights(tmp_path, **layers)
    fresh.load_lora_weights(tmp_path)
    torch.testing.assert_close(paint(fresh), adapted, **NEAR)
    torch.testing.assert_close(paint(fresh, cross_attention_kwargs={"scale": 0.0}), plain, **NEAR)
    fresh.fuse_lora()
    torch.testing.assert_close(paint(fresh), adapted, **NEAR)
    fresh.unfuse_lora()
    fresh.unload_lora_weights()
    torch.testing.assert_close(paint(fresh), plain, **NEAR)
    assert (adapted - plain).abs().max() > 0.01


def test_compiled_blocks_paint_alike(expected):
    pipe = on_gpu()
    torch.compiler.reset()
    pipe.unet.compile_repeated_blocks(fullgraph=True)
    torch.testing.assert_close(paint(pipe).cpu(), expected, **NEAR)
    torch.compiler.reset()


def test_it_is_saved_and_trained_on_the_gpu(tmp_path):
    pipe = on_gpu()
    pipe.save_pretrained(tmp_path)
    again = VisCPMPaintPipeline.from_pretrained(tmp_path, requires_safety_checker=False).to(CUDA)
    torch.testing.assert_close(paint(again), paint(pipe), **NEAR)
    unet = pipe.unet.train()
    embeds = pipe.encode_prompt(PROMPT)[0].detach()
    noise = torch.randn(1, 4, 16, 16, device=CUDA)
    optimizer, losses = torch.optim.AdamW(unet.parameters(), lr=1e-3), []
    for _ in range(4):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found = unet(noise, torch.tensor([500], device=CUDA), encoder_hidden_states=embeds).sample
        loss = torch.nn.functional.mse_loss(found.float(), noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
