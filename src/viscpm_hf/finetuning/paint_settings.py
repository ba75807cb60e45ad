"""The settings of `viscpm finetune paint` beside transformers' TrainingArguments."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from transformers import TrainingArguments

from .setting_checks import SettingsError, require_choices, require_numbers
from .settings import DTYPES, RunSettings, read_settings
from .training_arguments import PAINT_REFUSED

MODES, PADDINGS = ("lora", "full"), ("own", "batch")


@dataclass
class PaintSettings(RunSettings):
    """The settings of Paint beside TrainingArguments; each is an option of the command line and of the YAML.

    Args, beside those of `RunSettings`:
        mode: `"lora"` adds layers to UNet and text projection, `"full"` trains all of both.
        cache: the folder for states of captions and latents of pictures; by default `cache` in the output.
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
        lora_targets: a regular expression of the UNet's layers.
        states_dtype, states_device: in and on which captions are read; by default as stored, where is trained.
        prepare_only: stop when captions are read and pictures encoded.
        validation_prompts, negative_prompt, validation_seed, validation_steps, validation_guidance: painted
            at every evaluation, or where there is none whenever a checkpoint is saved.
    """

    lora_r: int = 16
    cache: str | None = None
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
    states_dtype: str | None = None
    states_device: str | None = None
    prepare_only: bool = False
    validation_prompts: list[str] = field(default_factory=list)
    negative_prompt: str = ""
    validation_seed: int = 0
    validation_steps: int = 50
    validation_guidance: float = 7.5

    modes = MODES
    refused = PAINT_REFUSED
    # samples are not arguments of the model, and there are no buffers that change
    usual: ClassVar[dict[str, Any]] = {"remove_unused_columns": False, "ddp_broadcast_buffers": False}
    orders: ClassVar[tuple[str, ...]] = ("random", "sequential")  # in which samples can be taken

    def check(self) -> None:
        """Raises a SettingsError for a value that means nothing."""
        super().check()
        require_choices(self, {"padding": PADDINGS, "states_dtype": DTYPES})
        require_numbers(
            self,
            ("max_length", 32, None),
            ("caption_dropout", 0, 1),
            ("offset_noise", 0, 1),
            ("ema", 0, 0.999999),
            ("snr_gamma", 1e-3, None),
            ("resolution", 8, 4096),
            ("min_side", 1, None),
            ("validation_seed", 0, 2**63),
            ("validation_steps", 1, 1000),
            ("validation_guidance", 0, 1000),
        )
        if self.cache_latents and (self.random_crop or self.random_flip):
            raise SettingsError("Got cache_latents with random_crop or random_flip, by which pictures always differ.")

    @property
    def latents_are_kept(self) -> bool:
        """Whether pictures are encoded once."""
        return not (self.random_crop or self.random_flip) if self.cache_latents is None else self.cache_latents


def read_paint_settings(
    given: dict[str, Any], arguments: Sequence[str] = (), config: str | Path | None = None
) -> tuple[PaintSettings, TrainingArguments]:
    """As `read_settings`, for Paint."""
    return read_settings(given, arguments, config, PaintSettings, TrainingArguments)
