"""Guards the way from data to the original's layout and back: trained, killed, resumed, merged, exported."""

import json

import pytest
import torch
from killed import kill

from viscpm_hf import VisCPMChat
from viscpm_hf.cli import main
from viscpm_hf.tiny import CHAT_CHECKPOINT, tiny_chat_repo
from viscpm_hf.tiny.world.questions import training_sample


@pytest.mark.slow
def test_the_same_answers_after_all_of_it(tmp_path):
    pytest.importorskip("peft")
    rows, samples = [], [training_sample(7, number) for number in range(8)]
    for number, sample in enumerate(samples):
        sample.picture.save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": sample.question.question, "answer": f"{number} 个"})
    (tmp_path / "data.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    base, lora = str(tiny_chat_repo()), tmp_path / "lora"
    command = ["finetune", "chat", "--model", base, "--data", str(tmp_path / "data.json"), "--output", str(lora)]
    command += ["--use_cpu", "--max_steps", "12", "--save_steps", "2", "--per_device_train_batch_size", "4"]
    command += ["--learning_rate", "5e-3", "--tune-vision", "--save_total_limit", "2"]
    kill(command, lambda: list(lora.glob("checkpoint-*/trainer_state.json")))
    assert not (lora / "adapter_model.safetensors").exists()
    merged, original, again = tmp_path / "merged", tmp_path / "original.bin", tmp_path / "again"
    rest = ["--vocab", f"{base}/vocab.txt"]
    rest += [f"--{name.replace('_', '-')}={CHAT_CHECKPOINT / name}.json" for name in ("llm_config", "vision_config")]
    for verb in (
        command,
        ["merge", "--model", base, "--adapter", str(lora), "--output", str(merged), "--dtype", "float32"],
        ["export", "--repo", str(merged), "--checkpoint", str(original)],
        ["verify", "--checkpoint", str(original), "--repo", str(merged)],
        ["convert", "chat", "--checkpoint", str(original), *rest, "--output", str(again)],
    ):
        assert main(verb) == 0, verb
    chats = [
        VisCPMChat(base, False, dtype="float32", adapter=lora),
        VisCPMChat(merged, False),
        VisCPMChat(again, False),
    ]
    assert chats[2].model.dtype == torch.float32
    items = [{"image": each.picture, "question": each.question.question} for each in samples]
    adapted, plain, back = ([answer for answer, *_ in chat.batch_chat(items)] for chat in chats)
    before = [answer for answer, *_ in VisCPMChat(base, False).batch_chat(items)]
    assert adapted == plain == back != before
