"""Fine-tuning VisCPM-Paint from settings to a folder that can be used: what `viscpm finetune paint` does."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainingArguments, set_seed

from ..checkpoint.files.safetensors_file import read_weights
from ..checkpoint.files.staging import require_space
from ..checkpoint.repo import CARD, INDEX, has_part, read_json
from ..memory.machine import usable_device
from ..remote_code.pipeline_viscpm_paint import VisCPMPaintPipeline
from .callbacks import ProgressLines, say_what_is_trained
from .chat import hold_out
from .check import check_samples
from .folder import BEGUN, LEFT_OUT, LOCK, alone, begin, refuse_other, require_numbers_left, require_space_left
from .model import frozen_dtype
from .paint_cache import TensorCache, digest_of_folders
from .paint_data import PaintCollator, PaintDataset, prepare_latents, prepare_states
from .paint_model import PaintLearner, load_learner, load_part, model_folder, part_config, stored_text_dtype
from .paint_settings import PaintSettings
from .paint_trainer import PaintTrainer, ShowPictures
from .trainer import resume_from

_TRAINED = ("unet", "text_projection")
_RESULT, _WEIGHTS = ".result", "diffusion_pytorch_model"
# at the root of a run, and no part of a repository
_OF_RUNS = {LOCK, BEGUN, LEFT_OUT, "trainer_state.json", "pytorch_lora_weights.safetensors", "training_args.bin"}
# settings that may change when a run goes on
_FREE = ("images", "cache", "strict", "prepare_only", "states_device", "validation_prompts")
_FREE += ("negative_prompt", "validation_seed", "validation_steps", "validation_guidance")
_FULL_CARD = """
## Fine-tuned

UNet and text projection were fine-tuned from `{}` with `viscpm finetune paint`: what is said above of the original's
weights does not hold for them.

UNet 和文本投影由 `{}` 经 `viscpm finetune paint` 微调得到，上文关于原版权重的说明对其不再适用。
"""
_LORA_CARD = """---
library_name: diffusers
tags: [lora, text-to-image, VisCPM-Paint]
---

# LoRA for VisCPM-Paint

Layers for UNet and text projection, trained from `{}` with `viscpm finetune paint`.

```python
from viscpm_hf import VisCPMPaintPipeline

pipe = VisCPMPaintPipeline.from_pretrained("VisCPM-Paint")  # the converted model they were trained from
pipe.load_lora_weights("this folder")
```

