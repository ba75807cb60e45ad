"""Guards Chat on a GPU: its answers are the CPU's and the original's, however it is placed, compiled or asked.

`VISCPM_GPU_TESTS=1 pytest tests/test_on_gpu.py tests/test_paint_on_gpu.py` where there is one.
"""

import contextlib
import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    TextIteratorStreamer,
    TorchAoConfig,
    Trainer,
    TrainingArguments,
    pipeline,
)

from viscpm_hf import VisCPMChat, VisCPMChatForConditionalGeneration
from viscpm_hf.finetuning import ChatCollator, ChatDataset
from viscpm_hf.memory.budget import find_plan
from viscpm_hf.memory.machine import this_machine
from viscpm_hf.memory.placement import load_chat
from viscpm_hf.memory.plans import list_plans
from viscpm_hf.memory.sizes import read_model

CUDA = torch.device("cuda")
LONG, SHORT = "鲲鹏是什么颜色？鲲呢？q和鲲鹏", "这张图片里有什么？"  # with words outside the vocabulary and without
PLANS = ["resident", "int8", "4bit", "stream", "stream all", "spread"]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or not VISCPM_GPU_TESTS=1")


@pytest.fixture(autouse=True, scope="module")
def exact_convolutions():
    """In float32 itself; torch's default for convolutions, unlike for products, is TF32."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def models(chat_models):
    return {name: copy.deepcopy(model).to(CUDA) for name, model in chat_models.items()}


@pytest.fixture(scope="module")
def model(models):
    return models["plain"]


@pytest.fixture(scope="module")
def chat(chat_repo_eos):
    return VisCPMChat(chat_repo_eos, image_safety_checker=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The shipped tiny checkpoint, which was trained and has widths that bitsandbytes takes."""
    from viscpm_hf.tiny import convert_tiny_chat

    return convert_tiny_chat(tmp_path_factory.mktemp("tiny") / "repo")


@pytest.fixture(scope="module")
def asked(tiny):
    """Questions about drawn pictures, and what the tiny checkpoint answers on a CPU."""
    from viscpm_hf.tiny.measures.exact_answers import held_out_questions

    items = [
        {"image": sample.picture, "question": sample.question.question, "context": sample.question.context}
        for sample in held_out_questions("zh", n=12, seed=3)
    ]
    return items, answers_of(VisCPMChat(tiny, image_safety_checker=False, device="cpu", dtype=torch.float32), items)


def answers_of(chat, items, **options):
    return [answer for answer, *_ in chat.batch_chat(items, **{"max_new_tokens": 40, **options})]


def new_tokens(output, inputs):
    return output[:, inputs["input_ids"].shape[1] :].tolist()


