"""Guards 4-bit weights fitted to prompts: nearer to the exact states than bitsandbytes', in its format, or refused."""

import copy
import json
import random

import pytest
import torch
from diffusers import DiffusionPipeline

from viscpm_hf import VisCPMPaint
from viscpm_hf.calibration import _Rounding, quantize_paint
from viscpm_hf.checkpoint.errors import CheckpointError
from viscpm_hf.cli import main
from viscpm_hf.model_size import read_model
from viscpm_hf.tiny import tiny_paint_repo
from viscpm_hf.tiny.prompts import held_out_prompts, training_prompts

functional = pytest.importorskip("bitsandbytes.functional")
PROMPTS = [prompt.text for prompt in random.Random(0).sample(training_prompts(), 24)]
WITHOUT = {"image_safety_checker": False, "prompt_safety_checker": False, "add_ranker": False, "device": "cpu"}


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """The tiny Paint repository, quantized by the command."""
    folder = tmp_path_factory.mktemp("calibrated")
    (folder / "prompts.txt").write_text("\n".join([*PROMPTS, "", "  "]), encoding="utf-8")
    arguments = ["--model", tiny_paint_repo(), "--prompts", folder / "prompts.txt", "--output", folder / "repo"]
    assert main(["quantize", "--device", "cpu", *map(str, arguments)]) == 0
    return folder / "repo"


@torch.no_grad()
def states(model_path, **options):
    pipeline = VisCPMPaint(model_path, **WITHOUT, **options).pipeline
    prompts = [prompt.text for language in ("zh", "en") for prompt in held_out_prompts(language, 12)]
    embeds = torch.cat([pipeline.encode_prompt(prompt)[0].flatten() for prompt in prompts])
    return embeds.float()


def test_states_are_far_nearer_than_with_weights_rounded_to_the_nearest(repo):
    exact, fitted = states(tiny_paint_repo()), states(repo)
    nearest = states(tiny_paint_repo(), quantization="4bit")
    assert (fitted - exact).norm() < (nearest - exact).norm() / 2


def test_the_copy_is_a_whole_repository_of_bitsandbytes_weights(repo):
    files = {path.relative_to(tiny_paint_repo()).as_posix() for path in tiny_paint_repo().rglob("*") if path.is_file()}
    copied = {path.relative_to(repo).as_posix() for path in repo.rglob("*") if path.is_file()}
    assert copied == files
    assert json.loads((repo / "conversion.json").read_text())["quantized"]["text_encoder"].startswith("4 bits (NF4)")
    assert "fitted to 24 prompts" in (repo / "README.md").read_text(encoding="utf-8")
    assert read_model(repo).quantized == "bitsandbytes"
    pipeline = DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a purple heart", num_inference_steps=1).images[0].size == (64, 64)
    assert VisCPMPaint(repo, **WITHOUT, memory="4GB").pipeline.text_encoder.is_loaded_in_4bit


def test_a_matrix_keeps_its_products_and_says_what_it_holds():
    torch.manual_seed(0)
    weight, mixing = torch.randn(32, 128), torch.randn(16, 128)
    rows = torch.randn(200, 16) @ mixing + 0.1 * torch.randn(200, 128)  # inputs that go together
    for nested in (False, True):
        packed, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=nested, quant_type="nf4")
        nearest = functional.dequantize_4bit(packed, state)
        target = copy.copy(torch.nn.Parameter(packed, requires_grad=False))
        target.quant_state = state
        products = (rows.T @ rows).double()
        fitted = _Rounding(products, torch.zeros_like(products)).apply(weight, target)
        torch.testing.assert_close(functional.dequantize_4bit(target.data, state), fitted)
        off = [(rows @ (each - weight).T).norm() for each in (nearest, fitted)]
        assert off[1] < off[0] / 2

        # inputs that are all a tenth too small are made up for by half of it
        low = _Rounding(0.81 * products, 0.09 * products).apply(weight, target)
        assert 1.03 < (rows @ low.T).norm() / (rows @ weight.T).norm() < 1.08


@pytest.mark.parametrize(
    ("model", "prompts", "message"),
    [
        ("tiny", ["", " "], "Got no prompts"),
        ("chat", PROMPTS, 'quantization="4bit" as it is'),
        ("quantized", PROMPTS, "quantized already"),
        ("golden", PROMPTS, "multiples of 64"),
        ("nowhere", PROMPTS, "There is no folder"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(
    model, prompts, message, repo, chat_repo, paint_repo, tmp_path
):
    models = {"tiny": tiny_paint_repo(), "chat": chat_repo, "quantized": repo, "golden": paint_repo}
    with pytest.raises(CheckpointError, match=message):
        quantize_paint(models.get(model, tmp_path / "nowhere"), prompts, tmp_path / "output", "cpu")
    assert not list(tmp_path.iterdir())


def test_command_refuses_what_it_cannot_read(repo, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    given = ["quantize", "--model", str(tiny_paint_repo()), "--output"]
    for prompts, output, message in (
        ("missing.txt", tmp_path / "output", "No such file"),
        ("empty.txt", tmp_path / "output", "Got no prompts"),
        ("picture.png", tmp_path / "output", "picture.png is not a text"),
        ("empty.txt", repo, "Got no prompts"),
    ):
        assert main([*given, str(output), "--prompts", str(tmp_path / prompts)]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "good.txt").write_text("月")
    assert main([*given, str(repo), "--prompts", str(tmp_path / "good.txt")]) == 1
    assert "exists already" in capsys.readouterr().err
