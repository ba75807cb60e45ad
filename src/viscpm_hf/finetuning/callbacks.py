"""What is said while a model is trained: what is trained, loss and time left, answers to a few held-out questions."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..language import say
from ..remote_code.processing_viscpm_chat import VisCPMChatProcessor
from .dataset import ChatDataset


def say_what_is_trained(trainer: Trainer) -> None:
    """A line on stderr before the first step: parameters, device, types, processes; of several processes one says it.

    Args:
        trainer (`Trainer`): that is about to train, its model not yet spread over devices.
    """
    if not trainer.is_world_process_zero():
        return
    args, model = trainer.args, trainer.model
    if hasattr(model, "get_nb_trainable_parameters"):  # peft, which counts those of 4 bits, too
        trained, every = model.get_nb_trainable_parameters()
    else:
        sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
        trained, every = sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)
    types = sorted({_short(p.dtype) for p in model.parameters() if p.requires_grad})
    frozen = sorted({_short(p.dtype) for p in model.parameters() if not p.requires_grad})
    frozen = [] if frozen == types else frozen
    half = "bfloat16" if args.bf16 else "float16" if args.fp16 else None
    english = [f"training {trained:,} of {every:,} parameters ({trained / every:.2%}) on {args.device.type}"]
    chinese = [f"训练 {trained:,} / {every:,} 个参数（{trained / every:.2%}），设备 {args.device.type}"]
    english.append(f"in {', '.join(types)}" + (f" (frozen: {', '.join(frozen)})" if frozen else ""))
    chinese.append(f"类型 {'、'.join(types)}" + (f"（冻结部分 {'、'.join(frozen)}）" if frozen else ""))
    if half:
        english.append(f"products in {half}")
        chinese.append(f"以 {half} 计算")
    kind = trainer.accelerator.distributed_type.value
    english.append("one process" if args.world_size == 1 else f"{args.world_size} processes ({kind})")
    chinese.append("单进程" if args.world_size == 1 else f"{args.world_size} 个进程（{kind}）")
    print(say(", ".join(english), "，".join(chinese)), file=sys.stderr, flush=True)


def _short(dtype: torch.dtype) -> str:
    if dtype == torch.uint8:  # as bitsandbytes packs them
        return say("4 bits", "4 比特")
    return str(dtype).removeprefix("torch.")


class ProgressLines(TrainerCallback):
    """A line on stderr whenever Trainer logs: step, loss, learning rate, time left."""

    def __init__(self):
        self.begun = self.first = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begins to measure time; `args`, `state`, `control` as Trainer has them, `kwargs` for nothing here."""
        self.begun, self.first = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Prints the loss of training or evaluation, not the totals at the end.

        Args:
            args, state, control, kwargs: as Trainer has them.
            logs (`dict[str, float]`): what it logs.
        """
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        shown = {name: logs[name] for name in ("loss", "eval_loss", "grad_norm", "learning_rate") if name in logs}
        texts = [f"{name} {float(value):.4g}" for name, value in shown.items()]
        done = state.global_step - (self.first or 0)
        if done > 0 and "loss" in logs:
            seconds = (time.monotonic() - self.begun) / done * (state.max_steps - state.global_step)
            texts.append(f"{_clock(seconds)} left")
        print(f"step {state.global_step}/{state.max_steps}  {'  '.join(texts)}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


class ShowAnswers(TrainerCallback):
    """Answers a few held-out questions at every evaluation, greedily, into `answers.jsonl` and TensorBoard.

    A line on stderr says how many are the expected ones, letter for letter.

    Args:
        trainer: whose TensorBoard, if it has one, shows them too.
        processor (`VisCPMChatProcessor`): of the model.
        dataset (`ChatDataset`): held out.
        number (`int`): of samples, evenly spread.
    """

    def __init__(self, trainer: Any, processor: VisCPMChatProcessor, dataset: ChatDataset, number: int):
        self.trainer, self.processor = trainer, processor
        step = max(len(dataset) // number, 1)
        self.samples = [dataset[index] for index in range(0, len(dataset), step)][:number]

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds the answers of this step.

        Args:
            args, state, control, kwargs: as Trainer has them.
            model (`torch.nn.Module`): that is trained.
        """
        if not state.is_world_process_zero or args.world_size > 1:  # of several processes one alone would hang
            return
        answers = [self._answer(model, sample) for sample in self.samples]
        rows = [
            {
                "step": state.global_step,
                "question": sample.get("question", sample.get("input")),
                "expected": sample["answer"],
                "answer": answer,
                "right": answer.strip() == sample["answer"].strip(),
            }
            for sample, answer in zip(self.samples, answers, strict=True)
        ]
        with open(Path(args.output_dir) / "answers.jsonl", "a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        right, many = sum(row["right"] for row in rows), len(rows)
        english = (
            f"step {state.global_step}/{state.max_steps}  {right} of {many} answers as expected, see answers.jsonl"
        )
        chinese = f"step {state.global_step}/{state.max_steps}  {many} 个回答中 {right} 个与预期一致，见 answers.jsonl"
        print(say(english, chinese), file=sys.stderr, flush=True)
        for callback in self.trainer.callback_handler.callbacks:
            writer = getattr(callback, "tb_writer", None)
            if writer is not None:
                lines = [f"**{row['question']}**  \n{row['answer']}  \n(_{row['expected']}_)" for row in rows]
                writer.add_text("answers", "\n\n".join(lines), state.global_step)
                writer.add_scalar("eval/right_answers", right / many, state.global_step)

    @torch.no_grad()
    def _answer(self, model, sample):
        question = sample.get("question", sample.get("input"))
        inputs = self.processor(images=sample["image"], text=question, context=sample.get("context", ""))
        tables, length = inputs.ext_tables, inputs["input_ids"].shape[1]
        was_training = model.training
        model.eval()
        try:
            output = model.generate(**inputs.to(model.device), num_beams=1, length_penalty=1.0, max_new_tokens=64)
        finally:
            model.train(was_training)
        return self.processor.post_process_image_text_to_text(output[:, length:], ext_tables=tables)[0]
