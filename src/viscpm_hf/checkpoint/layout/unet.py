"""The UNet of VisCPM-Paint: its configuration from the tensors' sizes and a JSON file, its names from diffusers."""

import inspect
import operator
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError, first_line
from ..files.json_file import quoted
from ..files.safetensors_file import read_weights
from ..files.stored import StoredTensor
from .configs import declared_values
from .diffusers_classes import UNet2DConditionModel

PREFIX = "unet."
# what the tensors do not show, as in Stable Diffusion 2.1 base
PUBLISHED = {
    "sample_size": 64,
    "attention_head_dim": [5, 10, 20, 20],  # in spite of its name the number of heads
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "upcast_attention": False,
}
# what diffusers adds to the JSON files it writes
IGNORED = {"_diffusers_version", "_name_or_path", "_use_default_values"}
MOST_SIDE = 1024  # of latents
MOST_TENSORS = 20_000  # Stable Diffusion 2.1 has 686
MOST_LAYERS = 500  # on the way down; Stable Diffusion XL has 60
ENOUGH = 5  # tensors that make a block: a stray name makes none


def unet_for(
    tensors: Mapping[str, StoredTensor], path: str | os.PathLike, declared: Path | None, option: str
) -> UNet2DConditionModel:
    """The UNet a checkpoint holds, on the meta device.

    Args:
        tensors: of the checkpoint.
        path: of the checkpoint, for messages.
        declared: JSON file as diffusers writes it, or None for the published values.
        option: of the command line that named the file, for messages.

    Raises:
        CheckpointError: there is no UNet, or tensors and JSON contradict each other.
    """
    shapes = {name.removeprefix(PREFIX): t.shape for name, t in tensors.items() if name.startswith(PREFIX)}
    return _described(shapes, path, PREFIX, declared, option)


def read_unet(folder: Path) -> UNet2DConditionModel:
    """The UNet of a converted repository, on the meta device; errors as for `unet_for`."""
    shapes = {name: tensor.shape for name, tensor in read_weights(folder, "diffusion_pytorch_model").items()}
    return _described(shapes, folder, "", folder / "config.json", "")


def _described(shapes, path, prefix: str, declared: Path | None, option: str) -> UNet2DConditionModel:
    if len(shapes) > MOST_TENSORS:
        raise CheckpointError(f"{path} holds {len(shapes)} tensors of a UNet, which has {MOST_TENSORS} at the most.")
    known = _sizes(shapes)
    if not known["block_out_channels"] or None in known["block_out_channels"]:
        raise CheckpointError(f"{path} holds no UNet: no blocks of convolutions under {prefix}down_blocks.")
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(UNet2DConditionModel.__init__).parameters.items()
        if name != "self" and name not in known and name not in PUBLISHED
    }
    fixed = {"_class_name": "UNet2DConditionModel", **defaults}
    values = {**PUBLISHED, **declared_values(declared, option, known, PUBLISHED, fixed, IGNORED)}
    _check_divisions(known["block_out_channels"], values)
    if values["sample_size"] > MOST_SIDE:
        raise CheckpointError(f"{declared} has sample_size={values['sample_size']}, expected at most {MOST_SIDE}.")
    _check_length(known, path)
    try:
        with torch.device("meta"):
            return UNet2DConditionModel(**{**values, **known})
    except Exception as error:  # whatever a constructor makes of odd values
        raise CheckpointError(f"diffusers can make no UNet with the sizes in {path} ({first_line(error)}).") from error


def _check_length(known: Mapping, path) -> None:
    """A table of tensors may describe more layers than anybody has time to build."""
    blocks = len(known["block_out_channels"])
    layers, depths = (
        [value] * blocks if isinstance(value, int) else value
        for value in (known["layers_per_block"], known["transformer_layers_per_block"])
    )
    if sum(layer * (1 + depth) for layer, depth in zip(layers, depths, strict=True)) > MOST_LAYERS:
        raise CheckpointError(f"{path} describes a UNet of more than {MOST_LAYERS} layers, which no release has.")


def _check_divisions(channels: list[int], values: Mapping) -> None:
    """Heads and norm groups must divide the channels of every block."""
    heads, groups = values["attention_head_dim"], values["norm_num_groups"]
    per_block = heads if isinstance(heads, list) else [heads] * len(channels)
    if len(per_block) != len(channels) or any(map(operator.mod, channels, per_block)):
        raise CheckpointError(
            f"The UNet's blocks have {quoted(channels)} channels, which {quoted(heads)} attention heads do not fit; "
            "give the right attention_head_dim with --unet-config."
        )
    if any(width % groups for width in channels):
        raise CheckpointError(
            f"The UNet's blocks have {quoted(channels)} channels, which {groups} groups do not divide; give the right "
            "norm_num_groups with --unet-config."
        )


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict:
    """What the tensors show of the configuration, by its keys; what a damaged checkpoint does not show is left out."""
    down = [f"down_blocks.{i}" for i in range(_count(shapes, "down_blocks"))]
    up = [f"up_blocks.{i}" for i in range(_count(shapes, "up_blocks"))]
    transformers = [_count(shapes, f"{block}.attentions.0.transformer_blocks") for block in down]
    if down and not transformers[-1]:  # then the number, which the middle block shares, is to be seen there only
        transformers[-1] = _count(shapes, "mid_block.attentions.0.transformer_blocks")
    sizes = {
        "in_channels": _most(shapes, r"conv_in\.weight", 1),
        "out_channels": _most(shapes, r"conv_out\.(weight|bias)", 0),
        "block_out_channels": [
            _most(shapes, re.escape(block) + r"\.resnets\.[0-9]+\.conv[12]\.(weight|bias)", 0) for block in down
        ],
        "layers_per_block": [_count(shapes, f"{block}.resnets") for block in down],
        "transformer_layers_per_block": [number or 1 for number in transformers],
        "cross_attention_dim": _most(shapes, r".+\.attn2\.to_[kv]\.weight", 1),
        "down_block_types": [_cross_attention(shapes, block) + "DownBlock2D" for block in down],
        "up_block_types": [_cross_attention(shapes, block) + "UpBlock2D" for block in up],
    }
    ranks = Counter(len(shape) for name, shape in shapes.items() if name.endswith(".proj_in.weight"))
    if ranks:
        sizes["use_linear_projection"] = ranks.most_common(1)[0][0] == 2
    for key in ("layers_per_block", "transformer_layers_per_block"):
        if len(set(sizes[key])) == 1:
            sizes[key] = sizes[key][0]
    return {key: value for key, value in sizes.items() if value is not None}


def _count(shapes: Mapping[str, tuple[int, ...]], start: str) -> int:
    """How many of `start.0`, `start.1`, … there are."""
    pattern = re.compile(re.escape(start) + r"\.(0|[1-9][0-9]?)\.")
    tensors = Counter(int(found[1]) for name in shapes if (found := pattern.match(name)))
    return next(number for number in range(101) if tensors[number] < ENOUGH)


def _cross_attention(shapes: Mapping[str, tuple[int, ...]], block: str) -> str:
    return "CrossAttn" if _count(shapes, f"{block}.attentions") else ""


def _most(shapes: Mapping[str, tuple[int, ...]], pattern: str, axis: int) -> int | None:
    """The length that most of the tensors with such names have along an axis, so that one misshapen is outvoted."""
    lengths = Counter(
        shape[axis] for name, shape in shapes.items() if len(shape) > axis and re.fullmatch(pattern, name)
    )
    return lengths.most_common(1)[0][0] if lengths else None
