"""Guards rounded weights: bit by bit those of torchao and bitsandbytes, and saved so after use."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig

from viscpm_hf import VisCPMChat
from viscpm_hf.memory import rounded_weights
from viscpm_hf.memory.rounded_weights import int8_weight, nf4_weight
from viscpm_hf.tiny import tiny_chat_repo

pytest.importorskip("bitsandbytes"), pytest.importorskip("torchao")
SHAPES = {"one piece": (3, 64), "whole pieces": (64, 512), "a rest": (100, 192)}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def weight(request, monkeypatch):
    monkeypatch.setattr(rounded_weights, "PIECE", 32 * 512)
    torch.manual_seed(0)
    weight = torch.randn(request.param)
    weight[0] = 0  # no scale to be found
    weight[1, 5] = 300  # one that dwarfs the others
    return weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_8_bit_weights_are_torchaos(weight, dtype):
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    linear = nn.Linear(*weight.shape[::-1], bias=False, dtype=dtype)
    linear.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    before = linear.weight.data.clone()
    found = int8_weight(linear.weight, dtype)
    assert torch.equal(linear.weight, before)
    quantize_(linear, Int8DynamicActivationInt8WeightConfig())
    wanted = linear.weight.data
    assert type(found) is type(wanted) and found.dtype == wanted.dtype
    assert found.__tensor_flatten__() == wanted.__tensor_flatten__()
    for name in wanted.__tensor_flatten__()[0]:
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name


@pytest.mark.parametrize("double", [True, False], ids=["scales rounded", "scales exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_4_bit_weights_are_those_of_bitsandbytes(weight, dtype, double):
    from bitsandbytes.nn import Params4bit

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double)
    found = nf4_weight(weight.to(dtype), config)
    options = {"requires_grad": False, "compress_statistics": double, "quant_type": "nf4"}
    wanted = Params4bit(weight.to(dtype), **options).to("cpu")
    assert torch.equal(found.data, wanted.data) and found.quant_state.dtype == wanted.quant_state.dtype
    states = [each.quant_state.as_dict(packed=True) for each in (found, wanted)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("method", ["int8", "4bit"])
def test_what_is_saved_after_answers_is_what_was_rounded(method, pictures, tmp_path):
    def asked(chat):
        return [chat.chat(picture, "图里有什么？", max_new_tokens=8)[0] for picture in pictures]

    chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False, device="cpu", quantization=method)
    answers = asked(chat)
    first = {name: tensor for name, tensor in chat.model.state_dict().items() if "zero_point" not in name}
    assert asked(chat) == answers  # saving leaves the model as it was
    exact = dict(VisCPMChat(tiny_chat_repo(), image_safety_checker=False, device="cpu").model.named_parameters())
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    for name in ("self_attn.k_proj", "mlp.down_proj"):
        name = f"model.language_model.layers.1.{name}.weight"
        if method == "int8":
            wanted = int8_weight(exact[name], exact[name].dtype)
            assert torch.equal(first[name].qdata, wanted.qdata) and torch.equal(first[name].scale, wanted.scale)
            continue
        wanted = nf4_weight(exact[name], config)
        assert torch.equal(first[name], wanted.data)
        for key, tensor in wanted.quant_state.as_dict(packed=True).items():
            assert torch.equal(first[f"{name}.{key}"], tensor), key
    chat.model.save_pretrained(tmp_path)
    chat.processor.save_pretrained(tmp_path)
    assert asked(VisCPMChat(tmp_path, image_safety_checker=False, device="cpu")) == answers


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_saving_leaves_4_bit_models_as_they_are(kind, pictures, tmp_path):
    """Also while others ask, with prompts of many rows, which take another way than tokens do."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=True)
    chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False, device="cpu", quantization=config)
    questions = ["图里有什么？", "图里有什么？" * 12]

    def asked(chat):
        return [chat.chat(pictures[0], question, max_new_tokens=8)[0] for question in questions]

    answers = asked(chat)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(asked, chat) for _ in range(8)]
        chat.model.save_pretrained(tmp_path)
        assert [each.result() for each in waiting] == [answers] * 8
    assert asked(chat) == answers
    chat.processor.save_pretrained(tmp_path)
    assert asked(VisCPMChat(tmp_path, image_safety_checker=False, device="cpu")) == answers


@pytest.mark.parametrize("method", ["int8", "4bit"])
def test_what_a_packed_model_cannot_do_is_refused_and_changes_nothing(method, pictures):
    chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False, device="cpu", quantization=method)
    answer = chat.chat(pictures[0], "图里有什么？")[0]
    with pytest.raises(RuntimeError, match="packed for this CPU"):
        chat.model.dequantize()
    if method == "int8":
        for change in (chat.model.float, chat.model.bfloat16, lambda: chat.model.to("meta")):
            with pytest.raises((RuntimeError, ValueError), match="load the model anew|not supported for quantized"):
                change()
    assert chat.chat(pictures[0], "图里有什么？")[0] == answer


@pytest.mark.parametrize("method", ["int8", "4bit"])
def test_it_loads_whatever_type_torch_makes_by_default(method, pictures):
    torch.set_default_dtype(torch.bfloat16)
    try:
        chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False, device="cpu", quantization=method)
        assert chat.chat(pictures[0], "图里有什么？", max_new_tokens=4)[0]
    finally:
        torch.set_default_dtype(torch.float32)
