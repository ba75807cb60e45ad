"""Guards 4-bit weights fitted to prompts: nearer to the exact states than bitsandbytes', in its format, or refused."""

import copy
import json
import os
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from viscpm_hf import VisCPMPaint
from viscpm_hf.checkpoint.errors import CheckpointError
from viscpm_hf.cli import main
from viscpm_hf.memory import calibration
from viscpm_hf.memory.calibration import _Rounding, quantize_paint
from viscpm_hf.memory.sizes import read_model
from viscpm_hf.tiny import tiny_paint_repo
from viscpm_hf.tiny.world.prompts import held_out_prompts, training_prompts

functional = pytest.importorskip("bitsandbytes.functional")
PROMPTS = [prompt.text for prompt in training_prompts(128)]  # as many as `viscpm quantize` takes of a file
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
    assert (fitted - exact).norm() < 0.6 * (nearest - exact).norm()


def test_the_copy_is_a_whole_repository_of_bitsandbytes_weights(repo):
    files = {path.relative_to(tiny_paint_repo()).as_posix() for path in tiny_paint_repo().rglob("*") if path.is_file()}
    copied = {path.relative_to(repo).as_posix() for path in repo.rglob("*") if path.is_file()}
    assert copied == files
    assert json.loads((repo / "conversion.json").read_text())["quantized"]["text_encoder"].startswith("4 bits (NF4)")
    assert "calibrated on 128 prompts" in (repo / "README.md").read_text(encoding="utf-8")
    assert read_model(repo).quantized == "bitsandbytes"
    pipeline = DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a rocket at night", num_inference_steps=1).images[0].size == (96, 96)
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
        ("chat", PROMPTS, "whose weights are not fitted to prompts"),
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


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("missing.txt", None, [], "There is no file"),
        ("empty.txt", b"\n", [], "Got no prompts"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\xff", [], "picture.png is not a text"),
        ("utf16.txt", "月".encode("utf-16"), [], "is not a text in UTF-8"),
        ("long.txt", "月亮在山上，".encode() * 1400, [], "Got a prompt of 8400 characters"),
        ("one_line.txt", b"a" * 20_000_000, [], "Got a prompt of 20000000 characters"),
        ("good.txt", "月".encode(), ["--samples", "0"], "expected from 1 to 10000"),
        ("good.txt", "月".encode(), ["--samples", "9" * 100], "expected from 1 to 10000"),
        ("/dev/zero", None, [], "/dev/zero is a device"),
        ("pipe", "pipe", [], "is a named pipe"),
        (".", None, [], "is a folder"),
    ],
)
def test_command_refuses_prompts_before_any_work(name, content, options, message, tmp_path, capsys):
    path = tmp_path / name
    if content == "pipe":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    given = ["--model", tiny_paint_repo(), "--prompts", path, "--output", tmp_path / "output", *options]
    assert main(["quantize", *map(str, given)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and len(error) < 500
    assert sorted(tmp_path.iterdir()) == before


def spoiled(folder, name, change):
    """A copy of the tiny Paint repository with one file changed."""
    repo = shutil.copytree(tiny_paint_repo(), folder / "spoiled")
    (repo / name).write_bytes(change((repo / name).read_bytes()))
    return repo


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("conversion.json", lambda data: b'{"dropped": null}', "has dropped=None"),
        ("conversion.json", lambda data: b"[" * 60 + b"]" * 60, "a JSON list"),
        ("conversion.json", lambda data: b'{"a": ' * 60 + b"1" + b"}" * 60, "nested more than 50 deep"),
        ("model_index.json", lambda data: data.replace(b'"CpmBeeTokenizer"', b"null"), "names no tokenizer"),
        ("tokenizer/vocab.txt", lambda data: b"", "does not load"),
        (
            "text_encoder/config.json",
            lambda data: data.replace(b'"hidden_size": 192', b'"hidden_size": "a"'),
            "='a', exp",
        ),
        (
            "text_encoder/model.safetensors",
            lambda data: data.replace(b"layers.1.mlp.up_proj.weight", b"layers.1.mlp.up_prok.weight"),
            "lacks layers.1.mlp.up_proj.weight",
        ),
    ],
)
def test_damaged_repositories_are_refused_before_any_work(name, change, message, tmp_path):
    repo = spoiled(tmp_path, name, change)
    with pytest.raises(CheckpointError, match=message):
        quantize_paint(repo, PROMPTS, tmp_path / "output", "cpu", progress=False)
    assert sorted(tmp_path.iterdir()) == [repo]


