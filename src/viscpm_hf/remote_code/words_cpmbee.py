"""Words outside the vocabulary on their way from a prompt to the text of its answer, remembered by nobody."""

import torch


class GeneratedIds(torch.Tensor):
    """Ids from `generate()` where a prompt has words outside the vocabulary: a tensor that brings these words along.

    `ext_tables` lists for each row the dict from ids to words that `CpmBeeTokenizer.decode` takes. Rows, columns,
    reshaped and moved copies keep theirs; whatever else is made of it is a plain tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # torch's documented way to get plain tensors

    @classmethod
    def of(cls, ids: torch.Tensor, rows: torch.Tensor, tables: list[dict[int, str]]) -> "GeneratedIds":
        """`rows` has the shape of `ids` and says which of `tables` each element is to be read with."""
        if ids.ndim == 0:  # a number
            return ids.as_subclass(torch.Tensor)
        self = ids.as_subclass(cls)
        self.rows, self.tables = rows, tables
        return self

    @property
    def ext_tables(self) -> list[dict[int, str]]:
        rows = self.rows.reshape(-1, self.rows.shape[-1]) if self.rows.ndim > 1 else self.rows.reshape(1, -1)
        return [self.tables[int(row[0])] if len(row) and (row == row[0]).all() else {} for row in rows]

    def __deepcopy__(self, memo):
        return self.clone()

    def __repr__(self, **kwargs):
        return repr(self.as_subclass(torch.Tensor))


def _keeping_words(name):
    move = getattr(torch.Tensor, name)

    def method(self, *args, **kwargs):
        ids, rows = move(self, *args, **kwargs), move(self.rows, *args, **kwargs)
        if isinstance(ids, tuple):
            return tuple(GeneratedIds.of(*pair, self.tables) for pair in zip(ids, rows, strict=True))
        return GeneratedIds.of(ids, rows, self.tables)

    return method


for _name in ("__getitem__", "clone", "contiguous", "cpu", "cuda", "detach", "flatten", "reshape", "squeeze", "to"):
    setattr(GeneratedIds, _name, _keeping_words(_name))
for _name in ("unbind", "unsqueeze", "view"):
    setattr(GeneratedIds, _name, _keeping_words(_name))


def read_words(words: torch.Tensor | None) -> list[dict[int, str]]:
    """The dicts from ids to words of `ext_table_words` (batch, length): each word is -1 - id, then characters + 1."""
    tables = []
    for row in [] if words is None else words.tolist():
        table, index = {}, None
        for number in filter(None, row):  # 0 is padding, on either side
            if number < 0:
                index = -1 - number
                table[index] = ""
            else:
                table[index] += chr(number - 1)
        tables.append(table)
    return tables


def with_words(output, tables: list[dict[int, str]]):
    """The output of `generate()` with the words of its prompts, if they have any."""
    if not any(tables):
        return output
    ids = output if torch.is_tensor(output) else output.sequences
    rows = torch.arange(len(ids), device=ids.device) * len(tables) // len(ids)  # several answers for each prompt
    ids = GeneratedIds.of(ids, rows[:, None].expand_as(ids), tables)
    if torch.is_tensor(output):
        return ids
    output.sequences = ids
    return output


__all__ = ["GeneratedIds", "read_words", "with_words"]