`DiffusionPipeline.from_pretrained("VisCPM-Paint", trust_remote_code=True)` takes them, too.
"""


def finetune_paint(settings: PaintSettings, arguments: TrainingArguments) -> Path:
    """Trains, from the last checkpoint in the output folder if there is one, and writes the result to its root.

    Args:
        settings, arguments: as `read_paint_settings` makes them.

    Returns:
        The output folder: a converted repository of mode "full", else a LoRA for `pipe.load_lora_weights`.

    Raises:
        ValueError: a model, data, an output folder or settings that cannot be used, in a sentence.
        ImportError: a library is missing.
    """
    output, folder, usual = Path(settings.output), model_folder(settings.model), PaintSettings()
    fixed = dataclasses.replace(settings, **{name: getattr(usual, name) for name in _FREE})
    refuse_other(output, fixed)
    if settings.mode == "full":
        require_space(output.absolute().parent, sum(path.stat().st_size for path in _of_repository(folder)))
    with arguments.main_process_first(local=False, desc="reading data"):  # which `datasets` keeps for the others
        train, held_out, collator = _open_data(settings, arguments, folder)
    with ExitStack() as held:
        if arguments.should_save:
            held.callback(alone(output).release)
            begin(output, fixed, train, held_out)
        datasets = [each for each in (train, held_out) if each is not None]
        with _out_of_memory(lambda: "try --states_device cpu, or --states_dtype bfloat16", output):
            _prepare(settings, arguments, folder, collator, datasets)
        if settings.prepare_only:
            return output
        with _out_of_memory(lambda: smaller(settings, arguments, train.resolution), output):
            set_seed(arguments.seed)  # of new LoRA layers
            learner = load_learner(
                folder,
                settings.mode,
                frozen_dtype(settings.dtype, arguments.bf16, arguments.fp16),
                settings.lora_r,
                settings.lora_alpha,
                settings.lora_dropout,
                settings.lora_targets,
                snr_gamma=settings.snr_gamma,
                vae=None if settings.latents_are_kept else load_part("vae", folder, dtype=torch.float32),
            )
            trainer = PaintTrainer(
                learner,
                arguments,
                settings.ema,
                settings.learning_rates,
                train_dataset=train,
                eval_dataset=held_out,
                data_collator=collator,
            )
            if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
                raise ValueError(
                    "Paint is trained whole on each GPU, which its 0.9 billion parameters fit: leave FSDP and "
                    "DeepSpeed away, and start several processes with `accelerate launch --multi_gpu` or torchrun."
                )
            _say_more(trainer, settings, folder, collator, train.resolution)
            say_what_is_trained(trainer)
            trainer.train(resume_from_checkpoint=resume_from(output))
            trainer.save_state()
            require_numbers_left(trainer.model, output)
            with trainer.averaged():
                if arguments.should_save:
                    _save(output, trainer.accelerator.unwrap_model(trainer.model), settings, folder)
    return output


@contextmanager
def _out_of_memory(advice: Callable[[], str], output: Path) -> Iterator[None]:
    """Says what to do when memory was not enough, for which torch has a class only on a GPU."""
    try:
        yield
    except (MemoryError, RuntimeError, SafetensorError) as error:
        require_space_left(error, output)
        if "to be installed" in str(error):  # what --report_to asks for
            raise ImportError(str(error)) from error
        is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
        if not is_memory:
            raise
        raise ValueError(f"Out of memory: {advice()}.") from error


def smaller(settings: PaintSettings, arguments: TrainingArguments, resolution: int) -> str:
    """The next thing to try where memory was not enough: what costs least first."""
    if arguments.per_device_train_batch_size > 1:
        half = arguments.per_device_train_batch_size // 2
        steps = -(-arguments.gradient_accumulation_steps * arguments.per_device_train_batch_size // half)
        return (
            f"try --per_device_train_batch_size {half} --gradient_accumulation_steps {steps}, which learns the same "
            "from as many samples a step"
        )
    if not arguments.gradient_checkpointing:
        return "try --gradient_checkpointing, which computes part of it twice"
    if not arguments.bf16 and not arguments.fp16:
        return "try --bf16, or --fp16 where the GPU has no bfloat16"
    if settings.ema is not None:
        return "try it without --ema"
    if settings.mode == "full":
        return "try --mode lora"
    return f"try --resolution {resolution // 2}"


def _of_repository(folder: Path) -> Iterable[Path]:
    """The files of a converted repository, not of a run that wrote it."""
    index = read_json(folder, INDEX)
    yield from (path for path in folder.iterdir() if path.is_file() and path.name not in _OF_RUNS)
    parts = [name for name, value in index.items() if isinstance(value, list) and has_part(index, name)]
    yield from (path for name in parts for path in (folder / name).rglob("*") if path.is_file())


def _open_data(
    settings: PaintSettings, arguments: TrainingArguments, folder: Path
) -> tuple[PaintDataset, PaintDataset | None, PaintCollator]:
    """The samples to train on and those to evaluate with, all of them checked, and what makes batches of them."""
    vae, unet = part_config("vae", folder), part_config("unet", folder)
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    resolution = settings.resolution or (unet["sample_size"] or 64) * factor
    least = factor * 2 ** (len(unet["block_out_channels"]) - 1)
    if resolution % least:
        raise ValueError(f"Got {resolution} as resolution, expected a multiple of {least} pixels for this model.")
    collator = PaintCollator(
        load_part("tokenizer", folder),
        vae["latent_channels"],
        resolution // factor,
        part_config("scheduler", folder)["num_train_timesteps"],
        settings.max_length,
        caption_dropout=settings.caption_dropout,
        padding=settings.padding,
        offset_noise=settings.offset_noise,
    )
    options = {
        "resolution": resolution,
        "language": settings.language,
        "min_side": resolution // 2 if settings.min_side is None else settings.min_side,
        "seed": arguments.seed,
        "strict": settings.strict,
    }
    show, held_out = arguments.should_save, None
    if settings.eval_data:
        held_out = PaintDataset(settings.eval_data, settings.images, split=settings.eval_split, **options)
        check_samples(held_out, collator, progress=show)
    options |= {"random_crop": settings.random_crop, "random_flip": settings.random_flip}
    train = PaintDataset(settings.data, settings.images, split=settings.split, **options)
    check_samples(train, collator, progress=show)
    if settings.eval_rows:
        train, held_out = hold_out(train, settings.eval_rows, arguments.seed)
        held_out.random_crop = held_out.random_flip = False
    return train, held_out, collator


def _prepare(
    settings: PaintSettings,
    arguments: TrainingArguments,
    folder: Path,
    collator: PaintCollator,
    datasets: list[PaintDataset],
) -> None:
    """Reads captions and encodes pictures that no run with this cache had yet, one model in memory at a time."""
    cache = Path(settings.cache or Path(settings.output) / "cache")
    remembered = cache / "models.json"
    device = usable_device(settings.states_device) if settings.states_device else arguments.device
    dtype = getattr(torch, settings.states_dtype) if settings.states_dtype else stored_text_dtype(folder)
    if not settings.states_dtype and device.type == "cpu" and dtype == torch.float16:
        dtype = torch.float32  # half precision takes longer there
    text = digest_of_folders([folder / "text_encoder", folder / "tokenizer"], remembered)
    collator.states = TensorCache(cache / f"states-{str(dtype).removeprefix('torch.')}-{text[:16]}")
    captions = dict.fromkeys(caption for dataset in datasets for caption in dataset.texts())
    if settings.validation_prompts:
        captions |= dict.fromkeys([*settings.validation_prompts, settings.negative_prompt])

    def load():
        return load_part("text_encoder", folder, dtype=dtype)

    prepare_states(collator.states, captions, collator.reader, load, device, progress=True)
    if settings.latents_are_kept:
        collator.latents = TensorCache(cache / f"latents-{digest_of_folders([folder / 'vae'], remembered)[:16]}")
        vae = load_part("vae", folder, dtype=torch.float32)
        prepare_latents(collator.latents, datasets, vae, arguments.device, progress=True)


def _say_more(
    trainer: PaintTrainer, settings: PaintSettings, folder: Path, collator: PaintCollator, resolution: int
) -> None:
    """Adds the lines of progress, and pictures at every evaluation."""
    if trainer.args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(ProgressLines())
    if not settings.validation_prompts:
        return
    learner, optional = trainer.model, dict.fromkeys(VisCPMPaintPipeline._optional_components)
    painter = VisCPMPaintPipeline(
        tokenizer=None,
        text_encoder=None,
        text_projection=learner.text_projection,
        unet=learner.unet,
        vae=learner.vae or load_part("vae", folder, dtype=torch.float32),
        scheduler=load_part("scheduler", folder),
        requires_safety_checker=False,
        **optional,
    )
    painter.set_progress_bar_config(disable=True)
    trainer.add_callback(
        ShowPictures(
            trainer,
            painter,
            collator,
            settings.validation_prompts,
            settings.negative_prompt,
            settings.validation_seed,
            settings.validation_steps,
            settings.validation_guidance,
            resolution,
        )
    )


def _save(output: Path, learner: PaintLearner, settings: PaintSettings, folder: Path) -> None:
    """Writes the result aside, then puts it into its place: a repository's index last, without which it is none."""
    aside = output / _RESULT
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    if settings.mode == "lora":
        _write_lora(aside, learner, settings.model)
    else:
        _write_repository(aside, learner, folder, settings.model)
    (output / INDEX).unlink(missing_ok=True)
    for entry in sorted(aside.iterdir(), key=lambda entry: entry.name == INDEX):
        if (output / entry.name).is_dir():
            shutil.rmtree(output / entry.name)
        os.replace(entry, output / entry.name)
    aside.rmdir()


