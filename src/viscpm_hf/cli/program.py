"""A command as a program: signals, standard files, errors in one line, exit codes."""

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..language import printable, shortened
from ..libraries import register
from .remarks import plain_remarks


def verb(function: Callable[..., int | None]) -> Callable[..., Callable[[], int | None]]:
    """Decorator of a verb: calling it gives its body, which `main` runs once the command line has been read."""

    @functools.wraps(function)
    def remember(*args, **kwargs):
        return plain_remarks()(functools.partial(function, *args, **kwargs))

    return remember


def run_script(command: Callable[[], int | None]) -> int:
    """Runs a command's body; what a user can cause becomes one line on stderr.

    Args:
        command: the body; what it returns is the exit code, None counting as 0.

    Returns:
        The exit code: 1 after an error, 130 after Ctrl-C, 128 + its number after another signal.
    """
    fill_standard_files()
    register()
    handlers = {signal.SIGINT: _interrupt}
    handlers |= {getattr(signal, name): _terminate for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)}
    before = {number: signal.getsignal(number) for number in handlers}
    dropped, sys.unraisablehook = sys.unraisablehook, _again
    for number, handler in handlers.items():
        if before[number] is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, handler)
    code, message = 1, None
    with guarded_output() as output:
        try:
            code = command() or 0
        except (ValueError, ImportError) as error:
            message = str(error)
        except OSError as error:
            message = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
            code = getattr(error, "exit_code", 1)
        except MemoryError:
            message = "out of memory"
        except KeyboardInterrupt:
            code, message = 130, "interrupted; incomplete output was removed"
        finally:
            output.flush()
            sys.unraisablehook = dropped
            for number, handler in before.items():
                signal.signal(number, handler)
    return output.exit_code(code) if message is None else complain(message, code)


def complain(message: str, code: int) -> int:
    """Says what went wrong, in one line on stderr, and gives the exit code back."""
    line = shortened(printable(" ".join(message.split())))
    try:
        print("error:", line, file=sys.stderr, flush=True)
    except OSError:
        pass  # there is no other place to say it
    return code


def _terminate(signum, frame):
    signal.signal(signum, signal.SIG_IGN)  # once is enough, and nothing should disturb the cleaning up
    raise SystemExit(128 + signum)  # unwinds, so that half-written output is removed


def _interrupt(signum, frame):
    signal.signal(signum, signal.SIG_IGN)
    raise KeyboardInterrupt


def _again(unraisable):
    """A signal that came in a callback of the interpreter, as importlib has them, where what it raises is dropped."""
    match unraisable.exc_value:
        case KeyboardInterrupt():
            number, handler = signal.SIGINT, _interrupt
        case SystemExit(code=int(code)) if code > 128:
            number, handler = code - 128, _terminate
        case _:
            return sys.__unraisablehook__(unraisable)
    signal.signal(number, handler)
    # once this callback is over, too
    threading.Timer(0.1, signal.pthread_kill, [threading.main_thread().ident, number]).start()


@contextmanager
def guarded_output() -> Iterator["_Output"]:
    """Standard output that never stops the work: a full disk or a reader that is gone is remembered instead."""
    stdout = sys.stdout
    output = sys.stdout = _Output(stdout)
    try:
        yield output
    finally:
        output.flush()
        sys.stdout = stdout


class _Output:
    def __init__(self, stream):
        self.stream, self.error = stream, None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # not every terminal has every character

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def exit_code(self, code: int) -> int:
        """That of a command which went well otherwise; a reader may have enough."""
        if self.error is None or isinstance(self.error, BrokenPipeError):
            return code
        return complain(f"the output could not be printed ({self.error})", code or 1)

    def _try(self, action: Callable) -> None:
        if self.error is not None:
            return
        try:
            action()
        except OSError as error:
            self.error = error
            # what is left in the stream's buffer would fail again when Python ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def fill_standard_files() -> None:
    """Opens what was closed of input, output and errors: else a library's remark could end up in a file we write."""
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before Python started
            setattr(sys, name, open(os.devnull, "w"))
