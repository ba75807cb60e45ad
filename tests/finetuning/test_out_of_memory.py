"""Guards that a lack of memory in training, a GPU's or the machine's, is a sentence with the next smaller setting."""

import json

import pytest
import torch
from PIL import Image
from transformers import Seq2SeqTrainingArguments

from viscpm_hf.finetuning import ChatTrainer
from viscpm_hf.finetuning import chat as finetuning_chat
from viscpm_hf.finetuning.chat import finetune_chat, saying_what_is_smaller, smaller
from viscpm_hf.finetuning.settings import ChatSettings, read_settings
from viscpm_hf.tiny import tiny_chat_repo


def too_much(*args, **kwargs):
    torch.empty(2**52, dtype=torch.uint8)


def too_much_for_a_gpu(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def too_much_for_python(*args, **kwargs):
    raise MemoryError


@pytest.fixture
def run(tmp_path):
    def start(*options):
        Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
        row = {"image": str(tmp_path / "red.png"), "question": "这是什么？", "answer": "红色"}
        (tmp_path / "data.json").write_text(json.dumps([row] * 4), encoding="utf-8")
        given = {
            "model": str(tiny_chat_repo()),
            "data": [str(tmp_path / "data.json")],
            "output": str(tmp_path / "out"),
        }
        return finetune_chat(*read_settings(given, ["--use_cpu", "--max_steps", "1", *options]))

    return start


@pytest.mark.parametrize("fault", [too_much, too_much_for_a_gpu, too_much_for_python])
def test_a_step(run, monkeypatch, fault):
    monkeypatch.setattr(ChatTrainer, "training_step", fault)
    with pytest.raises(ValueError) as caught:
        run("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2")
    assert str(caught.value) == (
        "Out of memory: try --per_device_train_batch_size 2 --gradient_accumulation_steps 4, which learns the same "
        f"from as many samples a step; what fits, `viscpm fit` says with --model {tiny_chat_repo()} --train lora."
    )


def test_loading(run, monkeypatch):
    monkeypatch.setattr(finetuning_chat, "load_lora", too_much)
    with pytest.raises(ValueError, match="Out of memory: try --bf16"):
        run("--per_device_train_batch_size", "4")


def test_other_errors_stay_what_they_are():
    settings = ChatSettings(model="m", output="o", data=["d"])
    with pytest.raises(RuntimeError, match="shapes"), saying_what_is_smaller(settings, None):
        raise RuntimeError("shapes do not match")


def test_every_hint_is_followed_by_a_smaller_one(tmp_path):
    def hint(mode="full", loading=False, **options):
        arguments = Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True, report_to=[], **options)
        return smaller(ChatSettings(model="m", output="o", data=["d"], mode=mode), arguments, loading)

    one = {"per_device_train_batch_size": 1}
    saving = {**one, "activation_checkpointing": True}
    assert "--gradient_checkpointing" in hint(**one)
    assert "--bf16" in hint(**saving)
    assert "--mode lora" in hint(**saving, bf16=True) and "--mode qlora" in hint("lora", **saving, bf16=True)
    assert "--max_length 256" in hint("qlora", **saving, bf16=True)
    assert "more memory" in hint("qlora", loading=True, bf16=True)
