"""Guards training in several processes: by accelerate's launcher as in one, and of the kind that was asked for."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import sharded
import torch
import yaml
from accelerate import DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoModelForImageTextToText, Seq2SeqTrainingArguments

import viscpm_hf
from viscpm_hf.finetuning import ChatCollator, ChatDataset
from viscpm_hf.finetuning.chat import finetune_chat
from viscpm_hf.finetuning.distribution import require_asked_for
from viscpm_hf.finetuning.settings import read_settings
from viscpm_hf.tiny import tiny_chat_repo
from viscpm_hf.tiny.world.questions import training_sample

EXAMPLES = Path(__file__).parents[2] / "examples" / "finetuning"
CONFIGS = sorted((EXAMPLES / "accelerate").glob("*.yaml"))
KINDS = {"ddp": "MULTI_GPU", "deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED", "fsdp2": "FSDP"}
MODES = ["full", *(["lora"] if find_spec("peft") else [])]
FIXED = ["--learning_rate", "3e-4", "--logging_steps", "1", "--save_steps", "2", "--use_cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty questions about drawn pictures, with answers of different lengths."""
    folder, rows = tmp_path_factory.mktemp("data"), []
    for number in range(20):
        sample = training_sample(7, number)
        sample.picture.save(folder / f"{number}.png")
        answer = sample.question.answer * (1 + number % 3)
        rows.append({"image": f"{number}.png", "question": sample.question.question, "answer": answer})
    (folder / "data.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder / "data.json"


def launch(launcher, *words):
    """A command of `viscpm finetune chat` by a launcher."""
    environment = {**os.environ, "PYTHONPATH": str(Path(viscpm_hf.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, "-m", "viscpm_hf", "finetune", "chat", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def accelerate(name, processes=2):
    """accelerate's launcher with one of the shipped configurations."""
    config = EXAMPLES / "accelerate" / f"{name}.yaml"
    return ["accelerate.commands.launch", "--config_file", str(config), "--num_processes", str(processes)]


def history(folder, key):
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry[key] for entry in log if key in entry}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_accelerates(path):
    config = load_config_from_file(str(path))  # refuses unknown keys
    assert config.distributed_type == KINDS[path.stem] and config.mixed_precision == "no"
    if path.stem == "fsdp2":
        layers = config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
        assert config.fsdp_config["fsdp_version"] == 2
        assert set(layers) <= set(viscpm_hf.VisCPMChatForConditionalGeneration._no_split_modules)


def test_the_originals_deepspeed_settings_are_those_of_the_recipe():
    deepspeed = json.loads((EXAMPLES / "original_deepspeed.json").read_text())
    recipe = yaml.safe_load((EXAMPLES / "original.yaml").read_text(encoding="utf-8"))
    adam, warmup = deepspeed["optimizer"]["params"], deepspeed["scheduler"]["params"]
    assert deepspeed["zero_optimization"]["stage"] == 2 and deepspeed["fp16"]["enabled"] is recipe["fp16"]
    assert adam["lr"] == warmup["warmup_max_lr"] == float(recipe["learning_rate"])
    assert adam["betas"] == [recipe["adam_beta1"], recipe["adam_beta2"]]
    assert adam["weight_decay"] == recipe["weight_decay"] and recipe["decay_all"]
    assert warmup["warmup_num_steps"] == recipe["warmup_steps"]
    assert warmup["warmup_min_lr"] == pytest.approx(0.1 * adam["lr"])
    assert deepspeed["train_micro_batch_size_per_gpu"] == recipe["per_device_train_batch_size"]


@pytest.mark.slow
def test_two_processes_group_by_length_evaluate_and_go_on_as_one(data, tmp_path):
    """Of the same global batch, by either launcher: losses of steps and evaluations, also of a run broken off."""
    shared = ["--model", str(tiny_chat_repo()), "--data", str(data), "--eval-rows", "4", *FIXED]
    shared += ["--train_sampling_strategy", "group_by_length", "--load_best_model_at_end", "--show-answers", "0"]
    two = [*shared, "--output", tmp_path / "two", "--per_device_train_batch_size", "1"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher, steps in ((accelerate("ddp"), 2), (torchrun, 4)):
        done = launch(launcher, *two, "--lr_scheduler_type", "constant", "--max_steps", steps)
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"Written: {tmp_path / 'two'}" and done.stderr.count("step 4/4  loss") == 1
    given = {"model": str(tiny_chat_repo()), "data": [str(data)], "output": str(tmp_path / "one"), "eval_rows": 4}
    options = [*FIXED, "--train_sampling_strategy", "group_by_length", "--load_best_model_at_end"]
    options += ["--per_device_train_batch_size", "2", "--lr_scheduler_type", "constant", "--max_steps", "4"]
    finetune_chat(*read_settings({**given, "show_answers": 0}, options))
    for key in ("loss", "eval_loss"):
        expected = history(tmp_path / "one", key)
        assert len(expected) == {"loss": 4, "eval_loss": 2}[key]
        assert history(tmp_path / "two", key) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_what_accelerate_would_leave_out_is_one_sentence(data, tmp_path):
    """On a CPU it wraps in DDP without a word."""
    shared = ["--model", str(tiny_chat_repo()), "--data", str(data), "--output", tmp_path / "out", *FIXED]
    done = launch(accelerate("fsdp2", 1), *shared)
    assert done.returncode != 0 and "error: FSDP was asked for, but on cpu accelerate leaves it out" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module", params=["sharded", "zero3"])
def spread(request, chat_repo, chat_processor, data, tmp_path_factory):
    """How weights were spread, the folder of what two processes made of two batches, and these."""
    if request.param == "zero3":
        pytest.importorskip("deepspeed")
    folder, dataset, collator = tmp_path_factory.mktemp("spread"), ChatDataset(data), ChatCollator(chat_processor)
    batches = [collator([dataset[index]]) for index in (0, 4)]
    torch.save(batches, folder / "batches.pt")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = [Path(__file__).with_name(f"{request.param}.py"), folder / "batches.pt", chat_repo, folder, *MODES]
    environment = {**os.environ, "PYTHONPATH": str(Path(viscpm_hf.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *map(str, program)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return request.param, folder, batches


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_weights_spread_over_two_processes_learn_as_whole_ones(chat_repo, spread, mode):
    """FSDP2 or ZeRO-3 on CPUs, with the tied head: loss, gradients, and a state that from_pretrained reads."""
    how, folder, batches = spread[0], spread[1] / mode, spread[2]
    found, exact = torch.load(folder / "step.pt"), mode == "full" or how == "zero3"
    model = sharded.load(chat_repo, mode, torch.float32 if exact else torch.bfloat16)
    count = sum(int((batch["shift_labels"] >= 0).sum()) for batch in batches)
    losses = [sharded.loss_of(model, batch, "full" if exact else mode, count) for batch in batches]
    sum(losses).backward()
    close = {"atol": 1e-6, "rtol": 1e-4} if exact else {"atol": 1e-3, "rtol": 0.05}
    assert found["loss"] == pytest.approx(sum(loss.item() for loss in losses), rel=close["rtol"] / 10)
    tuned = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert set(found["gradients"]) == set(tuned) and found["local"] < 0.6 * sum(p.numel() for p in model.parameters())
    for name, parameter in tuned.items():
        torch.testing.assert_close(found["gradients"][name], parameter.grad, msg=name, **close)
    torch.optim.SGD(tuned.values(), lr=0.1).step()
    if mode == "full":
        loaded = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32)
        for name, parameter in loaded.named_parameters():
            torch.testing.assert_close(parameter, dict(model.named_parameters())[name], msg=name, atol=1e-5, rtol=1e-4)
        assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    else:
        assert (folder / "model" / "adapter_model.safetensors").exists()


def test_every_module_is_listed_under_a_name_that_finds_it(chat_model):
    """DeepSpeed prepares what is listed: pairs of the vision tower were not, and their gradients were wrong."""

    def below(module):
        yield module
        for child in module.children():
            yield from below(child)

    assert set(map(id, below(chat_model))) == set(map(id, chat_model.modules()))
    for name, module in chat_model.named_modules():
        assert chat_model.get_submodule(name) is module
    assert not [name for name, module in chat_model.named_modules() if name.endswith("_proj") and "vision" in name]


def test_one_process_and_what_trainer_found(monkeypatch, tmp_path):
    arguments = Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    require_asked_for(arguments)
    require_asked_for(arguments, DistributedType.NO)
    for name, kind in (("FSDP", DistributedType.FSDP), ("DeepSpeed", DistributedType.DEEPSPEED)):
        with monkeypatch.context() as patch:
            patch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
            for found in (None, DistributedType.MULTI_CPU):
                with pytest.raises(ValueError, match=f"{name} was asked for"):
                    require_asked_for(arguments, found)
            require_asked_for(arguments, kind)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes that do not know of each other"):
        require_asked_for(arguments)
