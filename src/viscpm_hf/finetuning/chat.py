"""Fine-tuning VisCPM-Chat from settings to a folder that can be used: what `viscpm finetune chat` does."""

import functools
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from safetensors import SafetensorError
from transformers import PrinterCallback, Seq2SeqTrainingArguments, set_seed

from ..checkpoint.merge import NOT_COPIED, copy_rest
from ..checkpoint.publishing import write_adapter_card
from ..checkpoint.repo import UNUSED
from ..remote_code.processing_viscpm_chat import VisCPMChatProcessor
from .callbacks import ProgressLines, ShowAnswers, say_what_is_trained
from .check import check_samples, sample_length
from .collator import ChatCollator
from .dataset import ChatDataset, ChatStream
from .distribution import require_asked_for
from .folder import LEFT_OUT, alone, begin, refuse_other, require_numbers_left, require_space_left
from .model import check_is_chat, frozen_dtype, load_full, load_lora, stored_dtype
from .settings import ChatSettings
from .trainer import ChatTrainer, resume_from
from .training_arguments import todays_names

_CARD = """
## Fine-tuned

These weights were fine-tuned from `{}` with `viscpm finetune chat`: what is said above of the original's weights does
not hold for them.

这些权重由 `{}` 经 `viscpm finetune chat` 微调得到，上文关于原版权重的说明对其不再适用。
"""


def finetune_chat(settings: ChatSettings, arguments: Seq2SeqTrainingArguments) -> Path:
    """Trains, from the last checkpoint in the output folder if there is one, and writes the result to its root.

    Args:
        settings, arguments: as `read_settings` makes them.

    Returns:
        The output folder: a converted repository of mode "full", else a peft adapter.

    Raises:
        ValueError: a model, data, an output folder or settings that cannot be used, in a sentence.
        ImportError: a library is missing.
    """
    output = Path(settings.output)
    require_asked_for(arguments)
    check_is_chat(settings.model)
    refuse_other(output, settings)
    processor = VisCPMChatProcessor.from_pretrained(settings.model)
    collator = ChatCollator(processor, settings.max_length, padding="longest")
    with warnings.catch_warnings(), ExitStack() as held:
        warnings.filterwarnings("ignore", "The prompt of .* oldest")  # of turns dropped, once for each sample
        with arguments.main_process_first(local=False, desc="reading data"):  # which `datasets` keeps for the others
            train, held_out = open_data(settings, collator, arguments)
        if arguments.should_save:
            held.callback(alone(output).release)
            begin(output, settings, train, held_out)
        set_seed(arguments.seed)  # of new LoRA layers
        with saying_what_is_smaller(settings, arguments, loading=True):
            model = load(settings, arguments)
            trainer = ChatTrainer(
                model,
                arguments,
                learning_rates=settings.learning_rates,
                decay_all=settings.decay_all,
                train_dataset=train,
                eval_dataset=held_out,
                data_collator=collator,
            )
        require_asked_for(arguments, trainer.accelerator.distributed_type)
        say_more(trainer, settings, processor, held_out)
        say_what_is_trained(trainer)
        with saying_what_is_smaller(settings, arguments):
            trainer.train(resume_from_checkpoint=resume_from(output))
            save(trainer, settings, processor)
    return output


def open_data(
    settings: ChatSettings, collator: ChatCollator, arguments: Seq2SeqTrainingArguments
) -> tuple[ChatDataset | ChatStream, ChatDataset | None]:
    """The samples to train on and those to evaluate with, all of them checked; a stream is as it is read."""
    size = collator.processor.image_processor.size["height"]
    options = {
        "language": settings.language,
        "captions": settings.captions,
        "min_side": round(size * 4 / 7) if settings.min_side is None else settings.min_side,
        "seed": arguments.seed,
        "strict": settings.strict,
    }
    varied = {**options, "augment_to": size if settings.augment else None}
    show, held_out = arguments.should_save, None
    if settings.eval_data:
        held_out = ChatDataset(settings.eval_data, settings.images, split=settings.eval_split, **options)
        check_samples(held_out, collator, progress=show)
    if not settings.streaming:
        train = ChatDataset(settings.data, settings.images, split=settings.split, **varied)
        check_samples(train, collator, progress=show)
        return hold_out(train, settings.eval_rows, arguments.seed) if settings.eval_rows else (train, held_out)
    # each process takes its share of the rows; to cut one's batches into pieces they would have to be equally long
    arguments.accelerator_config.dispatch_batches = False
    listing = Path(settings.output) / LEFT_OUT if arguments.should_save else None
    usable = functools.partial(sample_length, collator=collator)
    options = {**varied, "buffer": settings.buffer, "usable": usable, "listing": listing, "endless": True}
    return ChatStream(settings.data, settings.images, split=settings.split, **options), held_out


def hold_out(dataset: ChatDataset, rows: int, seed: int) -> tuple[ChatDataset, ChatDataset]:
    """Two parts of a data set, the second with so many of its rows, chosen by the seed.

    Args:
        dataset (`ChatDataset`): whole rows are held out, so that no picture is in both parts of it.
        rows (`int`): to hold out.
        seed (`int`): of the choice.
    """
    every = np.unique(dataset.places[:, :2], axis=0)
    if rows >= len(every):
        raise ValueError(f"Got {rows} as eval_rows, but there are only {len(every)} rows; some must be left to train.")
    chosen = every[np.random.default_rng(seed).permutation(len(every))[:rows]]
    held = set(map(tuple, chosen.tolist()))
    is_held = np.array([tuple(place) in held for place in dataset.places[:, :2].tolist()])
    parts = []
    for kept in (~is_held, is_held):
        part = dataset.copy()
        lengths = None if dataset.lengths is None else np.array(dataset.lengths)[kept].tolist()
        part.keep(kept, lengths)
        parts.append(part)
    parts[1].augment_to = None
    return parts[0], parts[1]


