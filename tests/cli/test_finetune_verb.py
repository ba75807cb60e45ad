"""Guards `viscpm finetune chat` as a command: what it says, exit codes, mistakes in one line with the page to read."""

import json

import pytest

from viscpm_hf.cli import main
from viscpm_hf.tiny import tiny_chat_repo


@pytest.fixture
def data(tmp_path):
    rows = [{"question": "你好吗？", "answer": "好。"}, {"question": "Hello?", "answer": ""}, 3]
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return file


def finetune(*arguments):
    return main(["finetune", "chat", *map(str, arguments)])


def test_a_run_and_its_report(data, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {tiny_chat_repo()}\ndata: {data}\nuse_cpu: true\nlogging_steps: 1\nmode: full\n")
    output = tmp_path / "out"
    for steps in (1, 2):
        options = ("--config", config, "--output", output, "--max_steps", steps, "--lora_r", "4", "--mode", "lora")
        assert finetune(*options) == 0
        out, err = capsys.readouterr()
        assert out == f"Written: {output}\n"
        lines = err.splitlines()
        assert lines[0] == f"looking at 1 samples of {data}"
        assert lines[1] == "1 samples to train on" + (", going on from checkpoint-1" if steps == 2 else "")
        assert lines[2].startswith(f"2 row(s) left out, listed in {output / 'left_out.jsonl'}: 1 × an empty answer")
        (step,) = [line for line in lines if line.startswith("step")]
        assert step.startswith(f"step {steps}/{steps}  loss ") and step.endswith("0:00:00 left")
    assert json.loads((output / "adapter_config.json").read_text())["r"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ((), 2, "--model is missing"),
        (("--max_step", "3"), 2, "Got --max_step, which is no option; max_steps is one"),
        (("--mode", "half"), 2, "Got 'half' as --mode, expected one of"),
        (("--eval-rows", "x"), 2, "Got 'x' as --eval-rows, expected a whole number"),
        (("--model", "/nowhere", "--data", "d", "--output", "OUT"), 1, "/nowhere does not exist"),
        (("--model", "TINY", "--data", "/nowhere.json", "--output", "OUT"), 1, "There is no '/nowhere.json'"),
        (("--model", "TINY", "--data", "DATA", "--output", "OUT", "--strict"), 1, "Record 1 of "),
        (("--model", "TINY", "--data", "DATA", "--output", "OUT", "--bf16", "--fp16"), 1, "fp16"),
    ],
)
def test_mistakes_are_a_line(data, tmp_path, capsys, arguments, code, sentence):
    places = {"TINY": tiny_chat_repo(), "DATA": data, "OUT": tmp_path / "out"}
    assert finetune(*(places.get(word, word) for word in arguments), "--use_cpu") == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and sentence in err and err.count("\n") == 1
    assert ("see `viscpm finetune chat --help`" in err) == (code == 2)
