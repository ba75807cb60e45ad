"""Guards the Trainer set-up: learning rates by part, and training that resumes where it stopped."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from viscpm_hf.finetuning import ChatCollator, ChatDataset, ChatTrainer, parameter_groups, resume_from
from viscpm_hf.finetuning.trainer import EpochSampler


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


QUIET = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "per_device_eval_batch_size": 1}


@pytest.fixture
def dataset(pictures):
    """Two records, the second with words outside the vocabulary."""
    texts = (("这是什么", "一只小猫"), ("鲲在哪里？凤呢？", "鲲在水里，凤在天上"))
    records = [
        {"image": pictures[0], "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for q, a in texts
    ]
    return ChatDataset(records)


def test_evaluation_prediction_and_the_best_checkpoint(chat_repo, chat_processor, dataset, tmp_path):
    """With Trainer's defaults, over batches with different words outside the vocabulary."""
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=1,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        **QUIET,
    )
    model = AutoModelForImageTextToText.from_pretrained(chat_repo)
    collator = ChatCollator(chat_processor)
    trainer = Trainer(model, arguments, train_dataset=dataset, eval_dataset=dataset, data_collator=collator)
    trainer.train()
    best = AutoModelForImageTextToText.from_pretrained(trainer.state.best_model_checkpoint)
    for (name, found), parameter in zip(model.named_parameters(), best.parameters(), strict=True):
        torch.testing.assert_close(found, parameter, msg=name, rtol=0, atol=0)
    expected = sum(model(**collator([dataset[i]])).loss.item() for i in range(2)) / 2
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)
    prediction = trainer.predict(dataset)
    assert prediction.predictions.shape[2] == model.config.text_config.vocab_size + 32
    assert prediction.label_ids.shape == prediction.predictions.shape[:2]


def test_answers_are_generated_in_evaluation(chat_repo, chat_processor, dataset, tmp_path):
    arguments = Seq2SeqTrainingArguments(str(tmp_path), predict_with_generate=True, **QUIET)
    model = AutoModelForImageTextToText.from_pretrained(chat_repo).eval()
    trainer = Seq2SeqTrainer(model, arguments, data_collator=ChatCollator(chat_processor))
    prediction = trainer.predict(dataset, max_new_tokens=4, min_new_tokens=4)
    for index in range(2):
        sample = dataset[index]
        inputs = chat_processor(images=sample["image"], text=sample["question"])
        length = inputs["input_ids"].shape[1]
        expected = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4)[0, length:].tolist()
        assert prediction.predictions[index, length : length + 4].tolist() == expected
    assert prediction.metrics["test_loss"] > 0


