"""Conversations about pictures as one training sample per answer, whole or streamed."""

import copy
import itertools
import json
import random
import warnings
from collections import Counter, UserDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..checkpoint.errors import listed
from ..remote_code.processing_viscpm_chat import VisCPMChatProcessor
from ..remote_code.tokenization_cpmbee import CpmBeeTokenizer
from .augmentation import augment
from .captions import requests_for
from .pictures import load_picture
from .rows import LANGUAGES, BrokenRow, Row, name_of, read_row
from .sources import Source, open_sources

CAPTIONS = ("question", "input")


class ChatSample(UserDict):
    """`{"image", "question", "context", "answer"}`, which transformers' Trainer hands on whole.

    From a dict it removes what is no argument of the model, before the collator has made any.
    """


@dataclass(frozen=True)
class LeftOut:
    """A row that is not trained on: of which source, which one, the file of its picture if it names one, and why."""

    source: str
    row: int
    file: str
    reason: str
    detail: str


class _Samples:
    """What `ChatDataset` and `ChatStream` share: from a row to samples."""

    def __init__(self, language, captions, augment_to, min_side, seed):
        if language not in LANGUAGES:
            raise ValueError(f"Got language={language!r}, expected one of {', '.join(LANGUAGES)}.")
        if captions not in CAPTIONS:
            raise ValueError(f"Got captions={captions!r}, expected one of {', '.join(CAPTIONS)}.")
        self.language, self.captions, self.seed = language, captions, seed
        self.augment_to, self.min_side = augment_to, min_side

    def read(self, row: Any) -> Row:
        """Raises a `BrokenRow` if nothing can be learned from the row."""
        read = read_row(row, self.language)
        turns = len(read.versions[0])
        if turns == 0:
            raise BrokenRow("an empty conversation")
        return read

    def picture(self, row: Row, source: Source):
        """The picture of a row, None if it has none; raises a `BrokenRow` if it cannot be read."""
        return None if row.picture is None else load_picture(row.picture, source.folder, self.min_side)

    def sample(self, row: Row, turn: int, picture, rng: random.Random) -> ChatSample:
        """The sample of one answer; `rng` draws what the row leaves open."""
        version = rng.choice(row.versions)
        return sample_of(version, turn, picture, rng, self.captions)

    def draw(self, *where: int) -> random.Random:
        """The same choices for the same sample in the same epoch, in whichever process and after whatever break."""
        return random.Random(" ".join(map(str, (self.seed, *where))))

    def changed(self, picture, rng):
        if picture is None or not self.augment_to:
            return picture
        return augment(picture, self.augment_to, rng)


def sample_of(version: list, turn: int, picture: Any, rng: random.Random, captions: str = "question") -> ChatSample:
    """The sample of one answer.

    Args:
        version (`list[tuple[str | None, str]]`): questions and answers; None stands for a request for a caption.
        turn (`int`): which of them.
        picture (`PIL.Image`, *optional*): what it is about.
        rng (`random.Random`): draws a request.
        captions (`str`, defaults to `"question"`): where a request goes: `"input"` is the original's key, which its
            chat never asks with.
    """
    question, answer = version[turn]
    if question is None:
        request = rng.choice(requests_for(answer))
        if captions == "input":
            return ChatSample(image=picture, input=request, answer=answer)
        question = request
    context = "".join(turn_text(*earlier) for earlier in version[:turn])
    return ChatSample(image=picture, question=question, context=context, answer=answer)


def turn_text(question: str, answer: str) -> str:
    """A turn as `VisCPMChat.chat` writes it into the context of the next."""
    return VisCPMChatProcessor.format_turn(_AnyProcessor, question, CpmBeeTokenizer.escape(answer))


class _AnyProcessor:
    """What a turn is written with, which is the same for all vocabularies: an escaped text parses with any."""

    tokenizer = CpmBeeTokenizer

    @staticmethod
    def to_grammar(text):
        return text


