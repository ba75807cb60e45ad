"""Guards what `viscpm fit --train` says: what is trained, costs at full size, a process beside it, errors."""

import pytest
import torch
from benchmark_module import load_benchmark

import viscpm_hf as v
from viscpm_hf.cli import main
from viscpm_hf.finetuning.model import add_lora, choose_tuned
from viscpm_hf.memory.machine import Machine
from viscpm_hf.memory.sizes import released_chat
from viscpm_hf.memory.training import Training, plan_training, trained_weights
from viscpm_hf.memory.training_report import command, refusal, training_plans

GPU, CPU = Machine("cuda", 10**12), Machine("cpu", 10**12)
EVERYTHING = {"tune_llm": True, "tune_vision": True}


@pytest.fixture(scope="module")
def released():
    return released_chat()


@pytest.mark.parametrize("tuned", [{}, {"tune_llm": True}, {"tune_vision": True}, EVERYTHING], ids=str)
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_what_is_trained_is_what_is_counted(mode, tuned):
    language = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = v.CpmBeeConfig(**language, head_dim=16, vocab_size=500).to_dict()
    config = v.VisCPMChatConfig(text_config=text, vision_config=vision)
    with torch.device("meta"):
        model = v.VisCPMChatForConditionalGeneration(config)
    if mode == "full":
        choose_tuned(model, **{"tune_llm": False, "tune_vision": False} | tuned)
    else:
        pytest.importorskip("peft")
        model = add_lora(model, tuned.get("tune_vision", False), r=4)
    expected = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    found = trained_weights(released_chat(config), Training(mode, r=4, **tuned))
    assert found == pytest.approx(expected, rel=0)


def test_costs_at_full_size(released):
    """By hand: 16 bytes for a trained weight, 2 or half a byte for a frozen one, logits and states beside them."""

    def peak(*way, **options):
        return plan_training(released, GPU, Training(*way, **options)).peak / 1e9

    assert 163.9 < peak("full", **EVERYTHING) < 170
    assert 20.5 < peak("lora") < 23 and 6.7 < peak("qlora") < 9
    logits, states, bias = 512 * 86583 * 12 / 1e9, 48 * 512 * 4096 * 2 / 1e9, 512**2 * (2.3 * 32 * 2 + 28) / 1e9
    assert peak("lora", batch=8) - peak("lora", batch=4) == pytest.approx(4 * (logits + states + bias), rel=0.01)
    assert peak("lora", checkpointing=False) > peak("lora") + 4
    assert peak("lora", r=64) > peak("lora") + 2
    assert peak("lora", dtype=torch.float32) > 41


@pytest.mark.slow
def test_a_process_takes_what_is_predicted(tmp_path):
    """Within a tenth, at a reduced size."""
    script = load_benchmark("finetuning")
    config = script.config_of(script.SMALL)
    repo = script.write_repo(config, script.make_processor(config, tmp_path), tmp_path / "repo")
    row = script.measure_peak(repo, config, "full", EVERYTHING, 4, True, 256)
    assert 0.9 < float(row.strip("| ").rpartition("|")[2]) < 1.1, row


def test_the_next_smaller_way_that_fits_is_named(released):
    plans = training_plans(released, GPU, Training("full", **EVERYTHING))
    assert refusal("model", plans, 200 * 10**9) is None
    assert "--mode full --per_device" in refusal("model", plans, 40 * 10**9)
    assert "--mode lora" in refusal("model", plans, 24 * 10**9)
    assert "--mode qlora" in refusal("model", plans, 12 * 10**9)
    assert "least of these ways needs 8.5 GB" in refusal("model", plans, 10**9)
    words = command(plans[0].training)
    assert words == (
        "--mode full --tune-llm --tune-vision --per_device_train_batch_size 1 --max_length 512 "
        "--gradient_checkpointing --bf16"
    )


def run(capsys, *arguments):
    code = main([str(word) for word in arguments])
    return code, *capsys.readouterr()


def test_fit_says_what_training_needs(chat_repo, capsys):
    code, out, err = run(capsys, "fit", "--train", "lora", "--device", "cuda", "--memory", "24GB")
    assert code == 0 and not err
    asked = next(line for line in out.splitlines() if line.startswith("*  lora"))
    assert asked.split()[2:5] == ["–", "1", "yes"] and asked.endswith("yes")
    assert "viscpm finetune chat --mode lora --per_device_train_batch_size 2 --max_length 512" in out
    code, out, err = run(capsys, "fit", "--train", "full", "--tune-llm", "--device", "cuda", "--memory", "24GB")
    assert code == 1 and err.count("\n") == 1 and "fits" in err and "*  full" in out
    code, out, _ = run(capsys, "fit", "--train", "qlora", "--model", chat_repo, "--device", "cpu", "--batch", "4")
    assert code == 0 and "*  qlora" in out


def test_fit_refuses_what_means_nothing(chat_repo, paint_repo, capsys):
    for arguments, code, message in (
        (["--batch", "4", "--model", chat_repo], 2, "need --train"),
        (["--train", "lora", "--plot", "x.png"], 2, "--plot"),
        (["--train", "lora", "--batch", "0"], 2, "batch"),
        (["--train", "lora", "--tune-llm"], 2, "belongs to --train full"),
        (["--train", "full", "--lora-r", "4"], 2, "belongs to --train lora or qlora"),
        ([], 2, "--model is missing"),
        (["--train", "lora", "--model", paint_repo], 1, "is a VisCPM-Paint"),
        (["--train", "lora", "--model", "/nowhere"], 1, "There is no folder"),
    ):
        found, _, err = run(capsys, "fit", *arguments)
        assert found == code and err.count("\n") == 1 and message in err, err
