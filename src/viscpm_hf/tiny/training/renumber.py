"""Writes vocab.txt anew, and the shipped checkpoints for it, after the world got other words.

    python -m viscpm_hf.tiny.training.renumber

Pieces keep their embeddings under new numbers; new ones begin with noise, and mean nothing until Chat learns on
(`train_chat --start-from`).
"""

import json
import sys

import torch

from .. import CHAT_CHECKPOINT, PAINT_CHECKPOINT, VOCABULARY
from ..world.vocabulary import build_vocabulary
from .export import CHECKPOINT_NAME

_EMBEDDING = "llm.input_embedding.weight"  # `(pieces, hidden)`, also what logits are read from


def renumbered(embedding: torch.Tensor, old: list[str], new: list[str], seed: int = 0) -> torch.Tensor:
    """An embedding table `(len(new), hidden)` from one of the pieces `old`, `(len(old), hidden)`."""
    numbers = {piece: number for number, piece in enumerate(old)}
    spread = embedding.float().std(0)
    table = torch.randn(len(new), embedding.shape[1], generator=torch.Generator().manual_seed(seed)) * spread
    for number, piece in enumerate(new):
        if piece in numbers:
            table[number] = embedding[numbers[piece]].float()
    return table.to(embedding.dtype)


def main() -> int:
    old, new = VOCABULARY.read_text(encoding="utf-8").split("\n")[:-1], build_vocabulary()
    for folder in (CHAT_CHECKPOINT, PAINT_CHECKPOINT):
        checkpoint, config = folder / CHECKPOINT_NAME, folder / "llm_config.json"
        tensors = torch.load(checkpoint, weights_only=True)
        tensors[_EMBEDDING] = renumbered(tensors[_EMBEDDING], old, new)
        torch.save(tensors, checkpoint)
        sizes = json.loads(config.read_text(encoding="utf-8")) | {"vocab_size": len(new)}
        config.write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8", newline="\n")
    VOCABULARY.write_text("".join(f"{piece}\n" for piece in new), encoding="utf-8", newline="\n")
    added, gone = sorted(set(new) - set(old)), sorted(set(old) - set(new))
    print(f"{len(new)} pieces; new: {added}; gone: {gone}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
