"""Results that are kept line by line, so that a run that was killed goes on where it was."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..checkpoint.errors import CheckpointError, listed
from ..checkpoint.files.disk import read_small
from ..checkpoint.files.json_file import load_json, quoted, read_json_file
from ..checkpoint.files.staging import replace_bytes

LOCK = ".viscpm.lock"
MOST_BYTES = 512 << 20  # of a file of lines
PLACES, PLACE = 256, 4096  # of a weight file that are looked at, and bytes of each


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file.

    Raises:
        CheckpointError: there is no such file, or a line is no JSON object; it is named.
    """
    lines = read_small(path, MOST_BYTES).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [load_json(line, f"{path}, line {number},") for number, line in enumerate(lines, 1) if line.strip()]


def digest_of(value: Any) -> str:
    """The beginning of the SHA-256 of anything JSON can hold: the same for the same."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Makes a folder for results, and no other process may work in it meanwhile. It is removed if nothing came.

    Raises:
        CheckpointError: one does, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise CheckpointError(f"Another process is working in {folder}; wait for it or choose another.") from error
    except OSError as error:
        why = error.strerror or error
        raise CheckpointError(f"{folder} cannot be written to ({why}); choose another --output.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # it holds results
            if os.listdir(folder) == [LOCK]:
                os.unlink(folder / LOCK)  # before it is released: who waits for it must see that it is gone
                folder.rmdir()
        lock.release()


def require_settings(path: Path, settings: dict[str, Any], made: bool) -> None:
    """Writes down what results are made with, or stops where they were made with something else.

    Args:
        path: of a JSON file beside them.
        settings: what matters for them.
        made: whether there are results already.

    Raises:
        CheckpointError: they are of another run; the settings that differ are named.
    """
    if made:
        before = read_json_file(path) if path.exists() else {}
        settings = json.loads(json.dumps(settings))  # as they are read again
        other = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if not other:
            return
        changes = [f"{name} {quoted(before.get(name))}, now {quoted(settings.get(name))}" for name in other]
        raise CheckpointError(
            f"{path.parent} holds results of another run ({listed(changes, 4)}): choose another --output."
        )
    replace_bytes(path, (json.dumps(settings, ensure_ascii=False, indent=2) + "\n").encode())


class Journal:
    """A JSONL file whose lines are on the disk as soon as they are added.

    A last line that was being written when a run was killed is removed.

    Args:
        path (`Path`): the file; its settings are beside it.
        key (`str`): the field that tells rows apart.
        settings (`dict`): what the rows depend on.
        is_whole (*optional*): whether a row has what later steps take from it.

    Raises:
        CheckpointError: it is of another run, or damaged.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        settings: dict[str, Any],
        is_whole: Callable[[dict[str, Any]], bool] = lambda row: True,
    ):
        self.path, self.key = path, key
        found = path.read_bytes() if path.exists() else b""
        whole = found.rfind(b"\n") + 1
        if whole < len(found):
            with open(path, "r+b") as file:
                file.truncate(whole)
        rows = read_lines(path) if whole else []
        for row in rows:
            if not isinstance(row.get(key), str | int) or not is_whole(row):
                raise CheckpointError(
                    f"{path} has a line that no run writes ({quoted(row)}); remove it, or choose another --output."
                )
        self._settings = path.with_suffix(".settings.json")
        require_settings(self._settings, settings, bool(rows))
        self.rows = {row[key]: row for row in rows}
        self._file = open(path, "ab")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        if not self.rows:
            self.path.unlink()
            self._settings.unlink()

    def add(self, row: dict[str, Any]) -> None:
        """Adds a line, which counts instead of an earlier one with its key."""
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows[row[self.key]] = row

    def sort(self, keys: Iterable[Any]) -> Sequence[dict[str, Any]]:
        """Puts the lines into an order, those of no key in it last, and gives them back."""
        order = {key: number for number, key in enumerate(keys)}
        rows = sorted(self.rows.values(), key=lambda row: order.get(row[self.key], len(order)))
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        if self.path.read_bytes() != data:
            replace_bytes(self.path, data)
            self._file.close()
            self._file = open(self.path, "ab")
        return rows


def model_settings(model: str | Path, label: str | None = None) -> dict[str, Any]:
    """What tells a converted model apart from others in a file of settings.

    Args:
        model: folder or Hub repository.
        label: what it is called; by default its folder's name, or the repository.
    """
    folder = Path(model)
    if label is not None or not folder.is_dir():
        return {"model": label or str(model)}
    return {"model": folder.resolve().name, "weights": _fingerprint(folder)}


def _fingerprint(folder):
    """Of all weight files: names, sizes, and bytes at so many places that trained or quantized weights are others."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*.safetensors") if path.is_file()):
        size = path.stat().st_size
        found.update(f"{path.relative_to(folder).as_posix()} {size}".encode())
        with open(path, "rb") as file:
            for number in range(PLACES):
                file.seek(size * number // PLACES)
                found.update(file.read(PLACE))
    return found.hexdigest()
