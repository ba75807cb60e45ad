"""Guards training against the original: its loss, its gradients, and a step of its optimizer by the example."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from viscpm_hf.checkpoint.layout.keys import CHAT
from viscpm_hf.finetuning import ChatCollator, ChatDataset, ChatTrainer
from viscpm_hf.finetuning.model import choose_tuned
from viscpm_hf.finetuning.settings import read_settings
from viscpm_hf.finetuning.trainer import log_warmup

ON_A_CPU = ["--use_cpu", "--fp16", "false", "--bf16", "false"]
EXAMPLES = Path(__file__).parents[2] / "examples" / "finetuning"


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("chat_train.json")["losses"]["batch"], {
        name.removeprefix("batch."): tensor
        for name, tensor in golden("chat_train.safetensors").items()
        if name.startswith("batch.")
    }


@pytest.fixture(scope="module")
def samples(golden, pictures):
    data = golden("chat_train.json")
    return [
        {"image": pictures[i], "question": d["question"], "context": d["context"], "answer": d["<ans>"]}
        for d, i in zip(data["inputs"], data["image_index"], strict=True)
    ]


@pytest.fixture
def batch(recorded, samples, chat_processor):
    """The golden batch with the original's table, which has a column for every occurrence of a word."""
    record, tensors = recorded
    batch = ChatCollator(chat_processor, max_length=record["max_len"])(samples)
    size = chat_processor.tokenizer.vocab_size
    table = torch.stack([tensors["ext_table_ids"], tensors["ext_table_sub"]], -1).tolist()
    for row, ids in enumerate(batch["input_ids"]):
        for place in (ids >= size).nonzero().flatten().tolist():
            word = [int(tensors["input_ids"][row, place]), int(tensors["input_id_subs"][row, place])]
            ids[place] = size + table.index(word)
    batch["shift_labels"] = tensors["target"].long()
    for key, column in zip(("ext_table_ids", "ext_table_subs"), zip(*table, strict=True), strict=True):
        batch[key] = torch.tensor([column] * 3)
    batch["ext_table_mask"] = torch.ones_like(batch["ext_table_ids"])
    return batch


def original_name(name):
    """Of a parameter of ours."""
    (layer,) = re.findall(r"\.layers\.(\d+)\.", name) or [None]
    bare = name if layer is None else name.replace(f".layers.{layer}.", ".layers.{i}.")
    for table in CHAT.components.values():
        for original, (new, _) in table.items():
            if new.split("/")[-1] == bare:
                return original.replace("{i}", layer or "")
    raise KeyError(name)


def test_loss_and_every_gradient_are_the_originals(chat_repo, recorded, batch):
    model = AutoModelForImageTextToText.from_pretrained(chat_repo)
    loss = model(**batch).loss
    loss.backward()
    record, tensors = recorded
    torch.testing.assert_close(loss.item(), record["loss"], atol=2e-5, rtol=0)
    parameters = {original_name(name): p.grad for name, p in model.named_parameters() if name != "lm_head.weight"}
    unused = {name for name, norm in record["grad_norms"].items() if norm is None}
    assert set(parameters) == set(record["grad_norms"]) - unused
    for name, gradient in parameters.items():
        assert gradient.norm().item() == pytest.approx(record["grad_norms"][name], rel=1e-4, abs=1e-5), name
    grads = {name: tensor for name, tensor in tensors.items() if name.startswith("grad.")}
    assert len(grads) == 4
    for name, expected in grads.items():
        torch.testing.assert_close(parameters[name.removeprefix("grad.")], expected, atol=1e-5, rtol=1e-4)


