"""Guards benchmarks/full_size.py (every step works, it wants room first, nothing stays on the disk), chat_speed.py."""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from benchmark_module import load_benchmark

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "full_size.py"


def command(folder):
    return [sys.executable, str(SCRIPT), "--scale", "small", "--models", "chat", "--folder", str(folder)]


@pytest.mark.slow
def test_full_size_measures_every_step_and_cleans_up(tmp_path):
    done = subprocess.run(command(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"\| chat: ([a-z ]+) \| ([\d.]+) \| ([\d.]+) GiB \| ([\d.]+) GiB \|", done.stdout)
    assert [row[0] for row in rows] == ["write", "cp", "convert", "verify", "load and use"]
    resident, anonymous = (float(number) for number in rows[2][2:])
    assert 0 < anonymous < resident < 1.5  # of the conversion
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_full_size_compares_methods_with_their_copies(tmp_path):
    """--method: rounding while loading, then `viscpm quantize`, whose copy answers the same."""
    pytest.importorskip("torchao")
    done = subprocess.run([*command(tmp_path), "--method", "int8"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert [row[0].partition(":")[0] for row in rows] == [
        "Chat",
        "---",
        "int8",
        "quantize to int8",
        "quantized to int8",
    ]
    for row, loads, same in ((rows[2], 1, ""), (rows[4], 2, "as above")):
        seconds = [float(cell) for cell in row[1:8] if cell != "–"]
        assert (len(seconds), row[-1]) == (5 + loads, same)
    assert not list(tmp_path.iterdir())


def test_full_size_cleans_up_when_interrupted(tmp_path):
    process = subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("*/vocab.txt")) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.endswith("error: interrupted; all files were removed\n")
    assert not list(tmp_path.iterdir())


def test_full_size_refuses_a_disk_without_room(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**11, 10**11 - 10**10, 10**10)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--folder", str(tmp_path)])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    with pytest.raises(SystemExit, match="error: 45 GB of disk are needed, but .* has 10.0 GB free."):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert not list(tmp_path.iterdir())


def test_the_stand_in_chooses_what_generate_chooses(monkeypatch):
    """Guards benchmarks/stand_in.py: as slow as the original it may be, but not another search."""
    script = load_benchmark("chat_speed")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = script.SIZES["text_config"] | sizes | {"vocab_size": 100, "head_dim": 16}
    vision = script.SIZES["vision_config"] | sizes
    monkeypatch.setattr(script, "SIZES", {"text_config": text, "vision_config": vision})
    model = script.build(script.STAND_IN)
    inputs = script.make_inputs(model)
    with torch.no_grad():
        features = model.get_image_features(inputs.pop("pixel_values")).pooler_output
    stand_in = script.StandIn(model, script.BEAMS)
    stand_in.prefill(inputs, features)
    steps = 6
    expected = model.generate(**inputs, image_features=features, **script.BEAMS, max_new_tokens=steps)
    found = stand_in.decode(steps)
    assert found.tolist() == expected[0, script.PROMPT :].tolist()
    assert 7 not in found  # </s> would end the search here and not there


def test_chat_speed_prints_the_stand_in_and_the_original_beside_it(monkeypatch, capsys):
    script = load_benchmark("chat_speed")
    rows = dict.fromkeys(script.RECORDED, 1.0)
    monkeypatch.setattr(script, "build", lambda setting: None)
    monkeypatch.setattr(script, "measure", lambda model, setting: rows)
    monkeypatch.setattr(script, "measure_batch", lambda model: [1.0, 2.0])
    monkeypatch.setattr(sys, "argv", ["chat_speed", "--settings", script.STAND_IN, "float32", "--rounds", "1"])
    script.main()
    printed = capsys.readouterr().out
    assert f"| {script.STAND_IN} | 1.00 s, 1.0 × |" in printed
    assert "float32: prefill 5.2 ×, decode 2.2 ×, turn 2.7 ×" in printed
