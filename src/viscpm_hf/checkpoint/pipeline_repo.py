"""What a Paint repository holds beside its weights: a diffusers pipeline of parts in folders, each with its code."""

import json
from pathlib import Path

import diffusers
import torch

from ..remote_code.modeling_cpmbee import CpmBeeConfig
from ..remote_code.modeling_viscpm_paint import VisCPMPaintTextProjection
from ..remote_code.tokenization_cpmbee import CpmBeeTokenizer
from .errors import CheckpointError
from .files.json_file import named, quoted, read_json_file
from .layout.diffusers_classes import DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from .repo import INDEX, OPTIONAL_PAINT_PARTS, PAINT_CODE, PAINT_PARTS, copy_code, has_part, write_config

PIPELINE = "pipeline_viscpm_paint"
CLASS_NAME = [PIPELINE, "VisCPMPaintPipeline"]
TEXT_ENCODER_AUTO_MAP = {"AutoConfig": "modeling_cpmbee.CpmBeeConfig", "AutoModel": "modeling_cpmbee.CpmBeeModel"}
# what config.json says of the parts that transformers loads
MODEL_TYPES = {
    "text_encoder": CpmBeeConfig.model_type,
    "safety_checker": "clip",
    "prompt_checker": "bert",
    "ranker": "chinese_clip",
}
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


def check_parts(folder: Path) -> None:
    """Reads the configuration of every part that model_index.json names, as a pipeline does when it loads.

    Raises:
        CheckpointError: one is no JSON object or that of another class.
        AttributeError, TypeError, ValueError: diffusers makes no scheduler of its configuration.
    """
    index = read_json_file(folder / INDEX)
    for name in filter(lambda name: has_part(index, name), (*PAINT_PARTS, *OPTIONAL_PAINT_PARTS)):
        for path in (folder / name).glob("*config.json"):
            read_json_file(path)
        library, kind = index[name]
        if name == "scheduler":
            path = folder / name / "scheduler_config.json"
            said = read_json_file(path).get("_class_name")
            if not isinstance(said, str) or not said.endswith("Scheduler"):  # any reads the others' configurations
                raise CheckpointError(f"{path} has _class_name={quoted(said)}, expected a scheduler's; convert again.")
            if library == "diffusers":
                scheduler = getattr(diffusers, kind)
                if not issubclass(scheduler, SchedulerMixin):
                    raise CheckpointError(f"{folder / INDEX} names {named(kind)} as scheduler, which it is not.")
                scheduler.from_pretrained(folder / name)
        elif library == "diffusers" or name == "text_projection":
            _check_entry(folder / name, "_class_name", kind)
        elif name in MODEL_TYPES and kind in (PAINT_PARTS | OPTIONAL_PAINT_PARTS)[name]:
            _check_entry(folder / name, "model_type", MODEL_TYPES[name])


def _check_entry(part: Path, key: str, expected: str) -> None:
    path = part / "config.json"
    said = read_json_file(path).get(key)
    if said != expected:
        raise CheckpointError(f"{path} has {key}={quoted(said)}, expected {expected}; convert again.")
