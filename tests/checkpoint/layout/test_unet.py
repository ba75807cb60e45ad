"""Guards Paint's UNet: sizes come from the tensors, the rest from JSON, and what contradicts or lacks is named."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from viscpm_hf.checkpoint import CheckpointError
from viscpm_hf.checkpoint.files.stored import StoredTensor
from viscpm_hf.checkpoint.layout.keys import match, with_unet
from viscpm_hf.checkpoint.layout.unet import unet_for

SMALL = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": [2, 4],
    "use_linear_projection": True,
    "norm_num_groups": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
FREE = ("sample_size", "attention_head_dim", "norm_num_groups", "norm_eps", "upcast_attention")
PUBLISHED = {"sample_size": 64, "attention_head_dim": [5, 10, 20, 20], "norm_num_groups": 32, "norm_eps": 1e-5}
FULL = {**PUBLISHED, "cross_attention_dim": 1024, "use_linear_projection": True}


def shapes_of(config):
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in UNet2DConditionModel(**config).state_dict().items()}


def described(shapes):
    return {f"unet.{name}": StoredTensor(Path("x"), torch.float16, shape, 0) for name, shape in shapes.items()}


def written(folder, config):
    (folder / "unet.json").write_text(json.dumps(config))
    return folder / "unet.json"


def comparable(config):
    """Without diffusers' notes; tuples as the lists they become in JSON."""
    return {key: json.dumps(value) for key, value in config.items() if not key.startswith("_")}


@pytest.fixture
def found(tmp_path):
    """The configuration found for a UNet's tensors and a JSON configuration, or with none."""

    def find(shapes, declared=None):
        path = None if declared is None else written(tmp_path, declared)
        return unet_for(described(shapes), "x", path, "--unet-config")

    return find


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers_per_block": 3},
        {"layers_per_block": [1, 2]},
        {"use_linear_projection": False},
        {"in_channels": 9, "out_channels": 5},
        {"down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2},
        {"transformer_layers_per_block": 2},
        {
            "block_out_channels": [8, 16, 32, 32],
            "attention_head_dim": 4,
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
            "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 3, 4],
            "upcast_attention": True,
            "norm_eps": 1e-6,
        },
    ],
)
def test_sizes_come_from_the_tensors(found, changes):
    config = {**SMALL, **changes}
    shapes = shapes_of(config)
    expected = dict(UNet2DConditionModel(**config).config)
    for declared in ({key: config[key] for key in FREE if key in config}, config, expected):
        unet = found(shapes, declared)
        assert {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()} == shapes
        assert all(tensor.is_meta for tensor in unet.state_dict().values())
        assert comparable(unet.config) == comparable(expected)


def test_the_full_size_model_fits(found):
    shapes = shapes_of(FULL)
    # counts of the original's state dict
    assert len(shapes) == 686 and sum(torch.Size(shape).numel() for shape in shapes.values()) == 865910724
    unet = found(shapes)
    assert unet.config.block_out_channels == [320, 640, 1280, 1280] and unet.config.cross_attention_dim == 1024
    assert PUBLISHED.items() <= unet.config.items() and unet.config.upcast_attention is False
    family = with_unet(shapes)
    sizes = {"num_layers": 48, "vocab_size": 86583, "dim_model": 4096, "dim_ff": 10240, "num_heads": 32}
    sizes |= {"num_heads*dim_head": 4096, "position_bias_rows": 512, "cross_attention_dim": 1024}
    tensors = {}
    for component in ("text_encoder", "text_projection"):
        for key, (_, shape) in family.components[component].items():
            for i in range(48 if "{i}" in key else 1):
                shape = tuple(sizes.get(size, size) for size in shape)
                tensors[key.replace("{i}", str(i))] = StoredTensor(Path("x"), torch.float16, shape, 0)
    tensors |= described(shapes)
    assert len(tensors) == 1124 and sum(tensor.nbytes for tensor in tensors.values()) == 2 * 10486187972
    result = match(family, tensors, "x")
    assert result.sizes == sizes and len(set(result.names.values())) == 1124 and not result.unused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": [8, 32]}, r"contradicts the checkpoint: block_out_channels is \[8, 32\] but"),
        ({"layers_per_block": 2}, "layers_per_block is 2 but the tensors say 1"),
        ({"layers_per_block": [1, 2]}, r"layers_per_block is \[1, 2\] but the tensors say 1"),
        ({"cross_attention_dim": 1024}, "cross_attention_dim is 1024 but the tensors say 24"),
        ({"use_linear_projection": False}, "use_linear_projection is False but the tensors say True"),
        ({"down_block_types": ["DownBlock2D"] * 2}, "down_block_types is .* but the tensors say"),
        ({"transformer_layers_per_block": 2}, "transformer_layers_per_block is 2 but the tensors say 1"),
        ({"attention_head_dim": [5, 10, 20, 20]}, r"which \[5, 10, 20, 20\] attention heads do not fit"),
        ({"attention_head_dim": 3}, "3 attention heads do not fit; give the right attention_head_dim"),
        ({"attention_head_dim": [2, 0]}, r"attention_head_dim=\[2, 0\], expected a positive int"),
        ({"attention_head_dim": []}, r"attention_head_dim=\[\], expected a positive int"),
        ({"norm_num_groups": 32}, "32 groups do not divide; give the right norm_num_groups"),
        ({"norm_eps": "1e-5"}, "norm_eps='1e-5', expected a positive float"),
        ({"upcast_attention": 1}, "upcast_attention=1, expected true or false"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu', supported is 'silu'"),
        ({"class_embed_type": "timestep"}, "asks for what is not supported: class_embed_type"),
        ({"_class_name": "UNet2DModel"}, "_class_name is 'UNet2DModel', supported is 'UNet2DConditionModel'"),
        ({"hidden_size": 4}, "unknown keys: hidden_size"),
    ],
)  # fmt: skip
def test_refused_configurations(found, changes, message):
    with pytest.raises(CheckpointError, match=message):
        found(shapes_of(SMALL), {**SMALL, **changes})


