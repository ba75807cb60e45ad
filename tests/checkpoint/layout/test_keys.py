"""Guards the key tables: complete for the golden and the full-size model, inverse to each other, precise in blame."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from viscpm_hf.checkpoint import CheckpointError
from viscpm_hf.checkpoint.files.stored import StoredTensor
from viscpm_hf.checkpoint.layout.keys import CHAT, PAINT, PLAIN_CPMBEE, check_family, inverted, match, with_unet


def described(shapes, dtype=torch.float16):
    return {name: StoredTensor(Path("x"), dtype, tuple(shape), 0) for name, shape in shapes.items()}


@pytest.fixture
def tensors(weights):
    return described({name: tensor.shape for name, tensor in weights.items()})


def test_new_names_are_the_models(tensors, chat_model):
    names = match(CHAT, tensors, "x").names
    expected = {name: parameter.shape for name, parameter in chat_model.named_parameters()}
    assert {new: tensors[name].shape for name, new in names.items()} == expected


def test_sizes_come_from_the_tensors(tensors):
    assert match(CHAT, tensors, "x").sizes == {
        "num_layers": 3,
        "encoder_layers": 2,
        "vocab_size": 410,
        "dim_model": 40,
        "dim_ff": 64,
        "num_heads": 4,
        "num_heads*dim_head": 32,
        "position_bias_rows": 112,
        "encoder_embed_dim": 24,
        "encoder_ffn_embed_dim": 48,
        "patch_size": 8,
        "image_positions": 19,
        "max_source_positions": 24,
        "query_num": 6,
    }


def test_inverted_tables_lead_back(tensors):
    there = match(CHAT, tensors, "x")
    renamed = {there.names.get(name, name): tensor for name, tensor in tensors.items()}
    back = match(inverted(CHAT), renamed, "x")
    assert back.names == {new: name for name, new in there.names.items()} and back.sizes == there.sizes


def test_the_full_size_model_fits():
    sizes = {
        "num_layers": 48,
        "encoder_layers": 24,
        "vocab_size": 86583,
        "dim_model": 4096,
        "dim_ff": 10240,
        "num_heads": 32,
        "num_heads*dim_head": 4096,
        "position_bias_rows": 512,
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "patch_size": 16,
        "image_positions": 199,
        "max_source_positions": 1024,
        "query_num": 64,
    }
    shapes = {
        key.replace("{i}", str(i)): [sizes.get(size, size) for size in shape]
        for component, table in CHAT.components.items()
        for key, (_, shape) in table.items()
        for i in range(sizes[CHAT.layers[component]] if "{i}" in key else 1)
    }
    # counts of the original's state dict without its four unused tensors
    assert len(shapes) == 1413 - 4
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert total == 10318225408 - 65546240 - 8396800 - 1024
    assert match(CHAT, described(shapes), "x").sizes == sizes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mapping.2.bias": None}, "missing: mapping.2.bias"),
        ({"llm.encoder.layers.2.ffn.ffn.w_out.weight": None}, "missing: llm.encoder.layers.2.ffn.ffn.w_out.weight"),
        ({"llm.lm_head.weight": (1,)}, "unknown: llm.lm_head.weight"),
        (
            {"llm.encoder.layers.7.ffn.ffn.w_out.weight": (40, 64)},
            r"unknown: llm.encoder.layers.7.ffn.ffn.w_out.weight\.",
        ),
        ({"other.weight": (1,)}, "unknown: other.weight"),
        ({"query": (6, 25)}, r"wrong shape: query is \[6, 25\] instead of \[6, 24\]\."),
        ({"mapping.0.weight": (40, 24, 1)}, r"mapping.0.weight is \[40, 24, 1\] instead of \[40, 24\]\."),
        (
            {"llm.encoder.layers.0.ffn.ffn.w_out.weight": (40, 65)},
            r"w_out.weight is \[40, 65\] instead of \[40, 64\]\.",
        ),
    ],
)
def test_only_the_guilty_tensor_is_named(tensors, change, message):
    for name, shape in change.items():
        if shape is None:
            del tensors[name]
        else:
            tensors |= described({name: shape})
    with pytest.raises(CheckpointError, match=message) as caught:
        match(CHAT, tensors, "x")
    assert str(caught.value).count(":") == 1


def test_unused_tensors_may_be_absent_or_of_any_shape(tensors):
    tensors |= described({"vpm.mim_head.weight": (3, 3, 3)})
    del tensors["vpm.beit3.text_embed.weight"]
    found = match(CHAT, tensors, "x")
    assert "vpm.mim_head.weight" in found.unused and "vpm.beit3.text_embed.weight" not in found.unused


def test_integers_are_refused_and_long_lists_cut(tensors):
    tensors["query"] = dataclasses.replace(tensors["query"], dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"not floating-point: query \(int8\)"):
        match(CHAT, tensors, "x")
    half = {name: tensor for name, tensor in tensors.items() if not name.startswith("vpm.")}
    with pytest.raises(CheckpointError, match=r"missing: (\S+, ){9}\S+ and \d+ more"):
        match(CHAT, half, "x")


@pytest.mark.parametrize(
    ("family", "names", "command"),
    [
        (CHAT, ["llm.a", "unet.b", "trans_block.c"], "viscpm convert paint"),
        (PLAIN_CPMBEE, ["llm.a", "unet.b"], "viscpm convert paint"),
        (CHAT, ["encoder.layers.0.x", "input_embedding.weight"], "viscpm convert cpmbee"),
        (PLAIN_CPMBEE, ["llm.encoder.x", "vpm.y", "query"], "viscpm convert chat"),
        (PAINT, ["llm.a", "vpm.b", "mapping.0.bias"], "viscpm convert chat"),
        (PAINT, ["encoder.layers.0.x", "input_embedding.weight"], "viscpm convert cpmbee"),
    ],
)
def test_another_kind_of_checkpoint_is_sent_to_its_command(family, names, command):
    with pytest.raises(CheckpointError, match=command):
        check_family(family, names, "x")


@pytest.fixture
def paint(weights_of_paint):
    unet = {name[5:]: tensor.shape for name, tensor in weights_of_paint.items() if name.startswith("unet.")}
    return with_unet(unet)


def test_inverted_tables_of_paint_lead_back(paint, weights_of_paint):
    tensors = {**weights_of_paint, **described({"vae.a": (2,)})}
    there = match(paint, tensors, "x")
    assert there.unused == ["vae.a"] and there.sizes["cross_attention_dim"] == 24 and there.sizes["num_layers"] == 2
    back = match(inverted(paint), {there.names.get(name, name): tensor for name, tensor in tensors.items()}, "x")
    assert back.names == {new: name for name, new in there.names.items()} and back.unused == ["vae.a"]
    # in one repository two parts have a norm.weight
    assert there.names["trans_block.layernorm.weight"] == "text_projection/norm.weight"
    assert there.names["llm.encoder.output_layernorm.weight"] == "text_encoder/norm.weight"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llm.extra", "unknown: llm.extra"),
        ("trans_block.extra", "unknown: trans_block.extra"),
        ("unet.extra", "unknown: unet.extra"),
        ("unet/conv_in.weight", "unknown: unet/conv_in.weight"),
    ],
)
def test_only_other_beginnings_are_not_used(paint, weights_of_paint, name, message):
    with pytest.raises(CheckpointError, match=message):
        match(paint, {**weights_of_paint, **described({name: (1,)})}, "x")
    extra = described({f"other.{name}": (1,)}, torch.int64)
    assert match(paint, {**weights_of_paint, **extra}, "x").unused == [f"other.{name}"]
    with pytest.raises(CheckpointError, match=r"not floating-point: unet.conv_in.bias \(int64\)"):
        match(paint, {**weights_of_paint, **described({"unet.conv_in.bias": (8,)}, torch.int64)}, "x")


def test_two_names_never_become_one():
    """Digits of other alphabets are numbers to Python: `1٠` is 10."""
    sizes = {"num_layers": 12, "encoder_layers": 12}
    shapes = {
        key.replace("{i}", str(i)): [sizes.get(size, size if isinstance(size, int) else 8) for size in shape]
        for component, table in CHAT.components.items()
        for key, (_, shape) in table.items()
        for i in range(12 if "{i}" in key else 1)
    }
    assert len(set(match(CHAT, described(shapes), "x").names.values())) == len(shapes)
    name = "llm.encoder.layers.10.ffn.ffn.w_out.weight"
    for number in ("1٠", "1０", "010", "10 ", "+10"):
        more = {**shapes, name.replace("10", number): shapes[name]}
        with pytest.raises(CheckpointError, match=rf"unknown: llm.encoder.layers.{re.escape(number)}.ffn"):
            match(CHAT, described(more), "x")


def test_an_adapter_under_a_name_that_paint_does_not_use_is_kept():
    names = ["llm.input_embedding.weight", "unet.conv_in.weight", "trans_block.layernorm.bias", "loss.lora_A.weight"]
    check_family(PAINT, names, "x")
    with pytest.raises(CheckpointError, match="holds a LoRA adapter"):
        check_family(PAINT, [*names, "unet.lora_A.weight"], "x")
