"""Guards the table of lossy methods: rounding happens, is counted in bytes, and keeps the tiny models' answers."""

import argparse
import json

import pytest

from viscpm_hf.tiny import CHAT_CHECKPOINT, PAINT_CHECKPOINT
from viscpm_hf.tiny.measures.lossy_methods import METHODS, format_table, main, measure

SETTINGS = argparse.Namespace(questions=22, beams=1, prompts=4, steps=8, seed=0, scheduler="dpm++", judge=None)


def sizes(checkpoint):
    """Weights in the matrices of a tiny language model, and bytes of everything else in it."""
    size = json.loads((checkpoint / "llm_config.json").read_text())
    width, layers, heads = size["dim_model"], size["num_layers"], size["num_heads"]
    matrices = layers * (4 * width * heads * size["dim_head"] + 3 * width * size["dim_ff"])
    buckets = size["position_bias_num_buckets"] + size["position_bias_num_segment_buckets"]
    return matrices, 2 * (size["vocab_size"] * width + (2 * layers + 1) * width + buckets * heads)


@pytest.fixture(scope="module", autouse=True)
def libraries():
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("method", METHODS["chat"])
def test_chat_keeps_its_answers(method):
    found = measure("chat", method, slice(0, 22), SETTINGS)
    # with their scales; bitsandbytes keeps tables for each matrix, too
    bytes_each = {"stored": (2, 2), "bfloat16": (2, 2), "4bit": (0.51, 0.54)}.get(method, (1, 1.03))
    matrices, others = sizes(CHAT_CHECKPOINT)
    assert bytes_each[0] <= (found["weights"] - others) / matrices <= bytes_each[1]
    assert found["count"] == 44 and found["peak"] > 10**8
    assert all(sum(right) >= 21 for right in found["right"]["exact answers"].values())


@pytest.mark.parametrize("method", ["int8", "4bit"])
def test_paint_keeps_its_pictures(method):
    found = measure("paint", method, slice(1, 3), SETTINGS)
    matrices, others = sizes(PAINT_CHECKPOINT)
    assert (found["weights"] - others) / matrices < (0.55 if method == "4bit" else 1.03) and found["count"] == 8
    assert {len(right) for right in found["right"]["combinations: background"].values()} == {2}
    assert all(all(right) for right in found["right"]["shapes: shape"].values())


def test_table_pools_rounds_and_compares_with_the_first_row():
    def part(seconds, peak, right):
        right = {"exact answers": {"zh": right, "en": [True, True]}}
        return {"weights": 1_000_000, "peak": peak, "seconds": seconds, "count": 4, "right": right}

    measured = {
        "stored": [part(1.0, 10**8, [True, True]), part(4.0, 10**8, [True, True])],
        "int8": [part(2.0, 10**8, [True, False]), part(2.0, 2 * 10**8, [True, True])],
    }
    assert format_table("chat", measured).splitlines() == [
        "| chat | language model | peak | answers/s | × first | exact answers |",
        "|---|---|---|---|---|---|",
        "| stored | 1.00 MB | 100 MB | 1.6 | 1.00 | 100.0 / 100.0 |",
        "| int8 | 1.00 MB | 200 MB | 2.0 | 1.25 | 75.0 / 100.0 |",
    ]


@pytest.mark.slow
def test_command_measures_in_processes_of_their_own(capsys, monkeypatch):
    monkeypatch.setitem(METHODS, "chat", ("4bit",))
    assert main(["--models", "chat", "--rounds", "1", "--questions", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[2].startswith("| 4bit | ") and lines[2].endswith(" | 100.0 / 100.0 |")
