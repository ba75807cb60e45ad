"""What a verb that loads a model says on stderr: progress on a terminal, our warnings in a line each, nothing else."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ..language import printable
from ..libraries import quiet

# of libraries that talk of the machine, of what they lack, and of a configuration that is meant
_LIBRARIES = ("transformers", "diffusers", "torchao", "bitsandbytes", "accelerate", "torch", "torch.utils._pytree")


def is_terminal(stream) -> bool:
    """Whether somebody is at the other end of a standard file."""
    return stream is not None and stream.isatty()  # None: standard input that was closed before Python started


def tell(text: str) -> None:
    """Lines on stderr, fit for a terminal."""
    for line in text.split("\n"):
        print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def only_ours() -> Iterator[None]:
    """Meanwhile libraries are silent, our warnings are a line each, and progress bars are for terminals only."""
    from transformers.utils import logging as transformers_logging

    with quiet(*_LIBRARIES, "viscpm_hf.safety"), warnings.catch_warnings():
        from ..checkpoint.layout.diffusers_classes import diffusers_logging

        warnings.simplefilter("always")
        warnings.showwarning = _told_once()
        loggings = (transformers_logging, diffusers_logging)
        shown = [each for each in loggings if each.is_progress_bar_enabled()]
        if not is_terminal(sys.stderr):
            for each in shown:
                each.disable_progress_bar()
        try:
            yield
        finally:
            if not is_terminal(sys.stderr):
                for each in shown:
                    each.enable_progress_bar()


def _told_once():
    """What shows a warning, if it is ours and was not shown before; "once" of `warnings` is for a whole process."""
    told = set()

    def show(message, category, filename, lineno, file=None, line=None):
        frame = sys._getframe(1)  # not `filename`, which is whatever the caller's stack has at some height
        while frame and frame.f_globals.get("__name__") in ("warnings", "_py_warnings"):
            frame = frame.f_back
        ours = frame and frame.f_globals.get("__name__", "").startswith("viscpm_hf.")
        if ours and str(message) not in told:
            told.add(str(message))
            tell(f"warning: {' '.join(str(message).split())}")

    return show
