"""Guards the shipped checkpoints when the vocabulary grows: pieces keep their embeddings."""

import torch

from viscpm_hf.tiny.training.renumber import renumbered


def test_pieces_keep_their_embeddings_and_new_ones_begin_with_noise():
    table = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).half()
    found = renumbered(table, ["a", "b", "c"], ["b", "new", "c"])
    assert found.dtype == torch.float16 and found.shape == (3, 64)
    assert torch.equal(found[0], table[1]) and torch.equal(found[2], table[2])
    assert 0.3 < float(found[1].float().std()) < 3
    assert torch.equal(found, renumbered(table, ["a", "b", "c"], ["b", "new", "c"]))