def _write_lora(aside: Path, learner: PaintLearner, model: str) -> None:
    from peft.utils import get_peft_model_state_dict

    options = {}
    for name in _TRAINED:
        part = getattr(learner, name)
        layers, config = get_peft_model_state_dict(part), part.peft_config["default"]
        # no more than any peft takes
        about = {"r": config.r, "lora_alpha": config.lora_alpha}
        about["target_modules"] = sorted({key.rpartition(".lora_")[0] for key in layers})
        options |= {f"{name}_lora_layers": layers, f"{name}_lora_adapter_metadata": about}
    VisCPMPaintPipeline.save_lora_weights(aside, **options)
    (aside / CARD).write_text(_LORA_CARD.format(Path(model).name), encoding="utf-8")


def _write_repository(aside: Path, learner: PaintLearner, folder: Path, model: str) -> None:
    """A copy of a repository with what was trained in the types that its weights had."""
    for path in _of_repository(folder):
        place = path.relative_to(folder)
        if place.parts[0] in _TRAINED and path.name.startswith(_WEIGHTS):
            continue
        (aside / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, aside / place)
    for name in _TRAINED:
        part, stored = getattr(learner, name), read_weights(folder / name, _WEIGHTS)
        for key, parameter in part.named_parameters():
            parameter.data = parameter.data.to(stored[key].dtype)
        part.save_pretrained(aside / f".{name}")
        for path in (aside / f".{name}").glob(f"{_WEIGHTS}*"):
            path.rename(aside / name / path.name)
        shutil.rmtree(aside / f".{name}")  # the configuration is still that of the repository
    card = aside / CARD
    if card.exists():
        name = Path(model).name
        text = card.read_text(encoding="utf-8") + _FULL_CARD.format(name, name)
        card.write_text(text, encoding="utf-8")
