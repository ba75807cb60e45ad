"""Guards that a fine-tuning of Paint has the language model in memory no longer than it reads captions."""

import ctypes
import gc
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from viscpm_hf import CpmBeeConfig, CpmBeeModel
from viscpm_hf.finetuning import paint, paint_data
from viscpm_hf.finetuning.paint_settings import read_paint_settings
from viscpm_hf.tiny import tiny_paint_repo


def anonymous():
    """Bytes of memory that this process has for itself, without what tests before have left free in it."""
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    return int(re.search(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.fixture
def model(tmp_path):
    """The tiny Paint with a language model of 350 MB, more than all else takes."""
    folder = shutil.copytree(tiny_paint_repo(), tmp_path / "model")
    config = CpmBeeConfig.from_pretrained(folder / "text_encoder", intermediate_size=60_000, num_hidden_layers=3)
    large = CpmBeeModel(config).half()  # is read in float32, and so not a view of the file
    large.save_pretrained(folder / "text_encoder")
    return folder, 4 * sum(parameter.numel() for parameter in large.parameters())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what memory is taken")
def test_what_training_takes_does_not_have_the_language_model_in_it(model, tmp_path, monkeypatch):
    folder, nbytes = model
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    (tmp_path / "data.json").write_text(json.dumps([{"image": "a.png", "text": "red"}]))
    before, reading, training = anonymous(), [], []
    states, step = paint_data._states, paint.PaintTrainer.training_step
    monkeypatch.setattr(paint_data, "_states", lambda *a, **k: (reading.append(anonymous()), states(*a, **k))[1])
    monkeypatch.setattr(
        paint.PaintTrainer, "training_step", lambda *a, **k: (training.append(anonymous()), step(*a, **k))[1]
    )
    given = {"model": str(folder), "data": [str(tmp_path / "data.json")], "output": str(tmp_path / "out")}
    paint.finetune_paint(*read_paint_settings({**given, "mode": "full"}, ["--use_cpu", "--max_steps", "2"]))
    assert nbytes > 3e8 and max(reading) - before > 0.9 * nbytes
    assert max(training) - before < 0.4 * nbytes
