"""Rows of a .tar file as webdataset makes them: the files of one name are a row, with a column for each ending."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .rows import CAPTION_COLUMNS, PICTURE_COLUMNS, BrokenRow

_TEXTS = {*(name for names in CAPTION_COLUMNS for name in names), "question", "answer"}


class Archive:
    """The rows of a .tar file, each read when it is wanted; what is damaged in it is a `BrokenRow` of its own.

    Args:
        path (`Path`): of the file.

    Raises:
        ValueError: it is no such file, or empty.
    """

    def __init__(self, path: Path):
        self.path = path
        self._files: dict[str, dict[str, tuple[int, int]]] = {}  # of a row, by ending: start and length
        self._damage = None
        try:
            self._look()
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            if not self._files:
                raise ValueError(f"{str(path)!r} cannot be read as a .tar file ({error}).") from error
            self._damage = str(error)
        self._names = list(self._files)
        if not self._names:
            raise ValueError(f"{str(path)!r} holds no record.")

    def _look(self) -> None:
        size = self.path.stat().st_size
        with tarfile.open(self.path, "r:") as tar:
            while (member := tar.next()) is not None:
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not member.isfile() or not stem:  # .DS_Store and the like
                    continue
                if member.offset_data + member.size > size:
                    raise ValueError(f"it ends within {member.name}")
                places = self._files.setdefault(f"{folder}/{stem}" if folder else stem, {})
                places[ending if ending in PICTURE_COLUMNS else ending.lower()] = member.offset_data, member.size
            # a header that is none ends it, too, without a word
            with open(self.path, "rb") as file:
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise ValueError(f"damaged at byte {tar.offset}")

    def __len__(self) -> int:
        return len(self._names) + (self._damage is not None)

    def __iter__(self) -> Iterator[dict | BrokenRow]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict | BrokenRow:
        if index == len(self._names) and self._damage is not None:
            return BrokenRow("a damaged archive", f"what follows is lost: {self._damage}"[:200])
        name = self._names[index]
        row: dict[str, Any] = {"__key__": name}
        try:
            with open(self.path, "rb") as file:
                for ending, (start, length) in self._files[name].items():
                    if ending in PICTURE_COLUMNS or ending in _TEXTS or ending == "json":
                        file.seek(start)
                        row[ending] = _decoded(ending, file.read(length))
        except (OSError, ValueError, RecursionError) as error:
            return BrokenRow("a text file that cannot be read", f"{name}.{ending}: {error}"[:200], name)
        about = row.get("json")
        if isinstance(about, dict) and any(ending in PICTURE_COLUMNS for ending in row):
            # where that picture was before it came into the archive
            row["json"] = {key: value for key, value in about.items() if key not in PICTURE_COLUMNS}
        return row


def _decoded(ending: str, content: bytes) -> Any:
    if ending in PICTURE_COLUMNS:
        return content
    return json.loads(content) if ending == "json" else content.decode("utf-8-sig")
