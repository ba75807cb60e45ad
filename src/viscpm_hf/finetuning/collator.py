"""Samples of a conversation to a training batch, as the original's CPMBeeCollater builds it."""

import torch

from ..remote_code.processing_viscpm_chat import VisCPMChatProcessor

IGNORED = -100


class ChatCollator:
    """Turns samples `{"image", "question", "context", "answer"}` into the inputs of VisCPM-Chat and its targets.

    The targets are `shift_labels`: the token after each position, the answer's first token at its `<s>` and `</s>`
    at its last token, so the model also learns to stop. `labels`, aligned with `input_ids` as Trainer, metrics and
    `generate()` look for them, have no room for that `</s>` in the longest sample; the loss does not look at them.

    All samples of a batch share one table of extension tokens without repetitions; the original had one column for
    every occurrence, which changes the loss. As in the original there is one unused column where the batch has no
    extension token. Further columns, which cannot be written and leave the loss as it is, make the logits of all
    batches equally wide, so that `Trainer.predict` can put them together.

    Args:
        processor (`VisCPMChatProcessor`): of the model to be trained.
        max_length (`int`, *optional*, tokens): longer samples lose their oldest turns.
        columns (`int`, *optional*, defaults to 32): of extension tokens, at least; raise it if batches have more words
            outside the vocabulary. 0 refuses such words and leaves the unused column out, for trainers that compute
            logits over the vocabulary alone, such as TRL's.
        padding (`str`, *optional*): `"max_length"`, the default if there is one, pads every batch to it as the
            original does; `"longest"` to its longest sample, which leaves the loss as it is.

    Raises:
        ValueError: A sample is longer than `max_length` even without its earlier turns, or lacks question or answer,
            or has words outside the vocabulary where there are no columns.
    """

    def __init__(
        self,
        processor: VisCPMChatProcessor,
        max_length: int | None = None,
        columns: int = 32,
        padding: str | None = None,
    ):
        padding = padding or ("longest" if max_length is None else "max_length")
        if padding not in ("longest", "max_length") or (padding == "max_length" and max_length is None):
            raise ValueError(f"Got padding={padding!r}, expected 'longest', or 'max_length' and a max_length.")
        self.processor = processor
        self.max_length = max_length
        self.columns = columns
        self.padding = padding

    def __call__(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        """A batch for the model, padded on the right, of rows of the dataset."""
        encodings = [self.encode(sample) for sample in samples]
        table = self._share_extension_table(encodings) if self.columns else []
        length = self.max_length if self.padding == "max_length" else None
        batch = dict(self.processor.pad(encodings, padding_side="right", length=length))
        batch["shift_labels"] = batch["labels"]
        batch["labels"] = torch.nn.functional.pad(batch["labels"], (1, 0), value=IGNORED)[:, :-1]
        keys = ("ext_table_ids", "ext_table_subs", "ext_table_mask")
        for key, column in zip(keys, zip(*table, strict=True), strict=False):  # none without columns
            batch[key] = torch.tensor([column] * len(samples))
        images = [sample["image"] for sample in samples if sample.get("image") is not None]
        if images:
            batch["pixel_values"] = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        return batch

    def encode(self, sample: dict) -> dict:
        """Model inputs of one sample as lists, as the tokenizer returns them; `labels` are the shifted targets."""
        if "answer" not in sample or not {"question", "input"} & set(sample):
            raise ValueError(
                f"Got a sample with {sorted(sample)}, expected question and answer, too: with a dataset of dicts set "
                "TrainingArguments(remove_unused_columns=False), or use ChatDataset."
            )
        has_image = sample.get("image") is not None
        if "input" in sample:
            encoding = self._encode_caption(has_image, sample["input"], sample["answer"])
        else:
            encoding = self.processor.encode_chat(
                has_image, sample["question"], sample.get("context", ""), sample["answer"], max_length=self.max_length
            )
        if not self.columns and encoding["ext_table_ids"]:
            raise ValueError(
                "Got a sample with words outside the vocabulary, expected none with columns=0: leave it out, or train "
                "with ChatTrainer, whose loss knows them."
            )
        bos, eos = self.processor.tokenizer.bos_token_id, self.processor.tokenizer.eos_token_id
        following = [eos if token == bos else token for token in encoding["input_ids"][1:]] + [eos]
        encoding["labels"] = [
            IGNORED if context else token for token, context in zip(following, encoding["context_mask"], strict=True)
        ]
        return encoding

    def _encode_caption(self, has_image: bool, request: str, caption: str) -> dict:
        """The segments that the original asks for a caption with: picture, input, answer."""
        tokenizer = self.processor.tokenizer
        image = {"image": tokenizer.unk_token * self.processor.query_num} if has_image else {}
        data = {**image, "input": tokenizer.escape(request), "<ans>": tokenizer.escape(caption)}
        encoding = tokenizer.encode_data(data)
        length = len(encoding["input_ids"])
        if self.max_length is not None and length > self.max_length:
            raise ValueError(f"Got a caption of {length} tokens with its request, expected at most {self.max_length}.")
        types = [0] * length
        for start, end in encoding["image_bounds"]:
            types[start:end] = [1] * (end - start)
        return {**encoding, "mm_token_type_ids": types}

    def _share_extension_table(self, encodings: list[dict]) -> list[tuple[int, int, int]]:
        """Renumbers the samples' extension tokens to columns of one table of (base id, running number, writable)."""
        columns: dict[tuple[int, int], int] = {}
        vocab_size = self.processor.tokenizer.vocab_size
        for encoding in encodings:
            own = list(zip(encoding["ext_table_ids"], encoding["ext_table_subs"], strict=True))
            for key in ("input_ids", "labels"):
                for place, token in enumerate(encoding[key]):
                    if token >= vocab_size:
                        column = columns.setdefault(own[token - vocab_size], len(columns))
                        encoding[key][place] = vocab_size + column
            encoding["ext_table_words"] = [
                -1 - vocab_size - columns.setdefault(own[-1 - number - vocab_size], len(columns))
                if number < -vocab_size
                else number
                for number in encoding["ext_table_words"]
            ]
            for key in ("ext_table_ids", "ext_table_subs", "ext_table_mask"):
                encoding[key] = []
        table = [(*column, 1) for column in columns or [(0, 1)]]
        return table + [(0, 0, 0)] * (self.columns - len(table))
