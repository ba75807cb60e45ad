"""Imports without the remarks that optional libraries make on the machine, and without a traceback after Ctrl-C."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = {"viscpm", "convert_chat", "convert_cpmbee", "convert_paint", "export_original", "push_to_hub", "verify"}


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Only errors of these loggers are shown meanwhile; afterwards they are as they were.

    Args:
        names: of the loggers.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_program() -> bool:
    """Whether this process is one of our commands; while its package is imported `python -m` says no more than -m."""
    name = Path(getattr(sys, "argv", [""])[0]).stem
    return name in PROGRAMS or (name == "-m" and "viscpm_hf.cli" in sys.orig_argv)


def _leave(signum, frame):
    os.write(2, b"error: interrupted\n")
    os._exit(130)


# Libraries take seconds to import, with nothing to clean up, and some swallow what is raised meanwhile. Where the work
# of a command begins, run_script takes over.
if (
    _is_program()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _leave)
