"""Conversations about pictures, in the form LLaVA made common, as one training sample per answer."""

import json
from collections import UserDict
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

IMAGE_MARK = "<image>"


class ChatSample(UserDict):
    """`{"image", "question", "context", "answer"}`, which transformers' Trainer hands on whole.

    From a dict it removes what is no argument of the model, before the collator has made any.
    """


class ChatDataset(Dataset):
    """One sample per answer of every conversation: picture, question, earlier turns, answer.

    The original used only the first turn of a conversation, because its history was wrong; here every turn counts and
    sees the turns before it.

    Args:
        records (`str`, `Path` or `list[dict]`): a JSON file or its content: a list of
            `{"image": path, "conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]}`.
            `image` may be missing (text only) or a `PIL.Image`. `<image>` marks in the text are removed.
        image_folder (`str` or `Path`, *optional*): what relative picture paths start from; by default the folder of
            the JSON file.

    Items are `ChatSample`s: `{"image": PIL.Image | None, "question": str, "context": str, "answer": str}`, unescaped
    except for `context`, which is in the tokenizer's grammar.

    Raises:
        ValueError: The file is no list of records in this form, a conversation does not alternate between human and
            gpt, or, of an item, the picture is missing.
    """

    def __init__(self, records: str | Path | list[dict], image_folder: str | Path | None = None):
        if isinstance(records, (str, Path)):
            image_folder = image_folder or Path(records).parent
            records = _read_records(Path(records))
        self.image_folder = Path(image_folder or ".")
        self.turns = []  # (image, question, context, answer)
        for number, record in enumerate(records):
            if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
                raise ValueError(
                    f"Record {number} has no list of conversations, wanted LLaVA's form, see ChatDataset."
                )
            turns = conversation_turns(record["conversations"], number)
            self.turns += [(record.get("image"), *turn) for turn in turns]

    def __len__(self) -> int:
        return len(self.turns)

    def __getitem__(self, index: int) -> ChatSample:
        image, question, context, answer = self.turns[index]
        if isinstance(image, (str, Path)):
            path = self.image_folder / image
            if not path.is_file():
                raise ValueError(f"There is no picture {str(path)!r}; set image_folder to where the pictures are.")
            with Image.open(path) as file:
                image = file.convert("RGB")
        return ChatSample(image=image, question=question, context=context, answer=answer)


def _read_records(path: Path) -> list:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as a JSON file ({error}), wanted a list of records."
        ) from error
    if not isinstance(records, list):
        raise ValueError(f"{str(path)!r} holds a {type(records).__name__}, wanted a list of records.")
    return records


def conversation_turns(conversation: list[dict], number: int = 0) -> list[tuple[str, str, str]]:
    """Splits a conversation into (question, context, answer), one per answer.

    Args:
        conversation (`list[dict]`): messages `{"from": "human" | "gpt", "value": str}`, taking turns.
        number (`int`, defaults to 0): the record's number, for the message of an error.

    Returns:
        `list[tuple[str, str, str]]`; `context` is what `VisCPMChat.chat` would have passed on to that turn.
    """
    if not all(isinstance(message, dict) and isinstance(message.get("value"), str) for message in conversation):
        raise ValueError(f'Record {number} has other messages than {{"from": "human" or "gpt", "value": text}}.')
    speakers = [message.get("from") for message in conversation]
    if not speakers or speakers != ["human", "gpt"] * (len(speakers) // 2):
        raise ValueError(
            f"Record {number} is a conversation of {speakers}, wanted human and gpt taking turns, human first; "
            "remove the record or its stray messages."
        )
    turns, context = [], ""
    for human, gpt in zip(conversation[::2], conversation[1::2], strict=True):
        question, answer = human["value"].replace(IMAGE_MARK, "").strip(), gpt["value"].strip()
        turns.append((question, context, answer))
        context += "User: {}\nAI: {}\n".format(question.replace("<", "<<"), answer.replace("<", "<<"))
    return turns
