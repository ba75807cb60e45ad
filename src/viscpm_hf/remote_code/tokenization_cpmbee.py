"""Tokenizer of CPM-Bee: text and data dicts to token ids and segments, and back."""

import operator
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import BatchEncoding, PreTrainedTokenizer

# `<<` is a literal `<`; `<name>` is a special token
_GRAMMAR = re.compile(r"[^<]+|<<|<[^<][^<>]*>")
_REQUIRED = ("<s>", "</s>", "<unk>", "<root>", "<ans>")
_MAX_DEPTH = 8  # the segment buckets of the bias table tell apart 8 steps up and 8 steps down
_MAX_SEGMENTS = 4096  # their relations are a square
# what padding puts into the lists with one entry per token
_PADDING = {
    **dict.fromkeys(["input_ids", "attention_mask", "segment_ids", "context_mask", "mm_token_type_ids"], 0),
    "labels": -100,
    "special_tokens_mask": 1,
}
_COLUMNS = ("ext_table_ids", "ext_table_subs", "ext_table_mask", "ext_table_words")
_KNOWN = (*_PADDING, *_COLUMNS, "segment_rel", "unk_allowed")
# where transformers takes several special tokens from
_TOKEN_LISTS = ("extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens")
_TOKEN_LISTS += ("added_tokens_decoder", "new_tokens")
_UNLIMITED = 10**20  # transformers writes a higher model_max_length for none
# options of transformers' tokenizers that have no meaning here, and what to do instead
_PAIR = 'for two texts write a dict such as {"input": first, "prompt": second, "<ans>": ""}'
_TARGET = 'write the target into the dict as the value of "<ans>"'
_NOT_HERE = {
    **dict.fromkeys(("text_pair", "pair", "pair_ids", "token_ids_1"), _PAIR),
    **dict.fromkeys(("text_target", "text_pair_target"), _TARGET),
    **dict.fromkeys(("stride", "return_overflowing_tokens"), "cut the text before"),
    "is_split_into_words": "join the words to one text",
    "return_token_type_ids": "see the segment_ids",
    "return_offsets_mapping": "see tokenize()",
    "return_length": "sum the attention_mask",
    "tokenizer_kwargs": "give the options themselves",
    "spaces_between_special_tokens": "leave it out",
    "use_source_tokenizer": "leave it out",
    "sanitize_control_tokens": "apply_chat_template takes messages for text anyway",
}


