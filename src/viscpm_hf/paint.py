"""VisCPMPaint: the original package's class for painting from a prompt, on diffusers."""

import os
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from PIL import Image
from safetensors import SafetensorError
from transformers.utils.quantization_config import QuantizationConfigMixin

from .checkpoint.adapter import CONFIG, PAINT_LORA
from .checkpoint.errors import first_line
from .checkpoint.files.json_file import quoted
from .checkpoint.repo import INDEX, check_is_converted, loads_or_says_why
from .memory.budget import checked_dtype, find_plan
from .memory.machine import usable_device
from .memory.placement import load_paint, load_rounded_text_encoder
from .remote_code.pipeline_viscpm_paint import UnsafePromptError, VisCPMPaintPipeline, VisCPMPaintPipelineOutput
from .safety import UnsafeContentError

CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
# the parts an argument switches on, and what is said where a repository lacks them
_PARTS = {
    "image_safety_checker": (("safety_checker", "feature_extractor"), "images are not checked"),
    "prompt_safety_checker": (("prompt_checker", "prompt_checker_tokenizer"), "prompts are not checked"),
    "add_ranker": (("ranker", "ranker_processor"), "one image is painted instead of the best of four"),
}
SCHEDULERS = ("ddpm", "dpm++")
_EMBEDS = ("prompt_embeds", "negative_prompt_embeds", "prompt_embeds_mask", "negative_prompt_embeds_mask")
_FOR_THE_PIPELINE = {*_EMBEDS, "return_dict"}


def make_scheduler(name: str, config: Mapping[str, Any]) -> SchedulerMixin:
    """One of `SCHEDULERS` for a model.

    Args:
        name (`str`): `"ddpm"`, the original's, or `"dpm++"`, whose pictures take 20 steps for 50.
        config (`Mapping`): of the model's own scheduler.
    """
    if name == "ddpm":
        return DDPMScheduler.from_config(config)
    # the spacing of the original's configuration would leave out the highest noise levels
    return DPMSolverMultistepScheduler.from_config(config, timestep_spacing="trailing")


def _checked_dtypes(dtype):
    """A dtype or, by part, dtypes, as diffusers takes them: not as text, which it reads as float32."""
    if not isinstance(dtype, Mapping):
        return checked_dtype(dtype)
    known = [*VisCPMPaintPipeline.model_cpu_offload_seq.split("->"), "default"]
    for name, each in dtype.items():
        if name not in known:
            raise ValueError(f"Got {quoted(name)} as a part to give a dtype, expected one of {', '.join(known)}.")
        if each is None or each == "auto" or isinstance(each, Mapping):
            raise ValueError(f"Got {quoted(each)} as dtype of {name}, expected one such as torch.bfloat16.")
    return checked_dtype(dtype)


def _add_lora(pipeline: VisCPMPaintPipeline, lora: str | os.PathLike, model_path: str | os.PathLike) -> None:
    """Adds a LoRA to all parts that it has layers for, or says in a sentence why that cannot be."""
    if os.path.isdir(lora) and not os.path.isfile(os.path.join(lora, PAINT_LORA)):
        holds = {INDEX: "a whole model: give it as the model itself", CONFIG: "an adapter of VisCPM-Chat"}
        found = next((what for name, what in holds.items() if os.path.isfile(os.path.join(lora, name))), None)
        raise ValueError(f"{lora} holds {found or f'no {PAINT_LORA}'}, expected a LoRA of VisCPM-Paint.")
    try:
        pipeline.load_lora_weights(lora)
    except (ValueError, RuntimeError, KeyError, OSError, SafetensorError) as error:
        if "PEFT backend" in str(error):
            raise ImportError('For a LoRA the library peft is needed: pip install "peft>=0.19.1"') from error
        raise ValueError(f"{lora} is no LoRA that {model_path} takes ({first_line(error)}).") from error
    if not pipeline.get_list_adapters():
        raise ValueError(f"{lora} has no layers for {model_path}: it is a LoRA of another model.")


