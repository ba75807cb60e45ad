"""A plan carried out: what to load a model with, and where its parts go."""

import contextlib
import copy
import ctypes
import os
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin, QuantizationMethod

from ..checkpoint.files.json_file import quoted
from ..language import say
from ..libraries import quiet
from .budget import WORDS
from .machine import physical_memory
from .packing import pack_chat, pack_int8_head, pack_layers, pack_linears
from .plans import Plan
from .rounded_weights import int8_weight, nf4_weight
from .sizes import CHECKERS, LANGUAGE

if TYPE_CHECKING:  # takes seconds to import, and Chat does without
    from diffusers import DiffusionPipeline

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # of glibc's mallopt
# what quantization must leave alone, matched from the start of a module's full name
_NOT_QUANTIZED = ("model.vision_tower", "model.connector", "lm_head")


def load_chat(
    model_class: type[PreTrainedModel], model_path: str | os.PathLike, plan: Plan, device: torch.device
) -> PreTrainedModel:
    """A Chat model, loaded and placed as planned.

    Args:
        model_class (`type`): with `from_pretrained`.
        model_path (`str` or `Path`): folder or Hub repository.
        plan (`Plan`): of `find_plan`.
        device (`torch.device`): where to run.
    """
    options = {"dtype": plan.dtypes["blocks"] or "auto", "device_map": {"": device}}
    if plan.method == "spread":
        inside = sum(plan.device_memory[name] for name in ("language model", "vision_tower", "connector"))
        options |= _spread_options(inside, device)
    elif plan.method.startswith("stream"):
        options["device_map"] = {"": "cpu"}
    elif plan.method in WORDS:
        config = sparing_vision(quantization_config(plan.method, device, plan.dtypes["blocks"]))
        if device.type == "cpu":
            return _load_rounded_chat(model_class, model_path, config, plan)
        options["quantization_config"] = config
    with _freed_memory_returned():
        model = model_class.from_pretrained(model_path, **options)
        if plan.packed:
            pack_chat(model)
    if plan.method.startswith("stream"):
        stream_blocks(model.model.language_model, device)
        model.model.connector.to(device)
        if plan.method == "stream all":
            stream_blocks(model.model.vision_tower, device)
        else:
            model.model.vision_tower.to(device)
    return model


def _load_rounded_chat(model_class, model_path, config, plan):
    """A Chat model on the CPU, its language model rounded matrix by matrix while it is read from the files.

    transformers would do the same, but read, cast and round whole weights, and pack them when all are there.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    model = model_class.from_pretrained(model_path, dtype="auto", device_map={"": "cpu"})  # mapped from the files
    dtype = plan.dtypes["blocks"] or model.dtype
    layers = model.model.language_model.layers
    names = [name for name, module in layers.named_modules() if type(module) is torch.nn.Linear]
    weights = {name: layers.get_parameter(f"{name}.weight") for name in names}
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map={"": "cpu"}, dtype=dtype)
    with _freed_memory_returned():
        if plan.packed:  # first, while there is little else: meanwhile it is there twice
            embedding = model.get_input_embeddings().weight
            embedding.data = embedding.data.to(dtype)
            pack_int8_head(model)
        for name in logging.tqdm(names, desc=say("Quantizing weights", "量化权重")):  # beside transformers' own bars
            module, weight = layers.get_submodule(name), weights.pop(name)
            if config.quant_method == QuantizationMethod.TORCHAO:
                module.weight = torch.nn.Parameter(int8_weight(weight, dtype), requires_grad=False)
            else:
                module.weight = nf4_weight(weight, config, module)
            pack_layers(layers[int(name.partition(".")[0])])
    put_in_one_type(model, dtype)
    for part in (model.config, model.config.text_config, model.config.vision_config):
        part.dtype = dtype
    quantizer.postprocess_model(model)
    model.hf_quantizer = quantizer
    pack_linears(model)
    return model


def put_in_one_type(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Casts what is not quantized; transformers leaves some of it as it is stored where weights are stored quantized.

    Args:
        model (`PreTrainedModel`): changed in place.
        dtype (`torch.dtype`): of all its floating-point weights.
    """
    for parameter in model.parameters():
        if type(parameter) is torch.nn.Parameter and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def load_paint(
    pipeline_class: "type[DiffusionPipeline]",
    model_path: str | os.PathLike,
    plan: Plan,
    device: torch.device,
    **options: Any,
) -> "DiffusionPipeline":
    """A Paint pipeline, loaded and placed as planned.

    Args:
        pipeline_class (`type`): `VisCPMPaintPipeline`.
        model_path (`str` or `Path`): folder or Hub repository.
        plan (`Plan`): how to run it.
        device (`torch.device`): where to run.
        **options: for `from_pretrained`.
    """
    language = plan.dtypes["blocks"]
    options["dtype"] = {name: dtype for name, dtype in plan.dtypes.items() if name not in LANGUAGE}
    options["dtype"]["text_encoder"] = language
    if plan.method in WORDS:
        config = quantization_config(plan.method, device, language)
        options["text_encoder"] = load_rounded_text_encoder(model_path, config, language, device)
    elif plan.method == "spread":
        spread = _spread_options(plan.device_memory["language model"], device)
        options["text_encoder"] = _text_encoder(model_path, language, **spread)
    with _freed_memory_returned():
        pipeline = pipeline_class.from_pretrained(model_path, **options)
    for name, module in pipeline.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        if plan.method == "stream all" or (plan.method == "stream more" and name in CHECKERS):
            _stream(module, device, offload_type="leaf_level")
        elif name == "text_encoder" and plan.method.startswith("stream"):
            _stream(module, device, offload_type="block_level", num_blocks_per_group=1)
        elif name != "text_encoder" or plan.method not in ("spread", *WORDS):  # those are where they belong
            module.to(device)
    pipeline.vae.enable_slicing()
    return pipeline


