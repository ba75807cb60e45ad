"""Guards the training of the tiny Paint model: the original loss, what is held out, resuming, what is written."""

import json
import random

import pytest
import torch
from diffusers import DiffusionPipeline
from paint import GOLDEN, golden_components
from safetensors.torch import load_file

from viscpm_hf.checkpoint import convert_paint
from viscpm_hf.tiny.measures.pixel_check import find_shapes
from viscpm_hf.tiny.training.train_paint import (
    PaintBatches,
    PaintLearner,
    ScenePictures,
    main,
    prepare_paint,
    tiny_vae,
)
from viscpm_hf.tiny.world.prompts import paint_held_out, training_prompts
from viscpm_hf.tiny.world.scenes import COLOURS, COMBINATIONS, SHAPES


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "paint_golden.safetensors")


def test_unweighted_it_is_the_originals_loss(golden):
    parts = golden_components()
    data = json.loads((GOLDEN / "paint_golden.json").read_text(encoding="utf-8"))["train"]
    inputs = parts["tokenizer"](
        [{"caption": text, "objects": ""} for text in data["prompts"]], padding_side="right", return_tensors="pt"
    )
    with torch.no_grad():
        states = parts["text_encoder"](**inputs, use_cache=False).last_hidden_state
        learner = PaintLearner(parts["unet"], parts["text_projection"], most_weight=1)
        learner.weights.fill_(1)
        combinations = torch.tensor([0, 4])
        loss = learner(
            golden["train.latents"],
            golden["train.noise"],
            golden["train.timesteps"],
            states,
            torch.ones(states.shape[:2], dtype=torch.bool),  # the original trains without a mask
            combinations,
            torch.zeros(2, dtype=torch.bool),
        )["loss"]
        loss -= 0.2 * learner.scene_loss(combinations)
    assert loss.item() == pytest.approx(data["loss"], abs=1e-5)


def test_the_scene_head_is_asked_what_is_where():
    parts = golden_components()
    learner = PaintLearner(parts["unet"], parts["text_projection"], most_weight=1)
    learner.scene_head = torch.nn.Identity()
    for shape, colour, cell, row, column in (("heart", "pink", 6, 3, 0), ("circle", "blue", 2, 0, 3)):
        learner.middle = torch.full((1, 1 + 8 + 6, 4, 4), -9.0)
        told = (0, 1 + list(COLOURS).index(colour), 9 + SHAPES.index(shape))
        learner.middle[0, told, row, column] = 9.0  # the pixel that such a shape covers most
        losses = torch.stack([learner.scene_loss(torch.tensor([i])) for i in range(len(COMBINATIONS))])
        assert COMBINATIONS[losses.argmin()] == (shape, colour, cell)


def test_pictures_in_training_are_never_held_out():
    for row in range(100):
        (found,) = find_shapes(((ScenePictures.draw(random.Random(row)) + 1) * 127.5).permute(1, 2, 0).byte().numpy())
        assert not paint_held_out(found.shape, found.colour, found.cell)


@pytest.fixture(scope="module")
def prepared():
    torch.manual_seed(0)
    return prepare_paint(tiny_vae().eval(), golden_components()["text_encoder"], per_combination=1, seed=0)


def test_samples_fit_their_prompt_and_nothing_held_out_is_shown(prepared):
    batches, prompts = PaintBatches(prepared, 400, seed=0, high_noise=0.5), training_prompts()
    shown, asked = [], []
    for row in range(400):
        latents, noise, timestep, states, length, painted, blind = batches.sample(row)
        (combination,) = (prepared.latents[:, 0] == latents).flatten(1).all(1).nonzero().flatten().tolist()
        shown.append(combination)
        assert painted == combination and (not blind or timestep >= 900)
        if not torch.equal(states, prepared.empty):
            (prompt,) = (prepared.prompts == states).flatten(1).all(1).nonzero().flatten().tolist()
            assert prepared.first[prompt] == combination - combination % 9
            assert prompts[prompt].cell in (None, combination % 9) and length == prepared.lengths[prompt]
            asked.append(prompts[prompt].cell is not None)
    assert 340 < len(asked) < 395 and 0.5 < sum(asked) / len(asked) < 0.75
    assert not any(paint_held_out(*COMBINATIONS[combination]) for combination in shown) and len(set(shown)) > 150
    again = batches([5, 6])
    assert torch.equal(again["noise"], PaintBatches(prepared, 400, seed=0, high_noise=0.5)([5, 6])["noise"])
    assert again["states"].shape[1] == again["states_mask"].sum(1).max()


def test_high_noise_is_seen_more_often(prepared):
    timesteps = [PaintBatches(prepared, 300, 0, high_noise=0.5)([row])["timesteps"].item() for row in range(300)]
    assert 0.6 < sum(t >= 600 for t in timesteps) / 300 < 0.8 and min(timesteps) < 100


def test_training_learns_resumes_and_writes_what_converts_and_paints(tmp_path, capsys):
    arguments = f"--output {tmp_path} --vae-steps 2 --decoder-steps 1 --pictures 1 --batch-size 4 --save-steps 2"
    assert main([*arguments.split(), "--steps", "2", "--logging-steps", "1"]) == 0
    first = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    vae = (tmp_path / "sd_base" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert main([*arguments.split(), "--steps", "4", "--logging-steps", "1"]) == 0
    last = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert [folder.name for folder in (tmp_path / "checkpoints" / "paint").iterdir()] == ["checkpoint-4"]
    assert first.keys() == last.keys()
    assert {name.split(".")[0] for name in last} == {"llm", "unet", "trans_block"}
    changed = {name.split(".")[0] for name in last if not torch.equal(first[name], last[name])}
    assert changed == {"unet", "trans_block"}  # the language model is frozen, the autoencoder was finished
    assert (tmp_path / "sd_base" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == vae
    assert "wrote" in capsys.readouterr().out
    size = (tmp_path / "pytorch_model.bin").stat().st_size + len(vae)
    assert size <= 12e6, size
    repo = convert_paint(
        tmp_path / "pytorch_model.bin",
        tmp_path / "vocab.txt",
        tmp_path / "sd_base",
        tmp_path / "repo",
        llm_config=tmp_path / "llm_config.json",
        progress=False,
    )
    pipeline = DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)
    assert pipeline("一个红色的圆形", num_inference_steps=2).images[0].size == (64, 64)