@contextlib.contextmanager
def compiled_anew():
    """Counts the graphs that torch.compile makes meanwhile."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.compiler.reset()


# Answers


def test_all_recorded_searches_give_the_originals_answers(models, chat_inputs, golden):
    for case in golden("chat_generate.json")["cases"]:
        parameters = case["params"]
        if parameters["beam_size"] == 1:
            continue
        inputs = chat_inputs((case["img"], case["question"], case["context"])).to(CUDA)
        output = models[case["variant"]].generate(
            **inputs,
            num_beams=parameters["beam_size"],
            beam_temperature=parameters["temperature"],
            repetition_penalty=parameters["repetition_penalty"],
            repetition_window=parameters.get("repetition_window"),
            length_penalty=parameters["length_penalty"],
            max_new_tokens=parameters["max_length"] + 2,
        )
        assert new_tokens(output, inputs) == [case["best_ids"]], case["name"]


def test_the_originals_two_turns_by_the_drop_in_class(chat, golden, pictures):
    first, second = golden("chat_generate.json")["chat_method"]
    assert chat.device.type == chat.model.device.type == "cuda"  # by default, where there is one
    answer, context, states = chat.chat(pictures[0], first["question"])
    assert (answer, context) == (first["answer"], first["context_after"]) and states.device.type == "cuda"
    for kept in (states, states.cpu()):
        answer, after, _ = chat.chat(None, second["question"], context, vision_hidden_states=kept)
        assert (answer, after) == (second["answer"], second["context_after"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_beams": 1},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 1, "prompt_lookup_num_tokens": 3},
        {"num_beams": 3, "use_cache": False},
        {"num_beams": 1, "cache_implementation": "offloaded"},
        {"num_beams": 1, "cache_implementation": "static", "disable_compile": True},
        {"num_beams": 1, "output_scores": True, "output_hidden_states": True, "output_attentions": True},
        {"num_beams": 3, "output_scores": True, "output_hidden_states": True, "output_attentions": True},
    ],
    ids=lambda arguments: "-".join(f"{key}={value}" for key, value in arguments.items()),
)
def test_a_batch_is_answered_as_on_a_cpu(chat_models, models, chat_inputs, arguments):
    arguments = {"max_new_tokens": 24, "return_dict_in_generate": True, **arguments}
    items = [(0, SHORT), (1, LONG), (None, "q"), (0, "那海呢？q", "User: 天空是什么颜色？\nAI: 蓝色的鲲。\n")]
    if "prompt_lookup_num_tokens" in arguments:
        items = items[1:2]
    for variant in ("plain", "eos"):
        inputs = chat_inputs(*items)
        on_cpu = {key: value for key, value in arguments.items() if key != "cache_implementation"}
        expected = chat_models[variant].generate(**inputs, **on_cpu)
        found = models[variant].generate(**inputs.to(CUDA), **arguments)
        assert found.sequences.tolist() == expected.sequences.tolist()
        for one, other in zip(found.scores or (), expected.scores or (), strict=True):
            torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=1e-3)


def test_logits_are_the_cpus(chat_model, model, chat_inputs):
    inputs = chat_inputs((0, SHORT), (1, LONG))
    expected = chat_model(**inputs).logits
    torch.testing.assert_close(model(**inputs.to(CUDA)).logits.cpu(), expected, atol=1e-4, rtol=1e-4)


def test_sampling_follows_its_seed(model, chat_inputs):
    inputs = chat_inputs((0, SHORT)).to(CUDA)

    def sample(seed, **options):
        torch.manual_seed(seed)
        options = {"num_beams": 1, "temperature": 1.5, **options}
        return model.generate(**inputs, do_sample=True, max_new_tokens=12, **options).tolist()

    assert sample(1) == sample(1) != sample(2)
    assert len(sample(1, num_beams=2)) == 1


def test_words_outside_the_vocabulary_come_along_from_the_gpu(model, chat_processor, chat_inputs, golden):
    case = next(case for case in golden("chat_generate.json")["cases"] if case["name"] == "many_unknown_plain")
    inputs = chat_inputs((case["img"], case["question"], case["context"])).to(CUDA)
    output = model.generate(**inputs, max_new_tokens=case["params"]["max_length"] + 2)
    answer = output[:, inputs["input_ids"].shape[1] :]
    assert answer.max() >= model.config.text_config.vocab_size and answer.device.type == "cuda"
    for moved in (answer, answer.cpu(), answer.to("cpu"), answer.cpu().cuda(), answer[0], copy.deepcopy(answer)):
        found = chat_processor.post_process_image_text_to_text(moved, skip_special_tokens=False)
        assert found[0].removesuffix("</s>") == case["answer"]


def test_a_stream_is_the_greedy_answer(chat, model, chat_processor, chat_inputs, pictures):
    pieces = list(chat.stream(pictures[0], LONG, max_new_tokens=24))
    assert "".join(pieces) == chat.chat(pictures[0], LONG, max_new_tokens=24, num_beams=1)[0] and len(pieces) > 1
    inputs = chat_inputs((0, LONG)).to(CUDA)
    streamer = TextIteratorStreamer(chat_processor.tokenizer, skip_prompt=True, ext_table=inputs.ext_tables[0])
    answer = new_tokens(model.generate(**inputs, num_beams=1, max_new_tokens=10, streamer=streamer), inputs)[0]
    assert "".join(streamer) == chat_processor.tokenizer.decode(answer, ext_table=inputs.ext_tables[0])


@pytest.mark.parametrize("device", [0, "cuda"])
def test_a_pipeline_spells_unknown_words(chat_repos, pictures, golden, device):
    case = next(case for case in golden("chat_generate.json")["cases"] if case["name"] == "many_unknown_plain")
    pipe = pipeline("image-text-to-text", model=str(chat_repos["plain"]), trust_remote_code=True, device=device)
    content = [{"type": "image", "image": pictures[case["img"]]}, {"type": "text", "text": case["question"]}]
    options = {"max_new_tokens": case["params"]["max_length"] + 2, "skip_special_tokens": False}
    (output,) = pipe(text=[{"role": "user", "content": content}], return_full_text=False, **options)
    assert output["generated_text"] == case["answer"] and pipe.model.device.type == "cuda"


# Compiled


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_static_cache_compiles_and_changes_no_answer(model, chat_inputs, num_beams):
    """By itself, with CUDA graphs, as transformers does on a GPU."""
    inputs = chat_inputs((0, SHORT), (1, LONG)).to(CUDA)
    options = {"num_beams": num_beams, "max_new_tokens": 16}
    expected = model.generate(**inputs, **options).tolist()
    with compiled_anew() as graphs:
        for _ in range(2):
            assert model.generate(**inputs, **options, cache_implementation="static").tolist() == expected
        assert graphs() >= 1


def test_scores_of_compiled_beams_are_those_of_others(model, chat_inputs):
    """What a CUDA graph returns lies where it returns the next step's."""
    inputs = chat_inputs((0, SHORT)).to(CUDA)
    options = {"num_beams": 3, "max_new_tokens": 8, "output_scores": True, "output_logits": True}
    options["return_dict_in_generate"] = True
    expected = model.generate(**inputs, **options)
    with compiled_anew():
        found = model.generate(**inputs, **options, cache_implementation="static")
        for name in ("scores", "logits"):
            for one, other in zip(found[name], expected[name], strict=True):
                torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_a_compiled_answer_is_streamed(chat, pictures):
    """In a thread of its own, after and before answers in this one."""
    options = {"max_new_tokens": 16, "cache_implementation": "static"}
    expected = chat.chat(pictures[0], LONG, max_new_tokens=16, num_beams=1)[0]
    with compiled_anew():
        for _ in range(2):
            assert "".join(chat.stream(pictures[0], LONG, **options)) == expected
            assert chat.chat(pictures[0], LONG, **options, num_beams=1)[0] == expected


