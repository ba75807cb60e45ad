"""What a Paint repository holds beside its weights: a diffusers pipeline of parts in folders, each with its code."""

import json
from pathlib import Path

import diffusers
import torch

from ..remote_code.modeling_cpmbee import CpmBeeConfig
from ..remote_code.modeling_viscpm_paint import VisCPMPaintTextProjection
from ..remote_code.tokenization_cpmbee import CpmBeeTokenizer
from .layout.diffusers_classes import DDPMScheduler, UNet2DConditionModel
from .repo import INDEX, OPTIONAL_PAINT_PARTS, PAINT_CODE, PAINT_PARTS, copy_code, write_config

PIPELINE = "pipeline_viscpm_paint"
CLASS_NAME = [PIPELINE, "VisCPMPaintPipeline"]
TEXT_ENCODER_AUTO_MAP = {"AutoConfig": "modeling_cpmbee.CpmBeeConfig", "AutoModel": "modeling_cpmbee.CpmBeeModel"}
# the original reads Stable Diffusion's PNDM configuration as DDPM, which did not know steps_offset then: last step 0
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "steps_offset": 0,
    "variance_type": "fixed_small",
    "timestep_spacing": "leading",
}


def write_pipeline(
    folder: Path,
    tokenizer: CpmBeeTokenizer,
    language: CpmBeeConfig,
    unet: UNet2DConditionModel,
    parts: set[str],
    dtype: torch.dtype,
) -> None:
    """Configurations, vocabulary and code of a Paint repository.

    Args:
        folder: of the repository.
        tokenizer: of its language model.
        language: configuration of that.
        unet: on any device; only its configuration is written.
        parts: names of the optional parts that are put in.
        dtype: of the language model.
    """
    write_config(folder / "text_encoder", language, TEXT_ENCODER_AUTO_MAP, dtype)
    tokenizer.save_pretrained(folder / "tokenizer")
    VisCPMPaintTextProjection(language.hidden_size, unet.config.cross_attention_dim).save_config(
        folder / "text_projection"
    )
    unet.save_config(folder / "unet")
    DDPMScheduler(**SCHEDULER).save_config(folder / "scheduler")
    copy_pipeline_code(folder)
    index = {
        "_class_name": CLASS_NAME,
        "_diffusers_version": diffusers.__version__,
        **PAINT_PARTS,
        **{name: kind if name in parts else [None, None] for name, kind in OPTIONAL_PAINT_PARTS.items()},
        "prompt_checker_threshold": 0.75,
        "requires_safety_checker": "safety_checker" in parts,
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def copy_pipeline_code(folder: Path) -> None:
    copy_code(folder, [f"{PIPELINE}.py"])
    for component, (module, _) in PAINT_CODE.items():
        copy_code(folder / component, [f"{module}.py"])