def test_label_smoothing_over_what_can_be_written(chat_repo, chat_processor, dataset, tmp_path):
    """By definition: a share of the mean over vocabulary and real columns, over all answers of an accumulated step."""
    model = AutoModelForImageTextToText.from_pretrained(chat_repo)
    batches = [ChatCollator(chat_processor)([dataset[i]]) for i in range(2)]
    sums = torch.zeros(2)
    for batch in batches:
        with torch.no_grad():
            logits = model(**batch).logits[0]
        real = model.config.text_config.vocab_size + int(batch["ext_table_mask"][0].sum())
        probabilities = logits[:, :real].log_softmax(-1)
        for row, target in zip(probabilities, batch["shift_labels"][0].tolist(), strict=True):
            if target >= 0:
                sums += torch.tensor([-row[target], -row.mean()])
    count = sum(int((batch["shift_labels"] >= 0).sum()) for batch in batches)
    expected = float((0.9 * sums[0] + 0.1 * sums[1]) / count)
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        logging_steps=1,
        label_smoothing_factor=0.1,
        **QUIET,
    )
    collator = ChatCollator(chat_processor)
    trainer = ChatTrainer(model, arguments, train_dataset=dataset, data_collator=collator)
    trainer.train()
    assert float(trainer.state.log_history[0]["loss"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", [Trainer, Seq2SeqTrainer])
def test_label_smoothing_of_transformers_is_refused(chat_repo, chat_processor, dataset, tmp_path, kind):
    """It knows neither that targets are shifted nor which columns can be written; a loss of one's own is welcome."""
    model, collator = AutoModelForImageTextToText.from_pretrained(chat_repo), ChatCollator(chat_processor)
    arguments = Seq2SeqTrainingArguments(str(tmp_path), max_steps=1, label_smoothing_factor=0.1, **QUIET)
    with pytest.raises(ValueError, match="label_smoothing_factor.*ChatTrainer"):
        kind(model, arguments, train_dataset=dataset, data_collator=collator).train()

    def own_loss(outputs, labels, num_items_in_batch=None):
        logits = outputs["logits"][:, :-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch

    def without_shifted(samples):
        return {name: value for name, value in collator(samples).items() if name != "shift_labels"}

    arguments = Seq2SeqTrainingArguments(str(tmp_path), max_steps=1, logging_steps=1, **QUIET)
    options = {"train_dataset": dataset, "compute_loss_func": own_loss}
    trainer = kind(model, arguments, data_collator=without_shifted, **options)
    assert trainer.train().training_loss > 0


def test_what_users_of_trainer_expect(chat_repo, chat_processor, dataset, tmp_path):
    """compute_metrics in the usual form of causal models, and an own loss."""

    def share_right(prediction):
        right = prediction.predictions.argmax(-1)[:, :-1] == prediction.label_ids[:, 1:]
        return {"right": float(right[prediction.label_ids[:, 1:] >= 0].mean())}

    model = AutoModelForImageTextToText.from_pretrained(chat_repo)
    arguments = Seq2SeqTrainingArguments(str(tmp_path), max_steps=1, label_smoothing_factor=0.1, **QUIET)
    options = {"train_dataset": dataset, "data_collator": ChatCollator(chat_processor)}
    trainer = ChatTrainer(model, arguments, compute_metrics=share_right, **options)
    metrics = trainer.evaluate(dataset)
    assert 0 <= metrics["eval_right"] <= 1 and metrics["eval_loss"] > 0
    found = []

    def own_loss(outputs, labels, num_items_in_batch=None):
        found.append((outputs["logits"].shape[:2], labels.shape, int(num_items_in_batch)))
        return outputs["logits"].float().square().mean()

    ChatTrainer(model, arguments, compute_loss_func=own_loss, **options).train()
    ((logits, labels, count),) = found
    assert logits == labels and count > 4


def test_the_order_depends_on_seed_and_epoch_alone():
    sampler, again = EpochSampler(10, 3), EpochSampler(10, 3)
    first = list(sampler)
    again.set_epoch(1)
    list(again)
    again.set_epoch(0)
    assert list(again) == first and sorted(first) == [(0, i) for i in range(10)]
    sampler.set_epoch(1)
    assert [i for _, i in sampler] != [i for _, i in first] and {epoch for epoch, _ in sampler} == {1}
    assert [i for _, i in EpochSampler(4, 0, shuffled=False)] == [0, 1, 2, 3]
    lengths = [5, 1] * 32
    grouped = [lengths[i] for _, i in EpochSampler(64, 0, lengths=lengths, batch_size=4)]
    mixed = [batch for batch in zip(*[iter(grouped)] * 4, strict=True) if len(set(batch)) > 1]
    assert sorted(grouped) == sorted(lengths) and len(mixed) <= 4


def test_a_checkpoint_half_written_does_not_count(tmp_path):
    for number, state in ((4, "{}"), (12, "{}"), (100, '{"global'), (200, None)):
        (tmp_path / f"checkpoint-{number}").mkdir()
        if state:
            (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text(state)
    assert resume_from(tmp_path) == str(tmp_path / "checkpoint-12")
