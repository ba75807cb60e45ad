"""What every conversion does: check everything, then write a folder that appears when it is complete."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..remote_code.tokenization_cpmbee import CpmBeeTokenizer
from . import repo
from .errors import CheckpointError
from .files.disk import read_small
from .files.hashing import Digests
from .files.sizes import parse_size
from .files.source import open_source
from .files.staging import refuse_existing, require_space, staged
from .files.stored import StoredTensor
from .files.weights import WeightFile, shards, target_dtype, total_bytes, write_index, write_weights
from .layout.keys import Family, Match, check_family, match
from .layout.prefixes import without_prefixes
from .parts import Part

SPARE = 64 << 20  # bytes for everything in a repository that is not a weight


class Job:
    """A conversion: `fit` finds every tensor's place, `run` writes.

    Args:
        checkpoint, vocab, output, dtype, max_shard_size: as for `convert_chat`.

    Attributes:
        source: the checkpoint as it lies on the disk.
        tensors: of the checkpoint, by original names.
        prefixes: that were before these names.
        parts: ready-made ones to put in.
        match, tokenizer: after `fit`.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        vocab: str | os.PathLike,
        output: str | os.PathLike,
        dtype: str,
        max_shard_size: str | int,
    ):
        self.checkpoint, self.vocab, self.output = Path(checkpoint), Path(vocab), Path(output)
        self.dtype, self.limit = target_dtype(dtype), parse_size(max_shard_size, "the size of a shard")
        refuse_existing(self.output)
        self.source = open_source(self.checkpoint)
        self.tensors, self.prefixes = without_prefixes(self.source.tensors)
        self.parts: list[Part] = []

    def fit(self, family: Family) -> None:
        """Compares checkpoint and vocabulary with what they should be."""
        check_family(family, self.tensors, self.checkpoint)
        self.family, self.match = family, match(family, self.tensors, self.checkpoint)
        self.tokenizer = _tokenizer(self.vocab)

    def run(self, write_rest: Callable[[Path, torch.dtype], None], progress: bool, **fields: Any) -> Path:
        """Writes the repository.

        Args:
            write_rest: writes what is not a weight to the folder it is given; also gets the language model's dtype.
            progress: whether to show a progress bar on a terminal.
            fields: further entries of conversion.json.
        """
        dtype = self.dtype or _most_common_dtype(self.tensors, self.match, self.family.language)
        groups, unused = self._weights()
        files = [file for group in groups.values() for file in group] + unused
        require_space(self.output.absolute().parent, total_bytes(files) + SPARE)
        with staged(self.output) as folder, Digests(self.source.files()) as digests:
            folder.mkdir()
            write_rest(folder, dtype)
            for part in self.parts:
                part.write_files(folder)
            write_weights(folder, files, progress, digests.read_pieces)
            for stem, group in groups.items():
                if len(group) > 1:
                    write_index(folder, stem, group)
            fields = {"family": self.family.name, "dtype": dtype_name(self.dtype) if self.dtype else "keep", **fields}
            source = self.source.described(digests.finish(), self.prefixes)
            repo.write_report(folder, source, self.tensors, self.match, **fields)
        return self.output

    def _weights(self) -> tuple[dict[str, list[WeightFile]], list[WeightFile]]:
        """The weight files by stem, and that of the tensors the model does not use, if there are any."""
        names = self.match.names
        by_offset = sorted(self.tensors, key=lambda name: (self.tensors[name].path, self.tensors[name].offset))
        used = {names[name]: self.tensors[name] for name in by_offset if name in names}
        groups = {}
        for folder, stem in self.family.stems.items():
            start = f"{folder}/" if folder else ""
            tensors = {name.removeprefix(start): used[name] for name in used if name.startswith(start)}
            groups[start + stem] = shards(tensors, start + stem, self.dtype, self.limit)
        for part in self.parts:
            if part.weights:
                stem = f"{part.folder}/{part.stem}"
                groups[stem] = shards(part.weights, stem, None, self.limit)
        unused = {name: self.tensors[name] for name in by_offset if name not in names}
        return groups, [WeightFile(repo.UNUSED, unused, self.dtype)] if unused else []


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tokenizer(vocab: Path) -> CpmBeeTokenizer:
    if not vocab.exists():
        raise CheckpointError(f"There is no file {vocab}; give --vocab the vocabulary file of CPM-Bee.")
    read_small(vocab)
    try:
        return CpmBeeTokenizer(vocab_file=str(vocab))
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _most_common_dtype(tensors: Mapping[str, StoredTensor], found: Match, language: str) -> torch.dtype:
    """The type most of the language model's bytes have."""
    bytes_of = {}
    for name, component in found.components.items():
        if component == language:
            bytes_of[tensors[name].dtype] = bytes_of.get(tensors[name].dtype, 0) + tensors[name].nbytes
    return max(bytes_of, key=bytes_of.get)
