"""A command as a program: signals, standard files, errors in one line, exit codes."""

import functools
import os
import signal
import sys
from collections.abc import Callable

from ..libraries import register


def verb(function: Callable[..., int | None]) -> Callable[..., int]:
    """Decorator of a verb: its body is run as `run_script` does, and what it gives is the exit code."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        return run_script(lambda: function(*args, **kwargs))

    return run


def run_script(command: Callable[[], int | None]) -> int:
    """Runs a command's body; what a user can cause becomes one line on stderr.

    Args:
        command: the body; what it returns is the exit code, None counting as 0.

    Returns:
        The exit code: 1 after an error, 130 after Ctrl-C, 128 + its number after another signal.
    """
    _fill_standard_files()
    register()
    handlers = {signal.SIGINT: _interrupt}
    handlers |= {getattr(signal, name): _terminate for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)}
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if before[number] is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, handler)
    stdout, output = sys.stdout, _Output(sys.stdout)
    sys.stdout = output
    code, message = 1, None
    try:
        code = command() or 0
    except (ValueError, ImportError) as error:
        message = str(error)
    except OSError as error:
        message = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
    except MemoryError:
        message = "out of memory"
    except KeyboardInterrupt:
        code, message = 130, "interrupted; incomplete output was removed"
    finally:
        output.flush()
        sys.stdout = stdout
        for number, handler in before.items():
            signal.signal(number, handler)
    if output.error is not None and not isinstance(output.error, BrokenPipeError):  # a reader may have enough
        code, message = code or 1, message or f"the output could not be printed ({output.error})"
    if message is not None:
        from ..checkpoint.errors import printable  # late: it brings libraries that take seconds to import

        _complain(printable(" ".join(message.split())))
    return code


def _terminate(signum, frame):
    signal.signal(signum, signal.SIG_IGN)  # once is enough, and nothing should disturb the cleaning up
    raise SystemExit(128 + signum)  # unwinds, so that half-written output is removed


def _interrupt(signum, frame):
    signal.signal(signum, signal.SIG_IGN)
    raise KeyboardInterrupt


class _Output:
    """Standard output that never stops the work: a full disk or a reader that is gone is remembered instead."""

    def __init__(self, stream):
        self.stream, self.error = stream, None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # not every terminal has every character

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        if self.stream is not None and self.error is None:  # None: closed before Python started
            self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        if self.stream is not None and self.error is None:
            self._try(self.stream.flush)

    def _try(self, action: Callable) -> None:
        try:
            action()
        except OSError as error:
            self.error = error
            # what is left in the stream's buffer would fail again when Python ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def _complain(message: str) -> None:
    try:
        if sys.stderr is not None:
            print("error:", message, file=sys.stderr, flush=True)
    except OSError:
        pass  # there is no other place to say it


def _fill_standard_files() -> None:
    """Opens what was closed of input, output and errors: else a library's remark could end up in a file we write."""
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
