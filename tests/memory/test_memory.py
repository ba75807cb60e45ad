"""Guards plans of memory: sizes, costs at full size, the choice, the prediction, and that every plan answers alike."""

import itertools
import re
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from benchmark_module import load_benchmark
from paint import golden_pipeline
from transformers import StoppingCriteria

from viscpm_hf import (
    VisCPMChat,
    VisCPMChatForConditionalGeneration,
    VisCPMPaint,
    VisCPMPaintPipeline,
)
from viscpm_hf.checkpoint import CheckpointError
from viscpm_hf.checkpoint.files.sizes import parse_size
from viscpm_hf.memory.budget import choose, faster_quantized, find_plan
from viscpm_hf.memory.machine import Machine
from viscpm_hf.memory.placement import load_chat, load_paint
from viscpm_hf.memory.plans import CUDA_CONTEXT, list_plans
from viscpm_hf.memory.sizes import read_model
from viscpm_hf.tiny import tiny_chat_repo, tiny_paint_repo

WHAT_FITS = load_benchmark("what_fits")
GPU = Machine("cuda", ram=64 * 10**9)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GREEDY = {"max_new_tokens": 8, "num_beams": 1, "length_penalty": 1.0}


@pytest.fixture(scope="module")
def full_chat_folder(tmp_path_factory):
    """A Chat repository of the released sizes with nothing in it."""
    return WHAT_FITS.empty_chat(tmp_path_factory.mktemp("full") / "chat")


@pytest.fixture(scope="module")
def full_chat(full_chat_folder):
    return read_model(full_chat_folder)


@pytest.fixture(scope="module")
def full_paint(tmp_path_factory):
    """Paint with checkers and ranker, in the released sizes."""
    return read_model(WHAT_FITS.empty_paint(tmp_path_factory.mktemp("full") / "paint"))


def by_title(plans):
    found = {plan.title: plan for plan in plans}
    assert len(found) == len(plans)
    return found


def test_sizes_are_read_as_people_write_them():
    sizes = {"1g": 2**30, "5GB": 5 * 10**9, "5 GiB": 5 * 2**30, "1.5gb": 1_500_000_000, "500MB": 5 * 10**8}
    sizes |= {5e9: 5 * 10**9, "5e9": 5 * 10**9, 1_000_000: 1_000_000, "10kB": 10_000, "8b": 8, "1t": 2**40}
    assert {size: parse_size(size) for size in sizes} == sizes
    nonsense = ["5 apples", "", "GB", "-1GB", 0, -8, "0GB", None, True, [5], "9" * 400, 10**400, 10**5000, "1e400"]
    for size in (*nonsense, float("nan"), float("inf"), "nan", "infinity", "٣GB", "1_000MB", "5,5GB", "1e99GB"):
        with pytest.raises(CheckpointError, match="expected bytes or a size") as error:
            parse_size(size)
        assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("size", "meant"), [(8, "8GB"), ("8", "8GB"), ("1.5", "1.5GB"), (512, "512MB"), ("8192", "8192MB")]
)
def test_a_unit_that_was_forgotten_is_asked_for(chat_repo_eos, size, meant):
    with pytest.raises(ValueError, match=f"bytes; did you mean {meant}\\?"):
        find_plan(chat_repo_eos, CPU, memory=size)


def test_the_released_sizes_are_those_of_the_manifest(full_chat, full_paint):
    assert full_chat.blocks == full_paint.blocks == 48
    assert full_chat.language_bytes() == full_paint.language_bytes() == 19_232_161_792  # half precision
    assert full_chat.parts["blocks"].nbytes() == pytest.approx(386e6, rel=0.001)
    assert full_paint.parts["unet"].nbytes() == 1_731_821_448
    assert full_paint.parts["text_projection"].nbytes() == 8_392_704


