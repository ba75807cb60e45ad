"""Processor of VisCPM-Chat: messages with at most one picture become the original's prompt, ids become text."""

import bisect
import dataclasses
import re
import warnings
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs, MultiModalData, ProcessorMixin
from transformers.utils import logging

logger = logging.get_logger(__name__)

# what would begin a turn of the context inside a text
_LINE_BREAKS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
_BEFORE_TURN = re.compile(r"(?<!\s)\s+(?=(?:User|AI)\s*[:：])")  # whole runs, or many line breaks would take for ever
_TEXT_OPTIONS = ("padding", "padding_side", "max_length", "truncation", "pad_to_multiple_of")
_IMAGE_OPTIONS = (*ImagesKwargs.__annotations__, "backend")
# arguments of transformers' apply_chat_template that ask for nothing when False, as `transformers serve` sends one
_SWITCHED_OFF = ("return_assistant_tokens_mask", "load_audio_from_video", "sanitize_control_tokens")

# Shows a conversation to people (`tokenize=False`). The model's input is built from the messages themselves, so that
# nothing a user writes can be mistaken for structure.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- 'User: ' if message['role'] == 'user' else 'AI: ' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{{- part['text'] if part['type'] == 'text' else '[image]' -}}
{{- '' if loop.last else '\\n' -}}
{%- endfor -%}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'AI: ' -}}
{%- endif -%}
"""


class ChatPrompt(str):
    """What `apply_chat_template(tokenize=False)` returns: a text to look at that knows the conversation it shows.

    The processor reads that conversation. Any other `str`, however it looks, is a question.
    """

    def __new__(cls, text="", has_image=False, turns=()):
        self = super().__new__(cls, text)
        self.has_image, self.turns = has_image, turns
        return self

    def __eq__(self, other):
        same = not isinstance(other, ChatPrompt) or (self.has_image, self.turns) == (other.has_image, other.turns)
        return same and str(self) == str(other) if isinstance(other, str) else NotImplemented

    def __ne__(self, other):
        return not self == other

    __hash__ = str.__hash__


class VisCPMChatProcessor(ProcessorMixin):
    """Wraps `VisCPMChatImageProcessor` and `CpmBeeTokenizer`.

    Args:
        image_processor (`VisCPMChatImageProcessor`).
        tokenizer (`CpmBeeTokenizer`).
        query_num (`int`, *optional*, defaults to 64): placeholders a picture takes in the prompt.
        max_input_length (`int`, *optional*, defaults to 3000): longest prompt in tokens, as in the original; the
            oldest turns of the context are dropped to keep it. None for no limit.
        chat_template (`str`, *optional*): how `apply_chat_template(tokenize=False)` displays a conversation.
    """

    def __init__(
        self,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        query_num: int = 64,
        max_input_length: int = 3000,
        chat_template: str | None = None,
    ):
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.query_num = query_num
        self.max_input_length = max_input_length

    @property
    def model_input_names(self) -> list[str]:
        """Keys that the processor returns when there is a picture and an unknown word."""
        return [*self.tokenizer.model_input_names, "mm_token_type_ids", *self.image_processor.model_input_names]

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs):
        # transformers' name for: how many placeholders and patches the pictures of these (height, width) take
        if image_sizes is None:
            return MultiModalData()
        return MultiModalData(
            num_image_tokens=[self.query_num] * len(image_sizes), num_image_patches=[1] * len(image_sizes)
        )

    def encode_chat(
        self, has_image: bool, question: str, context: str = "", answer: str = "", max_length: int | None = None
    ) -> dict:
        """Encodes one question with the original's segments: picture, context, question, answer.

        Args:
            has_image (`bool`): whether the prompt has a picture; without one its segment is left out.
            question (`str`): plain text, always escaped.
            context (`str`, *optional*): earlier turns in the original's grammar; escaped whole if it does not parse.
            answer (`str`, *optional*): plain text the answer begins with, or the target in training.
            max_length (`int`, *optional*): drop the context's oldest turns to stay within this many tokens.

        Returns:
            `dict` of lists that `tokenizer.encode_data` returns, with `mm_token_type_ids` (1 marks the picture's
            placeholders), for `VisCPMChatProcessor.pad`.

        Raises:
            ValueError: if a text is not a string, or the rest is too long without any context.
        """
        turns = self._turns(_text(context, "context"))
        return self._encode(has_image, turns, _text(question, "question"), _text(answer, "answer"), max_length)

    def pad(self, encodings: list[dict], padding_side: str | None = None, length: int | None = None) -> BatchFeature:
        """Pads encodings of `VisCPMChatProcessor.encode_chat` to one batch of tensors.

        Args:
            encodings (`list[dict]`): one per sample.
            padding_side (`str`, *optional*): `"left"` or `"right"`; the tokenizer's side (left) by default.
            length (`int`, *optional*, tokens): to at least this length; by default to the longest sample's.

        Returns:
            `BatchFeature` of tensors; its attribute `ext_tables` lists a dict per sample from output ids to words
            outside the vocabulary.
        """
        padded = self.tokenizer.pad_encodings(encodings, padding_side, length=length)
        batch = BatchFeature(dict(padded))
        batch.ext_tables = padded.ext_tables
        return batch

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        context: str | list[str] | None = None,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepares questions, each with at most one picture.

        Args:
            images (*optional*): a picture (see `VisCPMChatImageProcessor`) or a list with a picture, None, or a list
                of at most one picture for each question.
            text (`str` or `list[str]`): questions as plain text, or what `apply_chat_template` returned.
            context (`str` or `list[str]`, *optional*): earlier turns of each, as in the original's `chat()`.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` or `"np"`.
            padding (`bool` or `str`, *optional*, defaults to True): True or `"longest"`, or `"max_length"`.
            padding_side (`str`, *optional*): `"left"` by default, as generation wants it.
            max_length (`int`, *optional*): for `padding="max_length"`, and in place of the processor's
                `max_input_length`: longer prompts lose the oldest turns of their context.
            truncation (`bool`, *optional*): False refuses prompts that are longer, by default they are shortened.
            pad_to_multiple_of (`int`, *optional*): the length of the batch.
            images_kwargs, text_kwargs, common_kwargs (`dict`, *optional*): these options by kind; those of the image
                processor are also taken by name.

        Returns:
            `BatchFeature` with the model's inputs and the attribute `ext_tables` (see `pad`).

        Raises:
            ValueError: for anything but one question and at most one picture per sample, a prompt too long, or an
                unknown option.
        """
        options = self._options(kwargs, return_tensors)
        texts = list(text) if isinstance(text, (list, tuple)) else [text]
        contexts = list(context) if isinstance(context, (list, tuple)) else [context] * len(texts)
        if not texts or len(contexts) != len(texts):
            raise ValueError(f"Got {len(texts)} questions and {len(contexts)} contexts, expected one each.")
        pictures = _one_picture_each(images, len(texts))
        conversations = []
        for picture, text, earlier in zip(pictures, texts, contexts, strict=True):
            if isinstance(text, ChatPrompt):
                if earlier or text.has_image != (picture is not None):
                    got = "a context" if earlier else f"{'no' if picture is None else 'a'} picture"
                    raise ValueError(
                        f"Got {got} beside a text of apply_chat_template, expected its picture and nothing else."
                    )
                conversations.append((text.has_image, *self._of_messages(text.turns)))
                continue
            if isinstance(text, str) and re.search(r"(^|\W)User: (.*\n)+(AI: |$)", text):
                logger.warning(
                    "A text that looks like apply_chat_template's is read as one question: hand over what it "
                    "returned itself, or use apply_chat_template(..., tokenize=True, return_dict=True)."
                )
            turns = self._turns(_text(earlier or "", "context"))
            conversations.append((picture is not None, turns, _text(text, "question"), ""))
        return self._batch(conversations, pictures, options)

    def apply_chat_template(
        self,
        conversation: list[dict] | list[list[dict]],
        chat_template: str | None = None,
        tools: None = None,
        documents: None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = "pt",
        return_dict: bool = False,
        processor_kwargs: dict | None = None,
        **kwargs: Any,
    ) -> str | list[str] | torch.Tensor | BatchFeature:
        """Turns messages into model inputs (`tokenize=True`) or into text to look at.

        What people and the model wrote in messages is text: nothing in it becomes a special token or a turn.

        Args:
            conversation (`list[dict]` or a list of such lists): messages of alternating role `user` and `assistant`,
                beginning with `user`. Content is a text or a list of `{"type": "text", "text": ...}` and, in user
                turns and once per conversation, `{"type": "image", ...}` with the picture, path, address or base64
                text under `image`, `url`, `path` or `base64`, or OpenAI's `image_url`. For text to look at the
                picture may be left out.
            chat_template (`str`, *optional*): replaces the stored template when `tokenize=False`.
            tools, documents: not supported, must be empty.
            add_generation_prompt (`bool`): the last message is the user's, an answer follows.
            continue_final_message (`bool`): the last message is the assistant's and becomes the answer's beginning.
            tokenize, return_dict (`bool`): True for model inputs.
            return_tensors: see `__call__`.
            processor_kwargs (`dict`, *optional*): options of `__call__`, which are also taken by name.
            kwargs (*optional*): variables of the template when `tokenize=False`.

        Returns:
            `BatchFeature` (see `__call__`), its `input_ids` alone with `return_dict=False`, or text that
            `__call__` takes for the conversation.

        Raises:
            ValueError: for other roles, other orders, a second picture, a picture that cannot be loaded, or an
                unknown option.
        """
        conversation = getattr(conversation, "messages", conversation)
        if tools or documents:
            raise ValueError("Got tools or documents, but VisCPM-Chat has no use for them: leave them out.")
        if not isinstance(conversation, (list, tuple)) or not conversation:
            raise ValueError("Got no messages, expected a list of at least one message with role 'user'.")
        is_batch = isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "messages")
        conversations = [getattr(c, "messages", c) for c in conversation] if is_batch else [conversation]
        conversations = [_as_dicts(messages) for messages in conversations]
        parsed = [_read(messages, add_generation_prompt, continue_final_message) for messages in conversations]
        if not tokenize:
            options = {
                "add_generation_prompt": add_generation_prompt,
                "continue_final_message": continue_final_message,
            }
            texts = super().apply_chat_template(conversations, chat_template=chat_template, **options, **kwargs)
            prompts = [
                ChatPrompt(text, bool(pictures), tuple(turns))
                for text, (pictures, turns) in zip(texts, parsed, strict=True)
            ]
            return prompts if is_batch else prompts[0]
        if chat_template is not None:
            raise ValueError("Got a chat_template with tokenize=True, which it cannot change: leave it out.")
        options = self._options({**(processor_kwargs or {}), **kwargs}, return_tensors)
        if any(picture is None for pictures, _ in parsed for picture in pictures):
            raise ValueError(
                "Got an image part without a picture, expected it under 'image', 'url', 'path' or 'base64'."
            )
        batch = self._batch(
            [(bool(pictures), *self._of_messages(turns)) for pictures, turns in parsed],
            [pictures[0] if pictures else None for pictures, _ in parsed],
            options,
        )
        if processor_kwargs is not None and torch.is_tensor(batch["input_ids"]):
            # A pipeline passes these, and batches conversations only if all have the same keys: unused columns.
            unused = batch["input_ids"].new_zeros(len(parsed), 1)
            for key in ("ext_table_ids", "ext_table_subs", "ext_table_mask", "ext_table_words"):
                batch.setdefault(key, unused)
        return batch if return_dict else batch["input_ids"]

    def post_process_image_text_to_text(
        self,
        generated_outputs: torch.Tensor | np.ndarray | list[list[int]],
        skip_special_tokens: bool = True,
        ext_tables: list[dict[int, str]] | None = None,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """Turns generated ids into text.

        Words outside the vocabulary come from `ext_tables`, else from the ids themselves: what `generate()` returned
        knows them for the answers, and so do its rows and columns. Where neither does, they are `<unk>`.

        Args:
            generated_outputs (`torch.Tensor`, `np.ndarray` or lists, (rows, length)): new ids, with or without the
                prompt before them.
            skip_special_tokens (`bool`, *optional*, defaults to True): True gives clean text; False gives the
                original's, with every special token and with `<` doubled.
            ext_tables (`list[dict]`, *optional*): `ext_tables` of the inputs, each used for as many rows as
                there are answers per question.
            clean_up_tokenization_spaces: without effect; the text is exact.

        Returns:
            `list[str]`, one per row.

        Raises:
            ValueError: if the number of rows is not a multiple of the number of tables.
        """
        rows = list(generated_outputs) if len(generated_outputs) else []
        if rows and np.ndim(rows[0]) == 0:
            rows = [generated_outputs]
        if ext_tables is None:
            # a prompt's own words are left out, so that it reads the same with an answer behind it and without
            tables = [
                (None, table[0]) if (table := getattr(row, "ext_tables", None)) else (None, None) for row in rows
            ]
        elif not ext_tables or len(rows) % len(ext_tables):
            raise ValueError(f"Got {len(rows)} rows of ids and {len(ext_tables)} ext_tables, expected a multiple.")
        else:
            tables = [(table, table) for table in ext_tables for _ in range(len(rows) // len(ext_tables))]
        rows = [row.tolist() if hasattr(row, "tolist") else list(row) for row in rows]
        if any(np.ndim(row) != 1 for row in rows):
            raise ValueError("Got ids of more than two dimensions, expected rows of ids.")
        return [self._read_ids(row, skip_special_tokens, *table) for row, table in zip(rows, tables, strict=True)]

    def _read_ids(self, ids, skip_special_tokens, prompt_table, table):
        if skip_special_tokens:
            ids = self._strip_padding(ids)
        start = self.tokenizer.answer_start(ids)
        picture = self._picture_end(ids[:start])  # whose placeholders are no unknown words, though of one id with them
        prompt = self.tokenizer.decode(ids[:picture], skip_special_tokens=skip_special_tokens)
        prompt += self.tokenizer.decode(
            ids[picture:start], skip_special_tokens=skip_special_tokens, ext_table=prompt_table
        )
        if skip_special_tokens:  # which would also leave out unknown words of the answer
            unknown = (self.tokenizer.unk_token_id, *(i for i in ids[start:] if i >= self.tokenizer.vocab_size))
            table = {**dict.fromkeys(unknown, self.tokenizer.unk_token), **(table or {})}
        return prompt + self.tokenizer.decode(ids[start:], skip_special_tokens=skip_special_tokens, ext_table=table)

    def _picture_end(self, ids):
        """Where the placeholders of a picture end in a prompt, 0 if it has none."""
        tokenizer = self.tokenizer
        held = [tokenizer.bos_token_id, *[tokenizer.unk_token_id] * self.query_num, tokenizer.eos_token_id]
        return next((i + len(held) for i in range(len(ids)) if ids[i : i + len(held)] == held), 0)

    def to_grammar(self, text: str) -> str:
        """The text itself if it follows the original's grammar, else escaped whole."""
        return text if self.tokenizer.parses(text) else self.tokenizer.escape(text)

    def format_turn(self, question: str, answer: str) -> str:
        """One turn of a context: the question escaped, the answer in the original's grammar.

        A line in them that would begin another turn (`User:`, `AI:`) is joined to the one before it; the original
        took it for a turn.
        """
        question, answer = (
            _BEFORE_TURN.sub(lambda space: _LINE_BREAKS.sub(" ", space[0]), text)
            for text in (self.tokenizer.escape(question), answer)
        )
        return f"User: {question}\nAI: {self.to_grammar(answer)}\n"

    def _of_messages(self, turns):
        """(turns of the context, question, answer's beginning) of the (question, answer or None) turns of messages."""
        *earlier, (question, answer) = turns
        escape = self.tokenizer.escape
        return [self.format_turn(asked, escape(answered)) for asked, answered in earlier], question, answer or ""

    def _turns(self, context):
        """The turns of a context in the original's grammar; joined they are the context as it came."""
        turns = re.split(r"^(?=User: )", self.to_grammar(context), flags=re.MULTILINE)
        return [turn for turn in turns if turn]

    def _encode(self, has_image, turns, question, answer, max_length, truncation=True):
        """`turns` are in the original's grammar, `question` and `answer` are plain."""
        question, answer = self.tokenizer.escape(question), self.tokenizer.escape(answer)
        image = {"image": self.tokenizer.unk_token * self.query_num} if has_image else {}

        def encode(dropped):
            context = "".join(turns[dropped:])
            data = {**image, "context": context, "question": question, "<ans>": answer}  # the original's order
            encoding = self.tokenizer.encode_data(data)
            token_types = [0] * len(encoding["input_ids"])
            for start, end in encoding["image_bounds"]:
                token_types[start:end] = [1] * (end - start)
            return {**encoding, "mm_token_type_ids": token_types}

        encoding = encode(0)
        if max_length is None or len(encoding["input_ids"]) <= max_length:
            return encoding
        if truncation is False:
            raise ValueError(
                f"Got a prompt of {len(encoding['input_ids'])} tokens with truncation=False, expected at most "
                f"{max_length}."
            )
        choices = range(1, len(turns) + 1)
        dropped = 1 + bisect.bisect_left(choices, True, key=lambda n: len(encode(n)["input_ids"]) <= max_length)
        if dropped > len(turns):
            raise ValueError(
                f"Got a question of {len(encode(len(turns))['input_ids'])} tokens with everything around it, expected "
                f"at most {max_length}: shorten it, or raise max_length or the processor's max_input_length."
            )
        shortened = encode(dropped)
        warnings.warn(
            f"The prompt of {len(encoding['input_ids'])} tokens is longer than {max_length}: its {dropped} oldest "
            f"turn(s) were dropped from the context, {len(shortened['input_ids'])} tokens remain.",
            stacklevel=3,
        )
        return shortened

    def _options(self, kwargs, return_tensors):
        """The options of a call by kind: (text's and return_tensors, the image processor's)."""
        options = dict(kwargs)
        for group in ("text_kwargs", "images_kwargs", "common_kwargs"):
            grouped = options.pop(group, None) or {}
            if not isinstance(grouped, dict):
                raise ValueError(f"Got {type(grouped).__name__} as {group}, expected a dict of options.")
            twice = sorted(grouped.keys() & options.keys())
            if twice:
                raise ValueError(f"Got {', '.join(twice)} by name and in {group}, expected it in one of them.")
            options |= grouped
        return_tensors = options.pop("return_tensors", return_tensors)
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"Got return_tensors={return_tensors!r}, expected 'pt' or 'np'.")
        if options.get("return_mm_token_type_ids"):  # they always are
            del options["return_mm_token_type_ids"]
        options = {key: value for key, value in options.items() if value is not False or key not in _SWITCHED_OFF}
        text = {key: options.pop(key) for key in _TEXT_OPTIONS if key in options}
        images = {key: options.pop(key) for key in _IMAGE_OPTIONS if key in options}
        unknown = sorted(key for key, value in options.items() if value is not None)
        if unknown:
            raise ValueError(f"Got {', '.join(unknown)}, unknown to VisCPMChatProcessor: leave it out.")
        padding, length = text.get("padding", True), text.get("max_length")
        if padding not in (True, False, None, "longest", "max_length", "do_not_pad"):
            raise ValueError(f"Got padding={padding!r}, expected True, False, 'longest' or 'max_length'.")
        if padding == "max_length" and length is None:
            raise ValueError("Got padding='max_length' without a length, expected max_length with it.")
        for name in ("max_length", "pad_to_multiple_of"):
            number = text.get(name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise ValueError(f"Got {name}={number!r}, expected a number of tokens from 1 on.")
        return {**text, "return_tensors": return_tensors}, images

    def _batch(self, conversations, pictures, options):
        """Model inputs of (has a picture, turns of the context, question, answer's beginning) each."""
        text, images = options
        longest = text.get("max_length") or self.max_input_length
        encodings = [self._encode(*parts, longest, text.get("truncation")) for parts in conversations]
        lengths, padding = {len(encoding["input_ids"]) for encoding in encodings}, text.get("padding", True)
        if padding in (False, "do_not_pad") and len(lengths) > 1:
            raise ValueError(f"Got samples of different lengths with padding={padding!r}, expected padding=True.")
        length, multiple = max(lengths), text.get("pad_to_multiple_of") or 1
        if padding == "max_length":
            length = text["max_length"]
        batch = self.pad(encodings, text.get("padding_side"), -(-length // multiple) * multiple)
        pictures = [picture for picture in pictures if picture is not None]
        if pictures:
            batch.update(self.image_processor(pictures, return_tensors="pt", **images))
        if text["return_tensors"] == "np":
            batch.update({key: value.numpy() for key, value in batch.items()})
        return batch

    def _strip_padding(self, ids):
        # Padding is id 0 whatever token has it, so only zeros before a prompt or after an answer's end are padding.
        start = next((i for i, token in enumerate(ids) if token), 0)
        end = next((i for i in range(len(ids), 0, -1) if ids[i - 1]), 0)
        if ids[start:end] and ids[start] == self.tokenizer.bos_token_id:
            ids, end = ids[start:], end - start
        return ids[:end] if end and ids[end - 1] == self.tokenizer.eos_token_id else ids


def _text(value, name):
    if not isinstance(value, str):
        raise ValueError(f"Got {type(value).__name__} as {name}, expected a text.")
    return value


def _one_picture_each(images, count):
    if images is None:
        return [None] * count
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        images = list(images)
    images = list(images) if isinstance(images, (list, tuple)) else [images]
    if len(images) != count:
        raise ValueError(
            f"Got {len(images)} pictures for {count} question(s), expected one for each: None for a question without."
        )
    for image in images:
        if isinstance(image, (list, tuple)) and len(image) > 1:
            raise ValueError(f"Got {len(image)} pictures for one question, expected at most one.")
    return [(image[0] if image else None) if isinstance(image, (list, tuple)) else image for image in images]


def _as_dicts(value):
    """Messages as dicts of dicts, also where they are objects of an API's library."""
    if isinstance(value, (list, tuple)):
        return [_as_dicts(item) for item in value]
    if hasattr(value, "model_dump"):
        value = value.model_dump(exclude_none=True)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict) and isinstance(value.get("content"), (list, tuple)):
        return {**value, "content": _as_dicts(value["content"])}
    return value


def _read(messages, add_generation_prompt, continue_final_message):
    """Checks a conversation; returns its pictures (at most one) and its (question, answer or None) turns."""
    if not isinstance(messages, (list, tuple)) or not messages or not all(isinstance(m, dict) for m in messages):
        raise ValueError("Expected a conversation to be a list of messages with 'role' and 'content'.")
    if add_generation_prompt and continue_final_message:
        raise ValueError("Got add_generation_prompt and continue_final_message, expected at most one of them.")
    texts, pictures = [], []
    for index, message in enumerate(messages):
        role = message.get("role")
        if role not in ("user", "assistant"):
            raise ValueError(
                f"Got a message with role {role!r}, expected 'user' or 'assistant': VisCPM-Chat knows no other role."
            )
        if role != ("user", "assistant")[index % 2]:
            raise ValueError(
                f"Got message {index + 1} with role {role!r}, expected 'user' and 'assistant' in turns, 'user' first."
            )
        text, found = _read_content(message.get("content"), role)
        texts.append(text)
        pictures += found
    ends_with_answer = len(texts) % 2 == 0
    if len(pictures) > 1:
        raise ValueError(
            f"Got {len(pictures)} pictures in one conversation, expected at most one: VisCPM-Chat sees one picture."
        )
    if continue_final_message and not ends_with_answer:
        raise ValueError("Got continue_final_message, expected the last message to have role 'assistant'.")
    if add_generation_prompt and ends_with_answer:
        raise ValueError(
            "Got add_generation_prompt after a message with role 'assistant', expected a last message with role "
            "'user', or continue_final_message=True to let the model finish the answer."
        )
    answers = texts[1::2] if ends_with_answer else [*texts[1::2], None]
    return pictures, list(zip(texts[::2], answers, strict=True))


def _read_content(content, role):
    if isinstance(content, str):
        return content, []
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"Got {type(content).__name__} as a message's content, expected a text or a list of parts.")
    texts, pictures = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            texts.append(_text(part.get("text"), "the text of a message"))
        elif kind in ("image", "image_url") and role == "user":
            pictures.append(_picture_source(part))
        else:
            shown = f"type {kind!r}" if isinstance(part, dict) else type(part).__name__
            raise ValueError(
                f"Got a part of {shown} in a message of role {role!r}, expected 'text', or 'image' from the user."
            )
    return "\n".join(texts), pictures


def _picture_source(part):
    """The picture of an image part in whatever form, None if it has none."""
    for key in ("image", "image_url", "url", "path", "base64"):
        if part.get(key) is not None:
            return _picture_source(part[key]) if isinstance(part[key], dict) else part[key]
    return None


# a saved copy carries this file, so that it loads where the package is not installed
VisCPMChatProcessor.register_for_auto_class()
