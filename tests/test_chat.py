"""Guards the drop-in class: the original's two recorded turns, batches and streams like single answers, its errors."""

import json
import shutil
import threading
import warnings

import pytest
import torch
from transformers import StoppingCriteria, TorchAoConfig

from viscpm_hf import VisCPMChat

GREEDY = {"max_new_tokens": 12, "num_beams": 1, "length_penalty": 1.0}
BEAMS = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def chat(chat_repo_eos):
    return VisCPMChat(chat_repo_eos, image_safety_checker=False)


def test_two_turns_equal_the_original(chat, golden, pictures):
    first, second = golden("chat_generate.json")["chat_method"]
    answer, context, states = chat.chat(pictures[0], first["question"])
    assert answer == first["answer"] and context == first["context_after"]
    assert "<ans>" in answer and "<root>" in answer  # special tokens are literal
    assert states.shape == (1, 6, 40)
    recorded = golden("chat_vision.safetensors")["vision_hidden_states"][:1]
    assert torch.allclose(states, recorded, atol=1e-5)
    answer, context, again = chat.chat("not even looked at", second["question"], context, vision_hidden_states=states)
    assert answer == second["answer"] and context == second["context_after"]
    assert torch.equal(again, states)


def test_batch_equals_single_answers_in_order(chat, pictures):
    states = chat.encode_image(pictures[1])
    items = [
        {"image": pictures[0], "question": "这张图片里有什么？"},
        {"image": None, "question": "鲲鹏是什么颜色？鲲呢？q和鲲鹏"},
        {"question": "q是我", "context": "User: 天空是什么颜色？\nAI: 蓝色的鲲。\n", "vision_hidden_states": states},
        {"image": pictures[1], "question": "a < b", "context": None},
        {"question": ""},
    ]
    for options in (BEAMS, GREEDY):
        batch = chat.batch_chat(items, **options)
        single = [chat.chat(**{"image": None, **item}, **options) for item in items]
        assert [answer for answer, _, _ in batch] == [answer for answer, _, _ in single]
        assert [context for _, context, _ in batch] == [context for _, context, _ in single]
        for (_, _, left), (_, _, right) in zip(batch, single, strict=True):
            assert (left is None and right is None) or torch.equal(left, right)
    assert len({answer for answer, _, _ in batch}) == 5
    assert [state is None for _, _, state in batch] == [False, True, False, False, True]
    assert chat.batch_chat([]) == []


def test_context_stays_in_the_grammar(chat):
    _, context, _ = chat.chat(None, "a < b <ans>", context="1 < 2 <foo>", **GREEDY)
    assert context.startswith("1 << 2 <<foo>User: a << b <<ans>\nAI: ")
    assert chat.processor.tokenizer.parses(context)
    _, longer, _ = chat.chat(None, "你", context=context, **GREEDY)
    assert longer.startswith(context)
    # an unknown word is printed as it stands, which need not be in the grammar
    assert chat.add_turn("", "你", "a<b") == "User: 你\nAI: a<<b\n"
    assert chat.add_turn("", "你", "<sep><<") == "User: 你\nAI: <sep><<\n"


def test_stream_equals_the_greedy_answer(chat, pictures):
    states = chat.encode_image(pictures[0])
    for question in ("鲲鹏是什么颜色？鲲呢？q和鲲鹏", "这张图片里有什么？"):
        pieces = list(chat.stream(None, question, vision_hidden_states=states, max_new_tokens=40))
        answer = chat.chat(pictures[0], question, max_new_tokens=40, num_beams=1)[0]
        assert "".join(pieces) == answer and len(pieces) > 1
    torch.manual_seed(0)
    sampled = "".join(chat.stream(pictures[0], "你", do_sample=True, max_new_tokens=12))
    torch.manual_seed(0)
    assert sampled == chat.chat(pictures[0], "你", do_sample=True, num_beams=1, max_new_tokens=12)[0]