@pytest.mark.parametrize(
    "title, least, most",
    [
        ("all on the GPU, float16", 22.3 + 0.4, 22.3 + 0.7),
        ("8-bit language model, float16", 13.1 + 0.4, 13.1 + 0.7),
        ("4-bit language model, float16", 8.6 + 0.4, 8.6 + 0.7),
        ("language model streamed, float16", 4.5, 4.8),
        ("language model streamed, checkers too, float16", 3.3, 3.5),
        ("all streamed, float16", 0.8, 1.4),
        # as in the original, everything but the language model in float32: twice as much
        ("language model streamed", 1.48 + 1.2 + 3.8, 1.48 + 1.2 + 4.0),
    ],
)
def test_full_size_paint_costs_on_a_gpu_what_was_worked_out_by_hand(full_paint, title, least, most):
    plan = by_title(list_plans(full_paint, GPU))[title]
    assert least <= (plan.peak - CUDA_CONTEXT) / 1e9 <= most


def test_full_size_chat_fits_five_gigabytes_without_loss(full_chat):
    plans = by_title(list_plans(full_chat, GPU, budget=5 * 10**9))
    taken = choose(plans.values(), GPU, 5 * 10**9, False, "chat")
    assert taken.lossless and taken.method in ("stream", "stream all") and taken.peak <= 5 * 10**9
    # 709 MB of embedding, two blocks, the cache of 642 tokens of three beams, and a little
    least = 709e6 + 2 * 386e6 + 642 * 3 * 2 * 48 * 4096 * 2 + CUDA_CONTEXT
    assert least < plans["all streamed"].peak < least + 0.5e9
    assert plans["language model streamed"].peak - plans["all streamed"].peak == pytest.approx(1.11e9, rel=0.05)
    # every token waits for all blocks; page-locked memory comes in powers of two, 134 MB for 84
    assert plans["language model streamed"].seconds == pytest.approx(48 * 386e6 / 12e9, rel=0.01)
    assert plans["language model streamed"].host_memory["pinned weights"] == pytest.approx(25.8e9, rel=0.01)
    assert plans["all on the GPU"].seconds == pytest.approx(19.2e9 / 400e9, rel=0.02)
    spread = plans["language model spread over GPU and RAM"]
    assert spread.mapped == spread.host_memory["weights"] and spread.seconds > plans["language model streamed"].seconds


def test_the_fastest_lossless_plan_that_fits_is_taken(full_chat, full_paint):
    def taken(model, budget, machine=GPU, allow_lossy=False):
        return choose(list_plans(model, machine, budget), machine, budget, allow_lossy, "it")

    assert taken(full_chat, 24 * 10**9).method == "resident"
    assert taken(full_chat, 16 * 10**9).method == "spread"  # most blocks need not move
    assert taken(full_chat, 6 * 10**9).method == "stream"
    assert taken(full_chat, 6 * 10**9, Machine("cuda", ram=16 * 10**9)).method == "spread"  # no room to page-lock
    assert taken(full_paint, 6 * 10**9).title == "language model streamed, float16"
    assert taken(full_paint, 5 * 10**9).title == "language model streamed, checkers too, float16"
    assert taken(full_paint, 2 * 10**9).method == "stream all"
    assert taken(full_chat, None, Machine("cuda", 64 * 10**9, device_memory=80 * 10**9)).method == "resident"


def test_quantized_weights_are_hinted_at_where_they_are_much_faster(full_chat):
    """12 GB of RAM: the files are read for every token, or 4 bits fit."""
    machine = Machine("cpu", ram=12 * 10**9)
    plans = list_plans(full_chat, machine)
    taken = choose(plans, machine, None, False, "it")
    assert taken.method == "disk" and faster_quantized(plans, machine, None, taken).method == "4bit"
    assert faster_quantized(plans, machine, 3 * 10**9, taken) is None  # too much
    lossy = choose(plans, machine, None, True, "it")
    assert lossy.method == "4bit" and faster_quantized(plans, machine, None, lossy) is None
    assert faster_quantized([replace(plan, answer_seconds=9.0) for plan in plans], machine, None, taken) is not None
    slow = [replace(plan, answer_seconds=taken.answer_seconds) for plan in plans]
    assert faster_quantized(slow, machine, None, taken) is None


