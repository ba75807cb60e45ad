"""VisCPM-Paint: CPM-Bee reads the prompt, a projection widens its states, Stable Diffusion 2.1's UNet and VAE paint.

It imports no sibling, so that it runs as the one file of a repository's pipeline: what it needs of the text side are
methods of the tokenizer and the forward pass of the text encoder.
"""

import copy
import functools
import inspect
import itertools
import json
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DiffusionPipeline,
    ModelMixin,
    SchedulerMixin,
    UNet2DConditionModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.hooks import apply_group_offloading
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

logger = logging.getLogger(__name__)

_CLASS_NAME = ["pipeline_viscpm_paint", "VisCPMPaintPipeline"]
# the parts that are neither diffusers' nor transformers', and the file each one's class is in
_COMPONENT_FILES = {
    "tokenizer": "tokenization_cpmbee",
    "text_encoder": "modeling_cpmbee",
    "text_projection": "modeling_viscpm_paint",
}
_PACKAGE = __name__.rpartition(".")[0]
_IS_REMOTE_CODE = __name__.startswith("diffusers_modules.")
# Which thread works with which part, by id. Remote code runs anew at each load, but parts can be shared between copies
# of this file, so what they agree on lies outside of them.
_TURN, _BUSY = vars(sys).setdefault("_viscpm_paint_turn", (threading.Condition(), {}))
# at most, of an image, of a call, of a prompt, of guidance and LoRA: beyond sensible use, short of harm
_PIXELS, _ALL_PIXELS, _CHARACTERS, _FACTOR = 2**26, 2**30, 4096, 1000


def _in_turn(*names: str):
    """Lets calls that use the same parts, by default all, wait for each other: schedulers, LoRA scales, offloading and
    fast tokenizers hold state meanwhile. A call takes its parts at once, so that no two wait for one another's.
    """

    def decorate(method):
        @functools.wraps(method)
        def wait_and_call(self, *args, **kwargs):
            me, parts = threading.get_ident(), {id(getattr(self, name)) for name in names or self.components}
            with _TURN:
                if not names and _BUSY.get(id(self.scheduler)) == me:
                    raise RuntimeError("Got a call from a callback of the same pipeline: call it when it is through.")
                _TURN.wait_for(lambda: all(_BUSY.get(part, me) == me for part in parts - {id(None)}))
                taken = parts - {id(None)} - _BUSY.keys()  # a method called by another one finds its parts taken
                _BUSY.update(dict.fromkeys(taken, me))
            try:
                return method(self, *args, **kwargs)
            finally:
                with _TURN:
                    for part in taken:
                        del _BUSY[part]
                    _TURN.notify_all()

        return wait_and_call

    return decorate


class UnsafePromptError(ValueError):
    """A prompt was refused by the prompt checker."""


