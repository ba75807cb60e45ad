"""Guards that two runs do not write into one folder."""

import json

import pytest
from PIL import Image

from viscpm_hf.finetuning.chat import alone, finetune_chat
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
