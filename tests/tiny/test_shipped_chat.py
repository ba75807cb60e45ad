"""Guards the shipped tiny Chat checkpoint: its size, its layout, that it answers; and `make demo`."""

import os
import random
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from viscpm_hf.checkpoint import verify
from viscpm_hf.cli.examples import QUESTIONS
from viscpm_hf.tiny import CHAT_CHECKPOINT, PICTURES, convert_tiny_chat, tiny_chat_repo
from viscpm_hf.tiny.measures.exact_answers import answer_questions
from viscpm_hf.tiny.world.pictures import draw
from viscpm_hf.tiny.world.questions import LANGUAGES, ask, held_out_questions, unanswerable_questions
from viscpm_hf.tiny.world.samples import SAMPLE_SIZE, SAMPLES
from viscpm_hf.tiny.world.words import HONEST


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    return convert_tiny_chat(tmp_path_factory.mktemp("tiny") / "repo")


def test_it_is_tiny_in_half_precision_and_converts_losslessly(repo):
    weights = CHAT_CHECKPOINT / "pytorch_model.bin"
    tensors = torch.load(weights, weights_only=True)
    assert sum(tensor.numel() for tensor in tensors.values()) <= 4_000_000
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
        samples = held_out_questions(language, n=68, seed=3)
        answers = answer_questions(model, processor, samples, num_beams=beams)
        right = sum(answer == sample.question.answer for sample, answer in zip(samples, answers, strict=True))
        assert right >= 64, (language, right)  # docs/tiny.md has the real figures


def test_what_it_does_not_know_gets_the_honest_sentence(repo):
    """Noise, textures, screenshots, blank pictures, greetings and general knowledge."""
    processor = AutoProcessor.from_pretrained(repo)
    model = AutoModelForImageTextToText.from_pretrained(repo, dtype="float32").eval()
    for language in LANGUAGES:
        samples = unanswerable_questions(language, n=40, seed=3)
        answers = answer_questions(model, processor, samples, num_beams=1)
        assert sum(answer == HONEST[language] for answer in answers) >= 37, (language, answers)


def test_the_sample_pictures_are_drawn_by_their_command():
    """images/ holds what world/samples.py draws, and the examples' answers are true of them."""
    assert {path.name for path in PICTURES.iterdir()} == set(SAMPLES)
    for name, scene in SAMPLES.items():
        with Image.open(PICTURES / name) as picture:
            assert picture.tobytes() == draw(scene, SAMPLE_SIZE).tobytes()
    rng = random.Random(0)
    for name, question, answer in QUESTIONS:
        kinds = ("what", "where", "fact", "description", "count")
        language = "en" if question.isascii() else "zh"
        asked = (ask(SAMPLES[name], kind, language, rng) for kind in kinds for _ in range(600))
        assert (question, answer) in {(each.question, each.answer) for each in asked if each}, question


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


@pytest.mark.slow
def test_demo_converts_answers_truly_and_paints(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "viscpm_hf.tiny.demo", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "LANGUAGE": "", "LC_ALL": "C.UTF-8"},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "猫在左上角。" in result.stdout and "它是黄色的。" in result.stdout  # picture 1: a cat, top left
    for part in ("large moon", "large rocket"):  # picture 2
        assert part in result.stdout
    lines = [line for line in result.stdout.splitlines() if line.startswith(("  Q ", "  A ", "  painted "))]
    assert len(lines) == 10 and all("  (" in line for line in lines), "a line is not in the other language, too"
    for repo, file in (("VisCPM-Chat-tiny", "config.json"), ("VisCPM-Paint-tiny", "model_index.json")):
        assert str(tmp_path / repo) in result.stdout and (tmp_path / repo / file).is_file()
    assert str(tmp_path / "painted.png") in result.stdout
    with Image.open(tmp_path / "painted.png") as sheet:
        assert sheet.width > 4 * 192