def test_a_cpu_reads_weights_from_the_files_rather_than_round_them(full_chat):
    machine = Machine("cpu", ram=64 * 10**9)
    plans = by_title(list_plans(full_chat, machine))
    assert plans["all in RAM"].mapped > 20e9 and plans["all in RAM, float32"].mapped == 0
    assert plans["all in RAM, bfloat16"].lossless is plans["8-bit language model"].lossless is False
    assert choose(plans.values(), machine, 32 * 10**9, True, "it").title == "all in RAM"
    assert choose(plans.values(), machine, 8 * 10**9, True, "it").method == "disk"
    without_half = Machine("cpu", ram=64 * 10**9, slow_dtypes=frozenset([torch.float16]))
    assert choose(list_plans(full_chat, without_half), without_half, None, False, "it").title == "all in RAM, float32"
    asked = by_title(list_plans(full_chat, machine, dtype=torch.bfloat16))
    assert {title for title, plan in asked.items() if plan.lossless} == {"all in RAM"}  # in one precision


@pytest.mark.parametrize(
    "measured", [{}, {"memory": 0.7e9}, {"memory": 0.7e9, "disk": 5e9}, {"memory": 1e8, "disk": 1e8}]
)
def test_a_busy_machine_changes_no_plan(full_chat, full_paint, measured):
    """Whatever main memory and disk are measured at, what fits into RAM is not read from files."""
    for model in (full_chat, full_paint):
        for budget in (None, *(size * 10**9 for size in (8, 16, 24, 32, 64))):
            for slow in (frozenset(), frozenset([torch.float16])):
                quiet, busy = (Machine("cpu", 64 * 10**9, None, speeds, slow) for speeds in ({}, measured))
                for lossy in (False, True):
                    taken = [choose(list_plans(model, m, budget), m, budget, lossy, "it").title for m in (quiet, busy)]
                    assert taken[0] == taken[1]
    assert busy.speed("disk") <= busy.speed("memory")


def test_what_lies_further_away_is_never_faster(full_chat):
    machine = Machine("cuda", 64 * 10**9, None, {"gpu memory": 2e9, "link": 3e9, "pageable": 4e9, "disk": 5e9})
    assert {machine.speed(name) for name in ("gpu memory", "link", "pageable", "disk")} == {2e9}
    assert list_plans(full_chat, machine, 16 * 10**9)[0].in_place


def test_rounding_is_taken_only_where_allowed_and_needed(full_chat, full_paint):
    def taken(model, machine, budget):
        return choose(list_plans(model, machine, budget), machine, budget, True, "it")

    assert taken(full_chat, GPU, 24 * 10**9).lossless  # not needed
    assert taken(full_chat, GPU, 16 * 10**9).method == "int8"
    assert taken(full_chat, GPU, 10 * 10**9).method == "4bit"
    assert taken(full_chat, GPU, 6 * 10**9).method == "stream"  # rounded ones do not fit either
    for budget in (6, 15, 20):  # exact weights that move once for a prompt
        assert taken(full_paint, GPU, budget * 10**9).lossless
    streamed = [plan for plan in list_plans(full_paint, GPU) if plan.method in ("stream all", "int8")]
    assert choose(streamed, GPU, 20 * 10**9, True, "it").title == "8-bit language model"
    assert choose(streamed, GPU, 15 * 10**9, True, "it").title == "8-bit language model, float16"
    machine = Machine("cpu", ram=16 * 10**9)
    assert taken(full_chat, machine, None).method == "int8"
    assert not choose(list_plans(full_chat, machine), machine, None, False, "it").method == "int8"
    assert taken(full_chat, Machine("cpu", ram=10 * 10**9), None).method == "4bit"
    rounded = [plan for plan in list_plans(full_chat, GPU) if plan.method in ("resident", "4bit")]
    with pytest.raises(ValueError, match=r"give it 22\.5 GB .*or allow quantized weights .*4-bit"):
        choose(rounded, GPU, 10 * 10**9, False, "it")


def test_rounding_that_was_only_allowed_is_said(full_chat_folder):
    with pytest.warns(UserWarning, match="are quantized: 8-bit"):
        assert find_plan(full_chat_folder, CUDA, "16GB", "auto").method == "int8"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_plan(full_chat_folder, CUDA, "16GB", "4bit").method == "4bit"