def test_a_step_of_the_example_is_one_of_the_originals_optimizer(chat_repo, recorded, batch, samples, tmp_path):
    """Adam's first step goes by the sign of the gradient; weights decay in all of them; the rate begins at 1e-6."""
    given = {"model": str(chat_repo), "data": ["unused"], "output": str(tmp_path)}
    config = EXAMPLES / "original.yaml"
    settings, arguments = read_settings(given, ["--max_steps", "1", "--logging_steps", "1", *ON_A_CPU], config)
    assert (arguments.learning_rate, arguments.adam_beta1, arguments.adam_beta2) == (1e-5, 0.9, 0.98)
    assert (arguments.weight_decay, arguments.warmup_steps, arguments.num_train_epochs) == (0.01, 200, 5)
    assert (settings.mode, settings.max_length, settings.min_side, settings.tune_llm) == ("full", 512, 128, True)
    model = AutoModelForImageTextToText.from_pretrained(chat_repo)
    choose_tuned(model, settings.tune_llm, settings.tune_vision)
    before = {original_name(name): p.detach().clone() for name, p in model.named_parameters()}
    trainer = ChatTrainer(
        model,
        arguments,
        decay_all=settings.decay_all,
        train_dataset=ChatDataset([{"question": "q", "answer": "a"}]),
        data_collator=lambda _: batch,
    )
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert logged["loss"] == pytest.approx(recorded[0]["loss"], abs=2e-5)
    after = {original_name(name): p.detach() for name, p in model.named_parameters()}
    rate, decay = 1e-6, 0.01
    for name, gradient in recorded[1].items():
        if name.startswith("grad."):
            p = before[name.removeprefix("grad.")].double()
            g = gradient.double()
            expected = p - rate * (decay * p + g / (g.abs() + 1e-8))
            found = after[name.removeprefix("grad.")].double()
            weak = (g != 0) & (g.abs() < 1e-6)  # its sign is a matter of rounding
            assert weak.float().mean() < 0.1
            torch.testing.assert_close(found[~weak], expected[~weak], atol=1.3e-7, rtol=0)
    assert torch.equal(before["vpm.beit3.vision_embed.proj.weight"], after["vpm.beit3.vision_embed.proj.weight"])


def test_the_rate_rises_with_the_logarithm_as_deepspeeds(chat_repo, tmp_path):
    given = {"model": str(chat_repo), "data": ["unused"], "output": str(tmp_path)}
    _, arguments = read_settings(given, ON_A_CPU, EXAMPLES / "original.yaml")
    trainer = ChatTrainer(torch.nn.Linear(1, 1), arguments, train_dataset=None)
    trainer.create_optimizer()
    schedule = trainer.create_scheduler(1000)
    rates = []
    for _ in range(203):
        rates.append(schedule.get_last_lr()[0])
        trainer.optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(1e-6) and rates[200:] == pytest.approx([1e-5] * 3)
    assert rates[13] == pytest.approx(1e-6 + 9e-6 * log_warmup(13, 200)) and log_warmup(199, 200) == pytest.approx(1)


@pytest.mark.parametrize("name", ["original", "stage1", "stage2"])
def test_examples_are_settings(name, tmp_path):
    given = {"model": "m", "data": ["d"], "output": str(tmp_path / "out")}
    settings, arguments = read_settings(given, ON_A_CPU, EXAMPLES / f"{name}.yaml")
    assert settings.mode == "full" and settings.tune_vision and arguments.learning_rate == 1e-5
    assert settings.tune_llm == (name != "stage1")


def test_what_the_original_freezes(chat_repo):
    model = AutoModelForImageTextToText.from_pretrained(chat_repo)

    def tuned(*flags):
        choose_tuned(model, *flags)
        return {name for name, p in model.named_parameters() if p.requires_grad}

    always = tuned(False, False)
    assert {"model.vision_tower.query_tokens", "model.connector.linear_1.weight"} <= always
    assert not any(".A." in name or "language_model" in name or "patch_embedding" in name for name in always)
    with_vision, with_language = tuned(False, True), tuned(True, False)
    assert {name for name in with_vision - always} == {
        n for n, _ in model.named_parameters() if "vision_tower" in n and ".A." in n
    }
    assert {name for name in with_language - always} == {
        n for n, _ in model.named_parameters() if "language_model" in n
    }
    assert "model.vision_tower.embeddings.patch_embedding.weight" not in tuned(True, True)
    assert "model.vision_tower.embeddings.cls_token" not in tuned(True, True)
