"""What fine-tuning needs of memory, for people: the way that is asked for, others beside it, and which of them fit."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..checkpoint.files.sizes import shown
from ..language import printable, say
from .machine import Machine
from .report import columns, of_machine, weighs
from .sizes import Model
from .training import Training, TrainingPlan, plan_training

BATCHES = 5  # of which each is twice the one before
_MODES = (("full", True, True), ("full", False, False), ("lora", False, False), ("qlora", False, False))


def training_plans(model: Model, machine: Machine, training: Training) -> list[TrainingPlan]:
    """The way that is asked for, with larger batches, without or with checkpointing, and the other modes."""
    ways = [replace(training, batch=training.batch * 2**number) for number in range(BATCHES)]
    ways.append(replace(training, checkpointing=not training.checkpointing))
    for mode, tune_llm, tune_vision in _MODES:
        other = replace(training, mode=mode, tune_llm=tune_llm, tune_vision=tune_vision)
        if (mode, tune_llm) != (training.mode, training.tune_llm):
            ways.append(other)
    return [plan_training(model, machine, way) for way in ways]


def smaller(plans: Sequence[TrainingPlan], budget: int) -> TrainingPlan | None:
    """Of ways that fit, the one which gives up least: the largest, with checkpointing where it has a choice."""
    fitting = [plan for plan in plans if plan.unmapped <= budget]
    return max(fitting, key=lambda plan: (plan.trained, plan.training.mode == "lora"), default=None)


def command(training: Training) -> str:
    """The options of `viscpm finetune chat` that mean this way."""
    words = [f"--mode {training.mode}"]
    words += ["--tune-llm"] * training.tune_llm + ["--tune-vision"] * training.tune_vision
    words.append(f"--per_device_train_batch_size {training.batch} --max_length {training.length}")
    words += ["--gradient_checkpointing"] * training.checkpointing
    words += {torch.bfloat16: ["--bf16"], torch.float16: ["--fp16"]}.get(training.dtype, [])
    return " ".join(words)


def as_text(name: str, model: Model, machine: Machine, plans: Sequence[TrainingPlan], budget: int) -> str:
    """What is trained, a table of the plans, and the largest batch that fits.

    Args:
        name (`str`): of the model, to be printed; the text is in the language of the locale.
        model (`Model`), machine (`Machine`): what is trained, and where.
        plans (`list[TrainingPlan]`): as `training_plans` makes them.
        budget (`int`): bytes.
    """
    asked, whole = plans[0], sum(model.parts[part].parameters for part in model.others()) + model.language_parameters
    dtype = str(asked.training.dtype).removeprefix("torch.")
    lines = [
        weighs(name, model),
        say("machine: ", "机器：") + of_machine(machine),
        say(
            f"training: {asked.training.length} tokens a sample, products in {dtype}, Adam; "
            f"{_count(asked.trained)} of {_count(whole)} weights are trained",
            f"训练：每个样本 {asked.training.length} 个 token，以 {dtype} 计算，Adam；"
            f"训练 {_count(whole)} 个权重中的 {_count(asked.trained)} 个",
        ),
        say(
            "memory: predicted peak of a step, of the whole process; of several GPUs, of each with DDP, "
            "which needs as much again for gradients",
            "内存：一步训练的预计峰值（整个进程）；多 GPU 用 DDP 时为每个 GPU 的峰值，另需同样大小的梯度缓冲",
        ),
        "",
    ]
    device = say("GPU", "显存") if machine.device == "cuda" else say("RAM", "内存")
    head = [("", ""), ("mode", "方式"), ("tuned", "训练部分"), ("batch", "批大小"), ("checkpointing", "重计算")]
    head += [("weights", "权重"), ("gradients, Adam", "梯度与 Adam"), ("states, logits", "中间结果"), (device, device)]
    head += [("RAM to load", "加载所需内存")] * (machine.device == "cuda") + [("fits", "放得下")]
    rows = [[say(*both) for both in head]]
    yes, no = say("yes", "是"), say("no", "否")
    for plan in plans:
        way, memory = plan.training, plan.memory
        tuned = [say("LLM", "语言模型")] * way.tune_llm + [say("vision", "视觉")] * way.tune_vision
        kept = memory["frozen weights"] + memory["trained weights"] + memory.get("repacking", 0)
        row = ["*" if plan is asked else "", way.mode, "+".join(tuned) or "–", str(way.batch)]
        row += [yes if way.checkpointing else no, shown(kept), shown(memory["gradients"] + memory["Adam"])]
        row += [shown(memory["saved states"] + memory.get("logits", 0)), shown(plan.peak)]
        row += [shown(plan.loading)] * (machine.device == "cuda") + [yes if plan.unmapped <= budget else no]
        rows.append(row)
    lines += columns(rows)
    larger = [plan for plan in plans[:BATCHES] if plan.unmapped <= budget]
    if larger:
        lines += [
            "",
            say("* is what was asked for; the largest batch that fits: ", "* 是所问的方式；放得下的最大批大小：")
            + f"viscpm finetune chat {command(larger[-1].training)}",
        ]
    return "\n".join(lines)


def refusal(name: str, plans: Sequence[TrainingPlan], budget: int) -> str | None:
    """A sentence if the way that is asked for does not fit, with what does."""
    asked = plans[0]
    if asked.unmapped <= budget:
        return None
    other = smaller(plans, budget)
    least = shown(min(plan.unmapped for plan in plans))
    hint = f"{command(other.training)} fits" if other else f"the least of these ways needs {least}"
    return (
        f"{shown(budget)} of memory is too little to train {printable(name)} so, which takes "
        f"{shown(asked.unmapped)}: {hint}."
    )


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"
