"""The settings of `viscpm finetune paint` beside transformers' TrainingArguments."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from .rows import LANGUAGES
from .settings import SettingsError, read_settings, require_lora, require_numbers, require_rates

MODES, PADDINGS = ("lora", "full"), ("own", "batch")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class PaintSettings:
    """The settings of Paint beside TrainingArguments; each is an option of the command line and of the YAML.

    Args:
        model: a converted VisCPM-Paint.
        output: the folder of the run, which is `output_dir` of TrainingArguments.
        data: files, folders or ids of pictures with captions, see `finetuning.sources`.
        images: the folder relative paths of pictures start from.
        mode: `"lora"` adds layers to UNet and text projection, `"full"` trains all of both.
        cache: the folder for states of captions and latents of pictures; by default `cache` in the output.
        eval_data, eval_rows, split, eval_split, language, strict, dtype, learning_rates: as of Chat.
        resolution: pixels of both sides; by default the model's.
        min_side: pixels; smaller pictures are left out, by default half of the resolution.
        max_length: tokens of a caption; longer ones are left out.
        random_crop, random_flip: whether pictures are varied, except those whose captions say left or right.
        cache_latents: whether pictures are encoded once; by default unless they are varied.
        caption_dropout: share of samples that are shown the empty caption, for guidance.
        padding: `"own"` shows the UNet of each caption what painting shows it; `"batch"`, the original's, pads to the
            longest of the batch, and the UNet sees the padding.
        offset_noise: how much of the noise is the same for all pixels of a channel.
        snr_gamma: of min-SNR weighting; none by default, as in the original.
        ema: decay of a moving average of the weights, which is then what is painted with and saved.
        lora_r, lora_alpha, lora_dropout, lora_targets: of LoRA; a regular expression of the UNet's layers.
        states_dtype, states_device: in and on which captions are read; by default as stored, where is trained.
        prepare_only: stop when captions are read and pictures encoded.
        validation_prompts, negative_prompt, validation_seed, validation_steps, validation_guidance: painted
            at every evaluation, or where there is none whenever a checkpoint is saved.
    """

    model: str | None = None
    output: str | None = None
    data: list[str] = field(default_factory=list)
    images: str | None = None
    mode: str = "lora"
    cache: str | None = None
    eval_data: list[str] = field(default_factory=list)
    eval_rows: int = 0
    split: str = "train"
    eval_split: str = "train"
    language: str = "both"
    strict: bool = False
    dtype: str | None = None
    learning_rates: dict | None = None
    resolution: int | None = None
    min_side: int | None = None
    max_length: int = 256
    random_crop: bool = False
    random_flip: bool = False
    cache_latents: bool | None = None
    caption_dropout: float = 0.1
    padding: str = "own"
    offset_noise: float = 0.0
    snr_gamma: float | None = None
    ema: float | None = None
    lora_r: int = 16
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_targets: str | None = None
    states_dtype: str | None = None
    states_device: str | None = None
    prepare_only: bool = False
    validation_prompts: list[str] = field(default_factory=list)
    negative_prompt: str = ""
    validation_seed: int = 0
    validation_steps: int = 50
    validation_guidance: float = 7.5

    def check(self) -> None:
        """Raises a SettingsError for a value that means nothing."""
        for name, choices in (
            ("mode", MODES),
            ("language", LANGUAGES),
            ("padding", PADDINGS),
            ("dtype", (None, *DTYPES)),
            ("states_dtype", (None, *DTYPES)),
        ):
            if getattr(self, name) not in choices:
                wanted = ", ".join(choice for choice in choices if choice)
                raise SettingsError(f"Got {getattr(self, name)!r} as {name}, expected one of {wanted}.")
        for name in ("model", "output", "data"):
            if not getattr(self, name):
                raise SettingsError(f"--{name} is missing: give it here or in the file of --config.")
        require_numbers(
            self,
            ("lora_r", 1, None),
            ("max_length", 32, None),
            ("eval_rows", 0, None),
            ("caption_dropout", 0, 1),
            ("offset_noise", 0, 1),
            ("lora_dropout", 0, 0.99),
            ("ema", 0, 0.999999),
            ("snr_gamma", 1e-3, None),
            ("resolution", 8, 4096),
            ("min_side", 1, None),
            ("validation_seed", 0, 2**63),
            ("validation_steps", 1, 1000),
            ("validation_guidance", 0, 1000),
        )
        require_lora(self)
        if self.eval_data and self.eval_rows:
            raise SettingsError("Got eval_data and eval_rows, expected one of them.")
        if self.cache_latents and (self.random_crop or self.random_flip):
            raise SettingsError("Got cache_latents with random_crop or random_flip, by which pictures always differ.")
        require_rates(self.learning_rates)

    @property
    def latents_are_kept(self) -> bool:
        """Whether pictures are encoded once."""
        return not (self.random_crop or self.random_flip) if self.cache_latents is None else self.cache_latents


def read_paint_settings(
    given: dict[str, Any], arguments: Sequence[str] = (), config: str | Path | None = None
) -> tuple[PaintSettings, TrainingArguments]:
    """As `read_settings`, for Paint."""
    settings, training = read_settings(given, arguments, config, PaintSettings, TrainingArguments)
    training.remove_unused_columns = False  # samples are not arguments of the model
    training.ddp_broadcast_buffers = False  # there are none that change
    return settings, training
