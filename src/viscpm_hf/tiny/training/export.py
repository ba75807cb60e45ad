"""Writes trained tiny models in the original's layout, as if OpenBMB had released them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ...checkpoint.layout.keys import CHAT, CPMBEE, TEXT_PROJECTION, Table
from ...remote_code.modeling_cpmbee import CpmBeeConfig, CpmBeeModel
from ...remote_code.modeling_viscpm_chat import VisCPMChatForConditionalGeneration
from .. import VOCABULARY

CHECKPOINT_NAME = "pytorch_model.bin"


def write_original(model: VisCPMChatForConditionalGeneration, output: str | Path) -> Path:
    """Writes pytorch_model.bin (float16, original names), llm_config.json, vision_config.json and vocab.txt.

    The tensors that the original stores without using them are there too, shrunk to a few rows of zeros.

    Args:
        model (`VisCPMChatForConditionalGeneration`): further heads on it are left out.
        output (`str` or `Path`): folder, made if needed.

    Returns:
        `Path` of the checkpoint.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    text, vision = model.config.text_config, model.config.vision_config
    layers = {"language_model": text.num_hidden_layers, "vision_tower": vision.num_hidden_layers}
    state, tensors = model.state_dict(), {}
    for component, table in CHAT.components.items():
        tensors |= _renamed(state, table, layers.get(component, 1))
    unused = {
        "vpm.beit3.text_embed.weight": (4, vision.hidden_size),
        "vpm.beit3.vision_embed.mask_token": (1, 1, vision.hidden_size),
        "vpm.mim_head.weight": (8, vision.hidden_size),
        "vpm.mim_head.bias": (8,),
    }
    tensors |= {name: torch.zeros(shape, dtype=torch.float16) for name, shape in unused.items()}
    checkpoint = output / CHECKPOINT_NAME
    torch.save(tensors, checkpoint)

    configs = {
        "llm_config.json": _llm_config(text),
        "vision_config.json": {
            "img_size": vision.image_size,
            "patch_size": vision.patch_size,
            "vocab_size": unused["vpm.beit3.text_embed.weight"][0],
            "multiway": True,
            "layernorm_embedding": False,
            "normalize_output": True,
            "no_output_layer": True,
            "drop_path_rate": 0,
            "encoder_embed_dim": vision.hidden_size,
            "encoder_attention_heads": vision.num_attention_heads,
            "encoder_ffn_embed_dim": vision.intermediate_size,
            "encoder_layers": vision.num_hidden_layers,
            "max_source_positions": vision.max_position_embeddings,
            "query_num": vision.query_num,
        },
    }
    for name, content in configs.items():
        _write_json(output / name, content)
    shutil.copyfile(VOCABULARY, output / "vocab.txt")
    return checkpoint


def read_original(checkpoint: str | Path, layers: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Weights of a Chat checkpoint that `write_original` wrote, by our names, in single precision.

    Args:
        checkpoint (`str` or `Path`): pytorch_model.bin.
        layers (`Mapping[str, int]`): numbers of layers, of `"language_model"` and `"vision_tower"`.
    """
    tensors = torch.load(checkpoint, weights_only=True)
    return {
        name.replace("{i}", str(layer)): tensors[original.replace("{i}", str(layer))].float()
        for component, table in CHAT.components.items()
        for original, (name, _) in table.items()
        for layer in range(layers.get(component, 1) if "{i}" in original else 1)
    }


def write_original_paint(
    text_encoder: CpmBeeModel, unet: nn.Module, text_projection: nn.Module, vae: nn.Module, output: str | Path
) -> Path:
    """Writes pytorch_model.bin (float16, original names), llm_config.json, vocab.txt and the folder sd_base.

    Args:
        text_encoder (`CpmBeeModel`): reads the prompts.
        unet (`UNet2DConditionModel`): paints.
        text_projection (`VisCPMPaintTextProjection`): between the two.
        vae (`AutoencoderKL`): goes to sd_base/vae, as the original took it from Stable Diffusion.
        output (`str` or `Path`): folder, made if needed.

    Returns:
        `Path` of the checkpoint.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    tensors = _renamed(text_encoder.state_dict(), CPMBEE, text_encoder.config.num_hidden_layers, "llm.")
    tensors |= {f"unet.{name}": _half(tensor) for name, tensor in unet.state_dict().items()}
    tensors |= _renamed(text_projection.state_dict(), TEXT_PROJECTION, 1, "trans_block.")
    checkpoint = output / CHECKPOINT_NAME
    torch.save(tensors, checkpoint)
    _write_json(output / "llm_config.json", _llm_config(text_encoder.config))
    vae.half().save_pretrained(output / "sd_base" / "vae")
    unet.save_config(output / "sd_base" / "unet")
    for part in ("vae", "unet"):  # the folder that a model was read from means nothing to others
        config = output / "sd_base" / part / "config.json"
        known = json.loads(config.read_text(encoding="utf-8"))
        _write_json(config, {key: value for key, value in known.items() if key != "_name_or_path"})
    shutil.copyfile(VOCABULARY, output / "vocab.txt")
    return checkpoint


def _renamed(state: Mapping[str, torch.Tensor], table: Table, layers: int, prefix: str = "") -> dict:
    """The tensors of a key table under their original names, in half precision."""
    return {
        prefix + original.replace("{i}", str(layer)): _half(state[name.replace("{i}", str(layer))])
        for original, (name, _) in table.items()
        for layer in range(layers if "{i}" in original else 1)
    }


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().half().cpu().contiguous().clone()


def _llm_config(config: CpmBeeConfig) -> dict:
    return {
        "vocab_size": config.vocab_size,
        "dim_model": config.hidden_size,
        "dim_ff": config.intermediate_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "dim_head": config.head_dim,
        "dropout_p": 0.0,
        "position_bias_num_buckets": config.position_bias_num_buckets,
        "position_bias_num_segment_buckets": config.position_bias_num_segment_buckets,
        "position_bias_max_distance": config.position_bias_max_distance,
        "eps": config.rms_norm_eps,
        "half": config.rotary_dtype == "float16",
    }


def _write_json(path: Path, content: dict):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
