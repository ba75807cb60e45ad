"""What verbs say on stderr: progress on a terminal, our warnings in a line each, nothing else."""

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
def plain_remarks() -> Iterator[None]:
    """Meanwhile our warnings are a line each, others are not shown, and no progress of the network goes to a pipe."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hidden = not is_terminal(sys.stderr) and not are_progress_bars_disabled()
    with quiet("huggingface_hub"), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = _told_once()
        if hidden:
            disable_progress_bars()
        try:
            yield
        finally:
            if hidden:
                enable_progress_bars()


@contextmanager
def only_ours() -> Iterator[None]:
    """Meanwhile libraries are silent, too, and progress of loading and denoising is for terminals only."""
    from transformers.utils import logging as transformers_logging

    with quiet(*_LIBRARIES, "viscpm_hf.safety"):
        from ..checkpoint.layout.diffusers_classes import diffusers_logging

        loggings = (transformers_logging, diffusers_logging)
        hidden = [each for each in loggings if each.is_progress_bar_enabled() and not is_terminal(sys.stderr)]
        for each in hidden:
            each.disable_progress_bar()
        try:
            yield
        finally:
            for each in hidden:
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
