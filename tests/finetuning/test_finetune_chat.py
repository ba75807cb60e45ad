"""Guards a whole run on the tiny models: every mode, killed and resumed, its result loaded again, its refusals."""

import json
import re

import pytest
import torch
from killed import kill
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from viscpm_hf import VisCPMChat
from viscpm_hf.checkpoint import export_original
from viscpm_hf.finetuning.chat import finetune_chat
from viscpm_hf.finetuning.settings import read_settings
from viscpm_hf.tiny import tiny_chat_repo
from viscpm_hf.tiny.world.questions import training_sample

SHORT = ["--use_cpu", "--logging_steps", "1", "--save_steps", "2", "--per_device_train_batch_size", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sixteen questions about drawn pictures, and a row without a picture."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(16):
        sample = training_sample(7, number)
        sample.picture.save(folder / f"{number}.png")
        talk = [
            {"from": "human", "value": f"<image>\n{sample.question.question}"},
            {"from": "gpt", "value": f"{number} {sample.question.answer}"},
        ]
        rows.append({"image": f"{number}.png", "conversations": talk})
    rows.append({**rows[0], "image": "none.png"})
    (folder / "data.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder / "data.json"


@pytest.fixture
def run(data, tmp_path):
    """Runs settings; gives the folder and the losses of all steps."""

    def start(*options, output="out", model=None, **own):
        given = {"model": str(model or tiny_chat_repo()), "data": [str(data)], "output": str(tmp_path / output), **own}
        folder = finetune_chat(*read_settings(given, [*SHORT, *options]))
        return folder, losses(folder)

    return start


def losses(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits.float()


@pytest.fixture(scope="module")
def inputs():
    processor = VisCPMChat(tiny_chat_repo(), image_safety_checker=False).processor
    return processor(images=training_sample(7, 1).picture, text="猫在哪里？")


@pytest.mark.parametrize("mode", ["lora", "qlora"])
def test_a_lora_is_an_adapter_at_the_root(run, inputs, mode, capfd):
    peft = pytest.importorskip("peft")
    if mode == "qlora":
        pytest.importorskip("bitsandbytes")
    folder, found = run("--max_steps", "16", "--learning_rate", "3e-4", mode=mode, tune_vision=mode == "lora")
    frozen = " (frozen: 4 bits, float32)" if mode == "qlora" else ""
    assert f" on cpu, in float32{frozen}, one process\n" in capfd.readouterr().err
    epochs = list(found.values())[:8], list(found.values())[8:]
    assert list(found) == list(range(1, 17)) and sum(epochs[1]) < sum(epochs[0])
    assert type(AutoProcessor.from_pretrained(folder)).__name__ == "VisCPMChatProcessor"  # as pipeline(model=…) wants
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_chat_repo())
    assert f'base = "{tiny_chat_repo()}"' in (folder / "README.md").read_text(encoding="utf-8")
    assert config["lora_alpha"] == pytest.approx(16 * 192**0.5)
    base = AutoModelForImageTextToText.from_pretrained(tiny_chat_repo(), dtype=torch.float32)
    plain = logits(base, inputs)
    adapted = peft.PeftModel.from_pretrained(base, folder)
    expected = logits(adapted, inputs)
    assert not torch.allclose(plain, expected, atol=1e-2)
    torch.testing.assert_close(logits(adapted.merge_and_unload(), inputs), expected, atol=1e-3, rtol=1e-4)
    (left_out,) = map(json.loads, (folder / "left_out.jsonl").read_text().splitlines())
    assert (left_out["row"], left_out["reason"]) == (16, "the picture is missing")


def test_a_full_model_is_a_repository_like_the_one_before(run, tmp_path):
    base = tiny_chat_repo()
    options = ("--max_steps", "2", "--learning_rate", "1e-4", "--gradient_checkpointing", "--bf16")
    folder, _ = run(*options, mode="full", tune_llm=True)
    assert {file.name for file in base.iterdir()} <= {file.name for file in folder.iterdir()}
    before, after = (json.loads((path / "config.json").read_text()) for path in (base, folder))
    assert after["auto_map"] == before["auto_map"] and after["dtype"] == before["dtype"] == "float16"
    assert (folder / "README.md").read_text().count("## Fine-tuned") == 1
    assert after["use_cache"] == before.get("use_cache", True)
    chat = VisCPMChat(folder, image_safety_checker=False)
    assert chat.chat(training_sample(7, 1).picture, "猫在哪里？")[0]
    original = torch.load(export_original(folder, tmp_path / "out.bin", progress=False), weights_only=True)
    assert original["llm.input_embedding.weight"].dtype == torch.float16


@pytest.mark.slow
def test_a_run_killed_while_it_saves_goes_on_exactly(run, data, tmp_path):
    """kill -9 within a checkpoint, another half written, and the same command again: the same losses and weights."""
    settings = ("--max_steps", "6", "--lora_dropout", "0.1", "--augment", "--learning_rate", "3e-4")
    _, expected = run(*settings, output="straight")
    folder = tmp_path / "killed"
    given = ["--model", str(tiny_chat_repo()), "--data", str(data), "--output", str(folder)]
    kill(["finetune", "chat", *given, *SHORT, *settings], lambda: (folder / "checkpoint-4").exists())
    (folder / "checkpoint-98").mkdir()
    (folder / "checkpoint-98" / "trainer_state.json").write_text('{"global_step": 9')
    assert not (folder / "adapter_model.safetensors").exists()
    _, found = run(*settings, output="killed")
    assert found == expected and len(found) == 6
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("straight", "killed")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("options", [("--dataloader_num_workers", "1"), ("--streaming",)], ids=["whole", "streamed"])
def test_a_run_goes_on_in_a_later_epoch(run, data, options):
    few = data.with_name("few.json")
    few.write_text(json.dumps(json.loads(data.read_text())[-7:]))
    settings = ("--augment", "--learning_rate", "3e-4", "--lr_scheduler_type", "constant", *options)
    _, expected = run("--max_steps", "5", *settings, data=[str(few)], output="straight")
    run("--max_steps", "4", *settings, data=[str(few)])
    folder, found = run("--max_steps", "5", *settings, data=[str(few)])
    assert found == expected and len(found) == 5
    (left_out,) = map(json.loads, (folder / "left_out.jsonl").read_text().splitlines())
    assert left_out["reason"] == "the picture is missing"


def test_held_out_rows_best_checkpoint_and_answers(run, capfd):
    """And what is said: parameters, device, types, processes, how many of the answers are the expected ones."""
    pytest.importorskip("tensorboard")
    options = ["--max_steps", "4", "--load_best_model_at_end", "--label_smoothing_factor", "0.1", "--bf16"]
    options += ["--train_sampling_strategy", "group_by_length", "--report_to", "tensorboard"]
    folder, _ = run(*options, eval_rows=4, show_answers=3)
    state = json.loads((folder / "trainer_state.json").read_text())
    evaluated = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    assert list(evaluated) == [2, 4]
    assert state["best_metric"] == min(evaluated.values())
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in answers] == [2] * 3 + [4] * 3
    assert all(row["question"] and row["answer"] and row["expected"] for row in answers)
    assert all(row["right"] == (row["answer"] == row["expected"]) for row in answers)
    assert list(folder.rglob("events.out.tfevents*"))
    said = capfd.readouterr().err
    trained = sum(tensor.numel() for tensor in load_file(folder / "adapter_model.safetensors").values())
    assert re.search(
        rf"training {trained:,} of [\d,]+ parameters \(\d+\.\d+%\) on cpu, in float32 \(frozen: bfloat16\), products "
        r"in bfloat16, one process\n",
        said,
    )
    assert re.search(r"looking at 17 samples of \S*data.json\n", said)
    assert f"step 4/4  {sum(row['right'] for row in answers[3:])} of 3 answers as expected" in said


def test_weights_alone_are_nothing_to_go_on_from(run):
    """Trainer went on with a new optimizer and the schedule from its beginning, without a word."""
    run("--max_steps", "2", "--save_only_model")
    with pytest.raises(ValueError, match="checkpoint-2 was saved with --save_only_model"):
        run("--max_steps", "4")


def test_a_model_of_no_numbers_is_not_saved(run, tmp_path):
    with pytest.raises(ValueError, match="came to nothing: .* holds NaN or infinity"):
        run("--max_steps", "3", "--learning_rate", "1e38", "--max_grad_norm", "0", "--save_strategy", "no")
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("options", "own", "sentence"),
    [
        ((), {"model": "/nowhere"}, "does not exist"),
        ((), {"data": ["/nowhere.json"]}, "There is no '/nowhere.json'"),
        (("--strict",), {}, "Record 16 of .*the picture is missing"),
        (("--min_side", "999"), {}, "No sample is left.*16 × a picture that is too small"),
        (("--max_length", "20"), {}, "No sample is left.*16 × a sample that is too long"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence_and_leaves_nothing(run, tmp_path, options, own, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(*options, **own)
    assert not (tmp_path / "out").exists()


def test_other_settings_until_something_is_learned(run):
    with pytest.raises(ValueError, match="nothing"):
        run("--max_steps", "1", "--lora_targets", "nothing")
    with pytest.raises(ValueError, match="max_steps"):
        run("--streaming")
    assert len(run("--max_steps", "1")[1]) == 1


def test_a_folder_holds_one_run(run, tmp_path):
    run("--max_steps", "1")
    with pytest.raises(ValueError, match="holds a run with mode='lora', and this one has 'full'"):
        run("--max_steps", "1", mode="full")
    run("--max_steps", "2")  # more of the same
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty"):
        run("--max_steps", "1", output="other")