class Boom(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        raise RuntimeError("boom")


class Count(StoppingCriteria):
    steps = 0

    def __call__(self, input_ids, scores, **kwargs):
        self.steps += 1
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_stream_ends_with_its_reader_and_passes_errors_on(chat):
    count, threads = Count(), threading.active_count()
    never_ending = {"max_new_tokens": 2000, "eos_token_id": None, "stopping_criteria": [count]}
    reader = chat.stream(None, "你", **never_ending)
    next(reader)
    reader.close()
    assert threading.active_count() == threads and count.steps < 1000
    with pytest.raises(RuntimeError, match="boom"):
        list(chat.stream(None, "你", stopping_criteria=[Boom()], max_new_tokens=5))
    assert threading.active_count() == threads
    with pytest.raises(ValueError, match="one beam"):
        chat.stream(None, "你", num_beams=3)
    with pytest.raises(ValueError, match="question"):  # before the first piece
        chat.stream(None, None)


def test_long_context_is_shortened_not_refused(chat):
    context = "User: 你\nAI: 我\n" * 700
    with pytest.warns(UserWarning, match="oldest turn"):
        answer, longer, _ = chat.chat(None, "你", context=context, max_new_tokens=2)
    assert longer == context + f"User: 你\nAI: {answer}\n"
    with pytest.raises(ValueError, match="max_input_length"):
        chat.chat(None, "我是" * 3000)


def test_bad_input_is_one_sentence(chat, pictures):
    image = pictures[0]
    for arguments in (
        {"image": "no such picture.png", "question": "你"},
        {"image": [image, image], "question": "你"},
        {"image": [], "question": "你"},
        {"image": image, "question": None},
        {"image": image, "question": ["你"]},
        {"image": image, "question": "你", "context": 7},
        {"image": None, "question": "你", "vision_hidden_states": "states"},
        {"image": None, "question": "你", "vision_hidden_states": torch.zeros(6, 40)},
    ):
        with pytest.raises(ValueError) as error:
            chat.chat(**arguments)
        assert "\n" not in str(error.value), arguments
    for item in ("你", {"image": image, "text": "你"}, {"image": image}):
        with pytest.raises(ValueError):
            chat.batch_chat([item])
    for options, word in (
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"input_ids": torch.ones(1, 1)}, "input_ids"),
        ({"ext_table_ids": None}, "ext_table_ids"),
        ({"num_beams": 0}, "num_beams=0, expected a whole number"),
        ({"num_beams": "3"}, "num_beams='3'"),
        ({"max_new_tokens": 1.5}, "max_new_tokens=1.5"),
        ({"length_penalty": 1e9}, "length_penalty"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty=nan"),
        ({"nonsense": 1}, "nonsense"),
    ):
        with pytest.raises(ValueError, match=word):
            chat.chat(image, "你", **options)
    for options in ({"num_return_sequences": 2, "do_sample": True}, {"temperature": -1.0, "do_sample": True}):
        with pytest.raises(ValueError, match=next(iter(options))):
            list(chat.stream(image, "你", **options))


def test_a_stop_text_ends_the_answer_whatever_it_is_made_of(chat, pictures):
    """Words outside the vocabulary too, greedily, with beams and streamed."""
    question = "鲲鹏是什么颜色？鲲呢？"
    allowed = chat.processor.encode_chat(True, question)["ext_table"]
    only = {"prefix_allowed_tokens_fn": lambda batch, ids: list(allowed), "max_new_tokens": 12, "min_new_tokens": 12}
    whole = chat.chat(pictures[0], question, num_beams=1, **only)[0]
    stop = whole[3:5]
    assert set(whole) <= set("".join(allowed.values())) and set(stop) <= set("鲲鹏呢")
    only["min_new_tokens"] = None
    cut = chat.chat(pictures[0], question, num_beams=1, stop_strings=[stop], **only)[0]
    assert whole.startswith(cut) and stop in cut and len(cut) < len(whole)  # up to the end of a token
    assert "".join(chat.stream(pictures[0], question, stop_strings=stop, **only)) == cut
    # with beams some answer has it, and none has anything behind it
    searched = chat.chat(pictures[0], question, stop_strings=[stop], length_penalty=-1.0, **only)[0]
    assert stop in searched and len(searched) < len(whole)


def test_what_is_not_a_converted_model_is_one_sentence(chat_checkpoint, chat_repo_eos, tmp_path):
    checkpoint = chat_checkpoint / "pytorch_model.plain.bin"
    with pytest.raises(ValueError, match=f"viscpm convert chat --checkpoint {checkpoint} "):
        VisCPMChat(checkpoint)
    with pytest.raises(ValueError, match="no config.json"):
        VisCPMChat(chat_checkpoint)
    with pytest.raises(ValueError, match="does not exist"):
        VisCPMChat(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ValueError, match="'llava'"):
        VisCPMChat(tmp_path)
    with pytest.raises(ValueError, match="image_safety_checker=False"):  # none in the repository, and no network
        VisCPMChat(chat_repo_eos, image_safety_checker=True)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "text_config", None),
        ("config.json", "text_config", []),
        ("config.json", "vision_config", "wide"),
        ("config.json", "vision_config", {"image_size": "large"}),
        ("config.json", "architectures", 7),
        ("config.json", None, [1]),
        ("generation_config.json", "num_beams", []),
        ("generation_config.json", None, 3),
        ("processor_config.json", "query_num", "many"),
        ("processor_config.json", "image_processor", 3),
        ("tokenizer_config.json", None, []),
    ],
)
def test_odd_files_of_a_repository_are_one_sentence(chat_repo_eos, tmp_path, name, key, value):
    repo = shutil.copytree(chat_repo_eos, tmp_path / "repo")
    content = json.loads((repo / name).read_text())
    (repo / name).write_text(json.dumps(value if key is None else {**content, key: value}))
    try:
        chat = VisCPMChat(repo, image_safety_checker=False)
        chat.chat(None, "你", max_new_tokens=2)
    except (ValueError, OSError) as error:
        assert str(error) and len(str(error)) < 1000


