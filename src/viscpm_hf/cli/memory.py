"""`viscpm fit` and `viscpm quantize`: what a model needs, and a copy that needs less."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..language import printable, say
from .options import Device, Dtype
from .program import verb


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "What a converted model needs of memory and what fits, before anything is loaded.",
            "加载之前，先看转换后的模型需要多少内存、哪种方式放得下。",
        )
    )(fit)
    app.command(
        help=say(
            "Copy a converted VisCPM-Paint with 4-bit weights, calibrated to prompts.",
            "把转换后的 VisCPM-Paint 另存为 4 比特量化的一份，按提示词校准。",
        )
    )(quantize)


@verb
def fit(
    model: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help=say("converted VisCPM-Chat or VisCPM-Paint", "转换后的 VisCPM-Chat 或 VisCPM-Paint")
        ),
    ],
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help=say("budget such as 8GB (default: all of the device's)", "预算，如 8GB（默认：设备的全部）"),
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    allow_lossy: Annotated[
        bool, typer.Option("--allow-lossy", help=say("also take plans that quantize weights", "也接受量化权重的方案"))
    ] = False,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="PNG",
            help=say("draw the plans' memory by component to this new file", "把各方案的内存按部件画到这个新文件"),
        ),
    ] = None,
) -> None:
    import torch

    from ..checkpoint.errors import CheckpointError
    from ..checkpoint.files.sizes import parse_size
    from ..checkpoint.files.staging import refuse_existing, staged
    from ..memory.budget import choose
    from ..memory.machine import default_device, this_machine
    from ..memory.plans import Workload, list_plans
    from ..memory.report import as_text, draw
    from ..memory.sizes import read_model

    picture = None if plot is None else Path(plot)
    if picture is not None:
        if picture.suffix.lower() != ".png":
            raise CheckpointError(f"Got {plot!r} as --plot, expected the name of a new picture, ending in .png.")
        refuse_existing(picture)
    budget = None if memory is None else parse_size(memory, "--memory")
    sizes, workload = read_model(model), Workload()
    machine = this_machine(device or default_device(), model)
    plans = list_plans(sizes, machine, budget, dtype and getattr(torch, dtype), workload)
    taken = refusal = None
    try:
        taken = choose(plans, machine, budget, allow_lossy, str(model))
    except ValueError as error:
        refusal = error
    print(as_text(model, sizes, machine, workload, plans, taken))
    if picture is not None:
        try:
            with staged(picture) as path:
                draw(plans, taken, budget, path)
        except OSError as error:  # which names a hidden file beside it
            raise CheckpointError(f"Could not write {plot!r} ({error.strerror or error}).") from error
        print(say("\nDrawn to", "\n已画入"), printable(plot))
    if refusal:
        sys.stdout.flush()
        raise refusal


@verb
def quantize(
    model: Annotated[Path, typer.Option(metavar="DIR", help=say("converted VisCPM-Paint", "转换后的 VisCPM-Paint"))],
    prompts: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help=say("texts like those to be painted, one a line", "与将要作画的提示词相似的文本，每行一条"),
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help=say("folder to create", "要创建的文件夹"))],
    samples: Annotated[int, typer.Option(metavar="N", help=say("prompts to draw from it", "从中抽取的条数"))] = 128,
    device: Device = None,
) -> None:
    from ..memory.calibration_inputs import read_prompts
    from .remarks import only_ours

    texts = read_prompts(prompts, samples)
    with only_ours():
        from ..memory.calibration import quantize_paint

        written = quantize_paint(model, texts, output, device)
    print(say("Written:", "已写入："), printable(str(written)))
