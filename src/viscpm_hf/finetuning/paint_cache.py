"""What is computed once for a fine-tuning of Paint and kept on disk: states of captions, latents of pictures."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_SHARD = 2**26  # bytes; at most so much work is lost when a run is killed


class TensorCache:
    """Tensors by name in safetensors files of a folder, which are added to; a file appears when it is complete.

    Args:
        folder (`Path`): is made when something is added.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._files, self._places = {}, {}
        self._new, self._size = {}, 0
        self.refresh()

    def refresh(self) -> None:
        """Looks which files there are by now."""
        for path in sorted(self.folder.glob("[0-9]*.safetensors")):
            if path.name in self._files:
                continue
            try:
                with safe_open(path, "pt") as file:
                    self._places |= dict.fromkeys(file.keys(), path.name)
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"{path} is damaged ({error}): remove it, and what was in it is made anew."
                ) from error
            self._files[path.name] = None

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Within it this process adds; another one that wants to waits, and then finds what was added."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            self.refresh()
            yield
            self._write()

    def __contains__(self, name: str) -> bool:
        return name in self._places or name in self._new

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Adds a tensor; only within `adding()`."""
        self._new[name] = tensor.detach().to("cpu", copy=True).contiguous()
        self._size += tensor.nbytes
        if self._size >= _SHARD:
            self._write()

    def _write(self) -> None:
        if not self._new:
            return
        number = max((int(name.split(".")[0]) for name in self._files), default=-1) + 1
        path = self.folder / f"{number:06}.safetensors"
        partial = self.folder / f".{path.name}.partial"
        save_file(self._new, partial)
        os.replace(partial, path)
        self._new, self._size = {}, 0
        self.refresh()

    def __getitem__(self, name: str) -> torch.Tensor:
        file = self._places[name]
        if self._files[file] is None:  # opened by each process that reads
            self._files[file] = safe_open(self.folder / file, "pt")
        return self._files[file].get_tensor(name)

    def __getstate__(self) -> dict:
        return {**vars(self), "_files": dict.fromkeys(self._files)}


def digest_of(text: str | bytes) -> str:
    """A name for something in a cache."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def digest_of_folders(folders: list[Path], remembered: Path) -> str:
    """The SHA-256 of all weights, configurations and vocabularies in some folders.

    Args:
        folders (`list[Path]`): parts of a model; their code does not count.
        remembered (`Path`): a JSON file with what was computed before, for files of the same size and time.
    """
    try:
        known = json.loads(remembered.read_text(encoding="utf-8"))
        known = known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        known = {}
    total = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        if path.suffix not in (".safetensors", ".bin", ".json", ".txt") or not path.is_file():
            continue
        status = path.stat()
        key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
        if not isinstance(known.get(key), str):
            with open(path, "rb") as file:
                known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.parent.name}/{path.name} {known[key]}\n".encode())
    remembered.parent.mkdir(parents=True, exist_ok=True)
    partial = remembered.with_name(f".{remembered.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(known, indent=1), encoding="utf-8")
    os.replace(partial, remembered)
    return total.hexdigest()
