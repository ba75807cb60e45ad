"""VisCPM-Paint: CPM-Bee reads the prompt, a projection widens its states, Stable Diffusion 2.1's UNet and VAE paint.

It imports no sibling, so that it runs as the one file of a repository's pipeline: what it needs of the text side are
methods of the tokenizer and the forward pass of the text encoder.
"""

import inspect
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, ModelMixin, UNet2DConditionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
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


class UnsafePromptError(ValueError):
    """A prompt was refused by the prompt checker."""


@dataclass
class VisCPMPaintPipelineOutput(BaseOutput):
    """What [`VisCPMPaintPipeline`] returns for n images.

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
            [`~VisCPMPaintPipeline.encode_prompt`] is called.
        safety_checker (`StableDiffusionSafetyChecker`, *optional*), feature_extractor (`CLIPImageProcessor`,
            *optional*): Replace unsafe images by black ones.
        prompt_checker (`BertForSequenceClassification`, *optional*), prompt_checker_tokenizer (*optional*): Refuse
            prompts whose score for `LABEL_1` is above the threshold. Negative prompts are not checked.
        ranker (`ChineseCLIPModel`, *optional*), ranker_processor (*optional*): Choose among candidate images.
        prompt_checker_threshold (`float`, defaults to 0.75): In [0, 1].
        requires_safety_checker (`bool`, defaults to True): Whether a missing safety checker is worth a warning.

    Raises:
        ValueError: A checker or the ranker comes without its tokenizer or processor.

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
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds", "prompt_embeds_mask"]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: PreTrainedModel,
        text_projection: ModelMixin,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL | AutoencoderTiny,
        scheduler,
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

    def __setattr__(self, name: str, value: Any):
        if name in ("tokenizer", "text_encoder"):
            self._empty_prompt = None  # what was remembered of the old one
        super().__setattr__(name, value)

    # Loading and saving: a repository names classes by bare modules, for which diffusers looks in the part's folder.
    # The installed class takes the package's own modules instead, and so needs no trust in remote code.

    @classmethod
    def _dict_from_json_file(cls, json_file):
        config = super()._dict_from_json_file(json_file)
        if config.get("_class_name") == _CLASS_NAME and not _IS_REMOTE_CODE:
            config["_class_name"] = _CLASS_NAME[1]
        return config

    @classmethod
    def load_config(cls, *args, **kwargs):
        """See [`~diffusers.ConfigMixin.load_config`]; the installed class gets its own package's modules."""
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
        for name, (module, class_name) in self._own_components().items():
            config[name] = [module.rpartition(".")[2], class_name]
        if config["feature_extractor"][1]:  # without torchvision the class has another name
            config["feature_extractor"][1] = config["feature_extractor"][1].removesuffix("Pil")
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """Writes model_index.json, and the code of pipeline and parts to where it refers to.

        It is the last that `save_pretrained` does before uploading.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(__file__, folder / f"{_CLASS_NAME[0]}.py")
        for name, (module, _) in self._own_components().items():
            if (folder / name).is_dir():
                shutil.copyfile(sys.modules[module].__file__, folder / name / f"{_COMPONENT_FILES[name]}.py")
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _own_components(self) -> dict[str, tuple[str, str]]:
        """Module and class of the parts that ship their code."""
        parts = {name: tuple(self.config[name]) for name in _COMPONENT_FILES}
        return {
            name: (module, class_name)
            for name, (module, class_name) in parts.items()
            if module is not None and module.rpartition(".")[2] == _COMPONENT_FILES[name]
        }

    @classmethod
    def load_lora_into_text_encoder(cls, state_dict, *args, **kwargs):
        """Nothing: the text part of a Stable Diffusion LoRA is made for CLIP."""
        if any(key.startswith(f"{cls.text_encoder_name}.") for key in state_dict):
            logger.warning("The LoRA has a part for a CLIP text encoder, which VisCPM-Paint does not have: left out.")

    @property
    def guidance_scale(self):
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self):
        return self._guidance_scale > 1

    @property
    def cross_attention_kwargs(self):
        return self._cross_attention_kwargs

    @property
    def num_timesteps(self):
        return self._num_timesteps

    @property
    def interrupt(self):
        return self._interrupt

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

        Returns:
            `prompt_embeds`, `negative_prompt_embeds` (batch, L, cross_attention_dim), and for each a mask (batch, L),
            True for what the UNet may see; None if it may see all, and None for the negative ones without guidance.

        Raises:
            ValueError: No text or not text, numbers of prompts that differ, or a missing text encoder.
        """
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
            states = self._text_states({text: encodings[text] for text in texts}, max(lengths), device)
            states = torch.stack([states[text] for text in texts])  # (texts, L, hidden)
            embeds = self.text_projection(states.to(self.text_projection.dtype))
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

    def _text_states(self, encodings: dict[str, dict], length: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Final states `(length, hidden)` of each text in one pass, those of the padding after it included.

        The empty prompt's are remembered: it is the negative prompt of almost every call. Not where gradients are
        wanted, and no longer than the weights stay the same.
        """
        states, remember = {}, "" in encodings and not torch.is_grad_enabled()
        weights = self.text_encoder.parameters()
        version = device, [(weight.dtype, None if weight.is_inference() else weight._version) for weight in weights]
        if remember and self._empty_prompt is not None and self._empty_prompt[0] == version:
            rows = self._empty_prompt[1]  # the last is padding, and all padding is alike
            states[""] = torch.cat([rows, rows[-1:].expand(max(length - len(rows), 0), -1)])[:length]
        texts = [text for text in encodings if text not in states]
        if not texts:
            return states

        batch = self.tokenizer.pad_encodings([encodings[text] for text in texts], padding_side="right")
        empty_length = len(encodings[""]["input_ids"]) if remember and "" in texts else -1
        missing = max(length, empty_length + 1) - batch["input_ids"].shape[1]
        for key in ("input_ids", "attention_mask", "segment_ids", "context_mask"):
            batch[key] = torch.nn.functional.pad(batch[key], (0, missing))
        hidden_states = self.text_encoder(**batch.to(device), use_cache=False).last_hidden_state.to(device)
        if empty_length > 0:
            self._empty_prompt = version, hidden_states[texts.index(""), : empty_length + 1].clone()
        return states | dict(zip(texts, hidden_states[:, :length], strict=True))

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
        masks = ["prompt_embeds_mask"] + ["negative_prompt_embeds_mask"] * guided
        if guided:
            wanted["negative_prompt_embeds"] = wanted["prompt_embeds"]
        if any(others[name] is not None for name in masks):
            wanted |= dict.fromkeys(masks, (rows, length))
        for name, shape in wanted.items():
            _check_shape(name, {"prompt_embeds": prompt_embeds, **others}[name], shape)
        return rows

    def _check_settings(self, height, width, guidance_scale, output_type, tensor_inputs, **counts):
        """ValueError for what cannot be painted, or not without the parts that are missing."""
        missing = [name for name in ("unet", "vae", "scheduler") if getattr(self, name) is None]
        if missing and not (missing == ["vae"] and output_type == "latent"):
            raise ValueError(f"Painting needs {', '.join(missing)}, which the pipeline was loaded without: load them.")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f'output_type is "pil", "np", "pt" or "latent", got {output_type!r}.')
        for name, size in (("height", height), ("width", width)):
            if not isinstance(size, Integral) or size < 1 or size % self.vae_scale_factor:
                raise ValueError(f"{name} is a multiple of {self.vae_scale_factor} in pixels, got {size!r}.")
        for name, count in counts.items():
            if not isinstance(count, Integral) or count < 1:
                raise ValueError(f"{name} is a whole number from 1 on, got {count!r}.")
        if not isinstance(guidance_scale, Real):
            raise ValueError(f"guidance_scale is a number, got {guidance_scale!r}.")
        unknown = set(tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs may name {', '.join(self._callback_tensor_inputs)}, got "
                f"{', '.join(sorted(unknown))}."
            )

    def _set_timesteps(self, num_inference_steps, timesteps, sigmas, device) -> tuple[torch.Tensor, int]:
        """Sets the scheduler's timesteps from a number or from one of the lists; returns them and their number."""
        lists = {"timesteps": timesteps, "sigmas": sigmas}
        lists = {name: list(value) for name, value in lists.items() if value is not None}
        if not lists:
            self.scheduler.set_timesteps(num_inference_steps, device=device)
            return self.scheduler.timesteps, num_inference_steps
        (name, value), *second = lists.items()
        if second or not value:
            raise ValueError("Pass either timesteps or sigmas, with at least one entry, or num_inference_steps alone.")
        if name not in inspect.signature(self.scheduler.set_timesteps).parameters:
            raise ValueError(f"{type(self.scheduler).__name__} takes no {name}: pass num_inference_steps.")
        self.scheduler.set_timesteps(**lists, device=device)
        return self.scheduler.timesteps, len(self.scheduler.timesteps)

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

    def run_safety_checker(self, image: torch.Tensor, pictures: list[Image.Image]):
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
        generator: torch.Generator | list[torch.Generator] | None = None,
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
            eta (`float`, defaults to 0.0): η of DDIM; other schedulers ignore it.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): One, or one for each image.
            latents (`torch.Tensor`, *optional*): Noise (images · candidates, channels, height / f, width / f) of
                variance 1 in place of a draw, f being `vae_scale_factor`.
            prompt_embeds, negative_prompt_embeds, prompt_embeds_mask, negative_prompt_embeds_mask (`torch.Tensor`,
                *optional*): What [`~VisCPMPaintPipeline.encode_prompt`] returned, in place of prompts.
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`, which is not checked.
            return_dict (`bool`, defaults to True): False for a tuple of those results that are there.
            cross_attention_kwargs (`dict`, *optional*): For the attention processors; `{"scale": …}` for a LoRA.
            callback_on_step_end (*optional*): Called as `(pipeline, step, timestep, tensors)` after each step; returns
                a dict of tensors to replace. Setting `pipeline._interrupt = True` skips the remaining steps.
            callback_on_step_end_tensor_inputs (`list[str]`): Which tensors it gets.

        Returns:
            [`VisCPMPaintPipelineOutput`], or a tuple of images, flags and, if ranked, scores.

        Raises:
            UnsafePromptError: The prompt checker refuses a prompt; it is a ValueError.
            ValueError: Input that cannot be worked with.
            RuntimeError: The image is not a number: a part overflowed in half precision.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        tensor_inputs = callback_on_step_end_tensor_inputs or []
        if self.unet is not None:
            default = (np.broadcast_to(self.unet.config.sample_size, 2) * self.vae_scale_factor).tolist()
            height, width = default[0] if height is None else height, default[1] if width is None else width
        if num_candidates is None:
            num_candidates = 4 if self.ranker is not None and prompt is not None and output_type != "latent" else 1
        counts = {"num_images_per_prompt": num_images_per_prompt, "num_candidates": num_candidates}
        if timesteps is None and sigmas is None:
            counts["num_inference_steps"] = num_inference_steps
        self._check_settings(height, width, guidance_scale, output_type, tensor_inputs, **counts)
        embeds = {
            "prompt_embeds": prompt_embeds,
            "negative_prompt_embeds": negative_prompt_embeds,
            "prompt_embeds_mask": prompt_embeds_mask,
            "negative_prompt_embeds_mask": negative_prompt_embeds_mask,
        }
        images = self._check_text(prompt, negative_prompt, guidance_scale > 1, **embeds) * num_images_per_prompt
        if num_candidates > 1 and (self.ranker is None or prompt is None or output_type == "latent"):
            raise ValueError(
                f"Got num_candidates={num_candidates}, but choosing needs a ranker, a prompt and finished images: "
                "provide these, or use num_images_per_prompt."
            )
        drawn = images * num_candidates
        if isinstance(generator, list):
            if len(generator) not in (images, drawn):
                raise ValueError(f"Got {len(generator)} generators for {images} images: pass one, or one for each.")
            if len(generator) < drawn:  # one for all candidates of an image, in turn
                generator = [one for one in generator for _ in range(num_candidates)]
        shape = (drawn, self.unet.config.in_channels, height // self.vae_scale_factor, width // self.vae_scale_factor)
        if latents is not None:
            _check_shape("latents", latents, shape)

        self._guidance_scale = guidance_scale
        self._cross_attention_kwargs = cross_attention_kwargs
        self._interrupt = False
        device, dtype = self._execution_device, self.unet.dtype
        timesteps, num_inference_steps = self._set_timesteps(num_inference_steps, timesteps, sigmas, device)

        # 1. Text
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
        )
        if self.do_classifier_free_guidance:
            prompt_embeds = torch.cat([negative_prompt_embeds, prompt_embeds])
            if prompt_embeds_mask is not None:
                prompt_embeds_mask = torch.cat([negative_prompt_embeds_mask, prompt_embeds_mask])
        prompt_embeds = prompt_embeds.to(dtype)

        # 2. Noise
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        latents = latents.to(device, dtype) * self.scheduler.init_noise_sigma
        accepted = inspect.signature(self.scheduler.step).parameters  # schedulers differ in what a step takes
        step_kwargs = {name: value for name, value in (("generator", generator), ("eta", eta)) if name in accepted}

        # 3. Denoising
        num_warmup_steps = len(timesteps) - num_inference_steps * self.scheduler.order
        self._num_timesteps = len(timesteps)
        with self.progress_bar(total=num_inference_steps) as progress_bar:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                latent_model_input = torch.cat([latents] * 2) if self.do_classifier_free_guidance else latents
                noise_pred = self.unet(
                    self.scheduler.scale_model_input(latent_model_input, t),
                    t,
                    encoder_hidden_states=prompt_embeds,
                    encoder_attention_mask=prompt_embeds_mask,
                    cross_attention_kwargs=self.cross_attention_kwargs,
                    return_dict=False,
                )[0]
                if self.do_classifier_free_guidance:
                    noise_uncond, noise_cond = noise_pred.chunk(2)
                    noise_pred = noise_uncond + self.guidance_scale * (noise_cond - noise_uncond)
                latents = self.scheduler.step(noise_pred, t, latents, **step_kwargs, return_dict=False)[0]

                if callback_on_step_end is not None:
                    callback_kwargs = {}
                    for name in tensor_inputs:
                        callback_kwargs[name] = locals()[name]
                    changed = callback_on_step_end(self, i, t, callback_kwargs) or {}
                    latents = changed.pop("latents", latents)
                    prompt_embeds = changed.pop("prompt_embeds", prompt_embeds)
                    prompt_embeds_mask = changed.pop("prompt_embeds_mask", prompt_embeds_mask)
                    if prompt_embeds_mask is not None:  # a callback that ends guidance drops the unconditional half
                        prompt_embeds_mask = prompt_embeds_mask[-len(prompt_embeds) :]
                if i == len(timesteps) - 1 or ((i + 1) > num_warmup_steps and (i + 1) % self.scheduler.order == 0):
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

    def _check_finite(self, tensor: torch.Tensor):
        if not tensor.isfinite().all():
            parts = [name for name in ("text_encoder", "unet", "vae") if getattr(self, name) is not None]
            dtypes = ", ".join(f"{name} in {getattr(self, name).dtype}" for name in parts).replace("torch.", "")
            raise RuntimeError(
                f"The image is NaN, as half precision becomes where it overflows ({dtypes}): load the pipeline with "
                "dtype=torch.bfloat16 or torch.float32."
            )


def _texts(prompt, negative_prompt) -> tuple[list[str], list[str]]:
    """Prompts and as many negative prompts."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if negative_prompt is None or isinstance(negative_prompt, str):
        negative_prompt = [negative_prompt or ""] * (len(prompts) if isinstance(prompts, list | tuple) else 1)
    for name, texts in (("prompt", prompts), ("negative_prompt", negative_prompt)):
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} is a text or a list of texts, got {str(texts)[:60]!r}.")
    if not prompts:
        raise ValueError("prompt is an empty list: pass at least one text.")
    if len(negative_prompt) != len(prompts):
        raise ValueError(
            f"Got {len(negative_prompt)} negative prompts for {len(prompts)} prompts: pass one, or as many as prompts."
        )
    return list(prompts), list(negative_prompt)


def _check_shape(name, tensor, shape):
    got = tuple(tensor.shape) if torch.is_tensor(tensor) else type(tensor).__name__
    if got != shape or 0 in shape:
        raise ValueError(f"{name} is a tensor {shape} here, got {got}.")


def _repeat(tensor, times, device):
    return None if tensor is None else tensor.to(device).repeat_interleave(times, dim=0)
