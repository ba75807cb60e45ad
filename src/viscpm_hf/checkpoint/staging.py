"""Output that appears only when it is complete."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import CheckpointError


def require_space(folder: Path, nbytes: int) -> None:
    """Stops when the disk of a folder, or of its nearest existing parent, has less than `nbytes` free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise CheckpointError(
            f"The output needs {nbytes / 1e9:.2f} GB but only {free / 1e9:.2f} GB are free at {folder}; make room or "
            "choose another place."
        )


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Gives a path to write a file or a folder to, which becomes `output` when the block ends well.

    Until then everything lies in a hidden folder beside `output`. It is removed when the block fails; if the process
    is killed, the next run to the same output finds it unlocked and removes it.

    Raises:
        CheckpointError: `output` exists, another process is writing it, or the disk is full.
    """
    refuse_existing(output)
    created = [folder for folder in output.parents if not folder.exists()]
    workspace = output.parent / f".{output.name}.partial"
    workspace.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise CheckpointError(f"Another process is writing {output}; wait for it or choose another output.") from error
    try:
        target = workspace / output.name
        if target.is_dir():  # left by a killed run
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        yield target
        refuse_existing(output)
        os.rename(target, output)
        created = []
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CheckpointError(
                f"Could not write {output} ({error.strerror}); nothing was left behind, so make room and run again."
            ) from error
        raise
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
        lock.release()
        with suppress(OSError):
            for folder in created:  # innermost first
                folder.rmdir()


def refuse_existing(output: Path) -> None:
    if os.path.lexists(output):
        raise CheckpointError(f"{output} exists already; remove it or choose another output.")