@dataclass
class VisCPMPaintPipelineOutput(BaseOutput):
    """What `VisCPMPaintPipeline` returns for n images.

    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` (n, height, width, 3) or `torch.Tensor` (n, 3, height, width)):
            The images, in [0, 1] unless PIL; or latents.
        nsfw_content_detected (`list[bool]`, *optional*): Which images the safety checker found unsafe; these are
            black. None if there was no check.
        rank_scores (`torch.Tensor`, *optional*): The ranker's scores `(n, num_candidates)`; the image returned is the
            one of the highest. None if there was one candidate each.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    nsfw_content_detected: list[bool] | None = None
    rank_scores: torch.Tensor | None = None


class VisCPMPaintPipeline(DiffusionPipeline, StableDiffusionMixin, StableDiffusionLoraLoaderMixin):
    """Paints pictures from Chinese or English prompts.

    Args:
        tokenizer (`CpmBeeTokenizer`), text_encoder (`CpmBeeModel`), text_projection (`VisCPMPaintTextProjection`):
            The text side. May be None where `prompt_embeds` are given.
        unet (`UNet2DConditionModel`), vae (`AutoencoderKL`), scheduler: The image side. May be None where only
            `VisCPMPaintPipeline.encode_prompt` is called.
        safety_checker (`StableDiffusionSafetyChecker`, *optional*), feature_extractor (`CLIPImageProcessor`,
            *optional*): Replace unsafe images by black ones.
        prompt_checker (`BertForSequenceClassification`, *optional*), prompt_checker_tokenizer (*optional*): Refuse
            prompts whose score for `LABEL_1` is above the threshold. Negative prompts are not checked.
        ranker (`ChineseCLIPModel`, *optional*), ranker_processor (*optional*): Choose among candidate images.
        prompt_checker_threshold (`float`, defaults to 0.75): In [0, 1].
        requires_safety_checker (`bool`, defaults to True): Whether a missing safety checker is worth a warning.

    Calls from several threads wait for each other, also those of pipelines that share parts.

    `fuse_lora()` adds to a part's weights in their precision, and `unfuse_lora()` subtracts again: in half precision
    that leaves them rounded. A pipeline loaded anew, or a LoRA that was never fused, has them exactly.

    Raises:
        ValueError: A checker or the ranker comes without its tokenizer or processor; a tokenizer or threshold is none.

    Example:

    ```python
    >>> pipe = DiffusionPipeline.from_pretrained("viscpm-paint", trust_remote_code=True).to("cuda")
    >>> image = pipe("海上生明月，天涯共此时", generator=torch.Generator("cuda").manual_seed(0)).images[0]
    ```

    Source: `VisCPMPaint` and `SDWrapper` of the original.
    """

    model_cpu_offload_seq = "prompt_checker->text_encoder->text_projection->unet->vae->safety_checker->ranker"
    # No __init__ defaults for these: DiffusionPipeline.from_pretrained(…, ranker=None) would load them all the same.
    _optional_components = ["safety_checker", "feature_extractor", "prompt_checker", "prompt_checker_tokenizer"]
    _optional_components += ["ranker", "ranker_processor"]
    _lora_loadable_modules = ["unet", "text_projection", "text_encoder"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds", "prompt_embeds_mask"]
    _code = Path(__file__).read_bytes()  # now: diffusers loads the code of every repository into one and the same file

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: PreTrainedModel,
        text_projection: ModelMixin,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL | AutoencoderTiny,
        scheduler: SchedulerMixin,
        safety_checker: PreTrainedModel | None,
        feature_extractor: BaseImageProcessor | None,
        prompt_checker: PreTrainedModel | None,
        prompt_checker_tokenizer: PreTrainedTokenizerBase | None,
        ranker: PreTrainedModel | None,
        ranker_processor: ProcessorMixin | None,
        prompt_checker_threshold: float = 0.75,
        requires_safety_checker: bool = True,
    ):
        super().__init__()
        for model, preprocessor, names in (
            (safety_checker, feature_extractor, "safety_checker without feature_extractor"),
            (prompt_checker, prompt_checker_tokenizer, "prompt_checker without prompt_checker_tokenizer"),
            (ranker, ranker_processor, "ranker without ranker_processor"),
        ):
            if model is not None and preprocessor is None:
                raise ValueError(f"Got {names}, which it needs: pass both or neither.")
        ours = tokenizer is None or hasattr(tokenizer, "encode_data")
        _check("tokenizer", ours, "a CpmBeeTokenizer", tokenizer)
        _check_number("prompt_checker_threshold", prompt_checker_threshold, 0, 1)
        if safety_checker is None and unet is not None and requires_safety_checker:
            logger.warning(
                "There is no safety_checker, so images are returned unchecked; requires_safety_checker=False says "
                "that this is meant."
            )
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            text_projection=text_projection,
            unet=unet,
            vae=vae,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            prompt_checker=prompt_checker,
            prompt_checker_tokenizer=prompt_checker_tokenizer,
            ranker=ranker,
            ranker_processor=ranker_processor,
        )
        self.register_to_config(
            prompt_checker_threshold=prompt_checker_threshold, requires_safety_checker=requires_safety_checker
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 8
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        self._own_components()  # reads the parts' code
        if not hasattr(text_projection, "load_lora_adapter"):  # that of an older repository takes none
            self._lora_loadable_modules = ["unet", "text_encoder"]

    # Loading and saving: a repository names classes by bare modules, for which diffusers looks in the part's folder.
    # The installed class takes the package's own modules instead, and so needs no trust in remote code.

    @classmethod
    def _dict_from_json_file(cls, json_file):
        config = super()._dict_from_json_file(json_file)
        if config.get("_class_name") == _CLASS_NAME and not _IS_REMOTE_CODE:
            config["_class_name"] = _CLASS_NAME[1]
        return config

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> dict | tuple:
        """See `diffusers.ConfigMixin.load_config`; the installed class gets its own package's modules."""
        result = super().load_config(*args, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        for name, file in _COMPONENT_FILES.items():
            if not _IS_REMOTE_CODE and name in config and config[name][0] == file:
                config[name] = [import_module(f"{_PACKAGE}.{file}").__name__, config[name][1]]
        return result

    def to_json_string(self) -> str:
        """The configuration as it stands in model_index.json, where classes have names that any process can load."""
        config = json.loads(super().to_json_string())
        config["_class_name"] = _CLASS_NAME
        for name, (module, class_name, _) in self._own_components().items():
            config[name] = [module.rpartition(".")[2], class_name]
        if config["feature_extractor"][1]:  # without torchvision the class has another name
            config["feature_extractor"][1] = config["feature_extractor"][1].removesuffix("Pil")
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """See `diffusers.DiffusionPipeline.save_pretrained`.

        Raises:
            ValueError: A part has a LoRA with which it could not be loaded, or its weights are offloaded to disk.
        """
        for name, part in self.components.items():
            if getattr(part, "_on_disk", None):
                raise ValueError(f"The weights of {name} are in {part._on_disk!r}: load the pipeline anew to save it.")
            if isinstance(part, torch.nn.Module) and not self._can_be_saved(part):
                raise ValueError(
                    f"{name} has a LoRA, with which it could not be loaded again: unload_lora_weights() first, and "
                    "before that fuse_lora() if it shall stay in; save_lora_weights() saves it by itself."
                )
        super().save_pretrained(save_directory, *args, **kwargs)

    @staticmethod
    def _can_be_saved(part: torch.nn.Module) -> bool:
        """Whether no LoRA lies over a part, or one that transformers writes down as it is, with the model's folder."""
        layers = [layer for layer in part.modules() if hasattr(layer, "base_layer")]
        (name, config), *more = getattr(part, "peft_config", {}).items() or [("", None)]
        folder = isinstance(part, PreTrainedModel) and os.path.isdir(
            getattr(config, "base_model_name_or_path", 0) or ""
        )
        return not layers or (
            folder
            and not more
            and not any(layer.merged or layer.disable_adapters for layer in layers)
            and all(layer.scaling == {name: layer.lora_alpha[name] / layer.r[name]} for layer in layers)
        )

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes model_index.json, and the code of pipeline and parts to where it refers to.

        It is the last that `save_pretrained` does before uploading.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{_CLASS_NAME[0]}.py").write_bytes(self._code)
        for name, (_, _, code) in self._own_components().items():
            if (folder / name).is_dir():
                (folder / name / f"{_COMPONENT_FILES[name]}.py").write_bytes(code)
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _own_components(self) -> dict[str, tuple[str, str, bytes]]:
        """Module, class and code of the parts that ship their code; read when a class is new, as `_code` is."""
        found = {}
        for name, file in _COMPONENT_FILES.items():
            module, class_name = self.config[name]
            part = getattr(self, name)
            cls = type(getattr(part, "_orig_mod", part))
            if module is not None and module.rpartition(".")[2] == file:
                if "_code" not in vars(cls):
                    cls._code = Path(inspect.getfile(cls)).read_bytes()
                found[name] = module, class_name, cls._code
        return found

    @classmethod
    def from_pipe(
        cls, pipeline: DiffusionPipeline, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> DiffusionPipeline:
        """Makes a pipeline that shares the parts of another one, each in its precision unless `dtype` is given.

        Args:
            pipeline (`DiffusionPipeline`): Has the parts and settings that `kwargs` does not replace.
            dtype (`torch.dtype`, *optional*): Of all parts.

        Raises:
            ValueError: A part is neither there nor given.
        """
        dtype, parameters = kwargs.pop("torch_dtype", dtype), inspect.signature(cls).parameters
        # what another class has no use for it keeps under names with a dash
        config = {name.removeprefix("_"): value for name, value in pipeline.config.items()}
        defaults = {name: one.default for name, one in parameters.items() if one.default is not one.empty}
        settings = {name: config.get(name, default) for name, default in defaults.items()}
        parts = {name: part for name, part in pipeline.components.items() if name in parameters}
        given = {**dict.fromkeys(cls._optional_components), **settings, **parts, **kwargs}
        missing = ", ".join(parameters.keys() - given.keys())
        if missing:
            raise ValueError(f"A {type(pipeline).__name__} has no {missing}: pass what is missing, too.")
        new = cls(**given)
        new.register_to_config(_name_or_path=pipeline.config.get("_name_or_path"))
        return new if dtype is None else new.to(dtype=dtype)

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """See `diffusers.DiffusionPipeline.enable_group_offload`.

        On disk each part has a folder of its own, since parts share names of modules, after which files are named; and
        in it each call has a new one, since diffusers takes files that are there for these weights. Each takes as much
        of the disk as the weights do; the folders are yours to delete once the pipeline is no longer used.
        """
        inputs = inspect.signature(super().enable_group_offload).bind(*args, **kwargs).arguments
        path, excluded = inputs.pop("offload_to_disk_path", None), inputs.pop("exclude_modules", None) or []
        if path is None:
            return super().enable_group_offload(*args, **kwargs)
        for name, part in self.components.items():
            if isinstance(part, torch.nn.Module) and name in ([excluded] if isinstance(excluded, str) else excluded):
                part.to(inputs["onload_device"])
            elif isinstance(part, torch.nn.Module):
                os.makedirs(os.path.join(path, name), exist_ok=True)
                folder = tempfile.mkdtemp(dir=os.path.join(path, name))
                apply_group_offloading(part, **inputs, offload_to_disk_path=folder)
                part._on_disk = folder

    @_in_turn("unet", "text_projection", "text_encoder")
    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | dict[str, torch.Tensor],
        adapter_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """See `diffusers.loaders.StableDiffusionLoraLoaderMixin.load_lora_weights`; under one name for all parts.

        Raises:
            ValueError: What is for the text encoder or the text projection does not fit. Nothing is changed then.
        """
        before = self.get_list_adapters()
        free = (f"default_{i}" for i in itertools.count() if f"default_{i}" not in itertools.chain(*before.values()))
        adapter_name = adapter_name or next(free)
        try:
            self._load_lora_into_text_projection(pretrained_model_name_or_path_or_dict, adapter_name, **kwargs)
            super().load_lora_weights(pretrained_model_name_or_path_or_dict, adapter_name=adapter_name, **kwargs)
        except Exception:  # a later part does not fit or is not taken
            for name in ("text_projection", "unet"):
                if adapter_name in set(self.get_list_adapters().get(name, ())) - set(before.get(name, ())):
                    getattr(self, name).delete_adapters(adapter_name)
            raise

    def _load_lora_into_text_projection(self, source, adapter_name, hotswap=False, low_cpu_mem_usage=None, **kwargs):
        source = dict(source) if isinstance(source, dict) else source
        tensors, alphas, metadata = self.lora_state_dict(source, return_lora_metadata=True, **kwargs)
        names = [name for name in tensors if name.startswith("text_projection.")]
        if not names or self.text_projection is None:
            return
        if "text_projection" not in self._lora_loadable_modules:
            raise ValueError(
                "The LoRA has layers for the text projection, which the code of this repository does not take: run "
                "`viscpm refresh` on it."
            )
        wide, high = self.text_projection.config.hidden_size, self.text_projection.config.cross_attention_dim
        ends = [r"linear\.lora(_A|\.down|_linear_layer\.down)\.", r"linear\.lora(_B|\.up|_linear_layer\.up)\."]
        matrices = [tensors[name] for end in ends for name in names if re.match(f"text_projection.{end}", name)]
        sizes = [size for matrix in matrices for size in matrix.shape]
        if len(names) != 2 or len(sizes) != 4 or sizes != [sizes[3], wide, high, sizes[3]]:
            raise ValueError(
                f"The LoRA does not fit the text projection, which maps {wide} to {high}: it is for another model, or "
                "has more than two matrices, as DoRA."
            )
        self.text_projection.load_lora_adapter(
            tensors,
            prefix="text_projection",
            adapter_name=adapter_name,
            network_alphas=alphas,
            metadata=metadata,
            hotswap=hotswap,
            _pipeline=self,
            **({} if low_cpu_mem_usage is None else {"low_cpu_mem_usage": low_cpu_mem_usage}),
        )

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | os.PathLike,
        unet_lora_layers: dict[str, torch.nn.Module | torch.Tensor] | None = None,
        text_encoder_lora_layers: dict[str, torch.nn.Module | torch.Tensor] | None = None,
        is_main_process: bool = True,
        weight_name: str | None = None,
        save_function: Callable | None = None,
        safe_serialization: bool = True,
        unet_lora_adapter_metadata: dict | None = None,
        text_encoder_lora_adapter_metadata: dict | None = None,
        text_projection_lora_layers: dict[str, torch.nn.Module | torch.Tensor] | None = None,
        text_projection_lora_adapter_metadata: dict | None = None,
    ) -> None:
        """See `diffusers.loaders.StableDiffusionLoraLoaderMixin.save_lora_weights`; with the text projection's layers.

        Raises:
            ValueError: There are no layers.
        """
        given = {
            "unet": (unet_lora_layers, unet_lora_adapter_metadata),
            "text_encoder": (text_encoder_lora_layers, text_encoder_lora_adapter_metadata),
            "text_projection": (text_projection_lora_layers, text_projection_lora_adapter_metadata),
        }
        tensors, metadata = {}, {}
        for name, (layers, about) in given.items():
            if layers:
                tensors |= cls.pack_weights(layers, name)
                metadata |= cls.pack_weights(about or {}, name)
        if not tensors:
            raise ValueError("Got no layers to save: pass those of unet, text_projection or text_encoder.")
        cls.write_lora_layers(
            state_dict=tensors,
            save_directory=save_directory,
            is_main_process=is_main_process,
            weight_name=weight_name,
            save_function=save_function,
            safe_serialization=safe_serialization,
            lora_adapter_metadata=metadata or None,
        )

    def fuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """See `diffusers.loaders.StableDiffusionLoraLoaderMixin.fuse_lora`; by default in all parts."""
        super().fuse_lora(components=components or self._lora_loadable_modules, **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """See `diffusers.loaders.StableDiffusionLoraLoaderMixin.unfuse_lora`; by default in all parts."""
        super().unfuse_lora(components=components or self._lora_loadable_modules, **kwargs)

    @classmethod
    def load_lora_into_text_encoder(
        cls,
        state_dict: dict[str, torch.Tensor],
        network_alphas: dict[str, float] | None,
        text_encoder: PreTrainedModel,
        prefix: str | None = None,
        **kwargs: Any,
    ) -> None:
        """See `diffusers.loaders.StableDiffusionLoraLoaderMixin.load_lora_into_text_encoder`.

        What a LoRA for Stable Diffusion has for its CLIP text encoder is left out, with a warning.
        """
        prefix = cls.text_encoder_name if prefix is None else prefix
        layers, ranks = cls._text_lora(state_dict, text_encoder, prefix, **kwargs)
        if layers and not ranks:
            logger.warning("The LoRA has a part for another text encoder, such as Stable Diffusion's CLIP: left out.")
        elif ranks:
            if not any(key.startswith(f"{prefix}.") for key in kwargs.get("metadata") or ()):
                most = max(ranks.values(), key=[*ranks.values()].count)
                others = {name: rank for name, rank in ranks.items() if rank != most}
                config = {"r": most, "lora_alpha": most, "rank_pattern": others, "alpha_pattern": others}
                config["target_modules"] = [*ranks]
                kwargs["metadata"] = {f"{prefix}.{key}": value for key, value in config.items()}
            super().load_lora_into_text_encoder(layers, None, text_encoder, prefix, **kwargs)
        elif kwargs.get("_pipeline") is None:  # says that there is nothing
            super().load_lora_into_text_encoder(state_dict, None, text_encoder, prefix, **kwargs)

    @staticmethod
    def _text_lora(state_dict, text_encoder, prefix, adapter_name=None, hotswap=False, **_):
        """What a LoRA has for a text encoder, and each layer's rank; no ranks if all of it is for another one."""
        layers, ranks = {}, {}
        for key, tensor in state_dict.items():
            if key.startswith(f"{prefix}."):
                key = re.sub(r"\.(lora_A|lora\.down)\.", ".lora_linear_layer.down.", key)
                key = re.sub(r"\.(lora_B|lora\.up)\.", ".lora_linear_layer.up.", key)
                layers[key.replace(f"{prefix}.base_model.model.", f"{prefix}.")] = tensor
        modules = {} if text_encoder is None else {f"{prefix}.{key}": one for key, one in text_encoder.named_modules()}
        names = {key.split(".lora_")[0] for key in layers}
        if not names & modules.keys():
            return layers, {}
        if hotswap or adapter_name in getattr(text_encoder, "peft_config", {}):
            raise ValueError(f"The text encoder cannot exchange its LoRA {adapter_name!r}: delete_adapters() first.")
        for name in sorted(names):
            wide, high = (getattr(modules.get(name), side, None) for side in ("in_features", "out_features"))
            down, up = (layers.get(f"{name}.lora_linear_layer.{end}.weight") for end in ("down", "up"))
            rank = up.shape[-1] if up is not None and up.ndim == 2 else None
            if down is None or [*down.shape] != [rank, wide] or [*up.shape] != [high, rank]:
                raise ValueError(f"The LoRA does not fit the text encoder: {name!r} is missing or of another size.")
            ranks[name.removeprefix(f"{prefix}.")] = rank
        if len(layers) != 2 * len(ranks):
            raise ValueError(
                "The LoRA of the text encoder has more than two matrices for a layer, as DoRA: not taken."
            )
        return layers, ranks

    @property
    def guidance_scale(self) -> float:
        """That of the picture being painted, as the following are."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the negative prompt counts: with a guidance scale over 1."""
        return self._guidance_scale > 1

    @property
    def cross_attention_kwargs(self) -> dict | None:
        """For the UNet's attention."""
        return self._cross_attention_kwargs

    @property
    def num_timesteps(self) -> int:
        """Steps of denoising."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked to stop; the picture is then what it is by now."""
        return self._interrupt

    @_in_turn("tokenizer", "text_encoder", "text_projection")
    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        prompt_embeds_mask: torch.Tensor | None = None,
        negative_prompt_embeds_mask: torch.Tensor | None = None,
        lora_scale: float = 1.0,
    ) -> tuple[torch.Tensor | None, ...]:
        """What the UNet attends to.

        A prompt and its negative prompt are padded to the longer of the two, and the UNet sees the padding: the model
        was trained so. A mask is only needed where a batch pads a pair further than that.

        Args:
            prompt (`str` or `list[str]`): Plain text.
            device (`torch.device`, *optional*): Where the pipeline runs, by default.
            num_images_per_prompt (`int`, defaults to 1): How often each row is repeated.
            do_classifier_free_guidance (`bool`, defaults to True): Whether the negative prompts are encoded, too. They
                count for the padding in any case.
            negative_prompt (`str` or `list[str]`, *optional*): One for all prompts or one each; `""` by default.
            prompt_embeds, negative_prompt_embeds, prompt_embeds_mask, negative_prompt_embeds_mask (`torch.Tensor`,
                *optional*): Results of an earlier call in place of prompts; only repeated.
            lora_scale (`float`, defaults to 1.0): Factor of the LoRA of text encoder and projection in this call.

        Returns:
            `prompt_embeds`, `negative_prompt_embeds` (batch, L, cross_attention_dim), and for each a mask (batch, L),
            True for what the UNet may see; None if it may see all, and None for the negative ones without guidance.

        Raises:
            ValueError: No text or not text, numbers of prompts that differ, or a missing text encoder.
        """
        fits = _is(num_images_per_prompt, Integral, 1, _PIXELS)
        _check("num_images_per_prompt", fits, "a whole number from 1 on", num_images_per_prompt)
        _check_number("lora_scale", lora_scale, -_FACTOR, _FACTOR)
        device = torch.device(device or self._execution_device)
        if prompt_embeds is None:
            prompts, negative_prompts = _texts(prompt, negative_prompt)
            if None in (self.tokenizer, self.text_encoder, self.text_projection):
                raise ValueError(
                    "Got a prompt, but the pipeline was loaded without tokenizer, text_encoder or text_projection: "
                    "load them, or pass prompt_embeds."
                )
            encodings = {
                text: self.tokenizer.encode_data({"caption": self.tokenizer.escape(text), "objects": ""})
                for text in {*prompts, *negative_prompts}
            }
            lengths = [
                max(len(encodings[text]["input_ids"]) for text in pair)
                for pair in zip(prompts, negative_prompts, strict=True)
            ]
            texts = prompts + negative_prompts if do_classifier_free_guidance else prompts
            different = list(dict.fromkeys(texts))
            batch = self.tokenizer.pad_encodings([encodings[text] for text in different], padding_side="right")
            missing = max(lengths) - batch["input_ids"].shape[1]  # of negative prompts that only count for the padding
            for key in ("input_ids", "attention_mask", "segment_ids", "context_mask"):
                batch[key] = torch.nn.functional.pad(batch[key], (0, missing))
            with self._lora_scaled(self.text_encoder, lora_scale):
                states = self.text_encoder(**batch.to(device), use_cache=False).last_hidden_state.to(device)
            states = states[[different.index(text) for text in texts]]  # (texts, L, hidden)
            with self._lora_scaled(self.text_projection, lora_scale):
                embeds = self.text_projection(states.to(self.text_projection.dtype))
            embeds = embeds if torch.is_tensor(embeds) else embeds[0]  # a tensor where a repository's code is older
            prompt_embeds, negative_prompt_embeds = embeds[: len(prompts)], embeds[len(prompts) :]
            if len(set(lengths)) > 1:
                visible = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]  # (prompts, L)
                prompt_embeds_mask = negative_prompt_embeds_mask = visible
        if not do_classifier_free_guidance:
            negative_prompt_embeds = negative_prompt_embeds_mask = None

        prompt_embeds = _repeat(prompt_embeds, num_images_per_prompt, device)
        negative_prompt_embeds = _repeat(negative_prompt_embeds, num_images_per_prompt, device)
        prompt_embeds_mask = _repeat(prompt_embeds_mask, num_images_per_prompt, device)
        negative_prompt_embeds_mask = _repeat(negative_prompt_embeds_mask, num_images_per_prompt, device)
        return prompt_embeds, negative_prompt_embeds, prompt_embeds_mask, negative_prompt_embeds_mask

    @staticmethod
    @contextmanager
    def _lora_scaled(model: torch.nn.Module, scale: float):
        """Multiplies a model's LoRA, then puts back what was there: dividing again would leave a trace, or by zero."""
        layers = [layer for layer in model.modules() if scale != 1 and hasattr(layer, "scale_layer")]
        before = [copy.deepcopy(layer.scaling) for layer in layers]
        try:
            for layer in layers:
                layer.scale_layer(scale)
            yield
        finally:
            for layer, scaling in zip(layers, before, strict=True):
                layer.scaling.update(scaling)

    def _check_text(self, prompt, negative_prompt, guided: bool, prompt_embeds, **others) -> int:
        """Number of prompts, in words or as embeddings; ValueError if these do not fit together."""
        if prompt_embeds is None:
            superfluous = ", ".join(name for name, value in others.items() if value is not None)
            if superfluous:
                raise ValueError(f"Got {superfluous} without prompt_embeds: pass all that encode_prompt returned.")
            return len(_texts(prompt, negative_prompt)[0])
        if prompt is not None or negative_prompt is not None:
            raise ValueError("Got both prompts and prompt_embeds: pass one of them.")
        rows, length = (*getattr(prompt_embeds, "shape", ()), 0, 0)[:2]
        wanted = {"prompt_embeds": (rows, length, self.unet.config.cross_attention_dim)}
        if guided:
            wanted["negative_prompt_embeds"] = wanted["prompt_embeds"]
        for name, shape in wanted.items():
            _check_tensor(name, {"prompt_embeds": prompt_embeds, **others}[name], shape)
        masks = ["prompt_embeds_mask"] + ["negative_prompt_embeds_mask"] * guided
        if any(others[name] is not None for name in masks):
            for name in masks:
                _check_tensor(name, others[name], (rows, length), mask=True)
        return rows

    def _check_settings(self, callback, tensor_inputs, attention_kwargs, output_type, sizes):
        """ValueError for what cannot be painted, or not without the parts that are missing."""
        missing = [name for name in ("unet", "vae", "scheduler") if getattr(self, name) is None]
        if missing and not (missing == ["vae"] and output_type == "latent"):
            raise ValueError(f"Painting needs {', '.join(missing)}, which the pipeline was loaded without: load them.")
        names = self._callback_tensor_inputs
        _check(
            "output_type", output_type in ("pil", "np", "pt", "latent"), '"pil", "np", "pt" or "latent"', output_type
        )
        _check("callback_on_step_end", callback is None or callable(callback), "a function", callback)
        listed = isinstance(tensor_inputs, list | tuple)
        _check("callback_on_step_end_tensor_inputs", listed, "a list of names", tensor_inputs)
        unknown = ", ".join(str(name) for name in tensor_inputs if name not in self._callback_tensor_inputs)
        if unknown:
            names = ", ".join(self._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs may name {names}, got {unknown}.")
        _check("cross_attention_kwargs", isinstance(attention_kwargs, dict), "a dict", attention_kwargs)
        _check_number("scale in cross_attention_kwargs", attention_kwargs.get("scale", 1), -_FACTOR, _FACTOR)
        for name, size in sizes.items():
            fits = _is(size, Integral, 1, _PIXELS) and size % self.vae_scale_factor == 0
            _check(name, fits, f"a multiple of {self.vae_scale_factor} in pixels", size)

    @staticmethod
    def _set_timesteps(scheduler, num_inference_steps, timesteps, sigmas, device) -> tuple[torch.Tensor, int]:
        """Sets a scheduler's timesteps from a number or from one of the lists; returns them and their number."""
        name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
        needs = ("set_timesteps", "step", "scale_model_input", "init_noise_sigma", "order", "alphas_cumprod")
        fits = all(hasattr(scheduler, need) for need in needs)
        fits = fits and config.get("prediction_type", "epsilon") in ("epsilon", "sample", "v_prediction")
        fits = fits and not config.get("use_flow_sigmas") and config.get("snr_shift_scale", 1) == 1
        step = inspect.signature(scheduler.step).parameters.values() if fits else ()
        if [one.name for one in step if one.default is one.empty] == ["model_output", "timestep", "sample"]:
            most, given = config.num_train_timesteps, {"timesteps": timesteps, "sigmas": sigmas}
            given = {key: _falling(key, values, most) for key, values in given.items() if values is not None}
            given = given or {"num_inference_steps": num_inference_steps}
            if len(given) > 1:
                raise ValueError("Got two lists: pass either timesteps or sigmas, or num_inference_steps alone.")
            if given.keys() - inspect.signature(scheduler.set_timesteps).parameters.keys():
                raise ValueError(f"{name} takes no {', '.join(given)}: pass num_inference_steps.")
            if "num_inference_steps" in given:
                fits = _is(num_inference_steps, Integral, 1, most)
                _check("num_inference_steps", fits, f"a whole number from 1 to {most}", num_inference_steps)
            try:
                scheduler.set_timesteps(**given, device=device)
            except Exception as error:  # each scheduler has its own ways to say that it does not like a number
                raise ValueError(f"{name} makes no steps of {given}: {' '.join(str(error).split())}") from error
            found = scheduler.timesteps
            if len(found) == 0:
                raise ValueError(f"{name} makes no steps of {given}: pass more.")
            first = min(int(found[0]), most - 1)  # where nothing but noise is left, the noise says nothing
            fits = config.get("prediction_type") != "epsilon" or scheduler.alphas_cumprod[first] > 0
            if fits and found[0] >= found[-1]:
                return found, given.get("num_inference_steps", len(found))
        raise ValueError(
            f"This {name} does not go through the noise levels of a DDPM model, as this one is: use a scheduler that "
            "does, such as DPMSolverMultistepScheduler.from_config(config of the model's own scheduler)."
        )

    @_in_turn("prompt_checker", "prompt_checker_tokenizer")
    def run_prompt_checker(self, prompts: list[str], device: torch.device) -> list[float]:
        """Score of each prompt for being unsafe, in [0, 1]; that of a long one is the highest of its parts."""
        length = self.prompt_checker.config.max_position_embeddings
        inputs = self.prompt_checker_tokenizer(
            prompts,
            padding=True,
            truncation=True,
            max_length=length,
            stride=length // 4,  # so that no few words fall between two parts
            return_overflowing_tokens=True,
            return_tensors="pt",
        )
        owners = inputs.pop("overflow_to_sample_mapping").tolist()
        unsafe = self.prompt_checker.config.label2id.get("LABEL_1", 1)
        scores = self.prompt_checker(**inputs.to(device)).logits.float().softmax(-1)[:, unsafe].tolist()
        return [max(s for s, owner in zip(scores, owners, strict=True) if owner == i) for i in range(len(prompts))]

    @_in_turn("safety_checker", "feature_extractor")
    def run_safety_checker(
        self, image: torch.Tensor, pictures: list[Image.Image]
    ) -> tuple[torch.Tensor, list[Image.Image], list[bool] | None]:
        """Blackens unsafe images: of the same ones as a tensor (n, 3, height, width) in [0, 1], and as pictures.

        Returns:
            Both, and the flags. The checker itself logs why an image is black.
        """
        clip_input = self.feature_extractor(pictures, return_tensors="pt").pixel_values
        clip_input = clip_input.to(image.device, self.safety_checker.dtype)
        image, unsafe = self.safety_checker(images=image, clip_input=clip_input)
        pictures = [
            Image.new("RGB", picture.size) if flag else picture for picture, flag in zip(pictures, unsafe, strict=True)
        ]
        return image, pictures, [bool(flag) for flag in unsafe]

    @_in_turn("ranker", "ranker_processor")
    def run_ranker(self, prompts: list[str], pictures: list[Image.Image], device: torch.device) -> torch.Tensor:
        """Scores `(prompts, pictures per prompt)` of how well a picture fits its prompt, in one pass."""
        inputs = self.ranker_processor(
            text=prompts,
            images=pictures,
            padding=True,
            truncation=True,
            max_length=self.ranker.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.ranker.dtype)
        scores = self.ranker(**inputs).logits_per_image.float()  # (pictures, prompts)
        owners = torch.arange(len(pictures), device=scores.device) // (len(pictures) // len(prompts))
        return scores.gather(1, owners[:, None]).view(len(prompts), -1)

    @torch.no_grad()
    @_in_turn()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        num_candidates: int | None = None,
        eta: float = 0.0,
        generator: torch.Generator | int | list[torch.Generator | int] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        prompt_embeds_mask: torch.Tensor | None = None,
        negative_prompt_embeds_mask: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  as every diffusers pipeline
    ) -> VisCPMPaintPipelineOutput | tuple:
        """Paints.

        Args:
            prompt (`str` or `list[str]`, *optional*): Plain text; or `prompt_embeds`.
            height, width (`int`, *optional*): Pixels, multiples of `vae_scale_factor`; by default the UNet's size.
            num_inference_steps (`int`, defaults to 50), timesteps (`list[int]`, *optional*), sigmas (`list[float]`,
                *optional*): The noise levels to go through: so many, or exactly these, if the scheduler takes them.
            guidance_scale (`float`, defaults to 7.5): At 1 and below the negative prompt only counts for the padding.
            negative_prompt (`str` or `list[str]`, *optional*): One for all prompts or one each; `""` by default.
            num_images_per_prompt (`int`, defaults to 1): Images returned for each prompt.
            num_candidates (`int`, *optional*): Images painted for each image returned, of which the ranker chooses;
                4 by default if there is a ranker, a prompt and an image, else 1.
            eta (`float`, defaults to 0.0): η of DDIM, from 0 to 1; schedulers without one ignore it.
            generator (`torch.Generator`, `int` or a list of these, *optional*): One, or one for each image; a number
                is the seed of one on the CPU.
            latents (`torch.Tensor`, *optional*): Noise (images · candidates, channels, height / f, width / f) of
                variance 1 in place of a draw, f being `vae_scale_factor`.
            prompt_embeds, negative_prompt_embeds, prompt_embeds_mask, negative_prompt_embeds_mask (`torch.Tensor`,
                *optional*): What `VisCPMPaintPipeline.encode_prompt` returned, in place of prompts.
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`, which is not checked.
            return_dict (`bool`, defaults to True): False for a tuple of those results that are there.
            cross_attention_kwargs (`dict`, *optional*): For the attention processors; `{"scale": …}` for a LoRA of
                UNet and text encoder.
            callback_on_step_end (*optional*): Called as `(pipeline, step, timestep, tensors)` after each step; returns
                a dict of tensors to replace. Setting `pipeline._interrupt = True` skips the remaining steps. It can
                neither call the pipeline nor wait for a thread that does.
            callback_on_step_end_tensor_inputs (`list[str]`): Which tensors it gets.

        Returns:
            `VisCPMPaintPipelineOutput`, or a tuple of images, flags and, if ranked, scores.

        Raises:
            UnsafePromptError: The prompt checker refuses a prompt; it is a ValueError.
            ValueError: Input that cannot be worked with.
            RuntimeError: The image is not a number: a part overflowed in half precision. Or a callback called this.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        tensor_inputs = callback_on_step_end_tensor_inputs or []
        if self.unet is not None and self.unet.config.sample_size is not None:
            default = (np.broadcast_to(self.unet.config.sample_size, 2) * self.vae_scale_factor).tolist()
            height, width = default[0] if height is None else height, default[1] if width is None else width
        if num_candidates is None:
            num_candidates = 4 if self.ranker is not None and prompt is not None and output_type != "latent" else 1
        attention_kwargs = {} if cross_attention_kwargs is None else cross_attention_kwargs
        sizes = {"height": height, "width": width}
        self._check_settings(callback_on_step_end, tensor_inputs, attention_kwargs, output_type, sizes)
        _check_number("guidance_scale", guidance_scale, -_FACTOR, _FACTOR)
        _check_number("eta", eta, 0, 1)
        for name, number in (("num_images_per_prompt", num_images_per_prompt), ("num_candidates", num_candidates)):
            _check(name, _is(number, Integral, 1, _PIXELS), "a whole number from 1 on", number)
        embeds = {
            "prompt_embeds": prompt_embeds,
            "negative_prompt_embeds": negative_prompt_embeds,
            "prompt_embeds_mask": prompt_embeds_mask,
            "negative_prompt_embeds_mask": negative_prompt_embeds_mask,
        }
        images = self._check_text(prompt, negative_prompt, guidance_scale > 1, **embeds) * int(num_images_per_prompt)
        if num_candidates > 1 and (self.ranker is None or prompt is None or output_type == "latent"):
            raise ValueError(
                f"Got num_candidates={num_candidates}, but choosing needs a ranker, a prompt and finished images: "
                "provide these, or use num_images_per_prompt."
            )
        drawn, height, width = images * int(num_candidates), int(height), int(width)
        if height * width > _PIXELS or drawn * height * width > _ALL_PIXELS:
            raise ValueError(
                f"Got {drawn} images of {width}×{height} pixels, more than can be painted: at most {_PIXELS} pixels "
                f"for one and {_ALL_PIXELS} for all."
            )
        shape = (drawn, self.unet.config.in_channels, height // self.vae_scale_factor, width // self.vae_scale_factor)
        if latents is not None:
            _check_tensor("latents", latents, shape)
        generator = _generators(generator, images, drawn)
        device, dtype, scheduler = self._execution_device, self.unet.dtype, self.scheduler
        timesteps, num_inference_steps = self._set_timesteps(scheduler, num_inference_steps, timesteps, sigmas, device)
        self._guidance_scale = guidance_scale
        self._cross_attention_kwargs = cross_attention_kwargs
        self._interrupt = False

        # 1. Noise
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        latents = latents.to(device, dtype) * scheduler.init_noise_sigma
        accepted = inspect.signature(scheduler.step).parameters  # schedulers differ in what a step takes
        step_kwargs = {name: value for name, value in (("generator", generator), ("eta", eta)) if name in accepted}

        # 2. Text
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if self.prompt_checker is not None and prompts is not None:
            for score in self.run_prompt_checker(list(prompts), device):
                if not score <= self.config.prompt_checker_threshold:
                    raise UnsafePromptError(
                        f"The prompt checker refused a prompt with {score:.3f}, over the threshold of "
                        f"{self.config.prompt_checker_threshold}: use another, or load with prompt_checker=None."
                    )
        prompt_embeds, negative_prompt_embeds, prompt_embeds_mask, negative_prompt_embeds_mask = self.encode_prompt(
            prompt,
            device,
            num_images_per_prompt * num_candidates,
            self.do_classifier_free_guidance,
            negative_prompt,
            **embeds,
            lora_scale=attention_kwargs.get("scale", 1),
        )
        if self.do_classifier_free_guidance:
            prompt_embeds = torch.cat([negative_prompt_embeds, prompt_embeds])
            if prompt_embeds_mask is not None:
                prompt_embeds_mask = torch.cat([negative_prompt_embeds_mask, prompt_embeds_mask])
        prompt_embeds = prompt_embeds.to(dtype)

        # 3. Denoising
        num_warmup_steps = len(timesteps) - num_inference_steps * scheduler.order
        self._num_timesteps = len(timesteps)
        scaled = self._lora_scaled(self.unet, attention_kwargs.get("scale", 1))
        attention_kwargs = {key: value for key, value in attention_kwargs.items() if key != "scale"}
        with scaled, self.progress_bar(total=num_inference_steps) as progress_bar:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                latent_model_input = torch.cat([latents] * 2) if self.do_classifier_free_guidance else latents
                noise_pred = self.unet(
                    scheduler.scale_model_input(latent_model_input, t),
                    t,
                    encoder_hidden_states=prompt_embeds,
                    encoder_attention_mask=prompt_embeds_mask,
                    cross_attention_kwargs=attention_kwargs or None,
                    return_dict=False,
                )[0]
                if self.do_classifier_free_guidance:
                    noise_uncond, noise_cond = noise_pred.chunk(2)
                    noise_pred = noise_uncond + self.guidance_scale * (noise_cond - noise_uncond)
                latents = scheduler.step(noise_pred, t, latents, **step_kwargs, return_dict=False)[0]

                if callback_on_step_end is not None:
                    callback_kwargs = {}
                    for name in tensor_inputs:
                        callback_kwargs[name] = locals()[name]
                    changed = callback_on_step_end(self, i, t, callback_kwargs) or {}
                    known = isinstance(changed, dict) and changed.keys() <= {*self._callback_tensor_inputs}
                    _check("what the callback returns", known, "nothing or a dict of tensors it may get", changed)
                    latents, prompt_embeds, prompt_embeds_mask = self._replaced(
                        changed, latents, prompt_embeds, prompt_embeds_mask
                    )
                if i == len(timesteps) - 1 or ((i + 1) > num_warmup_steps and (i + 1) % scheduler.order == 0):
                    progress_bar.update()
        self._check_finite(latents)

        # 4. Images
        unsafe = scores = None
        if output_type == "latent":
            images = latents
        else:
            latents = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
            image = self.vae.decode(latents, return_dict=False)[0]
            self._check_finite(image)
            image = self.image_processor.denormalize(image)
            pictures = None
            if output_type == "pil" or self.safety_checker is not None or num_candidates > 1:
                pictures = self.image_processor.numpy_to_pil(self.image_processor.pt_to_numpy(image))
            if self.safety_checker is not None:
                image, pictures, unsafe = self.run_safety_checker(image, pictures)
            if num_candidates > 1:  # black images take part, as in the original
                scores = self.run_ranker(list(prompts), pictures, device).view(-1, num_candidates)
                best = (scores.argmax(-1).cpu() + torch.arange(0, drawn, num_candidates)).tolist()
                image, pictures = image[best], [pictures[j] for j in best]
                unsafe = None if unsafe is None else [unsafe[j] for j in best]
            images = {"pt": image, "pil": pictures}.get(output_type)
            if output_type == "np":
                images = self.image_processor.pt_to_numpy(image)

        self.maybe_free_model_hooks()
        if not return_dict:
            return (images, unsafe) if scores is None else (images, unsafe, scores)
        return VisCPMPaintPipelineOutput(images=images, nsfw_content_detected=unsafe, rank_scores=scores)

    def _replaced(self, changed: dict, latents, before, mask):
        """Latents, embeddings and mask with what a callback returned; only the prompts' rows if it ended guidance."""
        rows = len(latents) * (2 if self.do_classifier_free_guidance else 1)
        new, embeds, shown = (
            changed.get(name, old)
            for name, old in (("latents", latents), ("prompt_embeds", before), ("prompt_embeds_mask", mask))
        )
        if new is not latents:
            _check_tensor("latents of the callback", new, tuple(latents.shape))
        if embeds is not before:
            given, length = (*getattr(embeds, "shape", ()), *before.shape)[:2]
            _check_tensor("prompt_embeds of the callback", embeds, (given, length, before.shape[-1]))
            embeds = embeds.to(before)
            if torch.equal(embeds, before[-given:]):  # diffusers' cutoff leaves one row, which is one picture's
                embeds = before
        wanted = f"a tensor of {rows} rows, two for each image with guidance, else one"
        _check("prompt_embeds after the callback", len(embeds) >= rows, wanted, len(embeds))
        embeds = embeds[-rows:]
        if shown is not None and (shown is not mask or embeds.shape != before.shape):
            shown = shown[-rows:] if getattr(shown, "ndim", 0) else shown
            _check_tensor("prompt_embeds_mask after the callback", shown, tuple(embeds.shape[:2]), mask=True)
            shown = shown.to(embeds.device)
        return new.to(latents), embeds, shown

    def _check_finite(self, tensor: torch.Tensor):
        if not tensor.isfinite().all():
            parts = [name for name in ("text_encoder", "unet", "vae") if getattr(self, name) is not None]
            dtypes = ", ".join(f"{name} in {getattr(self, name).dtype}" for name in parts).replace("torch.", "")
            raise RuntimeError(
                f"The image is NaN, as half precision becomes where it overflows ({dtypes}): load the pipeline with "
                "dtype=torch.bfloat16 or torch.float32. If it was, weights, LoRA, latents or scheduler do not fit."
            )


