"""Guards benchmarks/gpu.py: without a GPU it says so; a tiny geometry goes through all of it but CUDA's own calls."""

import re

import pytest
import torch
from benchmark_module import load_benchmark


@pytest.fixture
def script():
    return load_benchmark("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_it_says_so(script, capsys):
    assert script.main([]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("There is no GPU here") and len(printed.splitlines()) == 1


@pytest.mark.slow
def test_a_tiny_geometry_goes_through_every_case(script, capsys):
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("torchao")
    assert script.main(["--tiny"]) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split("|") for line in printed if line.startswith(("| Chat", "| Paint"))]
    names = [row[0].strip() for row in rows]
    rounded = ["8-bit language model", "4-bit language model"]
    plans = ["all on the GPU", *rounded, "language model streamed", "all streamed"]
    assert [name for name in names if name.endswith("two steps")] == [f"Paint, {plan}, two steps" for plan in plans]
    for plan in ("all on the GPU", "language model streamed", "4-bit language model"):
        assert f"Chat, {plan}, greedy" in names and f"Chat, {plan}, the original's 3 beams" in names
    assert "first token" in rows[0][4] and re.search(r" s, \d+\.\d × first", rows[-1][4]) and "DPM++" in names[-1]
