"""Plans of memory for people: as a table and as a picture."""

import os
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from rich.cells import cell_len

from ..checkpoint.files.sizes import shown
from ..language import is_chinese, printable, say
from .budget import fits
from .machine import Machine
from .plans import Plan, Workload
from .sizes import Model

_SPEEDS = {
    "cpu": {"memory": "RAM", "disk": "disk"},
    "cuda": {"gpu memory": "GPU memory", "link": "RAM to GPU", "pageable": "not page-locked", "disk": "disk"},
}
_YES = {True: ("yes", "是"), False: ("no", "否")}
_CHINESE = {  # what titles of plans, speeds and parts are made of
    "weights read from the files when needed": "用到时从磁盘读权重",
    "language model spread over GPU and RAM": "语言模型分布在 GPU 和内存",
    "language model streamed": "语言模型逐块加载",
    "8-bit language model": "语言模型 8 比特量化",
    "4-bit language model": "语言模型 4 比特量化",
    "language model": "语言模型",
    "all on the GPU": "全部在 GPU 上",
    "all in RAM": "全部在内存中",
    "all streamed": "全部逐块加载",
    ", checkers too": "，检查器也是",
    " and disk": "和磁盘",
    ", ": "，",
    "vision_tower": "视觉编码器",
    "connector": "连接层",
    "text_projection": "文本投影",
    "safety_checker": "图像安全检查器",
    "prompt_checker": "提示词检查器",
    "ranker": "重排序模型",
    "unet": "UNet",
    "vae": "VAE",
    "RAM to GPU": "内存到 GPU",
    "not page-locked": "未锁页内存到 GPU",
    "GPU memory": "显存",
    "RAM": "内存",
    "disk": "磁盘",
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
    name: str,
    model: Model,
    machine: Machine,
    workload: Workload,
    plans: Sequence[Plan],
    taken: Plan | None,
    budget: int | None = None,
    faster: Plan | None = None,
) -> str:
    """What the model consists of, what the predictions are for, a table of the plans, the one that is taken.

    Args:
        name (`str`): of the model, to be printed; the text is in the language of the locale.
        model (`Model`), machine (`Machine`): what is loaded, and where.
        workload (`Workload`): what the predictions are for.
        plans (`list[Plan]`): all that there are.
        taken (`Plan`, *optional*): the one that fits.
        budget (`int`, *optional*): bytes of the device; then every plan says whether it fits.
        faster (`Plan`, *optional*): what quantized weights would allow.
    """
    block = model.parts["blocks"]
    if model.kind == "chat":
        unit, (prompt, new, beams) = (
            say("token", "token"),
            (workload.prompt_tokens, workload.new_tokens, workload.beams),
        )
        work = say(
            f"{prompt} tokens of prompt, {new} of answer at most, {beams} beams",
            f"提示 {prompt} 个 token，回答最多 {new} 个，束宽 {beams}",
        )
    else:
        unit, images, steps = say("image", "张"), workload.images_of(model), workload.steps
        work = say(
            f"{images} of the model's own size at once, with guidance, {steps} steps",
            f"一次 {images} 张模型默认尺寸的图，使用引导，{steps} 步",
        )
    size, dtype = shown(block.nbytes()), str(block.dtype).removeprefix("torch.")
    speeds = say("; ", "；") + _speeds(machine)
    lines = [
        weighs(name, model),
        say(
            f"language model: {model.blocks} blocks of {size}, stored in {dtype}",
            f"语言模型：{model.blocks} 块，每块 {size}，以 {dtype} 存储",
        ),
        say("machine: ", "机器：") + of_machine(machine) + speeds,
        say(f"work: {work}", f"任务：{work}"),
        say("memory: predicted peak of the whole process", "内存：整个进程的预计峰值"),
        *_seconds_said(model, workload, plans),
        "",
    ]
    head = ["", "plan", "GPU", "RAM", "s/prompt", f"s/{unit}", "s/answer", "lossless"]
    chinese = ["", "方案", "显存", "内存", "秒/提示", f"秒/{unit}", "秒/回答", "无损"]
    rows = [[say(*both) for both in zip(head, chinese, strict=True)]]
    for plan in plans:
        ram = shown(plan.host_peak)
        if plan.mapped:
            pages = shown(plan.mapped)
            ram += say(f", {pages} of it pages of files", f"，其中 {pages} 是文件页")
        seconds = (plan.encode_seconds, plan.seconds, plan.answer_seconds)
        seconds = [("" if plan.measured else "≥ ") + _in_figures(each) for each in seconds]
        marks = ["*" if plan is taken else "", say(*_YES[plan.lossless])]
        rows.append([marks[0], _named(plan.title), shown(plan.peak), ram, *seconds, marks[1]])
    if model.kind == "paint":
        rows = [row[:-2] + row[-1:] for row in rows]
    if machine.device == "cpu":
        rows = [row[:2] + row[3:] for row in rows]
    if budget is not None:
        fitting = [say("fits", "放得下")] + [say(*_YES[fits(plan, machine, budget)]) for plan in plans]
        rows = [[*row, cell] for row, cell in zip(rows, fitting, strict=True)]
    lines += columns(rows)
    if taken is not None:
        rounded = "" if taken.lossless else say(", which quantizes weights", "（权重被量化）")
        lines += ["", say("* would be taken: ", "* 将采用：") + _named(taken.title) + rounded]
    if faster is not None:
        short, long = (_in_figures(plan.answer_seconds) for plan in (faster, taken))
        lines.append(
            say(
                f"faster, but lossy: --quantization {faster.method}, {short} s instead of {long}",
                f"更快但有损：--quantization {faster.method}，{short} 秒，而不是 {long} 秒",
            )
        )
    return "\n".join(lines)


