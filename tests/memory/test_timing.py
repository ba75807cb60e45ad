"""Guards the seconds of Chat on a CPU: how they follow from measured products, the order of plans, the memory."""

import json
import os
import sys
from dataclasses import replace

import pytest
import torch
from benchmark_module import load_benchmark

from viscpm_hf import VisCPMChatConfig
from viscpm_hf.cli import main
from viscpm_hf.memory import timing
from viscpm_hf.memory.budget import choose, find_plan
from viscpm_hf.memory.machine import Machine
from viscpm_hf.memory.plans import TIMES, Workload, list_plans
from viscpm_hf.memory.sizes import read_model, released_chat
from viscpm_hf.tiny import tiny_chat_repo

CHAT = released_chat()
RAM = 64 * 10**9
# seconds for a weight, of a block, of a step, of a layer of vision
GIVEN = dict(zip(TIMES, (1e-11, 2e-10, 2e-11, 1e-3, 5e-3, 4e-3, 6e-3, 2e-2), strict=True))
KERNELS = ("mapped float16", "plain float32", "packed bfloat16", "int8 float16", "4bit float16")


@pytest.fixture
def quiet_machine(monkeypatch, tmp_path):
    """Nobody else works, and nothing is remembered."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "viscpm_hf" / "times.json"


@pytest.fixture
def measured(monkeypatch):
    """The kernels that are measured, one list for each time; all take what is given."""
    asked = []

    def measure(model, kernels, workload):
        asked.append(sorted(kernels))
        return {kernel: dict(GIVEN) for kernel in kernels}

    monkeypatch.setattr(timing, "measure", measure)
    return asked


def machine(**times):
    """A CPU on which all kernels take what is given, or times of those named (with _ for a space) changed."""
    kernels = {kernel: GIVEN | times.get(kernel.replace(" ", "_"), {}) for kernel in KERNELS}
    return Machine("cpu", RAM, None, {"memory": 20e9, "disk": 1e9}, times=kernels)


def by_title(plans):
    return {plan.title: plan for plan in plans}


def test_seconds_are_what_measured_products_add_up_to():
    plans = by_title(list_plans(CHAT, machine(), workload=Workload(answer_tokens=11)))
    weights, head = 4 * 4096**2 + 3 * 4096 * 10240, 86583 * 4096 * 2e-11
    cache = (128 + 3 * 11 / 2) * 2 * 48 * 4096 * 2 / 20e9
    token = 48 * (weights * 1e-11 + 1e-3) + 4e-3 + head + cache
    prompt = 48 * (weights * 2e-10 + 5e-3) + 6e-3 + head + 24 * 2e-2
    for title in ("all in RAM", "8-bit language model", "4-bit language model", "all in RAM, bfloat16"):
        plan = plans[title]
        assert plan.measured and plan.kernel in KERNELS
        assert plan.seconds == pytest.approx(token) and plan.encode_seconds == pytest.approx(prompt)
        assert plan.answer_seconds == pytest.approx(prompt + 10 * token)
    # float32 has keys and values of twice the bytes; from the disk all weights are read besides
    assert plans["all in RAM, float32"].seconds == pytest.approx(token + cache)
    disk = plans["weights read from the files when needed"]
    assert disk.seconds == pytest.approx(token + (48 * CHAT.parts["blocks"].nbytes() + 86583 * 4096 * 2) / 1e9)


def test_a_prompt_takes_longer_as_it_is_longer():
    def encode(tokens):
        return list_plans(CHAT, machine(), workload=Workload(prompt_tokens=tokens))[0].encode_seconds

    assert encode(64) == encode(128)  # measured with 64 rows it would be other times
    assert encode(1024) - encode(512) == pytest.approx(4 * (encode(256) - encode(128)))


def test_plans_come_in_the_order_of_the_answer():
    """4 bits: a faster token, and a prompt for which one waits half a minute."""
    slow_prompt = {"token": 0.8e-11, "prompt": 3e-9}
    plans = list_plans(CHAT, machine(**{"4bit_float16": slow_prompt}))
    titles = [plan.title for plan in plans]
    four, eight = (by_title(plans)[title] for title in ("4-bit language model", "8-bit language model"))
    assert four.seconds < eight.seconds and four.answer_seconds > eight.answer_seconds
    assert titles.index(four.title) > titles.index(eight.title)
    assert [plan.answer_seconds for plan in plans[:-1]] == sorted(plan.answer_seconds for plan in plans[:-1])
    assert plans[-1].method == "disk"


@pytest.mark.parametrize("factor", [0.85, 0.95, 1, 1.05, 1.15])
def test_noise_changes_no_plan(factor):
    """Of plans about as fast as each other it is the smaller one, whichever was measured as the faster."""
    noisy = machine(plain_float32={name: value * factor for name, value in GIVEN.items()})
    assert choose(list_plans(CHAT, noisy), noisy, None, False, "it").title == "all in RAM"
    busy = replace(noisy, times={kernel: {n: 9 * t for n, t in v.items()} for kernel, v in noisy.times.items()})
    assert choose(list_plans(CHAT, busy), busy, None, False, "it").title == "all in RAM"


def test_what_is_measured_much_faster_is_taken():
    slow = machine(mapped_float16={"token": 5e-11})
    assert choose(list_plans(CHAT, slow), slow, None, False, "it").title == "all in RAM, float32"
    assert choose(list_plans(CHAT, slow), slow, 30 * 10**9, False, "it").title == "all in RAM"  # the other is 42 GB


def test_what_has_no_times_keeps_what_bytes_take():
    half = Machine("cpu", RAM, times={"mapped float16": GIVEN})
    plans, bytes_only = by_title(list_plans(CHAT, half)), by_title(list_plans(CHAT, Machine("cpu", RAM)))
    assert plans["all in RAM"].measured and not plans["8-bit language model"].measured
    assert plans["8-bit language model"] == bytes_only["8-bit language model"]
    assert not any(plan.measured for plan in list_plans(CHAT, Machine("cuda", RAM, times={"mapped float16": GIVEN})))


def test_measured_once_and_remembered(quiet_machine, measured, monkeypatch):
    cpu = Machine("cpu", RAM)
    plans = list_plans(CHAT, cpu)
    first = timing.with_times(cpu, CHAT, plans)
    assert set(first.times) == set(KERNELS) and measured == [sorted(KERNELS)]
    assert timing.with_times(cpu, CHAT, plans) == first and len(measured) == 1
    some = [plan for plan in plans if plan.lossless]
    assert set(timing.with_times(cpu, CHAT, some).times) == {"mapped float16", "plain float32"} and len(measured) == 1
    # another machine: measured anew, and what was remembered stays
    monkeypatch.setattr(os, "cpu_count", lambda: 1000)
    timing.with_times(cpu, CHAT, some)
    assert measured[1:] == [["mapped float16", "plain float32"]]
    assert len(json.loads(quiet_machine.read_text())) == 2
    timing.with_times(cpu, CHAT, plans)  # what is missing is added
    assert measured[2:] == [["4bit float16", "int8 float16", "packed bfloat16"]]
    assert [path.name for path in quiet_machine.parent.iterdir()] == ["times.json"]


@pytest.mark.parametrize(
    "content", [b"", b"[", b"[]", b'"x"', b"\xff", b'{"a": 1}', b"[" * 10**5, "times", "names", "negative", "infinite"]
)
def test_what_is_no_measurement_is_measured_again(quiet_machine, measured, content):
    cpu = Machine("cpu", RAM)
    plans = [plan for plan in list_plans(CHAT, cpu) if plan.kernel == "mapped float16"]
    timing.with_times(cpu, CHAT, plans)
    if isinstance(content, str):
        (key,) = json.loads(quiet_machine.read_text())
        wrong = {"times": 3, "names": {"token": 1.0}, "negative": GIVEN | {"token": -1.0}}
        wrong["infinite"] = GIVEN | {"head": float("inf")}
        content = json.dumps({key: {"mapped float16": wrong[content]}}).encode()
    quiet_machine.write_bytes(content)
    assert timing.with_times(cpu, CHAT, plans).times == {"mapped float16": GIVEN}
    assert len(measured) == 2
    assert timing.with_times(cpu, CHAT, plans).times == {"mapped float16": GIVEN} and len(measured) == 2


def test_nothing_is_remembered_of_a_busy_machine_or_without_a_place(quiet_machine, measured, monkeypatch, tmp_path):
    cpu = Machine("cpu", RAM)
    plans = list_plans(CHAT, cpu)
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.0, 0.0), raising=False)
    assert timing.with_times(cpu, CHAT, plans).times and not quiet_machine.exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert timing.with_times(cpu, CHAT, plans).times and len(measured) == 2


def test_small_models_and_small_machines_are_not_measured(quiet_machine, measured):
    cpu, tiny = Machine("cpu", RAM), read_model(tiny_chat_repo())
    assert timing.with_times(cpu, tiny, list_plans(tiny, cpu)) is cpu
    small = Machine("cpu", 2 * 10**9)
    assert not timing.with_times(small, CHAT, list_plans(CHAT, small)).times
    assert not measured and not quiet_machine.exists()


def narrow_chat():
    """Of a width that takes no time."""
    text = {"hidden_size": 256, "intermediate_size": 640, "num_attention_heads": 2, "vocab_size": 1000}
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    return released_chat(VisCPMChatConfig(text_config=text, vision_config=vision))


def test_every_kernel_is_really_measured(monkeypatch):
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")
    found = timing.measure(narrow_chat(), KERNELS, Workload())
    assert set(found) == set(KERNELS)
    assert all(timing._are_times(times) for times in found.values())
    assert len(timing.measure(narrow_chat(), ["plain float32"], Workload(beams=1))["plain float32"]) == len(TIMES)


def test_a_missing_library_leaves_its_plans_without_times(monkeypatch, capfd):
    for name in ("torchao", "torchao.quantization", "bitsandbytes", "bitsandbytes.nn"):
        monkeypatch.setitem(sys.modules, name, None)
    assert set(timing.measure(narrow_chat(), KERNELS, Workload())) == set(KERNELS[:3])
    assert not capfd.readouterr().err


def test_seconds_decide_only_where_several_exact_plans_fit(quiet_machine, measured, monkeypatch, tmp_path):
    chat = load_benchmark("what_fits").empty_chat(tmp_path / "chat")
    monkeypatch.setattr("viscpm_hf.memory.machine.physical_memory", lambda: RAM)
    cpu = torch.device("cpu")
    assert find_plan(chat, cpu, "30GB").title == "all in RAM" and not measured
    with pytest.warns(UserWarning, match="are quantized"):
        assert find_plan(chat, cpu, "16GB", "auto").method == "int8" and not measured
    assert find_plan(chat, cpu, "60GB").title == "all in RAM"
    assert measured == [["mapped float16", "plain float32"]]
    monkeypatch.setitem(GIVEN, "token", 1e-11)
    content = json.loads(quiet_machine.read_text())
    for kernels in content.values():
        kernels["mapped float16"]["token"] = 9e-11
    quiet_machine.write_text(json.dumps(content))
    assert find_plan(chat, cpu, "60GB").title == "all in RAM, float32"  # as `viscpm fit` says


@pytest.mark.parametrize("chinese", [False, True])
def test_fit_prints_prompt_token_and_answer(quiet_machine, monkeypatch, tmp_path, capsys, chinese):
    """Seconds with ≥ are those that were not measured, and what they are is said, in the reader's language."""
    chat = load_benchmark("what_fits").empty_chat(tmp_path / "chat")
    monkeypatch.setattr(timing, "measure", lambda *_: {"mapped float16": GIVEN, "plain float32": GIVEN})
    monkeypatch.setattr(timing, "_largest", lambda model: 0)
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8" if chinese else "C.UTF-8")
    assert main(["fit", "--model", str(chat), "--device", "cpu", "--memory", "40GB"]) == 0
    out = capsys.readouterr().out
    said = ["回答：提示加 64 个 token", "实测的矩阵乘法", "≥ ：只计"] if chinese else []
    said = said or ["answer: the prompt and 64 tokens", "products measured on this processor", "≥ : what moving"]
    assert all(words in out for words in said)
    stored, eight = ("全部在内存中", "语言模型 8 比特量化") if chinese else ("all in RAM", "8-bit language model")
    lines = {line.lstrip("* ").split("  ")[0]: line for line in out.splitlines()}
    seconds = list_plans(CHAT, Machine("cpu", RAM, times={"mapped float16": GIVEN}))
    prompt = next(plan for plan in seconds if plan.title == "all in RAM").encode_seconds
    assert f"  {prompt:.2g}  " in lines[stored] and "≥" not in lines[stored]
    assert lines[eight].count("≥") == 3


def test_the_benchmark_of_seconds_works(monkeypatch, tmp_path):
    """On two blocks of no width; what it measures says nothing."""
    script = load_benchmark("times")
    monkeypatch.setattr(script, "ANSWER", 4)
    monkeypatch.setattr(script, "ROUNDS", 1)
    monkeypatch.setitem(script.chat_speed.SIZES["text_config"], "vocab_size", 86583)
    script.write(tmp_path, 2, 256, 1)
    result = script.one(tmp_path, "stored")
    assert set(result["beams"]) == {1, 3}
    assert all(seconds > 0 for both in result["beams"].values() for kind in both.values() for seconds in kind)