def test_dtype_device_and_memory(chat_repo_eos, monkeypatch, pictures):
    half = VisCPMChat(chat_repo_eos, image_safety_checker=False, dtype="bfloat16", device="cpu")
    assert half.model.dtype == torch.bfloat16
    assert half.chat(pictures[0], "你", **GREEDY)[2].dtype == torch.bfloat16
    monkeypatch.setenv("CUDA_MEMORY_CPMBEE_MAX", "1g")
    with pytest.warns(UserWarning, match="no effect on cpu"):
        VisCPMChat(chat_repo_eos, image_safety_checker=False, device="cpu")
    monkeypatch.delenv("CUDA_MEMORY_CPMBEE_MAX")
    with pytest.raises(ValueError, match="'5 apples'"):
        VisCPMChat(chat_repo_eos, image_safety_checker=False, memory="5 apples")


def test_quantization_leaves_vision_alone(chat_repo_eos, pictures):
    torchao = pytest.importorskip("torchao.quantization")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = TorchAoConfig(torchao.Int8WeightOnlyConfig())
        quantized = VisCPMChat(chat_repo_eos, image_safety_checker=False, quantization=config)
    plain = {n for n, p in quantized.model.named_parameters() if type(p.data) is torch.Tensor}
    packed = {n for n, p in quantized.model.named_parameters()} - plain
    assert len(packed) == 3 * 7 and all(name.startswith("model.language_model.layers.") for name in packed)
    assert quantized.chat(pictures[0], "这张图片里有什么？", **GREEDY)[0]
    assert config.modules_to_not_convert is None  # the caller's object is left as it was
    with pytest.raises(ValueError, match="BitsAndBytesConfig"):
        VisCPMChat(chat_repo_eos, image_safety_checker=False, quantization="8 bits")


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nope", 999])
def test_devices_that_are_not_here_are_refused_before_loading(chat_repo_eos, device):
    with pytest.raises(ValueError, match="^There is no .* to run on here"):
        VisCPMChat(chat_repo_eos, device=device)


def test_answers_tell_what_a_server_wants_to_know(chat, pictures):
    """Counts, reasons, clean text as the processor's, several answers each; pieces make up the texts."""
    items = [
        {"image": pictures[0], "question": "这张图片里有什么？"},
        {"image": None, "question": "鲲鹏是什么颜色？鲲呢？q和鲲鹏"},
        {"image": pictures[1], "question": "a < b"},
    ]
    pieces = {}

    def on_piece(question, number, piece):
        pieces.setdefault((question, number), []).append(piece)

    torch.manual_seed(0)
    sampled = chat.answers(items, on_piece, do_sample=True, num_return_sequences=2, max_new_tokens=20)
    assert [len(found) for found in sampled] == [2, 2, 2]
    for question, found in enumerate(sampled):
        for number, one in enumerate(found):
            assert one.text == "".join(piece.text for piece in pieces[question, number])
            assert one.answer == "".join(piece.answer for piece in pieces[question, number])
    for options in (BEAMS, GREEDY):
        for item, (one,) in zip(items, chat.answers(items, **options), strict=True):
            assert (one.answer, one.context) == chat.chat(**item, **options)[:2]
            inputs = chat.processor(images=item["image"], text=item["question"])
            ids = chat.model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
            (text,) = chat.processor.post_process_image_text_to_text(ids, ext_tables=inputs.ext_tables)
            assert (one.text, one.completion_tokens) == (text, ids.shape[1])
            assert one.prompt_tokens == inputs["input_ids"].shape[1]
            ended = ids[0, -1] == chat.processor.tokenizer.eos_token_id
            assert one.finish_reason == ("stop" if ended else "length")
    with pytest.raises(ValueError, match="one beam"):
        chat.answers(items, on_piece, num_beams=3)
    with pytest.raises(ValueError, match="answers"):
        chat.batch_chat(items, num_return_sequences=2)


def test_who_stops_earlier_in_a_batch_has_no_padding(chat, pictures):
    items = [
        {"image": picture, "question": question} for picture in pictures for question in ("你", "a < b", "鲲鹏？")
    ]
    for options in (BEAMS, GREEDY):
        whole = [answer for answer, _, _ in chat.batch_chat(items, **options)]
        stop = sorted(whole, key=len)[-1][4:6]
        assert any(stop in answer for answer in whole) and not all(stop in answer for answer in whole)
        stopped = [answer for answer, _, _ in chat.batch_chat(items, stop_strings=[stop], **options)]
        assert stopped == [chat.chat(**item, stop_strings=[stop], **options)[0] for item in items]
    at_once = chat.answers(items, is_stopped=lambda number: number != 1, **GREEDY)
    assert [found[0].completion_tokens for found in at_once][1] == chat.answers(items, **GREEDY)[1][
        0
    ].completion_tokens