# Precisions and places


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_answers_as_the_cpu_does(tiny, asked, dtype):
    items, expected = asked
    chat = VisCPMChat(tiny, image_safety_checker=False, dtype=dtype)
    chat.model.lm_head.register_forward_hook(lambda module, args, logits: require_finite(logits))
    assert chat.model.dtype == dtype
    for options in ({}, {"num_beams": 1}):
        found = answers_of(chat, items, **options)
        assert sum(one == other for one, other in zip(found, expected, strict=True)) >= 11


def require_finite(tensor):
    assert tensor.isfinite().all()


@pytest.mark.parametrize("method", PLANS)
def test_every_plan_answers_as_the_cpu_does(tiny, asked, method):
    (items, expected), plan = asked, planned(tiny, method, dtype=torch.float32)
    chat = VisCPMChat(tiny, image_safety_checker=False, device="cpu")
    chat.device, chat.model = CUDA, load_chat(VisCPMChatForConditionalGeneration, tiny, plan, CUDA).eval()
    places = {parameter.device.type for parameter in chat.model.model.language_model.layers.parameters()}
    assert places == {"stream": {"cpu"}, "spread": {"cuda", "meta"}}.get(method.split()[0], {"cuda"})
    for _ in range(2):  # the first time is what prefetching learns the order from
        found = answers_of(chat, items)
        right = sum(one == other for one, other in zip(found, expected, strict=True))
        assert right >= (12 if plan.lossless else 10), found
    assert "".join(chat.stream(**items[0], max_new_tokens=40)) == answers_of(chat, items[:1], num_beams=1)[0]


def planned(repo, method, **options):
    model, machine = read_model(repo), this_machine(CUDA, repo)
    plans = list_plans(model, machine, **options)
    if method == "spread":  # with no room for one of the blocks
        budget = next(plan for plan in plans if plan.method == "resident").peak - 1
        plans = list_plans(model, machine, budget, **options)
    return next(plan for plan in plans if plan.method == method)


@pytest.mark.parametrize("memory", ["100GB", "least"])
def test_a_budget_changes_no_answer(tiny, asked, memory):
    items, expected = asked
    if memory == "least":
        memory = planned(tiny, "stream all").peak
        assert find_plan(tiny, CUDA, memory).method == "stream all"
    chat = VisCPMChat(tiny, image_safety_checker=False, memory=memory)
    found = answers_of(chat, items)
    assert sum(one == other for one, other in zip(found, expected, strict=True)) >= 11  # in half precision as stored


