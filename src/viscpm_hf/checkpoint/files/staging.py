"""Output that appears only when it is complete."""

import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import CheckpointError
from .sizes import shown

LOCK, CONTENTS = "viscpm_hf.lock", "output"  # all that a folder of ours holds
MOST_BYTES = 255 - len("..partial")  # of a name, of which file systems take 255
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def require_space(folder: Path, nbytes: int) -> None:
    """Stops when the disk of a folder, or of its nearest existing parent, has less than `nbytes` free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise CheckpointError(
            f"The output needs {shown(nbytes)} but only {shown(free)} are free at {folder}; make room or choose "
            "another place."
        )


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Gives a path to write a file or a folder to, which becomes `output` when the block ends well.

    Until then everything lies in a hidden folder beside `output`, which a lock file marks as ours. It is removed when
    the block fails; if the process is killed, the next run to the same output finds it unlocked and removes it.

    Raises:
        CheckpointError: `output` exists, another process is writing it, something that is not ours lies in the way, or
            the disk is full.
    """
    refuse_existing(output)
    workspace = output.parent / f".{_shortened(output.name)}.partial"
    lock, target, spare = FileLock(workspace / LOCK, timeout=0), workspace / CONTENTS, []
    created = [folder for folder in output.parents if not folder.exists()]  # innermost first
    try:
        try:
            workspace.mkdir(parents=True)
        except FileExistsError:
            with suppress(FileNotFoundError):  # it ended right now; the lock makes its folder anew
                _require_ours(workspace)
        created.insert(0, workspace)
        try:
            lock.acquire()
        except (Timeout, FileNotFoundError) as error:  # not found: it ended at this very moment
            raise CheckpointError(
                f"Another process is writing {output}; wait for it or choose another output."
            ) from error
        # removing a folder opens files, also where too many open files were the reason to stop
        spare += [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
        refuse_existing(output)  # whoever had the lock before may have finished
        _remove(target)  # left by a killed run
        yield target
        refuse_existing(output)
        os.rename(target, output)
        del created[1:]
    except OSError as error:
        if error.errno in FULL:
            raise CheckpointError(
                f"Could not write {output} ({error.strerror}); nothing was left behind, so make room and run again."
            ) from error
        hidden = str(error.filename or "").startswith(str(workspace))  # a source may be forbidden, too
        if error.errno == errno.EROFS or (error.errno == errno.EACCES and hidden):
            raise CheckpointError(f"Could not write {output} ({error.strerror}); choose another output.") from error
        raise
    finally:
        for number in spare:
            os.close(number)
        if lock.is_locked:
            with suppress(OSError):
                _remove(target)
                (workspace / LOCK).unlink()  # before it is released: who waits for it must see that it is gone
            lock.release()
        with suppress(OSError):
            for folder in created:
                folder.rmdir()


def refuse_existing(output: Path, source: Path | None = None) -> None:
    """CheckpointError if there is something, be it a link to nothing; OSError if nothing can ever be there.

    Args:
        output: what is to be written.
        source: folder that is read or copied meanwhile, of which it must not become a part.
    """
    if source is not None and output.absolute().parent.resolve().is_relative_to(source.resolve()):
        raise CheckpointError(f"{output} is inside of {source}, which it is made of; choose an output elsewhere.")
    try:
        os.lstat(output)
    except (FileNotFoundError, NotADirectoryError):
        return
    raise CheckpointError(f"{output} exists already; remove it or choose another output.")


def _shortened(name: str) -> str:
    """A file's name, or another for it that leaves room for some more characters."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= MOST_BYTES else f"{name[:40]}.{hashlib.sha256(encoded).hexdigest()[:16]}"


def _require_ours(workspace: Path) -> None:
    """Stops unless a folder is of another run, over or not; it is empty if that was killed as it began or ended.

    Raises:
        CheckpointError: it is a link, or holds something without our mark.
    """
    is_folder = stat.S_ISDIR(workspace.lstat().st_mode)
    if is_folder and not os.listdir(workspace):
        time.sleep(0.1)  # perhaps it was made right now and will be marked
    names = os.listdir(workspace) if is_folder else []
    marked = LOCK in names and stat.S_ISREG((workspace / LOCK).lstat().st_mode)
    if not is_folder or names and not marked:
        raise CheckpointError(
            f"{workspace} is in the way and was not made here; move it away, or choose another output."
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_bytes(path: Path, data: bytes) -> None:
    """Writes a file such that, whenever the process ends, all of it is there or nothing."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
