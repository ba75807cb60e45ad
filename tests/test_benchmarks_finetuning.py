"""Guards benchmarks/finetuning.py: without a GPU it says so; a tiny geometry is trained, timed and predicted."""

import pytest
import torch
from benchmark_module import load_benchmark


@pytest.fixture
def script():
    return load_benchmark("finetuning")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_it_says_so(script, capsys):
    assert script.main(["--gpu"]) == 0
    assert capsys.readouterr().out.startswith("There is no GPU here")


@pytest.mark.slow
def test_a_tiny_geometry_is_trained_and_timed(script, capsys, monkeypatch):
    pytest.importorskip("peft")
    cases = [("LoRA", "lora", {}, None, 1, True), ("vision side", "full", {"tune_vision": True}, None, 1, False)]
    monkeypatch.setattr(script, "GPU_CASES", cases)
    assert script.main(["--tiny", "--length", "200"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][
        1:
    ]
    assert [row[0] for row in rows] == ["LoRA", "vision side"]
    for row in rows:
        assert row[2].endswith("GB") and float(row[5]) > 0 and float(row[6]) > 0 and 0.1 < float(row[7]) < 10
