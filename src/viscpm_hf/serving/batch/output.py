"""The file of answers: one line for each row of the input, in order, each there once, whatever stops the run."""

import errno
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...checkpoint.errors import CheckpointError
from ...checkpoint.files.disk import open_regular
from ...checkpoint.files.json_file import quoted, read_json_file
from ...checkpoint.files.staging import replace_bytes
from .rows import Result, Row

GIVEN = "input"  # under it, in a line, is what the row has under names that the answer needs


class Output:
    """A file of JSON lines: each has the fields of its row, and what came of it.

    What changes answers is kept in a file beside it, so that a run goes on only as it was begun.

    Args:
        path (`Path`): of the file.
        names (`Collection[str]`): of the fields that tell what came of a row.
        settings (`dict`): that change answers, by name; for JSON.
        pictures (`Path`, *optional*): folder for pictures.

    Attributes:
        answered, failed (`int`): how many rows there are by now.
    """

    def __init__(self, path: Path, names: Collection[str], settings: Mapping[str, Any], pictures: Path | None = None):
        self.path, self.pictures, self._settings = path.absolute(), pictures and pictures.absolute(), dict(settings)
        self.answered = self.failed = 0
        self._names = {*names, "error", GIVEN}
        self._settings_path = self.path.with_name(f"{path.name}.settings.json")
        self._file = None

    @contextmanager
    def opened(self, overwrite: bool = False) -> Iterator["Output"]:
        """Locks it, and makes it if it is not there; it is removed again if nothing was written.

        Args:
            overwrite: whether to begin anew, whatever is there.

        Raises:
            CheckpointError: another process has it, it was begun with other settings or by somebody else, or nothing
                can be written there.
        """
        if self.path.name == "-":  # which --input takes, as most programs do
            raise CheckpointError("Got - as --output: what goes on after it was stopped needs a file, so name one.")
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0)
        folders = [*([self.pictures, *self.pictures.parents] if self.pictures else []), *self.path.parents]
        created = [folder for folder in folders if not folder.exists()]  # of each the innermost first
        try:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                self._begin(overwrite)
            except Timeout as error:
                raise CheckpointError(
                    f"Another process is writing {self.path}: wait for it, or choose another --output."
                ) from error
            except (FileExistsError, NotADirectoryError) as error:
                raise CheckpointError(f"{error.filename} is not a folder: choose another --output.") from error
            except OSError as error:
                raise CheckpointError(
                    f"{error.filename or self.path} cannot be written to ({error.strerror}): choose another --output."
                ) from error
            with self._file:
                yield self
        finally:
            with suppress(OSError):
                if self._file is not None and not self.path.stat().st_size:
                    self.path.unlink()
                    self._settings_path.unlink()
            if lock.is_locked:
                with suppress(OSError):
                    os.unlink(lock.lock_file)  # before it is released: who waits for it must see that it is gone
                lock.release()
            for folder in created:
                with suppress(OSError):
                    folder.rmdir()

    def skip(self, rows: Iterator[Row]) -> None:
        """Takes from the rows those that are there, and cuts off a line that a killed run left unfinished.

        Raises:
            CheckpointError: a line is not of its row.
        """
        end = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                row = next(rows, None)
                if row is None:
                    raise self._refusal(f"has more lines than the input has rows, which are {number - 1}")
                try:
                    found = json.loads(line)
                    own = {name: value for name, value in found.items() if name not in self._names}
                    own |= found.get(GIVEN, {})
                except (ValueError, AttributeError, TypeError) as error:
                    raise self._refusal(f"has something else than an answer in line {number}") from error
                if own != row.fields:
                    raise self._refusal(f"is of another input: row {number} differs")
                self._count(found)
                end += len(line)
        self._file.truncate(end)

    def add(self, row: Row, result: Result) -> None:
        """Writes what came of the next row; when this returns it is on the disk.

        Raises:
            CheckpointError: nothing can be written any more, as on a full disk; the file is as before.
        """
        given = {name: value for name, value in row.fields.items() if name in self._names}
        found = {name: value for name, value in row.fields.items() if name not in given}
        found |= {GIVEN: given} if given else {}
        end = os.fstat(self._file.fileno()).st_size
        try:
            if result.picture is not None:
                found["file"] = self._save(row.number, result.picture)
            found |= result.fields
            data = memoryview((json.dumps(found, ensure_ascii=False) + "\n").encode())
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            raise CheckpointError(
                f"Could not write {error.filename or self.path} ({error.strerror}): see to it and give the same "
                "command again, which goes on."
            ) from error
        self._count(found)

    def _begin(self, overwrite):
        exists = os.path.lexists(self.path)
        if exists:
            open_regular(self.path).close()
        if exists and self.path.stat().st_size and not overwrite:
            self._require_same_settings()
            self._make_folder()
            self._file = open(self.path, "ab", buffering=0)
            return
        if self.pictures is not None and not overwrite and self.pictures.is_dir() and any(self.pictures.iterdir()):
            raise CheckpointError(
                f"{self.pictures} holds something already: choose another --pictures, or replace what has the same "
                "name there with --overwrite."
            )
        self._make_folder()
        self._file = open(self.path, "ab", buffering=0)
        self._file.truncate(0)
        text = json.dumps(self._settings, ensure_ascii=False, indent=2) + "\n"
        replace_bytes(self._settings_path, text.encode())

    def _make_folder(self):
        """Of pictures: before a model is loaded in vain."""
        if self.pictures is None:
            return
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            if not os.access(self.pictures, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.pictures))
        except OSError as error:
            raise CheckpointError(
                f"{self.pictures} is no folder that can be written to ({error.strerror}): choose another --pictures."
            ) from error

    def _require_same_settings(self):
        if not os.path.lexists(self._settings_path):
            raise self._refusal(
                f"exists already and was not begun here, as {self._settings_path.name} is not beside it"
            )
        before = read_json_file(self._settings_path)
        for name in {**before, **self._settings}:
            if before.get(name) != self._settings.get(name):
                raise self._refusal(
                    f"was begun with {name} {quoted(before.get(name))}, and now it is "
                    f"{quoted(self._settings.get(name))}"
                )

    def _refusal(self, why):
        return CheckpointError(f"{self.path} {why}: choose another --output, or begin anew with --overwrite.")

    def _save(self, number, data):
        self.pictures.mkdir(parents=True, exist_ok=True)
        path = self.pictures / f"{number:06}.png"
        replace_bytes(path, data)
        folder = self.path.parent
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    def _count(self, found):
        if "error" in found:
            self.failed += 1
        else:
            self.answered += 1
