"""The `viscpm` command; each verb imports what it needs, so that `viscpm --help` does not."""

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: of the command line, without the program's name.

    Returns:
        The exit code: 0, 1 after an error, 2 for a command line that means nothing.
    """
    parser = argparse.ArgumentParser(prog="viscpm", description="VisCPM on today's transformers and diffusers.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    about = "what a converted model needs of memory and what fits, before anything is loaded"
    verb = verbs.add_parser("fit", help=about, description=about[0].upper() + about[1:] + ".")
    verb.add_argument("--model", required=True, metavar="DIR", help="converted VisCPM-Chat or VisCPM-Paint")
    verb.add_argument("--memory", metavar="SIZE", help="budget such as 8GB (default: all of the device's)")
    verb.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if there is a GPU")
    verb.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="default: as the classes load it")
    verb.add_argument("--allow-lossy", action="store_true", help="also take plans that round weights")
    verb.add_argument("--plot", metavar="PNG", help="draw the plans' memory by component to this new file")
    verb.set_defaults(run=fit)
    about = "copy a converted VisCPM-Paint with 4-bit weights, rounded so that prompts keep their meaning"
    verb = verbs.add_parser("quantize", help=about, description=about[0].upper() + about[1:] + ".")
    verb.add_argument("--model", required=True, metavar="DIR", help="converted VisCPM-Paint")
    verb.add_argument("--prompts", required=True, metavar="FILE", help="texts like those to be painted, one a line")
    verb.add_argument("--output", required=True, metavar="DIR", help="folder to create")
    verb.add_argument("--samples", type=int, default=128, metavar="N", help="prompts to draw from it (default: 128)")
    verb.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if there is a GPU")
    verb.set_defaults(run=quantize)

    from .program import run_script

    def command():
        args = parser.parse_args(arguments)
        args.run(args)

    return run_script(command)


def fit(args):
    """`viscpm fit`: prints every plan, and which one would be taken."""
    from pathlib import Path

    import torch

    from ..checkpoint.errors import CheckpointError, printable
    from ..checkpoint.files.sizes import parse_size
    from ..checkpoint.files.staging import refuse_existing, staged
    from ..memory.budget import choose
    from ..memory.machine import default_device, this_machine
    from ..memory.plans import Workload, list_plans
    from ..memory.report import as_text, draw
    from ..memory.sizes import read_model

    plot = None if args.plot is None else Path(args.plot)
    if plot is not None:
        if plot.suffix.lower() != ".png":
            raise CheckpointError(f"Got {args.plot!r} as --plot, expected the name of a new picture, ending in .png.")
        refuse_existing(plot)
    budget = None if args.memory is None else parse_size(args.memory, "--memory")
    model, workload = read_model(args.model), Workload()
    machine = this_machine(args.device or default_device(), args.model)
    plans = list_plans(model, machine, budget, args.dtype and getattr(torch, args.dtype), workload)
    taken = refusal = None
    try:
        taken = choose(plans, machine, budget, args.allow_lossy, args.model)
    except ValueError as error:
        refusal = error
    print(as_text(args.model, model, machine, workload, plans, taken))
    if plot is not None:
        with staged(plot) as path:
            draw(plans, taken, budget, path)
        print(f"\nDrawn to {printable(str(plot))}")
    if refusal:
        sys.stdout.flush()
        raise refusal


def quantize(args):
    """`viscpm quantize`: writes a repository."""
    from ..checkpoint.errors import printable
    from ..memory.calibration import quantize_paint
    from ..memory.calibration_inputs import read_prompts

    prompts = read_prompts(args.prompts, args.samples)
    print(f"Written: {printable(str(quantize_paint(args.model, prompts, args.output, args.device)))}")


if __name__ == "__main__":
    sys.exit(main())
