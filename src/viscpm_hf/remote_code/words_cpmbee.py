"""Words outside the vocabulary on their way from a prompt to the text of its answer, remembered by nobody."""

import torch
from transformers.utils import ModelOutput


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
        self.rows, self.tables, self.state = rows, tables, _state(self)
        return self

    @property
    def ext_tables(self) -> list[dict[int, str]]:
        rows = self.rows.flatten(0, -2) if self.rows.ndim > 1 else self.rows[None]
        if self.state != _state(self):  # written to since: nobody knows which word an id means now
            return [{} for _ in range(len(self) if self.ndim > 1 else 1)]
        return [self.tables[int(row[0])] if len(row) and (row == row[0]).all() else {} for row in rows]

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.state = _state(self)

    def __deepcopy__(self, memo):
        return self.clone()

    def __repr__(self, **kwargs):
        return repr(self.as_subclass(torch.Tensor))


def _state(ids):
    # torch counts what is written to a tensor, or to another view of its memory
    return ids._version, ids.data_ptr(), tuple(ids.shape), ids.stride()


def _keeping_words(name):
    move = getattr(torch.Tensor, name)

    def method(self, *args, **kwargs):
        ids = move(self, *args, **kwargs)
        if self.state != _state(self):
            return ids
        rows = move(self.rows, *args, **kwargs)
        if isinstance(ids, tuple):
            return tuple(GeneratedIds.of(*pair, self.tables) for pair in zip(ids, rows, strict=True))
        return GeneratedIds.of(ids, rows, self.tables)

    return method


for _name in ("__getitem__", "clone", "contiguous", "cpu", "cuda", "detach", "flatten", "reshape", "squeeze", "to"):
    setattr(GeneratedIds, _name, _keeping_words(_name))
torch.serialization.add_safe_globals([GeneratedIds])  # torch.load takes them without being told
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


def with_words(output: torch.Tensor | ModelOutput, tables: list[dict[int, str]]) -> torch.Tensor | ModelOutput:
    """The output of `generate()` with the words of its prompts, if they have any."""
    if not any(tables):
        return output
    ids = output if torch.is_tensor(output) else output.sequences
    rows = torch.arange(len(ids), device=ids.device) * len(tables) // len(ids)  # several answers for each prompt
    ids = GeneratedIds.of(ids, rows[:, None].expand_as(ids).contiguous(), tables)
    if torch.is_tensor(output):
        return ids
    output.sequences = ids
    return output


__all__ = ["GeneratedIds", "read_words", "with_words"]
