"""New files in the place of old ones in a folder: all of them, or none."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import CheckpointError
from .json_file import quoted, read_json_file
from .staging import FULL

WORKSPACE, LOCK, MANIFEST = ".viscpm_refresh", "lock", "files.json"


@contextmanager
def workspace_of(folder: Path) -> Iterator[Path]:
    """A hidden folder in a folder, for one process at a time; it is gone when the block ends."""
    workspace = folder / WORKSPACE
    lock = FileLock(workspace / LOCK, timeout=0)
    try:
        workspace.mkdir(exist_ok=True)
        try:
            lock.acquire()
        except (Timeout, FileNotFoundError) as error:  # not found: it ended at this very moment
            raise CheckpointError(f"Another process is refreshing {folder}; wait for it and run again.") from error
        yield workspace
    except FileExistsError as error:
        raise CheckpointError(f"{workspace} is in the way; move it away.") from error
    except OSError as error:
        why = "make room and run again" if error.errno in FULL else "make it writable, or refresh a copy"
        raise CheckpointError(
            f"Could not write to {folder} ({error.strerror or error}); it is as it was: {why}."
        ) from error
    finally:
        if lock.is_locked:
            with suppress(OSError):
                if not (workspace / MANIFEST).exists():  # else it could not be undone, and the next run shall
                    for name in ("new", "old"):
                        shutil.rmtree(workspace / name, ignore_errors=True)
                (workspace / LOCK).unlink()  # before it is released: who waits for it must see that it is gone
            lock.release()
        with suppress(OSError):
            workspace.rmdir()


def exchange(folder: Path, workspace: Path, files: Mapping[str, bytes]) -> None:
    """Puts files in the place of others: all of them, or none.

    A run that is killed in between leaves a manifest, by which the next one undoes what it did.
    """
    for name, data in files.items():
        new, old, target = workspace / "new" / name, workspace / "old" / name, folder / name
        for path in (new, old):
            path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(data)
        if os.path.lexists(target):
            if target.is_file():
                shutil.copymode(target, new)
            shutil.copy2(target, old, follow_symlinks=False)
    try:
        _write_whole(
            workspace / MANIFEST, json.dumps({name: os.path.lexists(folder / name) for name in files}).encode()
        )
        for name in files:
            os.replace(workspace / "new" / name, folder / name)
        (workspace / MANIFEST).unlink()
    except BaseException:
        undo(folder, workspace)
        raise


def _write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def undo(folder: Path, workspace: Path) -> None:
    """Puts back what an exchange that did not end has moved, and removes what it left."""
    with suppress(OSError):
        (workspace / f"{MANIFEST}.partial").unlink()
    if (workspace / MANIFEST).exists():
        for name, was_there in read_json_file(workspace / MANIFEST).items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise CheckpointError(f"{workspace / MANIFEST} names {quoted(name)}; remove {workspace}.")
            if os.path.lexists(workspace / "old" / name):
                os.replace(workspace / "old" / name, folder / name)
            elif not was_there:
                (folder / name).unlink(missing_ok=True)
        (workspace / MANIFEST).unlink()
    for name in ("new", "old"):
        shutil.rmtree(workspace / name, ignore_errors=True)
