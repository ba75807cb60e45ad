"""Guards the training of the tiny Paint model: the original's loss, what it is shown, resuming, what is written."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from paint import GOLDEN, golden_components
from safetensors.torch import load_file

from viscpm_hf.checkpoint import convert_paint
from viscpm_hf.remote_code.modeling_viscpm_paint import VisCPMPaintTextProjection
from viscpm_hf.tiny.training.paint_data import (
    NO_COLOUR,
    SEEN,
    THINGS_SEEN,
    boxes,
    draw_rows,
    encode_prompts,
    prepare_paint,
    seen_maps,
)
from viscpm_hf.tiny.training.paint_learners import PaintLearner, TextLearner, light_norms
from viscpm_hf.tiny.training.train_paint import (
    CROSS_ATTENTION_DIM,
    encode_pictures,
    main,
    on_device,
    tiny_text_encoder,
    tiny_unet,
    tiny_vae,
)
from viscpm_hf.tiny.world.pictures import scene_rows
from viscpm_hf.tiny.world.scenes import Placed, Scene
from viscpm_hf.tiny.world.things import COLOURS, THINGS


@pytest.fixture(scope="module")
def prepared():
    return prepare_paint(12, 4, seed=0, workers=1)


@pytest.fixture(scope="module")
def data(prepared):
    return on_device(prepared, 32, torch.device("cpu"))


def test_its_errors_are_the_originals_loss():
    golden = load_file(GOLDEN / "paint_golden.safetensors")
    parts = golden_components()
    recorded = json.loads((GOLDEN / "paint_golden.json").read_text(encoding="utf-8"))["train"]
    prompts = [{"caption": text, "objects": ""} for text in recorded["prompts"]]
    inputs = parts["tokenizer"](prompts, padding_side="right", return_tensors="pt")
    latents, noise, timesteps = (golden[f"train.{name}"] for name in ("latents", "noise", "timesteps"))
    with torch.no_grad():
        states = parts["text_encoder"](**inputs, use_cache=False).last_hidden_state
        context = parts["text_projection"](states, return_dict=False)[0]
        learner = PaintLearner(parts["unet"], reader=torch.nn.Identity(), data=None, batch_size=2)
        # the original trains without a mask
        errors = learner.errors(latents, noise, timesteps, context, None, torch.zeros(2, dtype=torch.bool))
        blind = learner.errors(latents, noise, timesteps, context, None, torch.ones(2, dtype=torch.bool))
        other = learner.errors(latents * 5, noise, timesteps, context, None, torch.ones(2, dtype=torch.bool))
    assert errors.mean().item() == pytest.approx(recorded["loss"], abs=1e-5)
    assert torch.equal(blind, other) and not torch.allclose(blind, errors)


def test_prompts_are_what_the_pipeline_reads(prepared):
    rows = prepare_paint(12, 4, seed=0, workers=2)["rows"]
    assert torch.equal(rows, prepared["rows"])  # whatever the number of processes
    ids, lengths = prepared["input_ids"].flatten(0, 1), prepared["lengths"].flatten()
    tokenizer_ids = encode_prompts(["", "一只猫"])
    empty = tokenizer_ids["input_ids"][0][tokenizer_ids["attention_mask"][0].bool()]
    assert torch.equal(prepared["empty_ids"][: len(empty)].long(), empty)
    assert (ids[:, :7] == empty[:7]).all() and ((ids != 0).sum(1) == lengths).all()
    segments = prepared["segment_ids"].flatten(0, 1)
    for row, length in zip(segments, lengths, strict=True):
        assert row[length - 2 : length].tolist() == [4, 4] and (row[7 : length - 6] == 2).all()


def test_things_to_show_often_are_shown_often_and_the_others_still(prepared):
    rows = prepare_paint(300, 1, workers=1, often=("elephant", "cloud"))["rows"]
    shown = boxes(rows)[0]
    weak = (shown == SEEN.index("elephant")) | (shown == SEEN.index("cloud"))
    others = (shown >= 0) & (shown < len(THINGS)) & ~weak
    assert 0.1 < weak.sum() / (weak.sum() + others.sum()) < 0.3  # 18 of 96; unweighted 2 of 80
    assert torch.equal(prepare_paint(12, 4, workers=1, often=())["rows"], prepared["rows"])


def test_maps_say_what_covers_each_part():
    scene = Scene((Placed("red circle", "large", 0), Placed("cat", "large", 8)), "night")
    seen, colours = seen_maps(scene_rows([scene]), 12)
    names = {SEEN[i] for i in seen.unique().tolist()}
    assert names == {"circle", "cat", "night"}
    assert SEEN[seen[0, 2, 2]] == "circle" and SEEN[seen[0, 9, 9]] == "cat" and SEEN[seen[0, 9, 2]] == "night"
    assert colours[0, 2, 2] == list(COLOURS).index("red") and colours[0, 9, 9] == NO_COLOUR
    red = draw_rows(scene_rows([scene]), 96)[0].int().sub(torch.tensor(COLOURS["red"])[:, None, None]).abs().sum(0)
    inked = red.view(12, 8, 12, 8).float().amin((1, 3)) < 30
    assert (inked & (seen[0] == SEEN.index("circle"))).sum() >= 0.7 * inked.sum()


def test_pictures_on_the_device_are_those_of_the_world(prepared, data):
    assert torch.equal(draw_rows(prepared["rows"], 32), data.pictures)
    assert (data.maps >= THINGS_SEEN).any() and (data.maps < THINGS_SEEN).any()


def test_light_norms_compute_the_same():
    torch.manual_seed(0)
    vae, x = tiny_vae(32).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = vae(x).sample
        light_norms(vae)
        assert torch.allclose(vae(x).sample, before, atol=1e-5)


def test_words_alone_reach_the_scene_head_of_blind_samples(data):
    """In a blind sample nothing of the picture is left in what the UNet sees."""
    torch.manual_seed(0)
    text_encoder = tiny_text_encoder()
    projection = VisCPMPaintTextProjection(text_encoder.config.hidden_size, CROSS_ATTENTION_DIM)
    encode_pictures(tiny_vae(32), data)
    reader = TextLearner(text_encoder, projection, data, 4)
    learner = PaintLearner(tiny_unet(32), reader, data, 64)
    got = {}
    learner.unet.register_forward_pre_hook(lambda module, args: got.update(noisy=args[0], timesteps=args[1]))
    data.placed[:] = True
    data.latents = data.latents * 0 + 1000.0
    with torch.no_grad():
        loss = learner()
    blind = got["noisy"].flatten(1).abs().amax(1) < 10
    assert torch.isfinite(loss) and 2 < blind.sum() < 30 and (got["timesteps"][blind] >= 900).all()


def test_training_resumes_and_writes_what_converts_and_paints(tmp_path, capsys):
    arguments = f"--output {tmp_path} --scenes 12 --workers 1 --size 32 --batch-sizes 2 2 2 2".split()
    assert main([*arguments, "--prepare"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["prepared.pt"]
    assert main([*arguments, "--minutes", "0.02"]) == 0
    first = (tmp_path / "pytorch_model.bin").read_bytes()
    assert main([*arguments, "--minutes", "9"]) == 0  # everything is finished
    assert (tmp_path / "pytorch_model.bin").read_bytes() == first
    names = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert {name.split(".")[0] for name in names} == {"llm", "unet", "trans_block"}
    assert {path.stem for path in (tmp_path / "states").iterdir()} == {"vae", "decoder", "words", "paint"}
    assert "wrote" in capsys.readouterr().out
    vae = tmp_path / "sd_base" / "vae" / "diffusion_pytorch_model.safetensors"
    size = len(first) + vae.stat().st_size
    assert size <= 16e6, size
    repo = convert_paint(
        tmp_path / "pytorch_model.bin",
        tmp_path / "vocab.txt",
        tmp_path / "sd_base",
        tmp_path / "repo",
        llm_config=tmp_path / "llm_config.json",
        progress=False,
    )
    pipeline = DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)
    assert pipeline("一个红色的圆形", num_inference_steps=2).images[0].size == (32, 32)

    more = f"--output {tmp_path / 'more'} --start-from {repo} --scenes 12 --workers 1 --size 32 --minutes 0.01"
    assert main([*more.split(), "--batch-sizes", "2", "2", "2", "2"]) == 0  # goes on with the same latents
    for part in ("vae", "unet"):
        before, after = (folder / "sd_base" / part / "config.json" for folder in (tmp_path, tmp_path / "more"))
        assert json.loads(before.read_text(encoding="utf-8")) == json.loads(after.read_text(encoding="utf-8"))
