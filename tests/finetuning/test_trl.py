"""Guards that TRL's SFTTrainer, which computes logits from the head's weights itself, has the loss that we have."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText

from viscpm_hf import CpmBeeConfig, CpmBeeForCausalLM, CpmBeeTokenizer, VisCPMChatConfig
from viscpm_hf.finetuning import ChatCollator, ChatTrainer
from viscpm_hf.remote_code.processing_viscpm_chat import VisCPMChatProcessor
from viscpm_hf.tiny import tiny_chat_repo
from viscpm_hf.tiny.world.questions import training_sample

GOLDEN = Path(__file__).parents[1] / "golden"
STEPS = {
    **{"max_steps": 3, "per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-3, "use_cpu": True},
    **{"report_to": "none", "lr_scheduler_type": "constant", "save_strategy": "no", "remove_unused_columns": False},
}


def losses(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture
def sft(tmp_path):
    trl = pytest.importorskip("trl")

    def start(model, rows, **options):
        prepared = {"dataset_kwargs": {"skip_prepare_dataset": True}} if "data_collator" in options else {}
        # what it switches on by default changes no loss, but rounding
        config = trl.SFTConfig(str(tmp_path / "sft"), **STEPS, **prepared, bf16=False, gradient_checkpointing=False)
        return trl.SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), **options)

    return start


@pytest.mark.slow
def test_chat_has_the_loss_that_our_trainer_has(sft, tmp_path):
    from transformers import Seq2SeqTrainingArguments

    processor = VisCPMChatProcessor.from_pretrained(tiny_chat_repo())
    collator = ChatCollator(processor, columns=0)
    rows = []
    for number in range(12):
        sample = training_sample(9, number)
        asked = {"question": sample.question.question, "context": sample.question.context}
        rows.append({"image": sample.picture, **asked, "answer": f"{number} {number}"})
    found = []
    for trl in (True, False):
        model = AutoModelForImageTextToText.from_pretrained(tiny_chat_repo(), dtype=torch.float32)
        options = {"data_collator": collator, "processing_class": processor}
        if trl:
            trainer = sft(model, rows, **options)
        else:
            arguments = Seq2SeqTrainingArguments(str(tmp_path / "own"), **STEPS)
            trainer = ChatTrainer(model, arguments, train_dataset=Dataset.from_list(rows), **options)
        found.append(losses(trainer))
    assert len(found[0]) == 3 and found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_text_model_has_the_loss_of_its_own_logits(sft, chat_model):
    """With TRL's own preparation of texts: plain ids, no segments."""
    torch.manual_seed(0)
    config = CpmBeeConfig(**{**chat_model.config.text_config.to_dict(), "logit_scale": None})
    model = CpmBeeForCausalLM(config).float()
    model.model.load_state_dict(chat_model.model.language_model.state_dict())
    tokenizer = CpmBeeTokenizer(GOLDEN / "vocab.txt")
    rows = [{"text": text} for text in ("天空是什么颜色？", "这张图片里有什么？", "天空", "图片里")]
    trainer = sft(model, rows, processing_class=tokenizer)
    batch = trainer.data_collator(list(trainer.train_dataset))
    expected = model(**batch).loss.item()
    assert model(**batch, fused_lm_head=True).loss.item() == pytest.approx(expected, rel=1e-5)
    assert losses(trainer)[0] == pytest.approx(expected, rel=1e-4)


def test_words_outside_the_vocabulary_are_refused_where_the_loss_does_not_know_them():
    collator = ChatCollator(VisCPMChatProcessor.from_pretrained(tiny_chat_repo()), columns=0)
    with pytest.raises(ValueError, match="words outside the vocabulary, expected none with columns=0"):
        collator([{"question": "鲲是鹏？", "answer": "是"}])


def test_the_scale_of_logits_is_part_of_the_configuration(chat_repo, chat_model, chat_inputs, tmp_path):
    """Also of folders converted before it was; another one changes the logits by as much."""
    assert CpmBeeConfig().logit_scale == 4096**-0.5
    written = json.loads((chat_repo / "config.json").read_text())
    scale = chat_model.config.text_config.hidden_size**-0.5
    assert written["text_config"].pop("logit_scale") == scale
    (tmp_path / "config.json").write_text(json.dumps(written))
    config = VisCPMChatConfig.from_pretrained(tmp_path)
    assert config.text_config.logit_scale == scale
    inputs = chat_inputs((None, "q"))
    config.text_config.logit_scale = 3 * scale
    model = AutoModelForImageTextToText.from_pretrained(chat_repo, config=config).eval()
    with torch.no_grad():
        found, expected = model(**inputs).logits, chat_model(**inputs).logits
    torch.testing.assert_close(found, 3 * expected, atol=1e-4, rtol=1e-4)
