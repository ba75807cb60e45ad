"""Writes a trained tiny model in the original's layout, as if OpenBMB had released it."""

import json
import shutil
from pathlib import Path

import torch

from ..checkpoint.keys import CHAT
from ..remote_code.modeling_viscpm_chat import VisCPMChatForConditionalGeneration
from . import VOCABULARY

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
    state = model.state_dict()
    tensors = {}
    for component, table in CHAT.components.items():
        for original, (name, _) in table.items():
            for layer in range(layers[component]) if "{i}" in original else (0,):
                tensor = state[name.replace("{i}", str(layer))]
                tensors[original.replace("{i}", str(layer))] = tensor.detach().half().cpu().contiguous().clone()
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
        "llm_config.json": {
            "vocab_size": text.vocab_size,
            "dim_model": text.hidden_size,
            "dim_ff": text.intermediate_size,
            "num_layers": text.num_hidden_layers,
            "num_heads": text.num_attention_heads,
            "dim_head": text.head_dim,
            "dropout_p": 0.0,
            "position_bias_num_buckets": text.position_bias_num_buckets,
            "position_bias_num_segment_buckets": text.position_bias_num_segment_buckets,
            "position_bias_max_distance": text.position_bias_max_distance,
            "eps": text.rms_norm_eps,
            "half": text.rotary_dtype == "float16",
        },
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
        (output / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(VOCABULARY, output / "vocab.txt")
    return checkpoint
