"""A repository of a half or a quarter of the size: the language model's matrices rounded to the nearest, one by one.

What is written is what `save_pretrained` writes of a model that was quantized while it was loaded: torchao's 8-bit
tensors or bitsandbytes' NF4, in safetensors files of their own formats. The model itself is never in memory.
"""

import json
import os
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..checkpoint import repo
from ..checkpoint.adapter import load
from ..checkpoint.errors import CheckpointError
from ..checkpoint.files.json_file import quoted, read_json_file
from ..checkpoint.files.safetensors_file import read_weights
from ..checkpoint.files.staging import refuse_existing, require_space, staged
from ..checkpoint.files.weights import progress_bar
from ..checkpoint.layout.keys import inverted, match
from .budget import WORDS
from .calibration_inputs import copy_unchanged, identities, require_parts
from .placement import quantization_config, sparing_vision
from .plans import INT8, NF4
from .quantized_repository import failures_in_words, require_exact, say_so
from .rounded_weights import int8_weight, nf4_weight
from .sizes import Model, read_model

MOST_PENDING = 1 << 30  # bytes of rounded weights that are kept until they are written to a file
SPARE = 1.01  # of what is written: scales, headers
_MATRIX = re.compile(r"(model\.language_model\.)?layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")
# of a repository and of a training run in it, at the root: the exact weights, and what is not needed to use the model
_LEFT_OUT = ("*.bin", "*.pt", "*.pth", "checkpoint-*", "runs")
HOW = {  # what loading needs, and what is said in English and in Chinese
    "int8": ("torchao>=0.18", "8 bits (torchao, a scale for each row)", " 8 比特（torchao，每行一个缩放系数）"),
    "4bit": ("bitsandbytes>=0.50", "4 bits (NF4)", " 4 比特（NF4）"),
}


def quantize_to_nearest(
    model_path: str | os.PathLike, output: str | os.PathLike, method: str, progress: bool = True
) -> Path:
    """Writes a copy of a converted repository whose language model has 8-bit or 4-bit weights, on the CPU.

    The copy answers as the repository does when it is quantized while it is loaded. A matrix is in memory at a time,
    and 1 GB of what is to be written.

    Args:
        model_path: converted VisCPM-Chat or VisCPM-Paint.
        output: folder to create; it appears when it is complete.
        method: `"int8"` or `"4bit"`.
        progress: whether to show a progress bar.

    Returns:
        The folder, which loads like any other.

    Raises:
        CheckpointError: the repository is not what this needs, there is no room, or the output exists.
        ImportError: the libraries for quantization are not installed.
    """
    model_path, output = Path(model_path), Path(output)
    if method not in WORDS:
        raise CheckpointError(f"Got {quoted(method)} as a method, expected one of {', '.join(WORDS)}.")
    refuse_existing(output, model_path)
    model = read_model(model_path)
    require_exact(model, model_path, method)
    family = repo.family_of(model_path)
    match(inverted(family), repo.read_repo(model_path, family), model_path)
    dtype = model.parts["blocks"].dtype
    config = quantization_config(method, torch.device("cpu"), dtype)
    config = sparing_vision(config) if model.kind == "chat" else config
    report = repo.read_json(model_path, repo.CONVERSION)
    inside = Path("" if model.kind == "chat" else "text_encoder")
    files = {
        path: seen for path, seen in identities(model_path).items() if _is_kept(path.relative_to(model_path), inside)
    }
    if model.kind == "paint":
        require_parts(model_path, identities(model_path))
    require_space(output.absolute().parent, sum(seen.size for seen in files.values()) + _written(model, method))
    with staged(output) as folder, failures_in_words():
        (folder / inside).mkdir(parents=True)
        for path, seen in files.items():
            copy_unchanged(path, folder / path.relative_to(model_path), seen)
        _round(model_path / inside, folder / inside, method, config, dtype, progress)
        _configure(folder / inside / "config.json", config, dtype)
        say_so(folder, report, "language_model" if model.kind == "chat" else "text_encoder", *HOW[method])
    return output


