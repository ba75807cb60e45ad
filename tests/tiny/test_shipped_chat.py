"""Guards the shipped tiny Chat checkpoint: its size, its layout, that it answers; and `make demo`."""

import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from viscpm_hf.checkpoint import verify
from viscpm_hf.tiny import CHAT_CHECKPOINT, convert_tiny_chat, tiny_chat_repo
from viscpm_hf.tiny.measures.exact_answers import answer_questions
from viscpm_hf.tiny.world.questions import LANGUAGES, held_out_questions


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    return convert_tiny_chat(tmp_path_factory.mktemp("tiny") / "repo")


def test_it_is_tiny_in_half_precision_and_converts_losslessly(repo):
    weights = CHAT_CHECKPOINT / "pytorch_model.bin"
    tensors = torch.load(weights, weights_only=True)
    assert sum(tensor.numel() for tensor in tensors.values()) <= 3_900_000
    assert weights.stat().st_size <= 8_000_000
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert {name.split(".")[0] for name in tensors} == {"llm", "vpm", "mapping", "query"}
    assert "vpm.mim_head.weight" in tensors and "vpm.beit3.text_embed.weight" in tensors
    results = verify(weights, repo, progress=False)
    assert len(results) >= 3 and not any(result.differences for result in results.values())


@pytest.mark.parametrize("beams, dtype", [(1, "float32"), (3, "float32"), (3, "bfloat16")])
def test_it_answers_held_out_questions(repo, beams, dtype):
    processor = AutoProcessor.from_pretrained(repo)
    model = AutoModelForImageTextToText.from_pretrained(repo, dtype=dtype).eval()
    for language in LANGUAGES:
        samples = held_out_questions(language, n=60, seed=3)
        answers = answer_questions(model, processor, samples, num_beams=beams)
        right = sum(answer == sample.question.answer for sample, answer in zip(samples, answers, strict=True))
        assert right >= 57, (language, right)  # the README's table has the real figures


def test_the_cached_conversion_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stale = tmp_path / "viscpm_hf" / "tiny-chat-000000000000"
    recent = tmp_path / "viscpm_hf" / "tiny-chat-111111111111"  # another checkout may use it
    for other in (stale, recent):
        other.mkdir(parents=True)
    os.utime(stale, (0, 0))
    folder = tiny_chat_repo()
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert tiny_chat_repo() == folder and (folder / "model.safetensors").stat().st_mtime_ns == made
    assert folder.parent == tmp_path / "viscpm_hf" and not stale.exists() and recent.exists()


def test_demo_converts_answers_truly_and_paints(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "viscpm_hf.tiny.demo", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "LANGUAGE": "", "LC_ALL": "C.UTF-8"},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "它是圆形。" in result.stdout and "它在左上角。" in result.stdout  # picture 1: a red circle, top left
    for part in ("green triangle", "orange cross"):  # picture 2
        assert part in result.stdout
    lines = [line for line in result.stdout.splitlines() if line.startswith(("  Q ", "  A ", "  painted "))]
    assert len(lines) == 10 and all("  (" in line for line in lines), "a line is not in the other language, too"
    for repo, file in (("VisCPM-Chat-tiny", "config.json"), ("VisCPM-Paint-tiny", "model_index.json")):
        assert str(tmp_path / repo) in result.stdout and (tmp_path / repo / file).is_file()
    assert str(tmp_path / "painted.png") in result.stdout
    with Image.open(tmp_path / "painted.png") as sheet:
        assert sheet.width > 4 * 192
