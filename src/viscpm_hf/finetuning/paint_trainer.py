"""What transformers' Trainer needs for Paint: order of samples, a moving average, pictures at every evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from diffusers.utils import make_image_grid
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import SAFE_WEIGHTS_NAME

from ..remote_code.pipeline_viscpm_paint import VisCPMPaintPipeline
from .paint_data import PaintCollator
from .trainer import EpochSampler, parameter_groups

_AVERAGE = "average.safetensors"
_HEAD = 20  # pixels of the note over a sheet


class PaintTrainer(Trainer):
    """transformers' Trainer for a `PaintLearner`, with `PaintDataset` and `PaintCollator`.

    A run that was broken off goes on exactly, and several processes learn as one with the same global batch: what is
    drawn for a sample depends on its epoch and place alone.

    Args:
        ema (`float`, *optional*): decay of a moving average of what is trained; evaluations use it.
        learning_rates (`dict[str, float]`, *optional*): see `parameter_groups`; in place of `args.learning_rate`.
        kwargs: for `Trainer`.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        ema: float | None = None,
        learning_rates: dict[str, float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(model, args, **kwargs)
        self.learning_rates, self.average = learning_rates, None
        if ema is not None:
            self.average = EMAModel(self._parameters(), decay=ema)
            self.add_callback(_Averaging(self))

    def _trained(self) -> dict[str, nn.Parameter]:
        return self.accelerator.unwrap_model(self.model).trained()

    def _parameters(self) -> list[nn.Parameter]:
        return list(self._trained().values())

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(len(self.train_dataset), seed, self.args.train_sampling_strategy != "sequential")

    def _get_eval_sampler(self, eval_dataset) -> Sampler | None:
        return SequentialSampler(eval_dataset) if self.args.world_size == 1 else None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """With a learning rate for each part if there are several."""
        if self.optimizer is None and self.learning_rates:
            optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = parameter_groups(self.model, self.learning_rates, self.args.weight_decay)
            self.optimizer = optimizer(groups, **options)
        return super().create_optimizer(model)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Meanwhile the weights are the moving average, if there is one."""
        if self.average is None:
            yield
            return
        self.average.store(self._parameters())
        self.average.copy_to(self._parameters())
        try:
            yield
        finally:
            self.average.restore(self._parameters())

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """See Trainer; with the moving average, if there is one."""
        with self.averaged():
            return super().evaluate(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.average is not None and self.args.should_save:
            tensors = dict(zip(self._trained(), self.average.shadow_params, strict=True))
            metadata = {"steps": str(self.average.optimization_step)}
            save_file(tensors, Path(output_dir or self.args.output_dir) / _AVERAGE, metadata)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        learner = self.accelerator.unwrap_model(self.model if model is None else model)
        # without what is not trained, of which Trainer's own would warn
        learner.load_state_dict(load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME), strict=False)
        self._load_average(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _load_average(self, checkpoint: str) -> None:
        if self.average is None:
            return
        with safe_open(Path(checkpoint) / _AVERAGE, "pt") as file:
            self.average.optimization_step = int(file.metadata()["steps"])
            for name, tensor in zip(self._trained(), self.average.shadow_params, strict=True):
                tensor.copy_(file.get_tensor(name))


class _Averaging(TrainerCallback):
    def __init__(self, trainer: PaintTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.average.step(self.trainer._parameters())


class ShowPictures(TrainerCallback):
    """Paints prompts with fixed seeds before the first step, and at every evaluation, else at every save.

    Each time a sheet `pictures/step-000100.png` appears in the output, and in TensorBoard.

    Args:
        trainer (`PaintTrainer`): whose model paints.
        painter (`VisCPMPaintPipeline`): of its parts, without the language model.
        collator (`PaintCollator`): has the states of the prompts.
        prompts (`list[str]`): what is painted; the one of number i with the seed `seed + i`.
        negative_prompt (`str`), seed, steps (`int`), guidance (`float`): how.
        size (`int`): pixels.
    """

    def __init__(
        self,
        trainer: PaintTrainer,
        painter: VisCPMPaintPipeline,
        collator: PaintCollator,
        prompts: list[str],
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        size: int,
    ):
        self.trainer, self.painter, self.collator, self.prompts = trainer, painter, collator, prompts
        self.negative_prompt, self.seed, self.steps, self.guidance = negative_prompt, seed, steps, guidance
        self.size = size

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Shows what was there before."""
        if state.global_step == 0:
            self.show(args, state)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Shows what it paints by now; the arguments are Trainer's."""
        self.show(args, state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Shows what it paints by now, if there are no evaluations."""
        if self.trainer.eval_dataset is None:
            with self.trainer.averaged():
                self.show(args, state)

    def show(self, args: TrainingArguments, state: TrainerState) -> None:
        """Paints a sheet; of several processes the first does."""
        if not state.is_world_process_zero:
            return
        sheet = self.sheet([self._paint(number) for number in range(len(self.prompts))], state.global_step)
        about = PngImagePlugin.PngInfo()
        about.add_itxt("prompts", "\n".join(self.prompts))
        path = Path(args.output_dir) / "pictures" / f"step-{state.global_step:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, pnginfo=about)
        (path.parent / "prompts.txt").write_text("\n".join([*self.prompts, ""]), encoding="utf-8")
        for callback in self.trainer.callback_handler.callbacks:
            writer = getattr(callback, "tb_writer", None)
            if writer is not None:
                pixels = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
                writer.add_image(
                    "pictures", pixels.view(sheet.height, sheet.width, 3).numpy(), state.global_step, dataformats="HWC"
                )

    def sheet(self, pictures: list[Image.Image], step: int) -> Image.Image:
        """Pictures in rows of at most four, under a line that says step and seeds."""
        columns = min(len(pictures), 4)
        rows = -(-len(pictures) // columns)
        blank = Image.new("RGB", pictures[0].size, "white")
        grid = make_image_grid([*pictures, *[blank] * (rows * columns - len(pictures))], rows, columns)
        sheet = Image.new("RGB", (max(grid.width, 200), grid.height + _HEAD), "white")
        sheet.paste(grid, (0, _HEAD))
        last = self.seed + len(pictures) - 1
        note = f"step {step}, seed {self.seed}" + (f" to {last}" if len(pictures) > 1 else "")
        ImageDraw.Draw(sheet).text((4, 3), note, "black", ImageFont.load_default(12))
        return sheet

    @torch.no_grad()
    def _paint(self, number: int) -> Image.Image:
        learner = self.trainer.accelerator.unwrap_model(self.trainer.model)
        states = [self.collator.states_of(text) for text in (self.prompts[number], self.negative_prompt)]
        longest = max(map(len, states))
        states = torch.stack([self.collator.padded(each, longest) for each in states]).to(self.trainer.args.device)
        was_training, device = learner.training, self.painter.vae.device
        learner.eval()
        try:
            self.painter.vae.to(self.trainer.args.device)
            with self.trainer.accelerator.autocast():
                projection = self.painter.text_projection
                embeds = projection(states.to(projection.dtype), return_dict=False)[0]
                return self.painter(
                    prompt_embeds=embeds[:1],
                    negative_prompt_embeds=embeds[1:],
                    height=self.size,
                    width=self.size,
                    num_inference_steps=self.steps,
                    guidance_scale=self.guidance,
                    generator=self.seed + number,
                ).images[0]
        finally:
            self.painter.vae.to(device)
            learner.train(was_training)