def _is(value, kind: type, low: float, high: float) -> bool:
    """Whether a value is a number of a kind and in a range; no truth value, no NaN."""
    return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high


def _check(name: str, fits: bool, wanted: str, got):
    if not fits:
        try:
            said = " ".join(repr(got).split())[:60]
        except Exception:  # a number of 5000 digits, say
            said = f"a {type(got).__name__}"
        raise ValueError(f"{name} is {wanted}, got {said}.")


def _check_number(name: str, value, low: float, high: float):
    _check(name, _is(value, Real, low, high), f"a number from {low} to {high}", value)


def _falling(name: str, values, most: int) -> list:
    """Timesteps below `most` or sigmas, as a user gave them."""
    values = values.tolist() if isinstance(values, np.ndarray | torch.Tensor) else values
    kind, high = (Integral, most - 1) if name == "timesteps" else (Real, 1e6)
    fits = isinstance(values, list | tuple) and 1 <= len(values) <= most
    fits = fits and all(_is(value, kind, 0, high) for value in values)
    fits = fits and all(one > other for one, other in itertools.pairwise(values))
    _check(name, fits, f"a list of falling numbers from {high} to 0, with at least one entry", values)
    return [int(value) if kind is Integral else float(value) for value in values]


def _texts(prompt, negative_prompt) -> tuple[list[str], list[str]]:
    """Prompts and as many negative prompts."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if negative_prompt is None or isinstance(negative_prompt, str):
        negative_prompt = [negative_prompt or ""] * (len(prompts) if isinstance(prompts, list | tuple) else 1)
    for name, texts in (("prompt", prompts), ("negative_prompt", negative_prompt)):
        are_texts = isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
        _check(name, are_texts, "a text or a list of texts", texts)
        longest, whole = max(texts, key=len, default=""), "".join(texts).encode(errors="ignore").decode()
        _check(name, len(longest) <= _CHARACTERS, f"at most {_CHARACTERS} characters long", len(longest))
        _check(name, whole == "".join(texts), "text without halves of characters (lone surrogates)", texts)
    if not prompts:
        raise ValueError("prompt is an empty list: pass at least one text.")
    if len(negative_prompt) != len(prompts):
        raise ValueError(
            f"Got {len(negative_prompt)} negative prompts for {len(prompts)} prompts: pass one, or as many as prompts."
        )
    return list(prompts), list(negative_prompt)


def _generators(generator, images: int, drawn: int):
    """One generator, or one for each image drawn; seeds become generators."""
    several = list(generator) if isinstance(generator, list | tuple) else [generator]
    for i, one in enumerate(several):
        seed, none = _is(one, Integral, -(2**63), 2**64 - 1), generator is None
        one_or_seed = "a torch.Generator or a seed of 64 bits, or a list of these"
        _check("generator", seed or none or isinstance(one, torch.Generator), one_or_seed, one)
        several[i] = torch.Generator().manual_seed(int(one)) if seed else one
    if not isinstance(generator, list | tuple):
        return several[0]
    if len(several) not in (images, drawn):
        raise ValueError(f"Got {len(several)} generators for {images} images: pass one, or one for each.")
    return [one for one in several for _ in range(drawn // len(several))]  # all candidates of an image, in turn


def _check_tensor(name: str, tensor, shape: tuple[int, ...], mask: bool = False):
    got = tuple(tensor.shape) if torch.is_tensor(tensor) else type(tensor).__name__
    _check(name, got == shape and 0 not in shape, f"a tensor {shape} here", got)
    dense = tensor.layout == torch.strided and not tensor.is_meta and (mask or tensor.is_floating_point())
    _check(name, dense, "a dense tensor of numbers", (tensor.layout, tensor.device.type, tensor.dtype))
    if mask:
        fits = ((tensor == 0) | (tensor == 1)).all() and tensor.any(-1).all()
        _check(name, fits, "1 or True for what the UNet may see, else 0 or False, and hides no whole row", tensor)
    else:
        _check(name, tensor.isfinite().all(), "of finite numbers", tensor)


def _repeat(tensor, times, device):
    return None if tensor is None else tensor.to(device).repeat_interleave(times, dim=0)