class VisCPMPaint:
    """Drop-in for the original's `VisCPMPaint`.

    Args:
        model_path (`str` or `Path`): a converted folder or Hub repository.
        image_safety_checker (`bool`, defaults to True): whether unsafe images are replaced by black ones.
        prompt_safety_checker (`bool`, defaults to True): whether unsafe prompts are refused.
        add_ranker (`bool`, defaults to True): whether each image is the best of four.
        device (*optional*): where to run; CUDA if there is one by default.
        dtype (`torch.dtype`, `str` or `dict`, *optional*): of all parts, such as `"bfloat16"`; or part → dtype, with
            `"default"` for all others, which is float32 if not given. By default as in the original: the language
            model as stored, everything else float32.
        memory (`str` or `int`, *optional*): what painting may take of the GPU, or without one of main memory, such as
            `"6GB"`; the fastest way that fits is taken, see `viscpm fit`. Parts stored in half precision may then work
            in it on a GPU unless `dtype` says otherwise. `CUDA_MEMORY_CPMBEE_MAX=1g` in the environment limits the
            language model alone.
        quantization (`str` or config, *optional*): `"auto"` quantizes weights, with a warning, where exact ones
            do not fit into `memory`; `"int8"`, `"4bit"` or a transformers quantization config ask for them, in the
            language model. None never quantizes: what does not fit is brought in when needed.
        lora (`str` or `Path`, *optional*): a LoRA as `viscpm finetune paint` or diffusers saves it, folder, file or
            Hub repository; not with `memory`.

    A repository without one of the three parts is used without it, with a warning unless its argument is False.

    It may be used from several threads: their pictures are painted one after the other.

    Raises:
        ValueError: `model_path` is not a converted VisCPM-Paint, an argument is none, `memory` is less than the
            least that works, or `lora` is none for this model.

    Example:
        >>> painter = VisCPMPaint("viscpm-paint")
        >>> painter.generate("人闲桂花落，月静春山空").save("picture.png")
    """

    @loads_or_says_why
    def __init__(
        self,
        model_path: str | os.PathLike,
        image_safety_checker: bool = True,
        prompt_safety_checker: bool = True,
        add_ranker: bool = True,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | Mapping[str, str | torch.dtype] | None = None,
        memory: str | int | None = None,
        quantization: str | QuantizationConfigMixin | None = None,
        lora: str | os.PathLike | None = None,
    ):
        wanted = dict(zip(_PARTS, (image_safety_checker, prompt_safety_checker, add_ranker), strict=True))
        for argument, want in wanted.items():
            if not isinstance(want, bool):
                raise ValueError(f"{argument} is True or False, got {want!r}: parts are those of the repository.")
        device, dtype = usable_device(device), _checked_dtypes(dtype)
        check_is_converted(model_path, "VisCPM-Paint", "paint --sd-base SD_BASE", "model_index.json")
        config = VisCPMPaintPipeline.load_config(model_path)
        if config.get("_class_name") != VisCPMPaintPipeline.__name__:
            raise ValueError(
                f"{model_path} holds a {config.get('_class_name')}, expected a converted VisCPM-Paint: make one with "
                "`viscpm convert paint`."
            )
        options = {"requires_safety_checker": image_safety_checker}
        for argument, (parts, consequence) in _PARTS.items():
            if not wanted[argument]:
                options |= dict.fromkeys(parts)
            elif not config.get(parts[0], [None])[0]:
                warnings.warn(
                    f"{model_path} has no {parts[0]}, so {consequence}; convert with one, or silence this with "
                    f"{argument}=False.",
                    stacklevel=3,  # through the decorator
                )
                options["requires_safety_checker"] &= argument != "image_safety_checker"  # said already
        without = [name for name, value in options.items() if value is None]
        plan = find_plan(model_path, device, memory, quantization, dtype, without)
        if plan is not None and lora is not None:
            raise ValueError(
                "A LoRA and a limit of memory do not go together: save a model that has it inside, with "
                "pipe.load_lora_weights(…), pipe.fuse_lora(), pipe.unload_lora_weights(), pipe.save_pretrained(…)."
            )
        if plan is not None:
            self.pipeline = load_paint(VisCPMPaintPipeline, model_path, plan, device, **options)
            return
        if dtype is not None:
            options["dtype"] = dtype
        if quantization is not None and not isinstance(quantization, str):
            of_text = dtype.get("text_encoder", dtype.get("default")) if isinstance(dtype, Mapping) else dtype
            options["text_encoder"] = load_rounded_text_encoder(model_path, quantization, of_text, device)
        self.pipeline = VisCPMPaintPipeline.from_pretrained(model_path, **options)
        if lora is not None:
            _add_lora(self.pipeline, lora, model_path)
        if device.type != "cpu":  # where it is; diffusers would warn of half precision, which works there
            self.pipeline.to(device)

    def generate(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        num_images_per_prompt: int = 1,
        guidance_scale: float = 7.5,
        image_size: int | None = None,
        generator: torch.Generator | int | list[torch.Generator | int] | None = None,
        **kwargs: Any,
    ) -> Image.Image | Any:  # or a list of them; Any spares those who ask for one image from asking which it is
        """Paints one prompt.

        Ranker and prompt checker know Chinese only; for a prompt without a Chinese character they are left out, with a
        warning; then there are no candidates to choose from.

        Args:
            prompt (`str`): plain text, Chinese or English.
            negative_prompt (`str`, *optional*): what not to paint.
            num_images_per_prompt (`int`, defaults to 1): how many images.
            guidance_scale (`float`, defaults to 7.5): how closely to follow the prompt.
            image_size (`int`, *optional*): width and height in pixels; by default the model's own, 512 for those
                released.
            generator (`torch.Generator`, seed or a list of them, *optional*): makes the noise repeatable.
            **kwargs: for the pipeline, such as `num_inference_steps`, `height` and `width`.

        Returns:
            `PIL.Image.Image`, or a list of them if more than one was asked for. An unsafe image is black.

        Raises:
            UnsafeContentError: the prompt checker refuses the prompt.
            ValueError: input that cannot be worked with.
        """
        if not isinstance(prompt, str):
            raise ValueError(f"prompt is a text, got {type(prompt).__name__}: call paint() for several at once.")
        images = self.paint(
            prompt, negative_prompt, num_images_per_prompt, guidance_scale, image_size, generator, **kwargs
        ).images
        return images[0] if num_images_per_prompt == 1 else images

    @torch.no_grad()
    def paint(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        guidance_scale: float = 7.5,
        image_size: int | None = None,
        generator: torch.Generator | int | list[torch.Generator | int] | None = None,
        **kwargs: Any,
    ) -> VisCPMPaintPipelineOutput:
        """Paints one prompt or several, for a server: as `generate`, and says what was blackened.

        In a batch a picture may differ from the same one painted alone by 1/255 in single pixels.

        Args:
            prompt (`str` or `list[str]`): all with Chinese characters, or none, where there is a ranker or a checker.
            negative_prompt (`str` or `list[str]`, *optional*): one for all, or one each.
            num_images_per_prompt, guidance_scale, image_size, generator, **kwargs: see `generate`.

        Returns:
            `VisCPMPaintPipelineOutput`: `images`, those of the first prompt first; `nsfw_content_detected`, for each
            whether it was blackened, or None; `rank_scores` or None.

        Raises:
            UnsafeContentError, ValueError: see `generate`.
        """
        other = ", ".join(sorted(kwargs.keys() & _FOR_THE_PIPELINE))
        if other:
            raise ValueError(f"Prompts are painted and images returned here, got {other}: call `pipeline` with it.")
        inputs = {"prompt": prompt, "negative_prompt": negative_prompt}
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if self.chinese_only and isinstance(prompts, list | tuple) and all(isinstance(text, str) for text in prompts):
            chinese = [bool(CHINESE.search(text)) for text in prompts]
            if not all(chinese):
                names = " and ".join(self.chinese_only)
                if any(chinese):
                    raise ValueError(
                        f"Some prompts are Chinese and some not, but {names} know Chinese only: split them."
                    )
                warnings.warn(f"The prompt is not Chinese, so {names} are left out.", stacklevel=3)
                attention = kwargs.get("cross_attention_kwargs")
                scale = attention.get("scale", 1) if isinstance(attention, dict) else 1
                embeds = self.pipeline.encode_prompt(prompt, negative_prompt=negative_prompt, lora_scale=scale)
                inputs = dict(zip(_EMBEDS, embeds, strict=True))  # neither looks at embeddings
        try:
            return self.pipeline(
                **inputs,
                num_images_per_prompt=num_images_per_prompt,
                guidance_scale=guidance_scale,
                generator=generator,
                **{"height": image_size, "width": image_size, **kwargs},
            )
        except UnsafePromptError as error:
            raise UnsafeContentError(str(error)) from error

    @property
    def chinese_only(self) -> list[str]:
        """Names of the parts that know Chinese only and are left out for other prompts."""
        return [name for name in ("prompt_checker", "ranker") if getattr(self.pipeline, name) is not None]