# by this name among its bases diffusers recognises a tokenizer
class CpmBeeTokenizer(PreTrainedTokenizer):
    """Greedy longest-match tokenizer of CPM-Bee, whose inputs are data dicts such as `{"input": …, "<ans>": ""}`.

    In text, `<<` stands for `<`, and `<name>` or `<name_3>` for a special token; what a user types goes through
    `CpmBeeTokenizer.escape` first. A run of characters without a match in the vocabulary is one numbered `<unk>`.
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

    def __init__(self, vocab_file: str, **kwargs: Any):
        if vocab_file is None:  # from_pretrained found none
            raise ValueError("CpmBeeTokenizer got no vocabulary; put CPM-Bee's into the folder as vocab.txt.")
        self.vocab_file = str(vocab_file)
        if os.path.exists(vocab_file) and not os.path.isfile(vocab_file):  # a pipe might never end
            raise ValueError(f"The vocabulary {self.vocab_file!r} is not a file; give CPM-Bee's, a text file.")
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

        # the vocabulary decides what is special
        self._fixed = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        self._fixed |= {"ans_token": "<ans>", "root_token": "<root>"}
        if self._decoder.get(0) in self._specials:
            self._fixed["pad_token"] = self._decoder[0]
        self._check_specials({name: value for name, value in kwargs.items() if value is not None})
        if "<mask>" in self._specials:
            kwargs.setdefault("mask_token", "<mask>")
        kwargs.update(self._fixed)
        named = {str(value) for name, value in kwargs.items() if name.endswith("_token")}
        kwargs["extra_special_tokens"] = [entry for entry in self._specials if entry not in named]
        for name in _TOKEN_LISTS[1:]:
            kwargs.pop(name, None)
        super().__init__(vocab_file=self.vocab_file, **kwargs)
        # Collators of transformers set this note and reset it to False. As it is there already, the hash of a
        # tokenizer, which `datasets` remembers results by, stays as it is.
        self.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = False

    def _check_specials(self, options: dict):
        """Refuses other special tokens than the vocabulary's: a further id would be an extension column."""
        for name, value in options.items():
            if name.endswith("_token_id") and value is not None:
                name, value = name[:-3], self._decoder.get(value, value)
            if name in self._fixed and str(value) != self._fixed[name]:
                raise ValueError(f"Got {name}={value!s:.99}, but CPM-Bee's is {self._fixed[name]}: leave it as it is.")
            tokens = [value] if name.endswith("_token") else value if name in _TOKEN_LISTS else None
            if isinstance(tokens, Mapping):
                tokens = tokens.values()
                if name != "added_tokens_decoder":
                    self._check_specials(value)  # they have names
            for token in map(str, filter(None, tokens or ())):
                if token not in (self._encoder if name == "new_tokens" else self._specials):
                    raise ValueError(
                        f"CpmBeeTokenizer cannot add {token!r}, as ids from {self.vocab_size} on are the unknown "
                        "words of a text; append it to the vocabulary file and resize the model's embedding."
                    )

    def __setattr__(self, name, value):
        if "_fixed" in self.__dict__:
            self._check_specials({name: value})
        super().__setattr__(name, value)

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
                if character in encoder:  # ids would reach beyond the number of entries
                    raise ValueError(
                        f"The vocabulary {self.vocab_file!r} has {entry!r} and {character!r}, two entries for one "
                        "character; give CPM-Bee's."
                    )
                encoder[character] = encoder.pop(entry)
        return encoder

    @staticmethod
    def escape(text: str) -> str:
        """Doubles every `<`, so that the text contains no special token."""
        return text.replace("<", "<<")

    @staticmethod
    def unescape(text: str) -> str:
        """Undoes `CpmBeeTokenizer.escape`."""
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
        """Depth-first (text, depth, top-level key that a value stands under); keys have None, a bare string ''."""
        segments: list[tuple[str, int, str | None]] = [("<root>", 0, None)]
        stack = [(data, 1, "")]
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
            if len(segments) > _MAX_SEGMENTS:
                raise ValueError(f"Got a dict of more than {_MAX_SEGMENTS} keys and values; join some to one text.")
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
            `ext_table`, from ids to strings for `CpmBeeTokenizer.decode`; `ext_table_words`, the same as numbers
            that travel with a batch: for every string -1 - id, then its code points + 1.

        Raises:
            ValueError: Neither text nor a nested dict of texts, text outside the grammar, or an unknown special token.
        """
        return self._encode(self._segments(data))

    def _encode(self, segments, max_length: int | None = None, one_text: bool = False, wrapped: bool = True) -> dict:
        tokens = (self._tokens(text) for text, _, _ in segments)
        if max_length is not None:
            tokens = self._shorten(list(tokens), segments, max_length, one_text, wrapped)
        input_ids, segment_ids, context_mask, image_bounds = [], [], [], []
        numbers: dict[str, dict[str, int]] = {}  # kind → string → running number
        numbered: list[tuple[int, tuple[str, int]]] = []  # position → kind and number, for numbers > 0
        for segment, ((_, _, owner), (ids, unknown)) in enumerate(zip(segments, tokens, strict=True)):
            start = len(input_ids) + wrapped
            for position, string, base in unknown:
                if base not in self._specials:
                    raise ValueError(f"Invalid token {string}")
                number = numbers.setdefault(base, {}).setdefault(string, len(numbers[base]))
                ids[position] = self._specials[base]
                if number:
                    numbered.append((start + position, (base, number)))
            if owner == "image":
                image_bounds.append((start, start + len(ids)))
            if wrapped:
                input_ids.append(self._bos_id)
            input_ids += ids
            if wrapped and owner != "<ans>":
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
        # the cache is for what comes often, not for the megabytes of a large dict
        relations_of = _segment_relations if len(segments) <= 64 else _segment_relations.__wrapped__
        return {
            "input_ids": input_ids,
            "attention_mask": [1] * len(input_ids),
            "segment_ids": segment_ids,
            "context_mask": context_mask,
            "segment_rel": relations_of(tuple(depth for _, depth, _ in segments)).tolist(),
            "ext_table_ids": [self._specials[base] for base, _ in columns],
            "ext_table_subs": [number for _, number in columns],
            "ext_table_mask": [int(base != "<ans>") for base, _ in columns],
            "unk_allowed": int("<unk>" in numbers),
            "image_bounds": image_bounds,
            "ext_table_words": [n for i, word in ext_table.items() for n in (-1 - i, *(ord(c) + 1 for c in word))],
            "ext_table": ext_table,
        }

    def _shorten(self, tokens, segments, max_length, one_text, wrapped):
        """Drops tokens of the longest values until the sample has `max_length`; keys, answers and pictures stay."""
        around = sum(2 - (owner == "<ans>") for _, _, owner in segments) if wrapped else 0
        texts = [i for i, (_, _, owner) in enumerate(segments) if owner not in (None, "image", "<ans>")]
        lengths = [len(ids) for ids, _ in tokens]
        left = max_length - around - sum(lengths) + sum(lengths[i] for i in texts)
        if left < 0:
            raise ValueError(
                f"Got max_length={max_length}, but a sample has {max_length - left} tokens beside those to shorten: "
                "keys, answers and pictures stay whole."
            )
        if one_text and len(texts) > 1:
            raise ValueError(f"Got truncation='only_first' for a sample of {len(texts)} texts, expected True.")
        # what short texts leave of their equal share is for the longer ones
        for behind, i in zip(range(len(texts), 0, -1), sorted(texts, key=lengths.__getitem__), strict=True):
            keep = min(lengths[i], -(-left // behind))
            left -= keep
            first = lengths[i] - keep if self.truncation_side == "left" else 0
            ids, unknown = tokens[i]
            kept = [(place - first, *rest) for place, *rest in unknown if first <= place < first + keep]
            tokens[i] = ids[first : first + keep], kept
        return tokens

    @staticmethod
    def _refuse(options: dict):
        """No option is ignored: one without a meaning here must be None, False or 0."""
        for name, value in options.items():
            if name not in _NOT_HERE:
                raise ValueError(f"Got {name}={value!r}, which CpmBeeTokenizer does not know: leave it out.")
            if value is not None and value is not False and not (isinstance(value, int) and value == 0):
                raise ValueError(f"Got {name}, which has no meaning for CpmBeeTokenizer: {_NOT_HERE[name]}.")

    def _limits(self, padding, truncation, max_length, pad_to_multiple_of):
        """Length to shorten to, whether a single text only, least length to pad to, multiple to round it up to."""
        padding, truncation = (getattr(option, "value", option) for option in (padding, truncation))
        for name, value in (("max_length", max_length), ("pad_to_multiple_of", pad_to_multiple_of)):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1
            ):
                raise ValueError(f"Got {name}={value!r}, expected a whole number above 0.")
        if padding not in (None, True, False, "longest", "max_length", "do_not_pad"):
            raise ValueError(f"Got padding={padding!r}, expected True, False or 'max_length'.")
        if truncation not in (None, True, False, "longest_first", "only_first", "do_not_truncate"):
            raise ValueError(f"Got truncation={truncation!r}, expected True, False, 'longest_first' or 'only_first'.")
        is_padded = padding not in (False, "do_not_pad")
        multiple = pad_to_multiple_of if is_padded and pad_to_multiple_of else 1
        if truncation is None:
            truncation = max_length is not None and padding != "max_length"
        is_cut = truncation not in (False, "do_not_truncate")
        if is_cut and max_length is not None and max_length % multiple:
            raise ValueError(f"Got max_length={max_length}, expected a multiple of pad_to_multiple_of={multiple}.")
        if max_length is None and self.model_max_length < _UNLIMITED:
            max_length = self.model_max_length
        if padding == "max_length" and max_length is None:
            raise ValueError("Got padding='max_length' without max_length, expected both.")
        least = max_length if padding == "max_length" else 0
        return max_length if is_cut else None, truncation == "only_first", least if is_padded else None, multiple

    def __call__(
        self,
        text: str | dict | list[str | dict] | None = None,
        text_pair: None = None,
        add_special_tokens: bool = True,
        padding: bool | str = True,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Model inputs of one sample or of a list of samples, see `CpmBeeTokenizer.encode_data`.

        Args:
            text (`str`, `dict` or a list of them): A text is a sample without keys and without a place for an answer.
            add_special_tokens (`bool`, *optional*, defaults to True): False for the tokens of a text alone: one
                segment without `<root>`, `<s>` and `</s>`.
            padding (`bool` or `str`, *optional*, defaults to True): Pads a list of samples to the longest;
                `"max_length"` pads to `max_length`; False does not pad.
            truncation (`bool` or `str`, *optional*): True or `"longest_first"` shortens the longest values of a sample
                to `max_length` tokens, never keys, pictures and answers; `"only_first"` refuses several values. By
                default on if `max_length` is given, but for `padding="max_length"`.
            max_length (`int`, *optional*, tokens): `model_max_length` by default, which is not set.
            pad_to_multiple_of (`int`, *optional*, tokens): Rounds up the length to pad to.
            padding_side (`str`, *optional*): `"left"` or `"right"`; the tokenizer's side (left) by default.
            return_tensors (`str`, *optional*): `"pt"` or `"np"` with a batch dimension; lists by default.
            return_attention_mask (`bool`, *optional*): False leaves it out.
            return_special_tokens_mask (`bool`, *optional*): Adds 1 for padding and special tokens other than `<unk>`.
            verbose (`bool`, *optional*): Without effect.
            kwargs: Other options of transformers' tokenizers must be None or False.

        Returns:
            `BatchEncoding` with `model_input_names`, tensors without `ext_…` if no sample has columns; its attribute
            `ext_tables` has for each sample the table that `CpmBeeTokenizer.decode` takes.

        Raises:
            ValueError: See `encode_data`; a sample that cannot be shortened so far; samples of several lengths as
                tensors without padding; an option without a meaning here.
        """
        self._refuse({"text_pair": text_pair, **kwargs})
        cut, one_text, length, multiple = self._limits(padding, truncation, max_length, pad_to_multiple_of)
        is_batch = isinstance(text, (list, tuple))
        encodings = []
        for sample in text if is_batch else [text]:
            if not add_special_tokens and not isinstance(sample, str):
                raise ValueError(f"Got add_special_tokens=False for a {type(sample).__name__}, expected a text.")
            segments = self._segments(sample) if add_special_tokens else [(sample, 0, "")]
            encodings.append(self._encode(segments, cut, one_text, bool(add_special_tokens)))
        names = [*self.model_input_names]
        if return_attention_mask is False:
            names.remove("attention_mask")
        if return_special_tokens_mask:
            names.append("special_tokens_mask")
            for encoding in encodings:
                encoding["special_tokens_mask"] = self.get_special_tokens_mask(encoding["input_ids"], None, True)
        longest = max((len(encoding["input_ids"]) for encoding in encodings), default=0)
        is_stacked = return_tensors is not None or (
            length is not None and (is_batch or length > longest or longest % multiple)
        )
        columns = self._stack(encodings, padding_side, length, multiple) if is_stacked else _columns(encodings)
        columns = _as_tensors({name: columns[name] for name in names if name in columns}, return_tensors)
        if not is_batch and return_tensors is None:
            columns = {name: column[0] for name, column in columns.items()}
        batch = BatchEncoding(columns)
        batch.ext_tables = [encoding["ext_table"] for encoding in encodings]
        return batch

    def encode(
        self,
        text: str | dict,
        text_pair: None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        **kwargs: Any,
    ) -> list[int]:
        """The `input_ids` alone, see `__call__`; without their tables those from `vocab_size` on cannot be read."""
        return self(text, text_pair, add_special_tokens, padding, **kwargs)["input_ids"]

    def pad(
        self,
        encoded_inputs: Mapping | list[Mapping],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pads what `__call__` returned, further keys or not: what the collators of transformers call.

        Args:
            encoded_inputs (`dict` or list of them): A batch, a sample or a list of samples, as lists, arrays or
                tensors. `segment_rel` becomes a square of the most segments, `ext_…` is filled on the right, `labels`
                with an entry per token with -100. What is not known here stays as it is.
            padding, max_length, pad_to_multiple_of, padding_side, return_attention_mask, verbose: See `__call__`.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`; by default what came.

        Raises:
            ValueError: Samples without `input_ids`, with different keys, or with what makes no tensor.
        """
        _, _, length, multiple = self._limits(padding, False, max_length, pad_to_multiple_of)
        samples, is_sample = encoded_inputs, False
        if isinstance(encoded_inputs, Mapping):
            ids = encoded_inputs.get("input_ids", ())
            is_sample = not _has_rows(ids)
            samples = [encoded_inputs]
            if not is_sample:
                if any(len(value) != len(ids) for value in encoded_inputs.values()):
                    raise ValueError(f"Got a batch of {len(ids)} samples, but not as many values of each key.")
                samples = [{key: value[i] for key, value in encoded_inputs.items()} for i in range(len(ids))]
        if not all(isinstance(sample, Mapping) and "input_ids" in sample for sample in samples):
            raise ValueError("CpmBeeTokenizer pads what it returned, got samples without input_ids.")
        first = samples[0]["input_ids"] if samples else None
        if return_tensors is None and hasattr(first, "dtype"):
            return_tensors = "pt" if torch.is_tensor(first) else "np"

        known, further = [], []
        for sample in samples:
            row = {key: value for key, value in sample.items() if key not in ("ext_table", "image_bounds")}
            kept = {key: _as_list(row.pop(key)) for key in _KNOWN if key in row}
            kept.setdefault("attention_mask", [1] * len(kept["input_ids"]))
            if return_attention_mask is False:
                del kept["attention_mask"]
            if np.shape(kept.get("labels", kept["input_ids"])) != np.shape(kept["input_ids"]):
                row["labels"] = kept.pop("labels")  # one for the whole sample
            known.append(kept)
            further.append(row)
        for key in _COLUMNS:  # tensors leave out what is empty
            if any(key in kept for kept in known):
                known = [{key: [], **kept} for kept in known]
        keys = {frozenset((*kept, *row)) for kept, row in zip(known, further, strict=True)}
        if len(keys) > 1:
            raise ValueError(f"Got samples with different keys: not all have {sorted(set.union(*map(set, keys)))}.")
        is_stacked = length is not None or return_tensors is not None
        columns = self._stack(known, padding_side, length, multiple) if is_stacked else _columns(known)
        columns = _as_tensors({**columns, **_columns(further)}, return_tensors)
        batch = BatchEncoding({key: column[0] for key, column in columns.items()} if is_sample else columns)
        sources = [encoded_inputs] if isinstance(encoded_inputs, Mapping) else samples
        tables = [table for source in sources for table in getattr(source, "ext_tables", [source.get("ext_table")])]
        if len(tables) == len(samples) and None not in tables:
            batch.ext_tables = tables
        return batch

    def pad_encodings(
        self, encodings: list[dict], padding_side: str | None = None, length: int | None = None
    ) -> BatchEncoding:
        """Stacks encodings of `CpmBeeTokenizer.encode_data` to one batch of int64 tensors.

        Args:
            encodings (`list[dict]`): They may also have `mm_token_type_ids` and `labels`, an entry per token.
            padding_side (`str`, *optional*): `"left"` or `"right"`; the tokenizer's side (left) by default.
            length (`int`, *optional*, tokens): The least number to pad to.

        Returns:
            `BatchEncoding` of tensors (B, L); `segment_rel` (B, S, S); `ext_…` (B, E) unless E is 0; `unk_allowed`
            (B,). Its attribute `ext_tables` lists the tables of the samples.
        """
        batch = BatchEncoding(_as_tensors(self._stack(encodings, padding_side, length or 0), "pt"))
        batch.ext_tables = [encoding["ext_table"] for encoding in encodings]
        return batch

    def _stack(self, encodings: list[dict], padding_side, length: int | None, multiple: int = 1) -> dict:
        """Arrays of the keys that are known here; `length` is the least one to pad to, None for no padding."""
        side = padding_side or self.padding_side
        if side not in ("left", "right"):
            raise ValueError(f'padding_side is "left" or "right", got {side!r}.')
        if not encodings:
            raise ValueError("CpmBeeTokenizer got an empty list, wanted at least one sample.")
        lengths = {len(encoding["input_ids"]) for encoding in encodings}
        if length is None and len(lengths) > 1:
            raise ValueError(
                f"Got samples of {min(lengths)} to {max(lengths)} tokens, expected padding=True for tensors."
            )
        width = -(-max(*lengths, length or 0) // multiple) * multiple

        def stack(key, filler, side, width):
            stacked = np.full((len(encodings), width), filler, dtype=np.int64)
            for padded, encoding in zip(stacked, encodings, strict=True):
                row = encoding[key]
                start = width - len(row) if side == "left" else 0
                padded[start : start + len(row)] = row
            return stacked

        batch = {key: stack(key, filler, side, width) for key, filler in _PADDING.items() if key in encodings[0]}
        if "segment_rel" in encodings[0]:
            segments = max(len(encoding["segment_rel"]) for encoding in encodings)
            batch["segment_rel"] = np.zeros((len(encodings), segments, segments), dtype=np.int64)
            for square, encoding in zip(batch["segment_rel"], encodings, strict=True):
                relations = encoding["segment_rel"]
                square[: len(relations), : len(relations)] = relations
        for key in _COLUMNS:
            if key in encodings[0]:
                batch[key] = stack(key, 0, "right", max(len(encoding[key]) for encoding in encodings))
        if "unk_allowed" in encodings[0]:
            batch["unk_allowed"] = np.array([encoding["unk_allowed"] for encoding in encodings], dtype=np.int64)
        return batch

    def decode(
        self,
        token_ids: int | list[int] | list[list[int]] | np.ndarray | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        ext_table: dict[int, str] | None = None,
        **kwargs: Any,
    ) -> str | list[str]:
        """Text of ids, token by token: the text of a prefix is a prefix of the text.

        Args:
            token_ids (`int`, or list, array or tensor of them): Negative ids are left out; rows give a list.
            skip_special_tokens (`bool`, *optional*, defaults to False): Leaves special tokens out and `<` single.
                Otherwise the text is in the grammar of the class, as the original's.
            clean_up_tokenization_spaces: Without effect; the text is exact.
            ext_table (`dict[int, str]`, *optional*): The sample's table, whose strings appear as they are; by default
                what the ids bring along, as those of `generate()` do. Any other id outside the vocabulary is an
                `<unk>`.
            kwargs: Other options of transformers' tokenizers must be None or False.

        Raises:
            ValueError: Neither ids nor rows of them, or an option without a meaning here.
        """
        self._refuse(kwargs)
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        ids = [ids] if isinstance(ids, int) else ids
        if not isinstance(ids, (list, tuple)):
            raise ValueError(f"Got {type(ids).__name__} to decode, expected ids of tokens.")
        if _has_rows(ids):
            tables = None if ext_table is None else [ext_table] * len(ids)
            return self.batch_decode(token_ids, skip_special_tokens, ext_tables=tables)
        if ext_table is None:
            # words that ids bring along are the answer's: in a prompt a picture's places have the id of a word
            ext_table = (getattr(token_ids, "ext_tables", None) or [{}])[0]
            start = self.answer_start(ids) if ext_table else 0
            if start:
                parts = (ids[:start], {}), (ids[start:], ext_table)
                return "".join(self.decode(part, skip_special_tokens, ext_table=table) for part, table in parts)
        pieces = []
        try:
            for index in map(operator.index, ids):
                if index in ext_table:
                    pieces.append(ext_table[index])
                elif index >= 0:
                    entry = self._decoder.get(index, "<unk>")
                    if entry not in self._specials:
                        pieces.append(entry if skip_special_tokens else self.escape(entry))
                    elif not skip_special_tokens:
                        pieces.append(entry)
        except TypeError as error:
            raise ValueError(
                f"Got ids or an ext_table of other kinds to decode, expected whole numbers ({error})."
            ) from error
        return "".join(pieces)

    def answer_start(self, ids: list[int]) -> int:
        """Where the answer begins in ids that begin with a prompt: behind `<s><ans></s><s>`; 0 without a prompt."""
        first = next((i for i, token in enumerate(ids) if token), 0)
        if list(ids[first : first + 2]) != [self._bos_id, self._specials["<root>"]]:
            return 0
        mark = [self._bos_id, self._specials["<ans>"], self._eos_id, self._bos_id]
        return next((i + 4 for i in range(first, len(ids) - 3) if list(ids[i : i + 4]) == mark), len(ids))

    def batch_decode(
        self,
        sequences: int | list[int] | list[list[int]] | np.ndarray | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        ext_tables: list[dict[int, str]] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Decodes each row with its table, see `decode`; ids without rows are one row."""
        if not isinstance(sequences, (list, tuple)) and not getattr(sequences, "ndim", 0):
            raise ValueError(f"Got {type(sequences).__name__} to decode, expected rows of ids.")
        if len(sequences) and not _has_rows(sequences):
            sequences = [sequences]
        if ext_tables is None:
            ext_tables = [None] * len(sequences)
        if len(ext_tables) != len(sequences):
            raise ValueError(f"Got {len(sequences)} rows of ids and {len(ext_tables)} ext_tables, expected one each.")
        rows = zip(sequences, ext_tables, strict=True)
        return [self.decode(ids, skip_special_tokens, ext_table=table, **kwargs) for ids, table in rows]

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Pieces of a text, whose ids `__call__` gives without special tokens; outside the grammar `<` is itself."""
        if kwargs.pop("add_special_tokens", False):
            raise ValueError("Got add_special_tokens=True, expected False: tokenize() shows the pieces of a text.")
        self._refuse(kwargs)
        if not isinstance(text, str):
            raise ValueError(f"Got {type(text).__name__} to tokenize, expected a text.")
        try:
            parts = list(self._split(text))
        except ValueError:
            return super().tokenize(text)
        return [piece for part, special in parts for piece in ([part] if special else self._tokenize(part))]

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: None = None) -> list[int]:
        """Ids of a text in its place: `<s><root></s><s>…</s>`."""
        self._refuse({"token_ids_1": token_ids_1})
        bos, root, eos = self._bos_id, self._specials["<root>"], self._eos_id
        return [bos, root, eos, bos, *token_ids_0, eos]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for special tokens but `<unk>`, which may stand for a word."""
        self._refuse({"token_ids_1": token_ids_1})
        ids = token_ids_0 if already_has_special_tokens else self.build_inputs_with_special_tokens(token_ids_0)
        special = set(self._specials.values()) - {self._unk_id}
        return [int(index in special) for index in ids]

    def prepare_for_model(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: ids alone do not say where their segments are."""
        raise ValueError("CpmBeeTokenizer makes no inputs of ids, as their segments are lost: call it with the text.")

    def apply_chat_template(
        self,
        conversation: list[dict],
        tools: None = None,
        documents: None = None,
        chat_template: str | None = None,
        tokenize: bool = True,
        **kwargs: Any,
    ) -> str | list[str] | list[int] | BatchEncoding:
        """For a template of your own, see transformers' method: what messages hold is text, never a special token.

        Raises:
            ValueError: No template, or VisCPM-Chat's, which shows a conversation to people, is to be tokenized.
        """
        template = chat_template or self.chat_template
        if template is None or (tokenize and "'User: '" in str(template)):
            raise ValueError(
                "CpmBeeTokenizer has no chat template to tokenize with, as CPM-Bee reads dicts: call it with such as "
                '{"input": question, "<ans>": ""}, or call apply_chat_template of VisCPM-Chat\'s processor.'
            )
        kwargs.pop("sanitize_control_tokens", None)  # as below
        conversation = self._escaped(conversation) if tokenize else conversation
        return super().apply_chat_template(
            conversation, tools=tools, documents=documents, chat_template=chat_template, tokenize=tokenize, **kwargs
        )

    def _escaped(self, value):
        if isinstance(value, str):
            return self.escape(value)
        if isinstance(value, dict):
            return {key: self._escaped(part) for key, part in value.items()}
        value = getattr(value, "messages", value)
        return [self._escaped(part) for part in value] if isinstance(value, (list, tuple)) else value

    @property
    def vocab_size(self) -> int:
        """Number of entries; ids from here on are extension columns."""
        return len(self._encoder)

    @property
    def pad_token_id(self) -> int:
        """Always 0: the original pads with 0 and masks it, whatever entry that is."""
        return 0

    def get_vocab(self) -> dict[str, int]:
        """Tokens and their ids, those of the vocabulary file."""
        return dict(self._encoder)

    def add_tokens(self, new_tokens: str | AddedToken | list[str | AddedToken], special_tokens: bool = False) -> int:
        """Only for entries of the vocabulary: a further id would be an extension column."""
        new_tokens = new_tokens if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        self._check_specials({"extra_special_tokens" if special_tokens else "new_tokens": new_tokens})
        return 0

    def add_special_tokens(self, special_tokens_dict: dict, replace_extra_special_tokens: bool = True) -> int:
        """As `add_tokens`; gives a special token of the vocabulary a name such as `sep_token`."""
        self._check_specials(special_tokens_dict)
        for name, token in special_tokens_dict.items():
            if name.endswith("_token"):
                setattr(self, name, token)
        return 0

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        return [text[start:end] for start, end in self._match(text).offsets]

    def _convert_token_to_id(self, token: str) -> int:
        return self._encoder.get(token, self._unk_id)

    def _convert_id_to_token(self, index: int) -> str:
        return self._decoder.get(index, "<unk>")

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens, which follow each other without a space."""
        return "".join(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Writes the vocabulary file as it was read, byte for byte."""
        name = (filename_prefix + "-" if filename_prefix else "") + self.vocab_files_names["vocab_file"]
        path = os.path.join(save_directory, name)
        with open(path, "wb") as file:
            file.write(self._vocab_bytes)
        return (path,)


def _has_rows(ids) -> bool:
    return len(ids) > 0 and (isinstance(ids[0], (list, tuple)) or getattr(ids[0], "ndim", 0) > 0)


def _as_list(value):
    return value.tolist() if hasattr(value, "tolist") else value


def _columns(rows: list[dict]) -> dict[str, list]:
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}


def _as_tensors(columns: dict, kind: str | None) -> dict:
    """Lists, or tensors but for extension columns where no sample has any."""
    kind = getattr(kind, "value", kind)
    if kind is None:
        return {key: _as_list(column) for key, column in columns.items()}
    if kind not in ("pt", "np"):
        raise ValueError(f'CpmBeeTokenizer returns tensors as "pt" or "np" and lists as None, got {kind!r}.')
    tensors = {}
    for key, column in columns.items():
        try:
            is_array = isinstance(column, np.ndarray)
            tensor = torch.from_numpy(column) if is_array else torch.stack([torch.as_tensor(part) for part in column])
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"The values of {key!r} make no tensor ({error}): leave them out.") from error
        if key not in _COLUMNS or tensor.numel():
            tensors[key] = tensor if kind == "pt" else tensor.numpy()
    return tensors


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
