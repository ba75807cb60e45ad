"""The one error a user can cause, and how the scripts report it."""

import signal
import sys
from collections.abc import Callable, Iterable


class CheckpointError(ValueError):
    """A file, a configuration or a folder is not what a conversion needs; the message is one sentence for the user."""


def listed(names: Iterable, limit: int = 10) -> str:
    """`a, b and 7 more`"""
    names = [str(name) for name in names]
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def run_script(command: Callable[[], int | None]) -> int:
    """Runs a script's body; what a user can cause becomes one line on stderr.

    Args:
        command: the body; what it returns is the exit code, None counting as 0.

    Returns:
        The exit code: 1 after an error, 130 after Ctrl-C, 128 + its number after another signal.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _terminate)
    try:
        return command() or 0
    except CheckpointError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
    except KeyboardInterrupt:
        print("error: interrupted; incomplete output was removed", file=sys.stderr)
        return 130
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    print("error:", " ".join(message.split()), file=sys.stderr)
    return 1


def _terminate(signum, frame):
    raise SystemExit(128 + signum)  # unwinds, so that half-written output is removed