class ChatDataset(_Samples, Dataset):
    """One sample per answer of every conversation: picture, question, earlier turns, answer.

    The original used only the first turn of a conversation, because its history was wrong; here every turn counts and
    sees the turns before it.

    Args:
        records (`str`, `Path`, `list[dict]`, or a list of paths): rows in the forms of `finetuning.rows`, or where
            they are, see `open_sources`. `image` may be missing (text only) or a `PIL.Image`.
        image_folder (`str` or `Path`, *optional*): what relative picture paths start from; by default the folder of
            the file.
        split (`str`, defaults to `"train"`): of a data set that has several.
        language (`str`, defaults to `"both"`): `"zh"` or `"en"` leave out what is in the other. Of a row with
            texts in both, `"both"` draws one of them in every epoch, as the original does.
        captions (`str`, defaults to `"question"`): how a row with only a caption is asked for it, with one of the
            original's requests: as a question, or as `"input"`, the original's key.
        augment_to (`int`, *optional*, pixels): varies pictures as the original does, to this side.
        min_side (`int`, defaults to 0, pixels): smaller pictures are broken rows.
        seed (`int`, defaults to 0): of all that is drawn.
        strict (`bool`, defaults to True): whether the first broken row is an error; else they are in `left_out`.

    Items are `ChatSample`s: `{"image": PIL.Image | None, "question": str, "context": str, "answer": str}`, unescaped
    except for `context`, which is in the tokenizer's grammar. The index `(epoch, i)` is the item i with what is drawn
    in that epoch; i alone is that of epoch 0.

    Attributes:
        left_out (`list[LeftOut]`): broken rows.
        lengths (`list[int]`, *optional*): of the samples in tokens, once `check_samples` has counted them.

    Raises:
        ValueError: the file cannot be read, a row is broken, nothing is left, or, of an item, the picture is missing.
    """

    def __init__(
        self,
        records: Any,
        image_folder: str | Path | None = None,
        *,
        split: str = "train",
        language: str = "both",
        captions: str = "question",
        augment_to: int | None = None,
        min_side: int = 0,
        seed: int = 0,
        strict: bool = True,
    ):
        super().__init__(language, captions, augment_to, min_side, seed)
        self.sources = open_sources(records, image_folder, split)
        self.strict, self.left_out, self.lengths = strict, [], None
        places = []
        for number, source in enumerate(self.sources):
            if not hasattr(source.rows, "__len__"):
                raise ValueError(f"Got {source.name}, whose rows are read one after the other: use ChatStream.")
            for index in range(len(source.rows)):
                try:
                    row = self.read(source.rows[index])
                except BrokenRow as error:
                    self.leave_out(number, index, error)
                else:
                    places += [(number, index, turn) for turn in range(len(row.versions[0]))]
        self.places = np.array(places, dtype=np.int64).reshape(-1, 3)  # source, row, turn
        self.require_samples()

    def require_samples(self) -> None:
        """Raises a ValueError if nothing is left to train on."""
        if not len(self.places):
            raise ValueError(
                f"No sample is left of {listed([source.name for source in self.sources], 3)}: "
                f"{summary(self.left_out) or 'there is no row'}."
            )

    def leave_out(self, source: int, row: int, error: BrokenRow) -> None:
        """Notes a broken row, or raises what is wrong with it if the data set is strict."""
        left_out = self._left_out(source, row, error)
        if self.strict:
            raise broken(left_out) from error
        self.left_out.append(left_out)

    def _left_out(self, source: int, row: int, error: BrokenRow) -> LeftOut:
        place = self.sources[source]
        return LeftOut(place.name, row, name_of(place.rows[row]), error.reason, error.detail)

    def copy(self) -> "ChatDataset":
        """Another data set of the same rows, which may keep others of its samples."""
        return copy.copy(self)

    def keep(self, kept: np.ndarray, lengths: list[int] | None = None) -> None:
        """Goes on with some of the samples only.

        Args:
            kept (`np.ndarray`): one bool a sample.
            lengths (`list[int]`, *optional*, tokens): of those that are kept.
        """
        self.places, self.lengths = self.places[kept], lengths
        self.require_samples()

    def __len__(self) -> int:
        return len(self.places)

    def row(self, index: int) -> tuple[Row, Source]:
        """What the row of a sample says, and where it is from."""
        number, row, _ = self.places[index]
        source = self.sources[number]
        return self.read(source.rows[int(row)]), source

    def __getitem__(self, index: int | tuple[int, int]) -> ChatSample:
        epoch, index = index if isinstance(index, tuple) else (0, index)
        row, source = self.row(index)
        number, row_number, turn = map(int, self.places[index])
        try:
            picture = self.picture(row, source)
        except BrokenRow as error:
            left_out = self._left_out(number, row_number, error)
            if self.strict or len(self) == 1:
                raise broken(left_out, "set image_folder to where the pictures are") from error
            warnings.warn(f"{broken(left_out, 'another sample takes its place')}", stacklevel=2)  # it was there before
            return self[epoch, (index + 1) % len(self)]
        rng = self.draw(epoch, number, row_number, turn)
        return self.sample(row, turn, self.changed(picture, rng), rng)


