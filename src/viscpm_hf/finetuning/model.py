"""The model as it is trained: what is tuned, in which precision, and where LoRA adds something."""

import math
import os
from pathlib import Path

import torch

from ..checkpoint.repo import check_is_converted
from ..memory.placement import quantization_config, sparing_vision
from ..remote_code.configuration_viscpm_chat import VisCPMChatConfig
from ..remote_code.modeling_viscpm_chat import VisCPMChatForConditionalGeneration

MODES = ("full", "lora", "qlora")
LANGUAGE_LAYERS = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
VISION_LAYERS = (
    r".*vision_tower\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj\.[AB]|mlp\.[AB]\.fc[12])|.*connector\.linear_[12]"
)


def check_is_chat(model_path: str | Path) -> None:
    """Raises a ValueError unless this is a converted VisCPM-Chat that can be trained."""
    check_is_converted(model_path, "VisCPM-Chat", "chat", "config.json")
    config = VisCPMChatConfig.get_config_dict(model_path)[0]
    if config.get("model_type") != VisCPMChatConfig.model_type:
        raise ValueError(f"{model_path} holds a {config.get('model_type')!r}, expected a converted VisCPM-Chat.")
    if config.get("quantization_config"):
        raise ValueError(
            f"{model_path} is quantized, and quantized weights cannot be trained: give what it was made of."
        )


def choose_tuned(model: VisCPMChatForConditionalGeneration, tune_llm: bool, tune_vision: bool) -> None:
    """Freezes what the original's script freezes.

    Always trained are the query tokens, the branch of the vision tower that they go through, and the connector; never
    the embedding of the patches.

    Args:
        model (`VisCPMChatForConditionalGeneration`): changed in place.
        tune_llm (`bool`): whether the language model is trained as well.
        tune_vision (`bool`): whether the branch of the patches is.
    """
    model.requires_grad_(True)
    model.model.language_model.requires_grad_(tune_llm)
    model.lm_head.requires_grad_(tune_llm)
    for name, parameter in model.model.vision_tower.named_parameters():
        if name.startswith(("embeddings.patch_embedding", "embeddings.cls_token")):
            parameter.requires_grad_(False)
        elif ".A." in name:
            parameter.requires_grad_(tune_vision)


def load_full(
    model_path: str | Path, tune_llm: bool, tune_vision: bool, dtype: torch.dtype
) -> VisCPMChatForConditionalGeneration:
    """The model of mode "full": what is trained is in float32.

    Args:
        model_path (`str` or `Path`): a converted repository.
        tune_llm, tune_vision (`bool`): see `choose_tuned`.
        dtype (`torch.dtype`): of the language model if it is not trained.
    """
    model = VisCPMChatForConditionalGeneration.from_pretrained(model_path, dtype=torch.float32 if tune_llm else dtype)
    if not tune_llm:
        model.model.vision_tower.float()
        model.model.connector.float()
    choose_tuned(model, tune_llm, tune_vision)
    return model


def load_lora(
    model_path: str | Path,
    dtype: torch.dtype,
    quantized: bool = False,
    tune_vision: bool = False,
    r: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    targets: str | None = None,
    device: torch.device | None = None,
) -> torch.nn.Module:
    """The model of modes "lora" and "qlora": frozen, with LoRA layers in float32.

    Args:
        model_path (`str` or `Path`): a converted repository.
        dtype (`torch.dtype`): of what is frozen and not quantized.
        quantized (`bool`): whether the language model's blocks are in 4 bits.
        tune_vision, r, alpha, dropout, targets: see `add_lora`.
        device (`torch.device`, *optional*): of a quantized model.

    Raises:
        ImportError: peft or bitsandbytes is missing.
        ValueError: no layer has a name like `targets`.
    """
    options = in_four_bits(dtype, device or torch.device("cpu")) if quantized else {}
    model = VisCPMChatForConditionalGeneration.from_pretrained(model_path, dtype=dtype, **options)
    return add_lora(model, tune_vision, r, alpha, dropout, targets)


def in_four_bits(dtype: torch.dtype, device: torch.device) -> dict:
    """Options of `from_pretrained` that put the language model's blocks in 4 bits, multiplied in `dtype`."""
    config = quantization_config("4bit", device, dtype)
    return {"quantization_config": sparing_vision(config), "device_map": {"": device}}


def add_lora(
    model: VisCPMChatForConditionalGeneration,
    tune_vision: bool = False,
    r: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    targets: str | None = None,
) -> torch.nn.Module:
    """The model frozen, with LoRA layers in float32.

    Args:
        model (`VisCPMChatForConditionalGeneration`): changed in place.
        tune_vision (`bool`): whether vision tower and connector have LoRA layers as well.
        r (`int`, defaults to 8): rank.
        alpha (`float`, defaults to 16): as for ordinary layers, which is also how OpenDelta counts: CPM-Bee's layers
            carry 1/sqrt(hidden_size) behind them, so there peft's `lora_alpha` is sqrt(hidden_size) times that.
        dropout (`float`, defaults to 0): before LoRA layers.
        targets (`str`, *optional*): regular expression of the layers; those of the language model by default.

    Raises:
        ImportError: peft is missing.
        ValueError: no layer has a name like `targets`, or one that has cannot be merged later.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError('For LoRA the library peft is needed: pip install "peft>=0.19.1"') from error
    model.requires_grad_(False)
    scaled = alpha * math.sqrt(model.config.text_config.hidden_size)
    config = peft.LoraConfig(
        r=r,
        lora_alpha=scaled,
        lora_dropout=dropout,
        target_modules=targets or (f"({LANGUAGE_LAYERS})|({VISION_LAYERS})" if tune_vision else LANGUAGE_LAYERS),
        alpha_pattern={r".*(vision_tower|connector).*": alpha},
    )
    head = model.get_output_embeddings()  # shares its weights with the embedding
    adapted = peft.get_peft_model(model, config)
    for name in adapted.base_model.targeted_module_names:
        base = adapted.base_model.model.get_submodule(name).get_base_layer()
        if not isinstance(base, torch.nn.Linear) or base is head:
            raise ValueError(
                f"lora_targets {targets!r} names {name}, a {type(base).__name__} that a LoRA cannot be merged into: "
                "name linear layers other than lm_head, such as '.*language_model.*(q|v)_proj'."
            )
    return adapted


def frozen_dtype(name: str | None, bf16: bool, fp16: bool) -> torch.dtype:
    """What is not trained is in: as asked for, or as the products are computed."""
    return getattr(torch, name or ("bfloat16" if bf16 else "float16" if fp16 else "float32"))


def stored_dtype(model_path: str | os.PathLike) -> torch.dtype:
    """That a repository's weights are in, float32 if its configuration does not say."""
    dtype = VisCPMChatConfig.from_pretrained(model_path).dtype
    return getattr(torch, str(dtype).removeprefix("torch."), torch.float32) if dtype else torch.float32
