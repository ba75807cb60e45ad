"""`make docs`: pages of every public class and function, from their docstrings, into build/docs; no warning passes."""

import sys
import typing
import warnings
from importlib import import_module
from pathlib import Path

import pdoc

MODULES = (
    "viscpm_hf",
    "viscpm_hf.checkpoint",
    "viscpm_hf.finetuning",
    "viscpm_hf.memory.budget",
    "viscpm_hf.memory.calibration",
    "viscpm_hf.memory.packing",
    "viscpm_hf.memory.placement",
    "viscpm_hf.memory.plans",
    "viscpm_hf.memory.report",
    "viscpm_hf.memory.rounded_repository",
    "viscpm_hf.memory.sizes",
    "viscpm_hf.safety",
    "viscpm_hf.tiny",
)
# packages bring all that is in them
NOT_SHOWN = r"!viscpm_hf\.(tiny|checkpoint|finetuning)\..*"


def main() -> int:
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs")
    for name in MODULES:
        module = import_module(name)
        for public in getattr(module, "__all__", ()):
            value = getattr(module, public)
            setattr(module, public, value)  # pdoc does not see what is imported on first use
            # transformers writes the __init__ of a configuration, with names of its own module
            vars(sys.modules[getattr(value, "__module__", name)]).setdefault("Literal", typing.Literal)
    # the first page: pdoc itself links from there what can be imported from it
    sys.modules[MODULES[0]].__doc__ += "\n\nFurther pages:\n\n" + "\n".join(f"* `{name}`" for name in MODULES[1:])
    pdoc.render.configure(docformat="google")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.pdoc(*MODULES, NOT_SHOWN, output_directory=output)
    for warning in caught:
        print(f"error: {warning.message}", file=sys.stderr)
    print(f"{len(list(output.rglob('*.html')))} pages in {output}")
    return bool(caught)


if __name__ == "__main__":
    sys.exit(main())