def test_impossible_budgets_are_told_the_least_that_works(full_chat, full_paint):
    for model, machine in ((full_chat, GPU), (full_paint, GPU), (full_chat, Machine("cpu", 32 * 10**9))):
        plans = list_plans(model, machine, 10**9)
        with pytest.raises(ValueError, match="too little for it") as error:
            choose(plans, machine, 10**8, False, "it")
        least = parse_size(re.search(r"give it (\S+ GB)", str(error.value))[1])
        assert choose(list_plans(model, machine, least), machine, least, False, "it").peak <= least
        with pytest.raises(ValueError, match="too little"):
            choose(list_plans(model, machine, least), machine, least - 2 * 10**8, False, "it")
    with pytest.raises(ValueError, match="main memory"):
        choose(list_plans(full_chat, Machine("cpu", 10**9)), Machine("cpu", 10**9), None, True, "it")


def test_what_is_no_converted_model_is_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="There is no folder"):
        read_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="There is no converted model in"):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "viscpm_chat"}')
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors"):
        read_model(tmp_path)


# On models


@pytest.fixture(scope="module")
def answers(chat_repo_eos, pictures):
    return asked(VisCPMChat(chat_repo_eos, image_safety_checker=False, device="cpu"), pictures)


def asked(chat, pictures):
    """A greedy answer and one of the search with three beams."""
    return [chat.chat(pictures[0], "这张图片里有什么？", **options)[0] for options in (GREEDY, {"max_new_tokens": 8})]


def painted(pipeline):
    return pipeline("月", num_inference_steps=2, generator=torch.Generator().manual_seed(3), output_type="np").images


@pytest.mark.parametrize("method", ["stream", "stream all"])
def test_streamed_chat_answers_alike(chat_repo_eos, pictures, answers, method):
    plan = next(plan for plan in list_plans(read_model(chat_repo_eos), GPU) if plan.method == method)
    chat = VisCPMChat(chat_repo_eos, image_safety_checker=False)
    chat.model = load_chat(VisCPMChatForConditionalGeneration, chat_repo_eos, plan, CPU).eval()
    hooked = [name for name, module in chat.model.named_modules() if hasattr(module, "_diffusers_hook")]
    assert sum(bool(re.fullmatch(r"model\.language_model\.layers\.\d+", name)) for name in hooked) == 3
    assert any("vision_tower" in name for name in hooked) is (method == "stream all")
    assert not any("embed_tokens" in name or "lm_head" in name for name in hooked)
    for _ in range(2):  # the first pass is what prefetching learns the order from
        assert asked(chat, pictures) == answers


@pytest.mark.parametrize("method", ["resident", "stream", "stream all"])
def test_placed_paint_paints_alike(paint_repo, method):
    wanted = painted(golden_pipeline())
    plans = list_plans(read_model(paint_repo), GPU, dtype=torch.float32)
    plan = next(plan for plan in plans if plan.method == method)
    pipeline = load_paint(VisCPMPaintPipeline, paint_repo, plan, CPU, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    for _ in range(2):
        assert abs(painted(pipeline) - wanted).max() < 1e-5


def test_a_budget_changes_no_answer(chat_repo_eos, paint_repo, pictures, answers):
    chat = VisCPMChat(chat_repo_eos, image_safety_checker=False, device="cpu", memory="2GB")
    assert asked(chat, pictures) == answers
    painter = VisCPMPaint(paint_repo, False, False, False, device="cpu", memory="2GB")
    painter.pipeline.set_progress_bar_config(disable=True)
    assert abs(painted(painter.pipeline) - painted(golden_pipeline())).max() < 1e-5
    for drop_in in (VisCPMChat, VisCPMPaint):
        repo = chat_repo_eos if drop_in is VisCPMChat else paint_repo
        with pytest.raises(ValueError, match="too little for"):
            drop_in(repo, False, device="cpu", memory="100MB")
        with pytest.raises(ValueError, match="'apples'"):
            drop_in(repo, False, device="cpu", memory="apples")


def test_where_weights_are_brought_in_questions_take_turns(chat_repo_eos, pictures):
    """Blocks that one answer brings in would be taken away by another one."""
    plans = list_plans(read_model(chat_repo_eos), Machine("cpu", 64 * 10**9))
    budget = next(plan for plan in plans if plan.method == "disk").peak
    chat = VisCPMChat(chat_repo_eos, image_safety_checker=False, device="cpu", memory=budget)
    working = []

    class Watch(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            working.append(threading.get_ident())
            time.sleep(0.002)
            return torch.zeros(len(input_ids), dtype=torch.bool)

    options = {"max_new_tokens": 8, "stopping_criteria": [Watch()]}
    ask = [lambda: chat.chat(pictures[0], "你", **options)[0]] * 2
    ask += [lambda: "".join(chat.stream(pictures[0], "你", **options))] * 2
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda call: call(), ask))
    assert len(set(answers[:2])) == len(set(answers[2:])) == 1
    assert len(list(itertools.groupby(working))) <= 4