def _is_kept(path, inside):
    if path.parent == inside and any(
        fnmatch(path.name, each) for each in ("model.safetensors*", "model-*.safetensors")
    ):
        return False
    return not any(fnmatch(path.parts[0], each) for each in _LEFT_OUT)


def _written(model: Model, method: str) -> int:
    blocks = model.parts["blocks"]
    others = sum(model.parts[name].nbytes() for name in ("embedding", "language rest"))
    if model.kind == "chat":
        others += model.parts["vision_tower"].nbytes() + model.parts["connector"].nbytes()
    each = INT8 if method == "int8" else NF4
    return int(SPARE * (others + each * model.blocks * blocks.parameters)) + (1 << 20)


def _round(source, folder, method, config, dtype, progress):
    """Writes weight files of the rounded matrices and of everything else as it is."""
    stored = read_weights(source, "model")
    writer = _Writer(folder)
    with progress_bar(sum(tensor.nbytes for tensor in stored.values()), progress) as bar:
        for name, tensor in stored.items():
            # all of it in one type, as loading would make it: quantized models keep what they find
            weight = load(tensor).to(dtype) if tensor.dtype.is_floating_point else load(tensor)
            if not all(extreme.isfinite() for extreme in weight.aminmax()):  # ten times as fast as to ask of each
                raise CheckpointError(f"{name} holds numbers that are not finite; its file must be damaged.")
            tensors, header = {name: weight}, {}
            if _MATRIX.fullmatch(name):
                tensors, header = _rounded(name, weight, method, config)
            writer.add(tensors, header)
            bar.update(tensor.nbytes)
    writer.finish()


def _rounded(name, weight, method, config):
    """What a file holds of a rounded matrix: tensors by name, and what its header says of them."""
    if method == "int8":
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

        return flatten_tensor_state_dict({name: int8_weight(weight, weight.dtype)})
    rounded = nf4_weight(weight, config)
    state = rounded.quant_state.as_dict(packed=True)
    return {name: rounded.data} | {f"{name}.{key}": value for key, value in state.items()}, {}


class _Writer:
    """Weight files of about `MOST_PENDING` bytes, and their index."""

    def __init__(self, folder):
        self.folder, self.files, self.pending, self.nbytes = folder, [], {}, 0
        self.header, self.names = {}, []  # of torchao

    def add(self, tensors, header):
        if self.nbytes > MOST_PENDING:
            self._flush()
        self.pending |= tensors
        self.nbytes += sum(tensor.nbytes for tensor in tensors.values())
        if header:
            self.names += json.loads(header.pop("tensor_names"))
            self.header |= header

    def _flush(self, **header):
        path = self.folder / f"model-{len(self.files) + 1:05}.safetensors"
        save_file(self.pending, path, {"format": "pt", **header})
        shutil.copymode(self.folder / "config.json", path)  # which others may read, too
        self.files.append((path, {name: tensor.nbytes for name, tensor in self.pending.items()}))
        self.pending, self.nbytes = {}, 0

    def finish(self):
        # readers put all headers together, so that one says everything: else each would have to, as for the names
        names = {"tensor_names": json.dumps(self.names)} if self.names else {}
        self._flush(**self.header, **names)
        count, weight_map = len(self.files), {}
        if count == 1:
            self.files[0][0].rename(self.folder / "model.safetensors")
            return
        for number, (path, sizes) in enumerate(self.files, 1):
            name = f"model-{number:05}-of-{count:05}.safetensors"
            path.rename(self.folder / name)
            weight_map |= dict.fromkeys(sizes, name)
        total = sum(nbytes for _, sizes in self.files for nbytes in sizes.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _configure(path, config, dtype):
    """Puts into config.json by what the weights were quantized, and the precision they had."""
    fields = read_json_file(path)
    fields["quantization_config"] = json.loads(config.to_json_string(use_diff=False))
    if fields.get("dtype", fields.get("torch_dtype")) != (name := str(dtype).removeprefix("torch.")):
        fields["dtype"] = name
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
