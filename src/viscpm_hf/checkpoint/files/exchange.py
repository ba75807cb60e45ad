"""New files in the place of old ones in a folder: all of them, or none."""

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from ..errors import CheckpointError
from .json_file import quoted, read_json_file
from .staging import FULL

WORKSPACE, LOCK, MANIFEST = ".viscpm_refresh", "lock", "files.json"
SMALL = ("*.json", "*.py", "*.txt", "*.jinja", "*.md")  # files that may be exchanged, which weights are not


@contextmanager
def workspace_of(folder: Path) -> Iterator[Path]:
    """A hidden folder in a folder, for one process at a time; it is gone when the block ends."""
    workspace = folder / WORKSPACE
    lock = FileLock(workspace / LOCK, timeout=0)
    try:
        workspace.mkdir(exist_ok=True)
        _refuse_foreign(workspace)
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
    """Puts back what an exchange that did not end has moved, and removes what it left.

    Raises:
        CheckpointError: the manifest names what no exchange writes, as one that came with a download may; nothing was
            done then.
    """
    manifest = workspace / MANIFEST
    if manifest.exists():
        names = read_json_file(manifest)
        for name, was_there in names.items():
            if not isinstance(was_there, bool) or not _may_be_written(folder, workspace, name):
                raise CheckpointError(f"{manifest} names {quoted(name)}, which no refresh writes; remove {workspace}.")
        for name, was_there in names.items():
            if os.path.lexists(workspace / "old" / name):
                os.replace(workspace / "old" / name, folder / name)
            elif not was_there:
                (folder / name).unlink(missing_ok=True)
        manifest.unlink()
    with suppress(OSError):
        (workspace / f"{MANIFEST}.partial").unlink()
    for name in ("new", "old"):
        shutil.rmtree(workspace / name, ignore_errors=True)


def _may_be_written(folder: Path, workspace: Path, name: str) -> bool:
    """Whether a name is that of a small file in a folder or a part of it, reached by no link."""
    path = PurePosixPath(name)
    if not name.isprintable() or path.as_posix() != name or path.is_absolute() or len(path.parts) > 2:
        return False
    if {"..", WORKSPACE} & set(path.parts) or name.endswith(".index.json") or not any(map(path.match, SMALL)):
        return False
    places = (folder, workspace / "old")
    part = path.parts[-2:-1]  # none for a file of the folder itself, which may be given as a link
    return all(_mode(place.joinpath(*part)) in (None, stat.S_IFDIR) for place in places if part) and all(
        _mode(place / name) != stat.S_IFDIR for place in places
    )


def _mode(path: Path) -> int | None:
    """What a path is, links not followed; None if there is nothing."""
    return stat.S_IFMT(path.lstat().st_mode) if os.path.lexists(path) else None


def _refuse_foreign(workspace: Path) -> None:
    """Stops where a link or a pipe lies where a run keeps its lock and its files: it would be written to."""
    kinds = {LOCK: stat.S_IFREG, MANIFEST: stat.S_IFREG, f"{MANIFEST}.partial": stat.S_IFREG}
    kinds |= {"": stat.S_IFDIR, "new": stat.S_IFDIR, "old": stat.S_IFDIR}
    for name, kind in kinds.items():
        with suppress(FileNotFoundError):  # another run has just removed it
            if _mode(workspace / name) not in (None, kind):
                raise CheckpointError(f"{workspace / name} was not made by a refresh; remove {workspace}.")