def _in_figures(seconds):
    return f"{seconds:.2g}" if seconds < 99.5 else f"{seconds:.0f}"


def _seconds_said(model, workload, plans):
    """What the seconds are of, and where they come from."""
    answer, measured = workload.answer_tokens, [plan.measured for plan in plans]
    lines = []
    if model.kind == "chat":
        lines.append(
            say(
                f"answer: the prompt and {answer} tokens, once the weights are in memory",
                f"回答：提示加 {answer} 个 token，权重已在内存中",
            )
        )
    if any(measured):
        lines.append(
            say(
                "seconds: from products measured on this processor, and what moving bytes takes",
                "秒数：由本机实测的矩阵乘法和搬运数据的时间得出",
            )
        )
    if not all(measured):
        lines.append(
            say("≥ : what moving bytes takes, computing may take longer", "≥ ：只计搬运数据的时间，计算可能更久")
        )
    return lines


def weighs(name: str, model: Model) -> str:
    """A line with the sizes of a model's parts, as stored."""
    sizes = {"language model": model.language_bytes()} | {part: model.parts[part].nbytes() for part in model.others()}
    texts = [f"{_named(part)} {shown(size)}" for part, size in sizes.items()]
    return printable(str(name)) + say(": ", "：") + say(", ", "，").join(texts)


def of_machine(machine: Machine) -> str:
    """What a machine has."""
    ram, gpu = shown(machine.ram), ""
    if machine.device == "cuda" and machine.device_memory:
        gpu = say(f", GPU of {shown(machine.device_memory)}", f"，显存 {shown(machine.device_memory)}")
    elif machine.device == "cuda":
        gpu = say(", no GPU here", "，本机没有 GPU")
    return say(f"{machine.device}, RAM of {ram}{gpu}", f"{machine.device}，内存 {ram}{gpu}")


def _speeds(machine):
    measured, assumed = say("measured", "实测"), say("assumed", "假定")
    return say(", ", "，").join(
        f"{_named(word)} {machine.speed(key) / 1e9:.3g} GB/s"
        + say(" ({})", "（{}）").format(measured if key in machine.measured else assumed)
        for key, word in _SPEEDS[machine.device].items()
    )


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; a Chinese character takes two cells of a terminal."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _named(text: str) -> str:
    """The title of a plan or the name of a part, in the locale's language."""
    if is_chinese():
        for english, chinese in _CHINESE.items():
            text = text.replace(english, chinese)
    return text


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