def test_the_originals_variable_streams_the_language_model(tiny, asked, monkeypatch):
    monkeypatch.setenv("CUDA_MEMORY_CPMBEE_MAX", "1MB")
    chat = VisCPMChat(tiny, image_safety_checker=False)
    assert {tensor.device.type for tensor in chat.model.model.language_model.layers.state_dict().values()} == {"cpu"}
    items, expected = asked
    assert sum(one == other for one, other in zip(answers_of(chat, items), expected, strict=True)) >= 11


@pytest.mark.parametrize("kind", ["int8", "4bit", "bitsandbytes", "torchao", "torchao-dynamic"])
def test_rounded_weights_answer_nearly_as_the_exact_ones(tiny, asked, kind):
    if kind.startswith("torchao"):
        torchao = pytest.importorskip("torchao.quantization")
        name = "Int8WeightOnlyConfig" if kind == "torchao" else "Int8DynamicActivationInt8WeightConfig"
        quantization = TorchAoConfig(getattr(torchao, name)())
    else:
        pytest.importorskip("bitsandbytes")
        quantization = BitsAndBytesConfig(load_in_4bit=True) if kind == "bitsandbytes" else kind
    chat = VisCPMChat(tiny, image_safety_checker=False, quantization=quantization, dtype=torch.bfloat16)
    items, expected = asked
    found = answers_of(chat, items)
    assert sum(one == other for one, other in zip(found, expected, strict=True)) >= 9, found


# Together


@pytest.mark.parametrize("method", ["resident", "int8", "4bit", "stream", "stream all"])
def test_questions_from_threads_get_their_own_answers(tiny, asked, method):
    items, _ = asked
    options = {"quantization": method} if method in ("int8", "4bit") else {"memory": planned(tiny, method).peak}
    chat = VisCPMChat(tiny, image_safety_checker=False, **options)
    expected = [answers_of(chat, [item])[0] for item in items]
    expected += [answers_of(chat, [item], num_beams=1)[0] for item in items[:3]]
    calls = [lambda item=item: chat.chat(**item, max_new_tokens=40)[0] for item in items]
    calls += [lambda item=item: "".join(chat.stream(**item, max_new_tokens=40)) for item in items[:3]]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda call: call(), calls)) == expected


# Training


@pytest.mark.parametrize(
    "options", [{}, {"bf16": True}, {"bf16": True, "gradient_checkpointing": True}, {"fp16": True}]
)
def test_it_learns_a_conversation(chat_repo, chat_processor, pictures, tmp_path, options):
    turns = [{"from": "human", "value": f"<image>\n{LONG}"}, {"from": "gpt", "value": "一只红色的鲲"}]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=12,
        learning_rate=2e-2,
        per_device_train_batch_size=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    model = AutoModelForImageTextToText.from_pretrained(chat_repo)
    dataset = ChatDataset([{"image": pictures[0], "conversations": turns}] * 4)
    trainer = Trainer(model, arguments, train_dataset=dataset, data_collator=ChatCollator(chat_processor))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    assert model.device.type == "cuda" and all(p.isfinite().all() for p in model.parameters())
    prediction = trainer.predict(dataset)
    assert math.isfinite(prediction.metrics["test_loss"])


def test_gradients_are_the_cpus(chat_model, chat_processor, chat_inputs):
    inputs = chat_inputs((0, SHORT), (1, LONG))
    labels = inputs["input_ids"].clamp(max=400)
    gradients = []
    for device in ("cpu", CUDA):
        model = copy.deepcopy(chat_model).to(device).train()
        model(**inputs.to(device), labels=labels.to(device)).loss.backward()
        gradients.append({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        error = (gradients[1][name] - expected).norm() / expected.norm().clamp(min=1e-6)
        assert error < 1e-3, (name, error)


@pytest.mark.parametrize("rounded", [False, True])
def test_lora_trains_and_merges(tiny, asked, rounded):
    peft = pytest.importorskip("peft")
    quantization = None
    if rounded:
        pytest.importorskip("bitsandbytes")
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    chat = VisCPMChat(tiny, image_safety_checker=False, quantization=quantization)
    base = peft.prepare_model_for_kbit_training(chat.model) if rounded else chat.model
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(base, config).train()
    items, expected = asked
    inputs = chat.processor(images=[items[0]["image"]], text=[items[0]["question"]]).to(CUDA)
    labels = inputs["input_ids"].masked_fill(inputs["context_mask"].bool(), 5)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    model.eval().merge_and_unload()
