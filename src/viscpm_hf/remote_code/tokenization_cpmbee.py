"""Tokenizer of CPM-Bee: text and data dicts to token ids and segments, and back."""

import os
import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import BatchEncoding, PreTrainedTokenizer

# `<<` is a literal `<`; `<name>` is a special token
_GRAMMAR = re.compile(r"[^<]+|<<|<[^<][^<>]*>")
_REQUIRED = ("<s>", "</s>", "<unk>", "<root>", "<ans>")
_MAX_DEPTH = 8  # the segment buckets of the bias table tell apart 8 steps up and 8 steps down
# what padding puts into the lists with one entry per token
_PADDING = {
    **dict.fromkeys(["input_ids", "attention_mask", "segment_ids", "context_mask", "mm_token_type_ids"], 0),
    "labels": -100,
}


# by this name among its bases diffusers recognises a tokenizer
class CpmBeeTokenizer(PreTrainedTokenizer):
    """Greedy longest-match tokenizer of CPM-Bee, whose inputs are data dicts such as `{"input": …, "<ans>": ""}`.

    In text, `<<` stands for `<`, and `<name>` or `<name_3>` for a special token; what a user types goes through
    [`~CpmBeeTokenizer.escape`] first. A run of characters without a match in the vocabulary is one numbered `<unk>`.
    Of the tokens of one kind in a sample, number 0 has the vocabulary's id; number n > 0 has the id
    `vocab_size + column`, and the sample's `ext_table_ids` and `ext_table_subs` say which kind and number a column is.

    Args:
        vocab_file (`str`): UTF-8 text with an entry per line, `</n>` for the newline and `</_>` for the space. Needs
            `<s>`, `</s>`, `<unk>`, `<root>` and `<ans>`, in any place. Padding is id 0, whatever stands there.

    Raises:
        ValueError: The file is not UTF-8 or lacks one of the five.

    Example:

    ```python
    >>> batch = tokenizer({"input": "今天天气真", "prompt": "往后写一句", "<ans>": ""}, return_tensors="pt")
    >>> ids = model.generate(**batch)[:, batch["input_ids"].shape[1] :]
    >>> tokenizer.batch_decode(ids, skip_special_tokens=True, ext_tables=batch.ext_tables)
    ```

    Source: `VisCPM/cpm_tokenizers/bee.py` and `convert_data_to_id` of the original.
    """

    vocab_files_names = {"vocab_file": "vocab.txt"}
    padding_side = "left"
    model_input_names = ["input_ids", "attention_mask", "segment_ids", "context_mask", "segment_rel"]
    model_input_names += ["ext_table_ids", "ext_table_subs", "ext_table_mask", "ext_table_words", "unk_allowed"]

    def __init__(self, vocab_file: str, **kwargs):
        if vocab_file is None:  # from_pretrained found none
            raise ValueError("CpmBeeTokenizer got no vocabulary; put CPM-Bee's into the folder as vocab.txt.")
        self.vocab_file = str(vocab_file)
        with open(vocab_file, "rb") as file:
            self._vocab_bytes = file.read()
        self._encoder = self._read_vocabulary()
        self._decoder = {index: entry for entry, index in self._encoder.items()}
        self._specials = {k: v for k, v in self._encoder.items() if k.startswith("<") and k.endswith(">")}
        missing = [entry for entry in _REQUIRED if entry not in self._specials]
        if missing:
            raise ValueError(
                f"The vocabulary {vocab_file} has no {', '.join(missing)}; give CPM-Bee's, with one entry per line."
            )
        self._bos_id, self._eos_id, self._unk_id = (self._specials[entry] for entry in ("<s>", "</s>", "<unk>"))
        # Longest match runs in Rust: each piece is an added token there, and the text between two pieces one `<unk>`.
        # An id of the engine is a place in `_piece_ids`, whose last is for what has no piece.
        pieces = [entry for entry in self._encoder if entry not in self._specials]
        self._piece_ids = [*map(self._encoder.get, pieces), self._unk_id]
        places = {piece: place for place, piece in enumerate([*pieces, "<unk>"])}
        self._engine = Tokenizer(WordLevel(places, unk_token="<unk>"))
        self._engine.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])

        # the vocabulary decides what is special, whatever a saved tokenizer_config.json says
        named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        named |= {"ans_token": "<ans>", "root_token": "<root>"}
        if self._decoder.get(0) in self._specials:
            named["pad_token"] = self._decoder[0]
        kwargs.update(named, extra_special_tokens=[entry for entry in self._specials if entry not in named.values()])
        super().__init__(vocab_file=self.vocab_file, **kwargs)

    def _read_vocabulary(self) -> dict[str, int]:
        try:
            text = self._vocab_bytes.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"The vocabulary {self.vocab_file} is not a UTF-8 text file: {error}.") from error
        encoder: dict[str, int] = {}
        # the original read lines in text mode; splitlines() would also split at U+2028 and its like
        for entry in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
            if entry:
                encoder[entry] = len(encoder)  # a repeated line gets a new id, as in the original
        for entry, character in (("</n>", "\n"), ("</_>", " ")):
            if entry in encoder:
                encoder[character] = encoder.pop(entry)
        return encoder

    @staticmethod
    def escape(text: str) -> str:
        """Doubles every `<`, so that the text contains no special token."""
        return text.replace("<", "<<")

    @staticmethod
    def unescape(text: str) -> str:
        """Undoes [`~CpmBeeTokenizer.escape`]."""
        return text.replace("<<", "<")

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, bool]]:
        """Parts of the text as (part, is special), plain parts unescaped."""
        plain, end = [], 0
        for match in _GRAMMAR.finditer(text):
            if match.start() != end:
                break
            end, piece = match.end(), match[0]
            if piece[0] != "<":
                plain.append(piece)
            elif piece == "<<":
                plain.append("<")
            else:
                if plain:
                    yield "".join(plain), False
                    plain = []
                yield piece, True
        if end < len(text):
            stray = text.find("<", end + 2)
            if stray >= 0:
                raise ValueError(f"Invalid special token at pos {stray}")
            raise ValueError(f"Unexpected end of text `{text}`")
        if plain:
            yield "".join(plain), False

    @staticmethod
    def _base(special: str) -> str:
        """`<mask_3>` is a numbered `<mask>`."""
        return f"<{special[1:-1].partition('_')[0]}>"

    def _match(self, text: str):
        """Longest matches in plain text, as a `tokenizers.Encoding` whose offsets count code points."""
        try:
            return self._engine.encode(text, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):  # half a surrogate pair, which UTF-8 and hence Rust cannot hold
            entries = "".join(self._encoder)
            stand_in = next(c for c in map(chr, range(0x10FFFF, 0, -1)) if c not in entries)
            return self._engine.encode(re.sub("[\ud800-\udfff]", stand_in, text), add_special_tokens=False)

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, str, str]]]:
        """Ids, and of each token that is not in the vocabulary: its position, its string and its base token."""
        ids, unknown = [], []
        piece_ids, nowhere = self._piece_ids, len(self._piece_ids) - 1
        for part, is_special in self._split(text):
            if is_special:
                if part not in self._specials:
                    unknown.append((len(ids), part, self._base(part)))
                ids.append(self._specials.get(part, self._unk_id))
                continue
            match = self._match(part)
            places = match.ids
            if nowhere in places:
                offsets = match.offsets
                for i, place in enumerate(places):
                    if place == nowhere:
                        # plain text is never a special token, even if it looks like one
                        unknown.append((len(ids) + i, part[slice(*offsets[i])], "<unk>"))
            ids += [piece_ids[place] for place in places]
        return ids, unknown

    def encode_segment(self, text: str, ext_table: dict[int, str] | None = None) -> tuple[list[int], dict[int, str]]:
        """Ids of one text without `<s>` and `</s>`: the original's `encode`.

        Args:
            text (`str`): In the grammar of the class.
            ext_table (`dict[int, str]`, *optional*): What encoding earlier texts returned; it is not changed.

        Returns:
            The ids, and the table extended by this text: from ids, `vocab_size` and up, to strings.

        Raises:
            ValueError: A `<` is neither doubled nor part of a special token.
        """
        table = dict(ext_table or {})
        index_of = {string: index for index, string in table.items()}
        ids, unknown = self._tokens(text)
        for position, string, _ in unknown:
            index = index_of.setdefault(string, self.vocab_size + len(index_of))
            table[index] = string
            ids[position] = index
        return ids, table

    def parses(self, text: str) -> bool:
        """Whether the text is in the grammar and names only special tokens that the vocabulary has."""
        try:
            parts = list(self._split(text))
        except ValueError:
            return False
        return all(part in self._specials or self._base(part) in self._specials for part, special in parts if special)

    @staticmethod
    def _segments(data: str | dict) -> list[tuple[str, int, str | None]]:
        """Depth-first (text, depth, top-level key that a value stands under); keys and a bare string have None."""
        segments: list[tuple[str, int, str | None]] = [("<root>", 0, None)]
        stack = [(data, 1, None)]
        while stack:
            value, depth, owner = stack.pop()
            if isinstance(value, str):
                segments.append((value, depth, owner))
            elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
                for key, child in reversed(value.items()):
                    stack.append((child, depth + 1, key if depth == 1 else owner))
                    stack.append((key, depth, None))
            else:
                got = "a dict with other keys" if isinstance(value, dict) else type(value).__name__
                raise ValueError(f"CpmBeeTokenizer takes texts and dicts of texts, got {got}; write it as text.")
        return segments

    def encode_data(self, data: str | dict) -> dict:
        """One sample as Python lists: what the original's `convert_data_to_id` computes.

        The values under the top-level key `<ans>` are the model's to write: they follow their `<s>` without a `</s>`,
        and a token there sees none after it. An unknown run of plain text is a numbered `<unk>` even if it looks like
        `<name>`, which the original takes for a special token.

        Args:
            data (`str` or `dict`): Text in the grammar of the class, or a nested dict of such texts.

        Returns:
            `dict`: for L tokens, S segments and E extension columns `input_ids`, `attention_mask`, `segment_ids`,
            `context_mask` (L); `segment_rel` (S × S); `ext_table_ids`, `ext_table_subs`, `ext_table_mask` (E);
            `unk_allowed` (0 or 1); `image_bounds`, the half-open token ranges of the values under `image`;
            `ext_table`, from ids to strings for [`~CpmBeeTokenizer.decode`]; `ext_table_words`, the same as numbers
            that travel with a batch: for every string -1 - id, then its code points + 1.

        Raises:
            ValueError: Neither text nor a nested dict of texts, text outside the grammar, or an unknown special token.
        """
        segments = self._segments(data)
        input_ids, segment_ids, context_mask, image_bounds = [], [], [], []
        numbers: dict[str, dict[str, int]] = {}  # kind → string → running number
        numbered: list[tuple[int, tuple[str, int]]] = []  # position → kind and number, for numbers > 0
        for segment, (text, _, owner) in enumerate(segments):
            ids, unknown = self._tokens(text)
            start = len(input_ids) + 1
            for position, string, base in unknown:
                if base not in self._specials:
                    raise ValueError(f"Invalid token {string}")
                number = numbers.setdefault(base, {}).setdefault(string, len(numbers[base]))
                ids[position] = self._specials[base]
                if number:
                    numbered.append((start + position, (base, number)))
            if owner == "image":
                image_bounds.append((start, start + len(ids)))
            input_ids.append(self._bos_id)
            input_ids += ids
            if owner != "<ans>":
                input_ids.append(self._eos_id)
            length = len(input_ids) - len(segment_ids)
            segment_ids += [segment] * length
            context_mask += [int(owner != "<ans>")] * length

        numbered_kinds = [(base, number) for base, table in numbers.items() for number in range(1, len(table))]
        columns = {kind: self.vocab_size + column for column, kind in enumerate(numbered_kinds)}
        for position, kind in numbered:
            input_ids[position] = columns[kind]
        ext_table = {
            columns.get((base, number), self._specials[base]): string
            for base, table in numbers.items()
            if base != "<ans>"
            for string, number in table.items()
        }
        return {
            "input_ids": input_ids,
            "attention_mask": [1] * len(input_ids),
            "segment_ids": segment_ids,
            "context_mask": context_mask,
            "segment_rel": _segment_relations(tuple(depth for _, depth, _ in segments)).tolist(),
            "ext_table_ids": [self._specials[base] for base, _ in columns],
            "ext_table_subs": [number for _, number in columns],
            "ext_table_mask": [int(base != "<ans>") for base, _ in columns],
            "unk_allowed": int("<unk>" in numbers),
            "image_bounds": image_bounds,
            "ext_table_words": [n for i, word in ext_table.items() for n in (-1 - i, *(ord(c) + 1 for c in word))],
            "ext_table": ext_table,
        }

    def __call__(
        self,
        data: str | dict | list[str | dict],
        padding: bool = True,
        padding_side: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Model inputs of one sample or of a list of samples, see [`~CpmBeeTokenizer.encode_data`].

        Args:
            data (`str`, `dict` or a list of them): The samples.
            padding (`bool`, *optional*, defaults to True): Pads the samples of a list to the longest.
            padding_side (`str`, *optional*): `"left"` or `"right"`; the tokenizer's side (left) by default.
            return_tensors (`str`, *optional*): `"pt"` for tensors with a batch dimension; lists by default.

        Returns:
            `BatchEncoding` with `model_input_names`, where `ext_…` is left out if no column exists; its attribute
            `ext_tables` has for each sample the table that [`~CpmBeeTokenizer.decode`] takes.
        """
        if return_tensors not in (None, "pt"):
            raise ValueError(f'CpmBeeTokenizer returns tensors as "pt" or lists as None, got {return_tensors!r}.')
        is_batch = isinstance(data, (list, tuple))
        encodings = [self.encode_data(sample) for sample in (data if is_batch else [data])]
        if return_tensors == "pt" or (is_batch and padding):
            batch = self.pad_encodings(encodings, padding_side)
            if return_tensors is None:
                batch.update({key: value.tolist() for key, value in batch.items()})
            return batch
        keys = [key for key in self.model_input_names if not key.startswith("ext_") or any(e[key] for e in encodings)]
        batch = BatchEncoding({key: [e[key] for e in encodings] if is_batch else encodings[0][key] for key in keys})
        batch.ext_tables = [encoding["ext_table"] for encoding in encodings]
        return batch

    def pad_encodings(self, encodings: list[dict], padding_side: str | None = None) -> BatchEncoding:
        """Stacks encodings of [`~CpmBeeTokenizer.encode_data`] to one batch of int64 tensors.

        Args:
            encodings (`list[dict]`): They may also have `mm_token_type_ids` and `labels`, an entry per token.
            padding_side (`str`, *optional*): `"left"` or `"right"`; the tokenizer's side (left) by default.

        Returns:
            `BatchEncoding` of tensors (B, L); `segment_rel` (B, S, S); `ext_…` (B, E) unless E is 0; `unk_allowed`
            (B,). Its attribute `ext_tables` lists the tables of the samples.
        """
        side = padding_side or self.padding_side
        if side not in ("left", "right"):
            raise ValueError(f'padding_side is "left" or "right", got {side!r}.')
        if not encodings:
            raise ValueError("CpmBeeTokenizer got an empty list, wanted at least one sample.")

        def stack(key, filler, side):
            rows = [encoding[key] for encoding in encodings]
            stacked = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
            for padded, row in zip(stacked, rows, strict=True):
                start = len(padded) - len(row) if side == "left" else 0
                padded[start : start + len(row)] = row
            return torch.from_numpy(stacked)

        batch = {key: stack(key, filler, side) for key, filler in _PADDING.items() if key in encodings[0]}
        segments = max(len(encoding["segment_rel"]) for encoding in encodings)
        batch["segment_rel"] = torch.zeros(len(encodings), segments, segments, dtype=torch.long)
        for row, encoding in zip(batch["segment_rel"], encodings, strict=True):
            relations = torch.tensor(encoding["segment_rel"])
            row[: len(relations), : len(relations)] = relations
        for key in ("ext_table_ids", "ext_table_subs", "ext_table_mask", "ext_table_words"):
            if any(encoding[key] for encoding in encodings):
                batch[key] = stack(key, 0, "right")
        batch["unk_allowed"] = torch.tensor([encoding["unk_allowed"] for encoding in encodings])
        batch = BatchEncoding(batch)
        batch.ext_tables = [encoding["ext_table"] for encoding in encodings]
        return batch

    def decode(
        self,
        token_ids,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        ext_table: dict[int, str] | None = None,
    ) -> str | list[str]:
        """Text of ids, token by token: the text of a prefix is a prefix of the text.

        Args:
            token_ids (`int`, or list, array or tensor of them): Negative ids are left out; rows give a list.
            skip_special_tokens (`bool`, *optional*, defaults to False): Leaves special tokens out and `<` single.
                Otherwise the text is in the grammar of the class, as the original's.
            clean_up_tokenization_spaces: Without effect; the text is exact.
            ext_table (`dict[int, str]`, *optional*): The sample's table, whose strings appear as they are. Any other
                id outside the vocabulary is an `<unk>`.
        """
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        ids = [ids] if isinstance(ids, int) else ids
        if len(ids) and np.ndim(ids[0]):
            return self.batch_decode(ids, skip_special_tokens)
        table = ext_table or {}
        pieces = []
        for index in map(int, ids):
            if index in table:
                pieces.append(table[index])
            elif index >= 0:
                entry = self._decoder.get(index, "<unk>")
                if entry not in self._specials:
                    pieces.append(entry if skip_special_tokens else self.escape(entry))
                elif not skip_special_tokens:
                    pieces.append(entry)
        return "".join(pieces)

    def batch_decode(
        self,
        sequences,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        ext_tables: list[dict[int, str]] | None = None,
    ) -> list[str]:
        """[`~CpmBeeTokenizer.decode`] of each row, with that row's table."""
        tables = [None] * len(sequences) if ext_tables is None else ext_tables
        rows = zip(sequences, tables, strict=True)
        return [self.decode(ids, skip_special_tokens, ext_table=table) for ids, table in rows]

    @property
    def vocab_size(self) -> int:
        """Number of entries; ids from here on are extension columns."""
        return len(self._encoder)

    @property
    def pad_token_id(self) -> int:
        """Always 0: the original pads with 0 and masks it, whatever entry that is."""
        return 0

    def get_vocab(self) -> dict[str, int]:
        return dict(self._encoder)

    def add_tokens(self, new_tokens, special_tokens: bool = False) -> int:
        """Only for entries of the vocabulary: a further id would be an extension column."""
        new_tokens = new_tokens if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        for token in map(str, new_tokens):
            if token not in self._encoder:
                raise ValueError(
                    f"CpmBeeTokenizer cannot add {token!r}, as ids from {self.vocab_size} on are the unknown words of "
                    "a text; append it to the vocabulary file and resize the model's embedding."
                )
        return super().add_tokens(new_tokens, special_tokens)

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        return [text[start:end] for start, end in self._match(text).offsets]

    def _convert_token_to_id(self, token: str) -> int:
        return self._encoder.get(token, self._unk_id)

    def _convert_id_to_token(self, index: int) -> str:
        return self._decoder.get(index, "<unk>")

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Writes the vocabulary file as it was read, byte for byte."""
        name = (filename_prefix + "-" if filename_prefix else "") + self.vocab_files_names["vocab_file"]
        path = os.path.join(save_directory, name)
        with open(path, "wb") as file:
            file.write(self._vocab_bytes)
        return (path,)


@lru_cache(maxsize=256)
def _segment_relations(depths: tuple[int, ...]) -> np.ndarray:
    """Relation (S, S) of query to key segment: 0 for itself, else 8 · steps up + steps down + 1 through their common
    ancestor, either at most 7.

    Depths in depth-first order determine the tree: the common ancestor of i < j is the parent of the shallowest
    segment among i+1 … j, unless that is below i, which then is the ancestor itself.
    """
    depth = np.array(depths)
    ancestor = np.diag(depth)
    for i in range(len(depth) - 1):
        ancestor[i, i + 1 :] = np.minimum(depth[i], np.minimum.accumulate(depth[i + 1 :]) - 1)
        ancestor[i + 1 :, i] = ancestor[i, i + 1 :]
    up = np.minimum(depth[:, None] - ancestor, _MAX_DEPTH - 1)
    down = np.minimum(depth[None, :] - ancestor, _MAX_DEPTH - 1)
    relations = _MAX_DEPTH * up + down + 1
    np.fill_diagonal(relations, 0)
    return relations.astype(np.int8)


# a saved copy carries this file, so that it loads where the package is not installed
CpmBeeTokenizer.register_for_auto_class()