def test_the_originals_variable_limits_the_language_model_on_a_gpu(chat_repo_eos, paint_repo, monkeypatch):
    monkeypatch.setenv("CUDA_MEMORY_CPMBEE_MAX", "1g")
    for repo in (chat_repo_eos, paint_repo):
        assert find_plan(repo, CUDA).method == "resident"
        monkeypatch.setenv("CUDA_MEMORY_CPMBEE_MAX", "10kB")  # less than any part, and still not refused
        plan = find_plan(repo, CUDA)
        assert plan.method == "stream" and "float16" not in plan.title
        monkeypatch.setenv("CUDA_MEMORY_CPMBEE_MAX", "1g")
        with pytest.warns(UserWarning, match="1g has no effect on cpu") as caught:
            assert find_plan(repo, CPU) is None
        assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_plan(chat_repo_eos, CPU, memory="2GB").method == "resident"  # the argument comes first
    monkeypatch.delenv("CUDA_MEMORY_CPMBEE_MAX")
    assert find_plan(chat_repo_eos, CUDA) is None


def test_int8_is_of_the_language_model_and_survives_saving(chat_repo_eos, paint_repo, pictures, tmp_path):
    pytest.importorskip("torchao")
    chat = VisCPMChat(chat_repo_eos, image_safety_checker=False, device="cpu", quantization="int8")
    rounded = {n for n, p in chat.model.state_dict().items() if type(p.data) is not torch.Tensor}
    assert len(rounded) == 3 * 7 and all(name.startswith("model.language_model.layers.") for name in rounded)
    said = asked(chat, pictures)
    chat.model.save_pretrained(tmp_path)
    chat.processor.save_pretrained(tmp_path)
    again = VisCPMChat(tmp_path, image_safety_checker=False, device="cpu", memory="2GB")
    assert asked(again, pictures) == said
    assert {n for n, p in again.model.state_dict().items() if type(p.data) is not torch.Tensor} == rounded
    with pytest.raises(ValueError, match="is stored quantized otherwise"):
        VisCPMChat(tmp_path, image_safety_checker=False, device="cpu", quantization="4bit")

    painter = VisCPMPaint(paint_repo, False, False, False, device="cpu", quantization="int8")
    rounded = {n for n, p in painter.pipeline.text_encoder.named_parameters() if type(p.data) is not torch.Tensor}
    assert len(rounded) == 7 * painter.pipeline.text_encoder.config.num_hidden_layers
    painter.pipeline.set_progress_bar_config(disable=True)
    assert painted(painter.pipeline).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("quantization", ["int8", "4bit"])
def test_the_rest_may_be_in_another_precision(quantization, pictures, tmp_path):
    """A repository stored in float16, used in bfloat16 with rounded blocks."""
    repo, chat = tiny_chat_repo(), None
    assert read_model(repo).parts["blocks"].dtype == torch.float16
    chat = VisCPMChat(repo, False, "cpu", torch.bfloat16, quantization=quantization)
    block = chat.model.model.language_model.layers[0]
    assert chat.model.get_input_embeddings().weight.dtype == block.input_layernorm.weight.dtype == torch.bfloat16
    assert type(block.mlp.up_proj).__name__ in ("PackedInt8Linear", "Linear", "Linear4bit", "PackedLinear4bit")
    assert type(block.mlp.up_proj) is not torch.nn.Linear or hasattr(block.mlp.up_proj.weight, "qdata")
    assert chat.chat(pictures[0], "图里有什么？", max_new_tokens=4)[0]
    painter = VisCPMPaint(tiny_paint_repo(), False, False, False, "cpu", torch.bfloat16, quantization=quantization)
    assert painter.pipeline.text_encoder.embed_tokens.weight.dtype == painter.pipeline.unet.dtype == torch.bfloat16
    assert painter.pipeline.text_encoder.layers[0].mlp.up_proj.weight.dtype != torch.bfloat16 or hasattr(
        painter.pipeline.text_encoder.layers[0].mlp.up_proj.weight, "qdata"
    )


