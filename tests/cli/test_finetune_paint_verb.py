"""Guards `viscpm finetune paint` as a command: what it says, exit codes, mistakes in a line."""

import json

import pytest
from PIL import Image

from viscpm_hf.cli import main
from viscpm_hf.tiny import tiny_paint_repo


@pytest.fixture
def data(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, [{"image": "a.png", "text": "red"}, {"image": "a.png", "text": ""}])))
    return file


def finetune(*arguments):
    return main(["finetune", "paint", *map(str, arguments)])


def test_a_run_and_its_report(data, tmp_path, capsys):
    config, output = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(f"model: {tiny_paint_repo()}\ndata: {data}\nuse_cpu: true\nlogging_steps: 1\nema: 0.9\n")
    assert finetune("--config", config, "--output", output, "--max_steps", 2, "--lora-r", "4") == 0
    out, err = capsys.readouterr()
    assert out == f"Written: {output}\n"
    lines = err.splitlines()
    assert lines[:2] == [f"looking at 1 samples of {data}", "1 samples to train on"]
    assert lines[2].startswith(f"1 row(s) left out, listed in {output / 'left_out.jsonl'}: 1 × ")
    steps = [line for line in lines if line.startswith("step")]
    assert steps[1].startswith("step 2/2  loss ") and steps[1].endswith("0:00:00 left") and len(lines) == 8
    assert (output / "pytorch_lora_weights.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ((), 2, "--model is missing"),
        (("--ema", "2"), 2, "--model is missing"),
        (("--max_step", "3"), 2, "Got --max_step, which is no option; max_steps is one"),
        (("--mode", "qlora"), 2, "Got 'qlora' as --mode, expected one of"),
        (("--model", "TINY", "--data", "DATA", "--output", "OUT", "--ema", "2"), 2, "Got 2.0 as ema"),
        (("--model", "TINY", "--data", "/nowhere.json", "--output", "OUT"), 1, "There is no '/nowhere.json'"),
        (("--model", "TINY", "--data", "DATA", "--output", "OUT", "--strict"), 1, "Record 1 of "),
        (("--model", "TINY", "--data", "DATA", "--output", "OUT", "--lora-targets", "no"), 1, "no"),
    ],
)
def test_mistakes_are_a_line(data, tmp_path, capsys, arguments, code, sentence):
    places = {"TINY": tiny_paint_repo(), "DATA": data, "OUT": tmp_path / "out"}
    assert finetune(*(places.get(word, word) for word in arguments), "--use_cpu") == code
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("error: ") and sentence in err
    assert ("see `viscpm finetune paint --help`" in err) == (code == 2)