class ChatStream(_Samples, IterableDataset):
    """The samples of `ChatDataset`, from rows that are read when they are wanted and never all in memory.

    Broken rows are left out when they are met. The rows are shuffled among `buffer` neighbours, in another order in
    every epoch.

    Args:
        records, image_folder, split, language, captions, augment_to, min_side, seed, strict: see `ChatDataset`.
        buffer (`int`, defaults to 1000, rows): 1 keeps the order.
        usable (callable, *optional*): of a sample; raises a `BrokenRow` for what cannot be trained on.
        endless (`bool`): whether one epoch follows the other: Trainer does not know where one of a stream ends, and
            would not find its place in a later one again.
        listing (`Path`, *optional*): a file to which broken rows are added as they are met, by whichever process.

    Attributes:
        left_out (`list[LeftOut]`): broken rows met so far by this process.
    """

    def __init__(
        self,
        records: Any,
        image_folder: str | Path | None = None,
        *,
        split: str = "train",
        language: str = "both",
        captions: str = "question",
        augment_to: int | None = None,
        min_side: int = 0,
        seed: int = 0,
        strict: bool = False,
        buffer: int = 1000,
        usable: Callable[[ChatSample], Any] | None = None,
        endless: bool = False,
        listing: Path | None = None,
    ):
        super().__init__(language, captions, augment_to, min_side, seed)
        self.sources = open_sources(records, image_folder, split, True)
        self.strict, self.buffer, self.usable, self.listing = strict, max(buffer, 1), usable, listing
        self.epoch, self.endless, self.left_out = 0, endless, []
        known = listing.read_text(encoding="utf-8").splitlines() if listing and listing.exists() else []
        self._met = {(record["source"], record["row"]) for record in map(json.loads, known)}

    def set_epoch(self, epoch: int) -> None:
        """What is drawn from now on."""
        self.epoch = epoch

    def _rows(self) -> Iterator[tuple[int, int, Any]]:
        worker, place = get_worker_info(), 0
        for number, source in enumerate(self.sources):
            try:
                for index, row in enumerate(source.rows):
                    if worker is None or place % worker.num_workers == worker.id:
                        yield number, index, row
                    place += 1
            except Exception as error:  # of files and networks, of any class
                if type(error) is ValueError and source.name in str(error):  # our own
                    raise
                text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise ValueError(f"{source.name} cannot be read any further ({text}).") from error

    def _shuffled(self, rows: Iterator, epoch: int) -> Iterator:
        rng, buffer = self.draw(epoch), []
        for row in rows:
            if len(buffer) < self.buffer:
                buffer.append(row)
                continue
            place = rng.randrange(len(buffer))
            yield buffer[place]
            buffer[place] = row
        rng.shuffle(buffer)
        yield from buffer

    def __iter__(self) -> Iterator[ChatSample]:
        for epoch in itertools.count(self.epoch):
            is_empty = True
            for sample in self._epoch(epoch):
                is_empty = False
                yield sample
            if is_empty and get_worker_info() is None:
                names = listed([source.name for source in self.sources], 3)
                raise ValueError(f"No sample is left of {names}: {summary(self.left_out) or 'there is no row'}.")
            if is_empty or not self.endless:
                return

    def _epoch(self, epoch: int) -> Iterator[ChatSample]:
        for number, index, content in self._shuffled(self._rows(), epoch):
            source, samples = self.sources[number], []
            try:
                row = self.read(content)
                picture = self.picture(row, source)
                for turn in range(len(row.versions[0])):
                    rng = self.draw(epoch, number, index, turn)
                    samples.append(self.sample(row, turn, self.changed(picture, rng), rng))
                    if self.usable is not None:
                        self.usable(samples[-1])
            except BrokenRow as error:
                left_out = LeftOut(source.name, index, name_of(content), error.reason, error.detail)
                if self.strict:
                    raise broken(left_out) from error
                self._note(left_out)
            else:
                yield from samples

    def _note(self, left_out: LeftOut) -> None:
        if (left_out.source, left_out.row) in self._met:
            return
        self._met.add((left_out.source, left_out.row))
        self.left_out.append(left_out)
        if self.listing is not None:
            with open(self.listing, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(as_line(left_out))


def broken(left_out: LeftOut, advice: str = "mend or remove it") -> ValueError:
    """The error of a row where none may be broken."""
    detail = f" ({left_out.detail})" if left_out.detail else ""
    file = f", {left_out.file}" if left_out.file and left_out.file not in detail else ""
    return ValueError(f"Record {left_out.row} of {left_out.source}{file}: {left_out.reason}{detail}; {advice}.")


def summary(left_out: list[LeftOut]) -> str:
    """How many rows were left out for which reason, most first."""
    return ", ".join(f"{count} × {reason}" for reason, count in Counter(r.reason for r in left_out).most_common())


def as_line(left_out: LeftOut) -> str:
    """A JSON record with a line break."""
    return json.dumps(asdict(left_out), ensure_ascii=False) + "\n"