def test_what_diffusers_writes_beside_the_sizes_is_accepted(found):
    assert found(shapes_of(SMALL), {**SMALL, "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.10.0"})


def test_published_values_need_the_published_sizes(found):
    with pytest.raises(CheckpointError, match=r"\[5, 10, 20, 20\] attention heads do not fit; give .* --unet-config"):
        found(shapes_of(SMALL))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_in.weight": None}, "missing: unet.conv_in.weight."),
        ({"conv_in.weight": (8, 4, 5, 5)}, r"unet.conv_in.weight is \[8, 4, 5, 5\] instead of \[8, 4, 3, 3\]."),
        ({"conv_out.weight": None, "conv_out.bias": None}, "missing: unet.conv_out.weight, unet.conv_out.bias."),
        ({"down_blocks.0.resnets.0.conv1.weight": (9, 8, 3, 3)}, r"conv1.weight is \[9, 8, 3, 3\] instead of \[8, 8,"),
        (
            {"up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (8, 25)},
            r"attn2.to_k.weight is \[8, 25\] instead of \[8, 24\]\.",
        ),
        ({"mid_block.attentions.0.norm.bias": None}, "missing: unet.mid_block.attentions.0.norm.bias."),
        ({"down_blocks.7.resnets.0.conv1.weight": (8, 8)}, "unknown: unet.down_blocks.7.resnets.0.conv1.weight."),
        ({"down_blocks.0.resnets.9.conv1.weight": (8, 8)}, "unknown: unet.down_blocks.0.resnets.9.conv1.weight."),
        ({"lora.up.weight": (1,)}, "unknown: unet.lora.up.weight."),
    ],
)  # fmt: skip
def test_only_the_guilty_tensor_is_named(found, weights_of_paint, change, message):
    shapes = {**shapes_of(SMALL), **change}
    shapes = {name: shape for name, shape in shapes.items() if shape is not None}
    unet = found(shapes, {key: SMALL[key] for key in ("sample_size", "attention_head_dim", "norm_num_groups")})
    family = with_unet({name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()})
    others = {name: tensor for name, tensor in weights_of_paint.items() if not name.startswith("unet.")}
    with pytest.raises(CheckpointError, match=message) as caught:
        match(family, {**others, **described(shapes)}, "x")
    assert str(caught.value).count(":") == 1


def test_a_projection_of_another_width_is_named(found, weights_of_paint):
    tensors = dict(weights_of_paint)
    for name, shape in (("w_out_res.weight", (25, 32)), ("layernorm.weight", (25,)), ("layernorm.bias", (25,))):
        tensors[f"trans_block.{name}"] = StoredTensor(Path("x"), torch.float32, shape, 0)
    message = r"wrong shape: trans_block.w_out_res.weight is \[25, 32\] instead of \[24, 32\]"
    tensors = {name: tensors[name] for name in sorted(tensors, key=lambda name: "layernorm" in name)}
    with pytest.raises(CheckpointError, match=message):
        match(with_unet(shapes_of(SMALL)), tensors, "x")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "holds no UNet"),
        ({"conv_in.weight": (8, 4, 3, 3)}, "holds no UNet"),
        ({f"down_blocks.0.odd.{i}": (1,) for i in range(5)}, "holds no UNet"),
        (
            {name: shape for name, shape in shapes_of(SMALL).items() if not name.startswith("up_blocks.1")},
            "same number of `down_block_types` as `up_block_types`",
        ),
    ],
)
def test_what_is_no_unet(found, shapes, message):
    with pytest.raises(CheckpointError, match=message):
        found(shapes, {"attention_head_dim": 2, "norm_num_groups": 4})