@pytest.mark.parametrize(
    ("name", "what", "message"),
    [
        ("scheduler", None, "has no scheduler/scheduler_config.json"),
        ("scheduler/scheduler_config.json", "folder", "has no scheduler/scheduler_config.json"),
        ("scheduler/scheduler_config.json", "junk", "scheduler_config.json is not valid JSON"),
        ("tokenizer/tokenizer_config.json", None, "has no tokenizer/tokenizer_config.json"),
        ("text_projection/config.json", None, "has no text_projection/config.json"),
        ("text_projection/diffusion_pytorch_model.safetensors", None, "text_projection has no weight files"),
        ("text_projection/config.json", "pipe", "text_projection/config.json is a named pipe, expected a regular"),
        ("README.md", "device", "README.md is a device, expected a regular file"),
        ("vae/notes", "dangling", "There is no file .*vae/notes"),
        ("vae/notes", "loop", "symbolic links.*vae/notes"),
    ],
)
def test_a_copy_that_would_not_load_is_not_begun(name, what, message, tmp_path):
    """A part without its configuration, or something that cannot be copied."""
    repo = shutil.copytree(tiny_paint_repo(), tmp_path / "spoiled")
    path = repo / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match what:
        case "folder":
            path.mkdir()
        case "junk":
            path.write_bytes(b"{[")
        case "pipe":
            os.mkfifo(path)
        case "device" | "dangling" | "loop":
            path.symlink_to({"device": "/dev/zero", "dangling": "nowhere", "loop": path.name}[what])
    with pytest.raises((CheckpointError, OSError), match=message):
        quantize_paint(repo, PROMPTS[:2], tmp_path / "output", "cpu", progress=False)
    assert sorted(tmp_path.iterdir()) == [repo]


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "README.md"]
)
def test_a_source_that_changes_is_noticed(name, tmp_path, monkeypatch):
    """Between being checked and being copied."""
    repo = shutil.copytree(tiny_paint_repo(), tmp_path / "changing")
    copy_unchanged = calibration.copy_unchanged

    def copy(path, target, seen):
        if path == repo / name:
            os.truncate(path, 1000)
        copy_unchanged(path, target, seen)

    monkeypatch.setattr(calibration, "copy_unchanged", copy)
    with pytest.raises(CheckpointError, match=f"{name} was changed or replaced"):
        quantize_paint(repo, PROMPTS[:2], tmp_path / "output", "cpu", progress=False)
    assert sorted(tmp_path.iterdir()) == [repo]


def test_weights_truncated_after_they_were_copied_do_no_harm(tmp_path, monkeypatch):
    """A process that maps a file that becomes shorter is ended by a signal."""
    repo = shutil.copytree(tiny_paint_repo(), tmp_path / "changing")
    calibrate = calibration.calibrate

    def truncating(*arguments):
        os.truncate(repo / "text_encoder" / "model.safetensors", 1000)
        calibrate(*arguments)

    monkeypatch.setattr(calibration, "calibrate", truncating)
    output = quantize_paint(repo, PROMPTS[:2], tmp_path / "output", "cpu", progress=False)
    assert read_model(output).quantized == "bitsandbytes"


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    repo = spoiled(tmp_path, "README.md", lambda data: data)
    file = repo / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    tensors["layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="states are not finite"):
        quantize_paint(repo, PROMPTS[:2], tmp_path / "output", "cpu", progress=False)
    assert sorted(tmp_path.iterdir()) == [repo]


@pytest.mark.parametrize(
    ("prompts", "device", "message"),
    [
        ("月", "cpu", "expected a list of texts"),
        ([1], "cpu", "expected a list of texts"),
        (["月"], "abacus", "no abacus"),
    ],
)
def test_arguments_that_mean_nothing(prompts, device, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        quantize_paint(tiny_paint_repo(), prompts, tmp_path / "output", device)


def test_memory_for_all_prompts_is_asked_for_first(monkeypatch, tmp_path):
    monkeypatch.setattr("viscpm_hf.memory.calibration_inputs.physical_memory", lambda: 100_000)
    with pytest.raises(CheckpointError, match=r"128 prompts of up to \d+ tokens need .* kB; give fewer"):
        quantize_paint(tiny_paint_repo(), PROMPTS, tmp_path / "output", "cpu")


def test_a_repository_that_may_only_be_read_is_copied_to_one_that_may_be_changed(tmp_path):
    """As git or the Hub's cache have them: without leave to write, as links, with hidden folders."""
    source = shutil.copytree(tiny_paint_repo(), tmp_path / "source")
    (source / ".git").mkdir()
    (source / ".git" / "large").write_bytes(b"history")
    os.rename(source / "vae", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", source / "vae")
    os.symlink(source, source / "round")
    os.symlink(source / "unet", source / "again")
    for path in source.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    output = quantize_paint(source, PROMPTS[:2], tmp_path / "output", "cpu", progress=False)
    files = {path.relative_to(output).as_posix(): path for path in output.rglob("*") if path.is_file()}
    wanted = {p.relative_to(tiny_paint_repo()).as_posix() for p in tiny_paint_repo().rglob("*") if p.is_file()}
    again = {f"again/{p.name}" for p in (source / "unet").iterdir()}
    assert files.keys() == wanted | again
    assert all(path.stat().st_mode & 0o200 for path in output.rglob("*"))
    assert "Quantized weights" in files["README.md"].read_text(encoding="utf-8")


def test_command_refuses_an_output_that_is_there(repo, tmp_path, capsys):
    (tmp_path / "good.txt").write_text("月")
    given = ["quantize", "--model", str(tiny_paint_repo()), "--output", str(repo)]
    assert main([*given, "--prompts", str(tmp_path / "good.txt")]) == 1
    assert "exists already" in capsys.readouterr().err
