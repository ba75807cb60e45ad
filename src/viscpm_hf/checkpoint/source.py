"""Opening whatever a user calls a checkpoint."""

from pathlib import Path

from .errors import CheckpointError
from .safetensors_file import read_safetensors
from .stored import StoredTensor
from .torch_file import read_torch

# the number every PyTorch file began with before the zip format (2020)
OLD_TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")


def open_checkpoint(path: str | Path) -> dict[str, StoredTensor]:
    """Names and places of a checkpoint's tensors; the format is recognised by content.

    Args:
        path: `.bin` or `.pt` file in PyTorch's zip format, or safetensors.

    Raises:
        CheckpointError: the file is missing, damaged or something else. Nothing in it is executed.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the .bin, .pt or .safetensors file itself.")
    if not path.exists():
        raise CheckpointError(f"There is no file {path}; give the path of a .bin, .pt or .safetensors checkpoint.")
    with open(path, "rb") as file:
        head = file.read(256)
    if head.startswith(b"PK\3\4"):
        return read_torch(path)
    if head[8:9] == b"{" and head[6:8] == b"\0\0":
        return read_safetensors(path)
    if not head:
        what = "is empty; copy or download it again"
    elif head.startswith(b"version https://git-lfs"):
        what = "is only a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    elif head.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        what = "is a web page; the download went wrong, so download the file itself"
    elif OLD_TORCH_MAGIC in head[:24]:
        what = (
            "is in PyTorch's old format; save it anew, which needs memory for all of it: "
            f"""python -c "import torch; torch.save(torch.load('{path}', 'cpu', weights_only=True), 'new.bin')\""""
        )
    elif head[:1] == b"\x80":
        what = "is a bare Python pickle, which may hold code and was not executed; give a checkpoint of torch.save"
    else:
        what = "is neither a PyTorch checkpoint nor a safetensors file"
    raise CheckpointError(f"{path} {what}.")
