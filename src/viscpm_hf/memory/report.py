"""Plans of memory for people: as a table and as a picture."""

import os
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from ..checkpoint.errors import printable
from ..checkpoint.files.sizes import shown
from .machine import Machine
from .plans import Plan, Workload
from .sizes import Model

_SPEEDS = {
    "cpu": {"memory": "RAM", "disk": "disk"},
    "cuda": {"gpu memory": "GPU memory", "link": "RAM to GPU", "pageable": "not page-locked", "disk": "disk"},
}
# of the bars, by what the memory holds
_COLOURS = {
    "language model": "#3b6fb6",
    "vision_tower": "#e08a2c",
    "connector": "#f2c14e",
    "text_projection": "#f2c14e",
    "unet": "#e08a2c",
    "vae": "#c0504d",
    "safety_checker": "#8a6fb0",
    "prompt_checker": "#a48cc4",
    "ranker": "#bfa9d8",
    "layers at work": "#3b6fb6",
    "KV cache": "#4f9d69",
    "activations": "#8fc7a2",
    "CUDA": "#8c8c8c",
    "libraries": "#8c8c8c",
    "vocabulary": "#a8a8a8",
    "kernels": "#c4c4c4",
    "repacking": "#d6d6d6",
}


def as_text(
    name: str, model: Model, machine: Machine, workload: Workload, plans: Sequence[Plan], taken: Plan | None
) -> str:
    """What the model consists of, what the predictions are for, a table of the plans, the one that is taken.

    Args:
        name (`str`): of the model, to be printed.
        model (`Model`), machine (`Machine`): what is loaded, and where.
        workload (`Workload`): what the predictions are for.
        plans (`list[Plan]`): all that there are.
        taken (`Plan`, *optional*): the one that fits.
    """
    block = model.parts["blocks"]
    sizes = {"language model": model.language_bytes()} | {part: model.parts[part].nbytes() for part in model.others()}
    speeds = [
        f"{word} {machine.speed(key) / 1e9:.3g} GB/s ({'measured' if key in machine.measured else 'assumed'})"
        for key, word in _SPEEDS[machine.device].items()
    ]
    gpu = ""
    if machine.device == "cuda":
        gpu = f", GPU of {shown(machine.device_memory)}" if machine.device_memory else ", no GPU here"
    if model.kind == "chat":
        unit, work = "token", f"{workload.prompt_tokens} tokens of prompt, {workload.new_tokens} of answer"
        work += f", {workload.beams} beams"
    else:
        unit, images = "image", workload.images_of(model)
        work = f"{images} of the model's own size at once, with guidance, {workload.steps} steps"
    lines = [
        f"{printable(str(name))}: " + ", ".join(f"{part} {shown(size)}" for part, size in sizes.items()),
        f"language model: {model.blocks} blocks of {shown(block.nbytes())}, stored in {_word(block.dtype)}",
        f"machine: {machine.device}, RAM of {shown(machine.ram)}{gpu}; {', '.join(speeds)}",
        f"work: {work}",
        "memory: predicted peak of the whole process; seconds: what moving bytes takes, arithmetic may take longer",
        "",
    ]
    rows = [["", "plan", "GPU", "RAM", f"s/{unit} at least", "s/prompt at least", "lossless"]]
    for plan in plans:
        ram = shown(plan.host_peak) + (f", {shown(plan.mapped)} of it pages of files" if plan.mapped else "")
        seconds = [f"{plan.seconds:.2g}", f"{plan.encode_seconds:.2g}"]
        marks = ["*" if plan is taken else "", "yes" if plan.lossless else "no"]
        rows.append([marks[0], plan.title, shown(plan.peak), ram, *seconds, marks[1]])
    if machine.device == "cpu":
        rows = [row[:2] + row[3:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if taken is not None:
        lines += ["", f"* would be taken: {taken.title}" + ("" if taken.lossless else ", which rounds weights")]
    return "\n".join(lines)


def _word(dtype):
    return str(dtype).removeprefix("torch.")


def draw(plans: Sequence[Plan], taken: Plan | None, budget: int | None, path: str | os.PathLike) -> None:
    """Draws a bar of memory by component for every plan, and a line at the budget.

    Args:
        plans (`list[Plan]`): all that there are, at least one.
        taken (`Plan`, *optional*): the one that fits.
        budget (`int`, *optional*): bytes.
        path (`str` or `Path`): of the picture to write.
    """
    left, top, row, width = 400, 50, 34, 1250
    bars = [dict(plan.device_memory or plan.host_memory) for plan in plans]
    parts = list(dict.fromkeys(part for bar in bars for part, size in bar.items() if size))
    most = max([plan.peak for plan in plans] + [budget or 0])
    scale = (width - left - 110) / most
    height = top + row * len(plans) + 40 + 24 * -(-len(parts) // 4)
    picture = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    what = "GPU memory" if plans[0].device_memory else "RAM of the process"
    pen.text((20, 15), f"{what} at the predicted peak; * would be taken", "black", font)
    for i, (plan, bar) in enumerate(zip(plans, bars, strict=True)):
        x, y = left, top + row * i
        pen.text((20, y + 5), ("* " if plan is taken else "   ") + plan.title, "black", font)
        for part in parts:
            end = x + bar.get(part, 0) * scale
            pen.rectangle((x, y + 3, end, y + row - 6), fill=_COLOURS.get(part, "#6b7a8f"))
            x = end
        pen.text((x + 8, y + 5), shown(plan.peak), "black", font)
    if budget:
        x, bottom = left + budget * scale, top + row * len(plans)
        pen.line((x, top - 8, x, bottom), "red", 2)
        pen.text((x - 30, bottom + 2), shown(budget), "red", font)
    for i, part in enumerate(parts):
        x, y = 20 + (width - 40) // 4 * (i % 4), top + row * len(plans) + 30 + 24 * (i // 4)
        pen.rectangle((x, y, x + 14, y + 14), fill=_COLOURS.get(part, "#6b7a8f"))
        pen.text((x + 22, y - 2), part.replace("_", " "), "black", font)
    picture.save(path, "PNG")
