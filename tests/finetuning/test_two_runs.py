"""Guards that two runs do not write into one folder, and what is said when it is on a full disk."""

import json

import pytest
from PIL import Image
from safetensors import SafetensorError

from viscpm_hf.finetuning.chat import finetune_chat, saying_what_is_smaller
from viscpm_hf.finetuning.folder import alone
from viscpm_hf.finetuning.paint import finetune_paint
from viscpm_hf.finetuning.paint_settings import read_paint_settings
from viscpm_hf.finetuning.settings import read_settings
from viscpm_hf.tiny import tiny_chat_repo, tiny_paint_repo

RUNS = {
    "chat": (finetune_chat, read_settings, tiny_chat_repo),
    "paint": (finetune_paint, read_paint_settings, tiny_paint_repo),
}


@pytest.mark.parametrize("kind", RUNS)
def test_one_run_at_a_time(kind, tmp_path):
    """The second removed checkpoints that the first was writing, which ended in a traceback."""
    finetune, read, model = RUNS[kind]
    Image.new("RGB", (224, 224)).save(tmp_path / "a.png")
    (tmp_path / "data.json").write_text(json.dumps([{"image": "a.png", "text": "a"}]))
    output = tmp_path / "out"
    given = {"model": str(model()), "data": [str(tmp_path / "data.json")], "output": str(output)}
    options = read(given, ["--use_cpu", "--max_steps", "1"])
    held = alone(output)
    with pytest.raises(ValueError, match="Another run is at work"):
        finetune(*options)
    held.release()


@pytest.mark.parametrize(
    "error",
    [SafetensorError("I/O error: No space left on device (os error 28)"), RuntimeError("PytorchStreamWriter failed")],
)
def test_a_full_disk_is_said(error, tmp_path):
    """Neither library has an OSError for it."""
    options = read_settings({"model": "m", "data": ["d"], "output": str(tmp_path)}, ["--use_cpu"])
    with pytest.raises(ValueError, match="disk of .* is full"), saying_what_is_smaller(*options):
        raise error
