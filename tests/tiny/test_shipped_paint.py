"""Guards the shipped tiny Paint checkpoint: its size, its layout, and that it paints what it is asked for."""

import pytest
import torch
from diffusers import DiffusionPipeline

from viscpm_hf import VisCPMPaint
from viscpm_hf.checkpoint import verify
from viscpm_hf.tiny import GUIDANCE_SCALE, PAINT_CHECKPOINT, tiny_paint_repo
from viscpm_hf.tiny.measures.judge import accuracy
from viscpm_hf.tiny.measures.painted_prompts import SCHEDULERS, check_picture, load_judge, paint_prompts
from viscpm_hf.tiny.world.pictures import IMAGE_SIZE
from viscpm_hf.tiny.world.prompts import held_out_prompts

# well below the tables, which have the real figures: these are few prompts and few steps
LEAST = {"thing": 0.75, "both things": 0.6, "number": 0.8, "place": 0.75, "relation": 0.6, "background": 0.85}


def test_it_is_tiny_in_half_precision_and_converts_losslessly():
    files = [path for path in PAINT_CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16e6
    tensors = torch.load(PAINT_CHECKPOINT / "pytorch_model.bin", weights_only=True)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert {name.split(".")[0] for name in tensors} == {"llm", "unet", "trans_block"}
    results = verify(PAINT_CHECKPOINT / "pytorch_model.bin", tiny_paint_repo(), progress=False)
    assert len(results) >= 3 and not any(result.differences for result in results.values())


@pytest.fixture(scope="module")
def judge():
    return load_judge(None, IMAGE_SIZE, "cpu")


def test_the_judge_is_right_about_drawings(judge):
    assert accuracy(judge, 150)["all"] >= 0.97


@pytest.mark.parametrize("language", ["zh", pytest.param("en", marks=pytest.mark.slow)])
def test_it_paints_held_out_prompts(language, judge):
    pipeline = DiffusionPipeline.from_pretrained(tiny_paint_repo(), trust_remote_code=True, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = SCHEDULERS["dpm++"](pipeline.scheduler.config)
    prompts = held_out_prompts(language, 16, seed=5)
    pictures = paint_prompts(pipeline, prompts, num_inference_steps=15, guidance_scale=GUIDANCE_SCALE)
    checks = [check_picture(prompt, look) for prompt, look in zip(prompts, judge.look(pictures), strict=True)]
    for check, least in LEAST.items():
        right = [each[check] for each in checks if check in each]
        assert sum(right) >= least * len(right), (check, right)


def test_the_drop_in_paints_with_it(judge):
    painter = VisCPMPaint(tiny_paint_repo(), False, False, False)
    generator = torch.Generator().manual_seed(0)
    image = painter.generate("草地上有一只猫", guidance_scale=GUIDANCE_SCALE, generator=generator)
    assert image.size == (IMAGE_SIZE, IMAGE_SIZE)
    (look,) = judge.look([image])
    assert look.background == "grass" and [thing.name for thing in look.things] == ["cat"]