def load_rounded_text_encoder(
    model_path: str | os.PathLike,
    config: str | QuantizationConfigMixin,
    dtype: str | torch.dtype | None,
    device: torch.device,
) -> PreTrainedModel:
    """Paint's text encoder, quantized and on a device; the pipeline itself would put it on the first GPU there is.

    Args:
        model_path (`str` or `Path`): folder or Hub repository of the pipeline.
        config (`str` or config): `"int8"`, `"4bit"` or a transformers quantization config.
        dtype (`torch.dtype`, *optional*): of what is not quantized; as stored by default.
        device (`torch.device`): where to run.
    """
    return _text_encoder(model_path, dtype, quantization_config=config, device_map={"": device})


def _text_encoder(model_path, dtype, **options):
    from ..remote_code.modeling_cpmbee import CpmBeeModel

    return CpmBeeModel.from_pretrained(model_path, subfolder="text_encoder", dtype=dtype or "auto", **options).eval()


def stream_blocks(module: torch.nn.Module, device: torch.device) -> None:
    """Leaves a module's blocks in main memory, from where each is brought in while the one before it works.

    What is beside the blocks moves to the device: the embedding is also the head, which works outside of this module.
    """
    _stream(module, device, offload_type="block_level", num_blocks_per_group=1, exclude_kwargs=["past_key_values"])
    group = module._diffusers_hook.get_hook("group_offloading").group  # of everything beside the blocks
    group.modules, group.parameters, group.buffers, group.cpu_param_dict = [], [], [], {}
    for child in module.children():
        if not isinstance(child, torch.nn.ModuleList):
            child.to(device)
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)


def _stream(module, device, **options):
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(module, device, use_stream=device.type == "cuda", **options)


def _spread_options(inside, device):
    index = torch.cuda.current_device() if device.index is None else device.index
    return {"device_map": "auto", "max_memory": {index: inside, "cpu": physical_memory()}}


def quantization_config(method: str, device: torch.device, dtype: torch.dtype | None) -> QuantizationConfigMixin:
    """transformers' configuration for `"int8"` or `"4bit"` weights.

    Raises:
        ImportError: the libraries for it are not installed.
    """
    from transformers import BitsAndBytesConfig, TorchAoConfig

    try:
        if device.type == "cuda" or method == "4bit":  # torchao's four bits take a byte each on a CPU
            with quiet("bitsandbytes.backends.cpu.ops"):
                import bitsandbytes  # noqa: F401
            if method == "int8":
                return BitsAndBytesConfig(load_in_8bit=True)
            return BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    except ImportError as error:
        raise ImportError(
            f'Weights in {method} need libraries that are not here: pip install "bitsandbytes>=0.50" "torchao>=0.18"'
        ) from error
    # with the activations of each token rounded, too, it multiplies integers; else it would unpack every matrix
    return TorchAoConfig(Int8DynamicActivationInt8WeightConfig())


def sparing_vision(config: str | QuantizationConfigMixin) -> QuantizationConfigMixin:
    """A copy of a quantization config with vision, connector and head among what it leaves alone."""
    names = ("llm_int8_skip_modules", "modules_to_not_convert")
    name = next((name for name in names if hasattr(config, name)), None)
    if name is None:
        raise ValueError(
            f"Got {quoted(config)} as quantization, expected a transformers quantization config such as "
            'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4").'
        )
    config = copy.deepcopy(config)
    setattr(config, name, [*(getattr(config, name) or []), *_NOT_QUANTIZED])
    return config


@contextlib.contextmanager
def _freed_memory_returned():
    """Gives back to the system what is freed meanwhile; glibc would keep pieces below 32 MB, such as cast weights."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        yield
        return
    mallopt(M_MMAP_THRESHOLD, 2**20)
    try:
        yield
    finally:  # what glibc arrives at by itself
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**26)
