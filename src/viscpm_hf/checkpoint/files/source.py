"""Opening whatever a user calls a checkpoint."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..errors import CheckpointError, listed, pasted
from .disk import Identity, open_regular, read_small
from .json_file import quoted
from .safetensors_file import METADATA, read_safetensors, read_shards
from .stored import StoredTensor
from .torch_file import read_torch

# the number every PyTorch file began with before the zip format (2020)
OLD_TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
DEEPSPEED = "mp_rank_00_model_states.pt"
NO_WEIGHTS = ("optimizer", "scheduler", "training_args", "rng_state", "random_states", "scaler")  # of training
INDEX = ".index.json"  # ends the name of a file that says which files hold a checkpoint's tensors
DEPTH, MOST_FOLDERS, MOST_BELOW = 3, 1000, 5  # of a folder's folders that are looked through for checkpoints
MAX_NAME = 500  # bytes of a tensor's name


@dataclass(frozen=True)
class Source:
    """A checkpoint on disk.

    Args:
        path: what the user gave.
        tensors: by name.
        under: keys that its state dict lies under, with dots between them; mostly empty.
    """

    path: Path
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    under: str = ""

    def described(self, sha256: Mapping[Path, str], prefixes: list[str]) -> dict:
        """What conversion.json says of it.

        Args:
            sha256: of its files.
            prefixes: that were taken from the names.
        """
        files = [
            {"file": path.name, "bytes": identity.size, "sha256": sha256[path]}
            for path, identity in self.files().items()
        ]
        if self.path.name.endswith(INDEX):
            about = {"file": self.path.name, "bytes": sum(file["bytes"] for file in files), "shards": files}
        else:
            about = files[0]
        return about | ({"under": self.under} if self.under else {}) | ({"prefixes": prefixes} if prefixes else {})

    def files(self) -> dict[Path, Identity]:
        """The files that hold its tensors."""
        return {tensor.path: tensor.identity for tensor in self.tensors.values()}


def open_checkpoint(path: str | Path) -> dict[str, StoredTensor]:
    """The tensors of `open_source` alone."""
    return open_source(path).tensors


def open_source(path: str | Path) -> Source:
    """Names and places of a checkpoint's tensors; the format is recognised by content.

    Args:
        path: `.bin` or `.pt` file in PyTorch's zip format, safetensors, or the `.index.json` of several.

    Raises:
        CheckpointError: the file is missing, damaged or something else. Nothing in it is executed.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; {_advice(path)}.")
    if not path.exists():
        raise CheckpointError(f"There is no file {path}; give the path of a .bin, .pt or .safetensors checkpoint.")
    if path.name.endswith(INDEX):
        under = set()

        def read(file: Path) -> dict[str, StoredTensor]:
            shard = _open_file(file)
            under.add(shard.under)
            return shard.tensors

        return Source(path, read_shards(path, read), listed(sorted(under)))
    if shard := re.fullmatch(r"(.+)-[0-9]{5}-of-([0-9]{5})(\.\w+)", path.name):
        index = path.with_name(f"{shard[1]}{shard[3]}{INDEX}")
        if int(shard[2]) > 1 and index.exists():
            raise CheckpointError(f"{path} is one of {int(shard[2])} files of a checkpoint; give {index}.")
    return _open_file(path)


def _open_file(path: Path) -> Source:
    with open_regular(path) as file:
        head = file.read(256)
    if head.startswith(b"PK\3\4"):
        source = Source(path, *read_torch(path))
    elif head[8:9] == b"{" and head[6:8] == b"\0\0":
        source = Source(path, read_safetensors(path))
    else:
        raise CheckpointError(f"{path} {_what(path, head)}.")
    if illegal := [name for name in source.tensors if not _is_name(name)]:
        raise CheckpointError(
            f"{path} has a tensor called {quoted(illegal[0])}, which a safetensors file cannot have; rename it."
        )
    return source


def _is_name(text: str) -> bool:
    try:
        return text != METADATA and len(text.encode()) <= MAX_NAME
    except UnicodeEncodeError:  # half a character
        return False


def _what(path: Path, head: bytes) -> str:
    """What a file is that cannot be read."""
    if not head:
        return "is empty; copy or download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is only a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        return "is a web page; the download went wrong, so download the file itself"
    if OLD_TORCH_MAGIC in head[:24]:
        code = 'import sys, torch; torch.save(torch.load(sys.argv[1], "cpu", weights_only=True), "new.bin")'
        return (
            "is in PyTorch's old format; save it anew, which needs memory for all of it: "
            f"python -c {shlex.quote(code)} {pasted(path)}"
        )
    if head[:1] == b"\x80":
        return "is a bare Python pickle, which may hold code and was not executed; give a checkpoint of torch.save"
    if head.lstrip()[:1] == b"{":
        return f"is a JSON file; give the checkpoint itself, or an index of one, whose name ends in {INDEX}"
    return "is neither a PyTorch checkpoint nor a safetensors file"


def _advice(folder: Path) -> str:
    """Which file in a folder to give."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if "conversion.json" in names:
        return "it is a converted repository already, to be given where a model is asked for"
    if "adapter_config.json" in names:
        return "it holds an adapter alone; give the checkpoint of the model it belongs to"
    if ".metadata" in names:
        return (
            "it is a distributed checkpoint; join it with `python -m torch.distributed.checkpoint.format_utils "
            f"dcp_to_torch {pasted(folder)} whole.bin` and give whole.bin"
        )
    if advice := _deepspeed(folder, names):
        return advice
    candidates = _weights(names)
    if len(candidates) == 1:
        return f"give {folder / candidates[0]}"
    if candidates:
        return f"give one of its files: {listed(candidates, 5)}"
    below = list(islice(_below(folder), MOST_BELOW + 1))
    if len(below) == 1:
        return f"give {below[0]}"
    if below:
        rest = " and others" if len(below) > MOST_BELOW else ""
        return f"give one of the files below it: {listed(below[:MOST_BELOW])}{rest}"
    return "give the .bin, .pt or .safetensors file itself"


def _deepspeed(folder: Path, names: list[str]) -> str | None:
    """The same of a folder that DeepSpeed wrote: one of a step, or the one with all of them."""
    if DEEPSPEED in names:
        return f"give {folder / DEEPSPEED}"
    if any(name.endswith("_mp_rank_00_model_states.pt") for name in names):
        return (
            "it is a DeepSpeed ZeRO-3 checkpoint, each file with a slice of every tensor; join them with the script "
            "zero_to_fp32.py in the folder above and give the result"
        )
    if "latest" not in names:
        return None
    try:
        step = folder / read_small(folder / "latest", 200).decode().strip()
        inside = sorted(path.name for path in step.iterdir()) if step.parent == folder else []
    except (OSError, ValueError):
        inside = []
    if inside:
        return _deepspeed(step, inside)
    return f"it is a DeepSpeed checkpoint; give the {DEEPSPEED} in one of its folders"


def _weights(names: list[str]) -> list[str]:
    """Those of a folder's files that may be a checkpoint."""
    return [name for name in names if name.endswith(INDEX)] or [
        name
        for name in names
        if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".safetensors"))
        and not name.startswith(NO_WEIGHTS)
        and not name.endswith("optim_states.pt")
    ]


def _below(folder: Path) -> Iterator[Path]:
    """Checkpoints in the folders of a folder, in their folders and in those of these."""
    for place, folders, names in islice(os.walk(folder), MOST_FOLDERS):
        inside = Path(place)
        if len(inside.relative_to(folder).parts) >= DEPTH:
            folders.clear()
        folders.sort()
        yield from (inside / name for name in _weights(sorted(names)))
