"""Guards the Trainer set-up: learning rates by part, and training that resumes where it stopped."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments

from viscpm_hf.finetuning import ChatCollator, ChatDataset, parameter_groups, resume_from


def test_parameter_groups():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "norm": nn.LayerNorm(4), "frozen": nn.Linear(4, 4)})
    model["frozen"].requires_grad_(False)
    groups = parameter_groups(model, {"embed": 1e-2, "": 1e-3}, weight_decay=0.1)
    summary = {(group["lr"], round(group["weight_decay"], 6), len(group["params"])) for group in groups}
    assert summary == {(1e-2, 0.01, 1), (1e-3, 0.0, 2)}


def test_a_parameter_without_learning_rate_is_named():
    with pytest.raises(ValueError, match="norm.weight"):
        parameter_groups(nn.ModuleDict({"norm": nn.LayerNorm(4)}), {"embed": 1e-2})


def test_no_checkpoint_to_resume_from(tmp_path):
    assert resume_from(tmp_path) is None and resume_from(tmp_path / "missing") is None


def test_trainer_learns_a_conversation_and_resumes(chat_repo, chat_processor, pictures, tmp_path):
    conversation = [
        {"from": "human", "value": "<image>\n这张图片里有什么？"},
        {"from": "gpt", "value": "一只红色的小猫"},
    ]
    dataset = ChatDataset([{"image": pictures[0], "conversations": conversation}] * 4)

    def train(folder, steps, stop_at=None):
        model = AutoModelForImageTextToText.from_pretrained(chat_repo)
        optimizer = torch.optim.AdamW(parameter_groups(model, {"language_model": 5e-2, "": 1e-3}))
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(folder),
                max_steps=stop_at or steps,
                per_device_train_batch_size=2,
                save_steps=3,
                logging_steps=1,
                remove_unused_columns=False,
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=dataset,
            data_collator=ChatCollator(chat_processor),
            optimizers=(optimizer, schedule),
        )
        trainer.train(resume_from_checkpoint=resume_from(folder))
        return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    straight, losses = train(tmp_path / "straight", steps=6)
    assert float(losses[-1]) < 0.7 * float(losses[0])
    train(tmp_path / "twice", steps=6, stop_at=3)
    resumed, _ = train(tmp_path / "twice", steps=6)
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name, atol=1e-6, rtol=1e-5)