def load(settings: ChatSettings, arguments: Seq2SeqTrainingArguments) -> torch.nn.Module:
    """The model of the mode, on the device where a quantized one has to be."""
    dtype = frozen_dtype(settings.dtype, arguments.bf16, arguments.fp16)
    if settings.mode == "full":
        return load_full(settings.model, settings.tune_llm, settings.tune_vision, dtype)
    return load_lora(
        settings.model,
        dtype,
        quantized=settings.mode == "qlora",
        tune_vision=settings.tune_vision,
        r=settings.lora_r,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        targets=settings.lora_targets,
        device=arguments.device,
    )


@contextmanager
def saying_what_is_smaller(
    settings: ChatSettings, arguments: Seq2SeqTrainingArguments, loading: bool = False
) -> Iterator[None]:
    """Meanwhile a lack of memory, of a GPU's or of the machine's, is a ValueError with the next thing to try.

    A full disk is one, too, and a missing library of `report_to` an ImportError.

    Args:
        settings, arguments: of the run.
        loading (`bool`): whether the model is being loaded, which the batch does not matter for.
    """
    try:
        yield
    except (RuntimeError, MemoryError, SafetensorError) as error:
        require_space_left(error, settings.output)
        if "to be installed" in str(error):  # what --report_to asks for
            raise ImportError(str(error)) from error
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or should_reduce_batch_size(error)
        if not known and "out of memory" not in str(error):
            raise
        raise ValueError(
            f"Out of memory: {smaller(settings, arguments, loading)}; what fits, `viscpm fit` says with "
            f"--model {settings.model} --train {settings.mode}."
        ) from error


def smaller(settings: ChatSettings, arguments: Seq2SeqTrainingArguments, loading: bool = False) -> str:
    """The next thing to try where memory was not enough: what costs least first."""
    if arguments.per_device_train_batch_size > 1 and not loading:
        half = arguments.per_device_train_batch_size // 2
        steps = -(-arguments.gradient_accumulation_steps * arguments.per_device_train_batch_size // half)
        return (
            f"try --per_device_train_batch_size {half} --gradient_accumulation_steps {steps}, which learns the same "
            "from as many samples a step"
        )
    if not loading and not getattr(arguments, todays_names()["gradient_checkpointing"]):
        return "try --gradient_checkpointing, which computes part of it twice"
    if not arguments.bf16 and not arguments.fp16:
        return "try --bf16, or --fp16 where the GPU has no bfloat16"
    if settings.mode != "qlora":
        return f"try --mode {'lora' if settings.mode == 'full' else 'qlora'}"
    return "take a GPU with more memory" if loading else f"try --max_length {settings.max_length // 2}"


def say_more(
    trainer: ChatTrainer, settings: ChatSettings, processor: VisCPMChatProcessor, held_out: ChatDataset | None
) -> None:
    """Adds the lines of progress, and answers at every evaluation.

    Args:
        trainer (`ChatTrainer`): changed in place.
        settings (`ChatSettings`): of the run.
        processor (`VisCPMChatProcessor`): of the model.
        held_out (`ChatDataset`, *optional*): to evaluate with.
    """
    if trainer.args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(ProgressLines())
    if held_out is not None and settings.show_answers:
        trainer.add_callback(ShowAnswers(trainer, processor, held_out, settings.show_answers))


def save(trainer: ChatTrainer, settings: ChatSettings, processor: VisCPMChatProcessor) -> None:
    """Writes the result to the root of the output folder.

    A full model is in the type of the one it was made of, with everything that lies beside its weights; an adapter has
    the processor beside it, as `pipeline` looks for one there.

    Args:
        trainer (`ChatTrainer`): that has trained.
        settings (`ChatSettings`): of the run.
        processor (`VisCPMChatProcessor`): of the model.
    """
    output, model = Path(settings.output), trainer.accelerator.unwrap_model(trainer.model)
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):  # where parameters are pieces
        require_numbers_left(model, output)
    if settings.mode == "full":
        model.config.use_cache = True  # Trainer turns it off
        dtype = stored_dtype(settings.model)
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            model.config.dtype = dtype
        else:
            model.to(dtype)
    trainer.save_model(str(output))
    trainer.save_state()
    if trainer.args.should_save:
        if settings.mode == "full":
            _complete(output, settings.model)
        else:
            processor.save_pretrained(output)
            write_adapter_card(output, output, settings.model)


def _complete(output: Path, model_path: str) -> None:
    """Everything of the repository that was trained, but its weights and what is there already."""
    if not os.path.isdir(model_path):
        from huggingface_hub import snapshot_download

        model_path = snapshot_download(model_path, ignore_patterns=["model*.safetensors", "*.bin"])
    # the weights that are not read are those of the original still
    but = [name for name in NOT_COPIED if name != UNUSED]
    copy_rest(Path(model_path), output, [*but, "config.json"])
    card = output / "README.md"
    if card.exists():
        name = Path(model_path).name
        card.write_text(card.read_text(encoding="utf-8") + _CARD.format(name, name), encoding="utf-8")
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    original = json.loads((Path(model_path) / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = original.get("auto_map", config.get("auto_map"))
    (output / "config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
