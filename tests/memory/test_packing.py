"""Guards packed matrices: the same products, the same answers, compiled as well, and nothing lost by saving."""

import copy

import pytest
import torch
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

from viscpm_hf import VisCPMChat, pack_linears
from viscpm_hf.memory.machine import is_multiplied_in
from viscpm_hf.memory.packing import PackedInt8Linear, PackedLinear, _RoundedRows
from viscpm_hf.remote_code.modeling_cpmbee import CpmBeeConfig, CpmBeeModel

if not (is_multiplied_in(torch.bfloat16) and torch.cpu._is_vnni_supported()):
    pytest.skip("nothing is packed for this CPU", allow_module_level=True)
ROWS = {
    "one": (1, 96),
    "of beams": (1, 3, 96),
    "many": (2, 70, 96),
}


def linear(dtype=torch.bfloat16, config=None, **options):
    torch.manual_seed(0)
    module = nn.Linear(96, 40, bias=False, dtype=dtype, **options)
    if config is not None:
        quantize_(module, config)
    return module


def packed(module):
    model = nn.Sequential(nn.Sequential(module))
    pack_linears(model)
    return model[0][0]


@torch.no_grad()
@pytest.mark.parametrize("shape", ROWS.values(), ids=ROWS)
def test_products_are_the_same(shape):
    plain, states = linear(), torch.randn(shape, dtype=torch.bfloat16)
    module = packed(copy.deepcopy(plain))
    assert isinstance(module, PackedLinear)
    torch.testing.assert_close(module(states), plain(states))
    strided = torch.randn(*shape[:-1], 2 * shape[-1], dtype=torch.bfloat16)[..., ::2]
    torch.testing.assert_close(module(strided), plain(strided))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", ROWS.values(), ids=ROWS)
def test_8_bit_products_are_those_of_torchao(shape, dtype):
    plain, states = linear(dtype, Int8DynamicActivationInt8WeightConfig()), torch.randn(shape).to(dtype)
    states.view(-1)[::7] *= 100  # outliers, which float16 could not hold unscaled
    module = packed(copy.deepcopy(plain))
    assert isinstance(module, PackedInt8Linear)
    expected, found = plain(states), module(states)
    assert found.dtype == dtype and found.shape == expected.shape
    # torchao multiplies by 1/scale, so that a tie may round the other way, and rounds to the dtype on the way
    tolerance = {torch.float32: 2**-9, torch.float16: 2**-8, torch.bfloat16: 2**-7}[dtype]
    assert (found - expected).float().norm() <= tolerance * expected.float().norm()
    assert torch.equal(module(torch.zeros_like(states)), torch.zeros_like(expected))


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("config", [None, Int8DynamicActivationInt8WeightConfig()], ids=["bfloat16", "int8"])
def test_packed_layers_compile_in_one_graph(config):
    model, states = nn.Sequential(linear(config=config), nn.GELU()), torch.randn(1, 3, 96, dtype=torch.bfloat16)
    pack_linears(model)
    compiled = torch.compile(model, fullgraph=True)  # by inductor, which knows packed weights as constants only
    torch.testing.assert_close(compiled(states), model(states))


def test_what_is_saved_is_what_was_packed():
    plain = linear()
    assert torch.equal(packed(copy.deepcopy(plain)).state_dict()["weight"], plain.weight)
    plain = linear(config=Int8DynamicActivationInt8WeightConfig())
    saved = packed(copy.deepcopy(plain)).state_dict()["weight"]
    assert type(saved) is type(plain.weight.data) and saved.act_quant_kwargs == plain.weight.act_quant_kwargs
    for name in ("qdata", "scale", "zero_point"):
        assert torch.equal(getattr(saved, name), getattr(plain.weight, name))


def test_a_change_of_type_or_device_is_refused_whole():
    """What is beside the packed layers is not changed, either."""
    for config in (None, Int8DynamicActivationInt8WeightConfig()):
        model = nn.Sequential(nn.Linear(96, 96, dtype=torch.float16), linear(config=config))
        pack_linears(model)
        assert isinstance(model[1], PackedLinear)
        for change in (model.float, model.double, lambda model=model: model.to("meta")):
            with pytest.raises(RuntimeError, match="load the model anew"):
                change()
        assert model[0].weight.dtype == torch.float16 and model[0].weight.device.type == "cpu"
        assert model.to("cpu", torch.bfloat16).eval() is model and model[0].weight.dtype == torch.bfloat16


def test_other_layers_stay_as_they_are():
    others = [
        linear(torch.float32),
        linear(torch.float16),
        nn.Linear(96, 40, dtype=torch.bfloat16),
        linear(config=Int8WeightOnlyConfig(version=2)),
        linear(device="meta"),
        nn.Embedding(96, 40, dtype=torch.bfloat16),
    ]
    assert [packed(module) for module in others] == others


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"quantization": "int8"}], ids=["bfloat16", "int8"])
def test_a_packed_model_answers_and_saves_as_a_plain_one(chat_repo_eos, pictures, tmp_path, options):
    def asked(chat):
        return [chat.chat(picture, "这张图片里有什么？", max_new_tokens=8)[0] for picture in pictures]

    chat = VisCPMChat(chat_repo_eos, image_safety_checker=False, device="cpu", **options)
    layers = [module for module in chat.model.modules() if isinstance(module, PackedLinear)]
    assert len(layers) == 3 * 7 + 1  # every matrix of the blocks, and the head
    answers = asked(chat)
    if "dtype" in options:
        plain = VisCPMChat(chat_repo_eos, image_safety_checker=False, device="cpu")
        plain.model.bfloat16()
        assert asked(plain) == answers

    embedding = chat.model.model.language_model.embed_tokens.weight
    assert embedding.dtype in (torch.bfloat16, torch.float32) and type(embedding.data) is torch.Tensor
    chat.model.save_pretrained(tmp_path)
    chat.processor.save_pretrained(tmp_path)
    again = VisCPMChat(tmp_path, image_safety_checker=False, device="cpu")
    assert asked(again) == answers
    for name, weight in chat.model.state_dict().items():
        if type(weight) is torch.Tensor:
            assert torch.equal(again.model.state_dict()[name], weight), name


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 3, 33, 70])
def test_layers_that_share_states_give_what_each_gives_alone(length):
    """Query, key and value, or gate and value, of states that are rounded once, in pieces where there are many."""
    torch.manual_seed(0)
    config = CpmBeeConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, head_dim=16
    )
    layer = CpmBeeModel(config).layers[0].to(torch.bfloat16).eval()
    quantize_(layer, Int8DynamicActivationInt8WeightConfig())
    pack_linears(layer)
    states = torch.randn(2, length, 64, dtype=torch.bfloat16)
    for part, names in ((layer.self_attn, ("q_proj", "k_proj", "v_proj")), (layer.mlp, ("gate_proj", "up_proj"))):
        found = part.project(states)
        assert len(found) == len(names)
        for name, product in zip(names, found, strict=True):
            assert torch.equal(product, getattr(part, name)(states)), name
            whole = getattr(part, name).product(_RoundedRows(states[:, -1:]))  # no row minds how many there are
            torch.testing.assert_close(product[:, -1:], whole)