@pytest.mark.parametrize("dtype", ["nn", "float17", "int8", torch.int8, torch, 16])
def test_precisions_that_are_none_are_refused(chat_repo_eos, dtype):
    with pytest.raises(ValueError, match="as dtype, expected a floating-point type"):
        find_plan(chat_repo_eos, CPU, "2GB", dtype=dtype)
    with pytest.raises(ValueError, match="as dtype, expected a floating-point type"):
        find_plan(chat_repo_eos, CPU, "2GB", dtype={"unet": dtype})


def test_quantizations_that_cannot_be_had_are_refused(chat_repo_eos):
    for options, message in (
        ({"quantization": "int3"}, "expected 'auto', 'int8' or '4bit'"),
        ({"quantization": "4bit"}, "4bit needs widths that are multiples of 64"),
        ({"quantization": object(), "memory": "2GB"}, "expected 'auto'"),
    ):
        with pytest.raises(ValueError, match=message):
            VisCPMChat(chat_repo_eos, image_safety_checker=False, device="cpu", **options)


@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is not None, reason="a build with CUDA takes memory of its own")
def test_prediction_is_what_a_process_takes(tmp_path):
    benchmark = load_benchmark("memory")
    sizes = {"vocab_size": 20000, "dim_model": 1024, "dim_ff": 2816, "num_heads*dim_head": 1024}
    sizes |= {"encoder_embed_dim": 512, "encoder_ffn_embed_dim": 2048, "encoder_layers": 2}
    repo = benchmark.make("chat", tmp_path, sizes, 350_000_000)
    weights, peaks = (repo / "model.safetensors").stat().st_size, []
    for options in ({}, {"dtype": "float32"}):
        peak, prompt_tokens = benchmark.measure("chat", repo, options)
        predicted = benchmark.predict(repo, options, prompt_tokens)
        assert 0.85 < predicted / peak < 1.15, options
        peaks.append(peak)
    # weights that keep their precision stay in the file: what float32 takes more is all its weights
    assert peaks[1] - peaks[0] > 1.8 * weights


def test_rounding_leaves_a_precision_that_the_processor_is_slow_in(full_chat):
    """Without instructions for float16, as on most processors, what is not rounded is in bfloat16 or float32."""

    def dtypes_of_rounded(*slow, **options):
        machine = Machine("cpu", ram=64 * 10**9, slow_dtypes=frozenset(slow))
        plans = [plan for plan in list_plans(full_chat, machine, **options) if plan.method in ("int8", "4bit")]
        assert sorted(plan.method for plan in plans) == ["4bit", "int8"]
        return {plan.dtypes["blocks"] for plan in plans}

    assert dtypes_of_rounded() == dtypes_of_rounded(torch.bfloat16) == {torch.float16}
    assert dtypes_of_rounded(torch.float16) == {torch.bfloat16}
    assert dtypes_of_rounded(torch.float16, torch.bfloat16) == {torch.float32}
    assert dtypes_of_rounded(torch.float16, dtype=torch.float16) == {torch.float16}  # asked for


def test_a_large_model_in_a_slow_type_is_a_word(full_chat_folder, chat_repo_eos, monkeypatch):
    def said(path, *slow, **options):
        monkeypatch.setattr("viscpm_hf.memory.budget.is_multiplied_in", lambda dtype: dtype not in slow)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert find_plan(path, CPU, **options) is None
        return [str(each.message) for each in caught]

    assert said(full_chat_folder) == said(chat_repo_eos, torch.float16) == []
    assert said(full_chat_folder, torch.float16, dtype="float16") == []  # asked for
    (sentence,) = said(full_chat_folder, torch.float16)
    assert 'quantization="int8"' in sentence and 'dtype="bfloat16"' in sentence
    assert 'dtype="float32"' in said(full_chat_folder, torch.float16, torch.bfloat16)[0]
