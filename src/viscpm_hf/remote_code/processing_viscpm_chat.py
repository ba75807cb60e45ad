"""Processor of VisCPM-Chat: messages with at most one picture become the original's prompt, ids become text."""

import bisect
import re
import warnings

import numpy as np
import torch
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

logger = logging.get_logger(__name__)

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

# How many prompts to remember for `post_process_image_text_to_text` without `ext_tables`: a pipeline's largest batch.
_REMEMBERED = 64


class VisCPMChatProcessor(ProcessorMixin):
    """Wraps [`VisCPMChatImageProcessor`] and [`CpmBeeTokenizer`].

    Args:
        image_processor (`VisCPMChatImageProcessor`).
        tokenizer (`CpmBeeTokenizer`).
        query_num (`int`, *optional*, defaults to 64): placeholders a picture takes in the prompt.
        max_input_length (`int`, *optional*, defaults to 3000): longest prompt in tokens, as in the original; the
            oldest turns of the context are dropped to keep it. None for no limit.
        chat_template (`str`, *optional*): how `apply_chat_template(tokenize=False)` displays a conversation.
    """

    def __init__(self, image_processor=None, tokenizer=None, query_num=64, max_input_length=3000, chat_template=None):
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.query_num = query_num
        self.max_input_length = max_input_length
        # prompts as (ids, ext table), newest last: of many calls, of those not decoded yet, of the last call
        self._recent, self._waiting, self._last = [], [], []
        self._decoding = False

    @property
    def model_input_names(self):
        """Keys that the processor returns when there is a picture and an unknown word."""
        return [*self.tokenizer.model_input_names, "mm_token_type_ids", *self.image_processor.model_input_names]

    def encode_chat(self, has_image, question, context="", answer="", max_length=None):
        """Encodes one question with the original's segments: picture, context, question, answer.

        Args:
            has_image (`bool`): whether the prompt has a picture; without one its segment is left out.
            question (`str`): plain text, always escaped.
            context (`str`, *optional*): earlier turns in the original's grammar; escaped whole if it does not parse.
            answer (`str`, *optional*): plain text the answer begins with, or the target in training.
            max_length (`int`, *optional*): drop the context's oldest turns to stay within this many tokens.

        Returns:
            `dict` of lists that `tokenizer.encode_data` returns, with `mm_token_type_ids` (1 marks the picture's
            placeholders), for [`~VisCPMChatProcessor.pad`].

        Raises:
            ValueError: if a text is not a string, or the rest is too long without any context.
        """
        turns = re.split(r"^(?=User: )", self.to_grammar(_text(context, "context")), flags=re.MULTILINE)
        turns = [turn for turn in turns if turn]  # joined they are the context as it came
        return self._encode(
            has_image, _text(question, "question"), turns, self.tokenizer.escape(_text(answer, "answer")), max_length
        )

    def pad(self, encodings, padding_side=None):
        """Pads encodings of [`~VisCPMChatProcessor.encode_chat`] to one batch of tensors.

        Args:
            encodings (`list[dict]`): one per sample.
            padding_side (`str`, *optional*): `"left"` or `"right"`; the tokenizer's side (left) by default.

        Returns:
            `BatchFeature` of tensors; its attribute `ext_tables` lists a dict per sample from output ids to words
            outside the vocabulary.
        """
        padded = self.tokenizer.pad_encodings(encodings, padding_side)
        batch = BatchFeature(dict(padded))
        batch.ext_tables = padded.ext_tables
        return batch

    def __call__(
        self,
        images=None,
        text=None,
        context=None,
        padding=True,
        padding_side=None,
        return_tensors="pt",
        images_kwargs=None,
        **kwargs,
    ):
        """Prepares questions, each with at most one picture.

        Args:
            images (*optional*): a picture (see [`VisCPMChatImageProcessor`]) or a list with a picture, None, or a list
                of at most one picture for each question.
            text (`str` or `list[str]`): questions as plain text.
            context (`str` or `list[str]`, *optional*): earlier turns of each, as in the original's `chat()`.
            padding (`bool`, *optional*, defaults to True): to the longest.
            padding_side (`str`, *optional*): `"left"` by default, as generation wants it.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` or `"np"`.
            images_kwargs (`dict`, *optional*): for the image processor.

        Returns:
            `BatchFeature` with the model's inputs and the attribute `ext_tables` (see `pad`).

        Raises:
            ValueError: for anything but one question and at most one picture per sample, or a prompt too long.
        """
        if kwargs:
            logger.warning_once(f"{sorted(kwargs)} are not arguments of this processor and will be ignored.")
        questions = list(text) if isinstance(text, (list, tuple)) else [text]
        contexts = list(context) if isinstance(context, (list, tuple)) else [context or ""] * len(questions)
        if not questions or len(contexts) != len(questions):
            raise ValueError(f"Got {len(questions)} questions and {len(contexts)} contexts, expected one each.")
        pictures = _one_picture_each(images, len(questions))
        encodings = [
            self.encode_chat(picture is not None, question, earlier or "", max_length=self.max_input_length)
            for picture, question, earlier in zip(pictures, questions, contexts, strict=True)
        ]
        return self._collate(encodings, pictures, padding, padding_side, return_tensors, images_kwargs)

    def apply_chat_template(
        self,
        conversation,
        chat_template=None,
        tools=None,
        documents=None,
        add_generation_prompt=False,
        continue_final_message=False,
        tokenize=False,
        return_tensors="pt",
        return_dict=False,
        processor_kwargs=None,
        **kwargs,
    ):
        """Turns messages into model inputs (`tokenize=True`) or into text to look at.

        Args:
            conversation (`list[dict]` or a list of such lists): messages of alternating role `user` and `assistant`,
                beginning with `user`. Content is a text or a list of `{"type": "text", "text": ...}` and, in user
                turns and once per conversation, `{"type": "image", ...}` with the picture, path, address or base64
                text under `image`, `url`, `path` or `base64`, or OpenAI's `image_url`.
            chat_template (`str`, *optional*): replaces the stored template when `tokenize=False`.
            tools, documents: not supported, must be empty.
            add_generation_prompt (`bool`): the last message is the user's, an answer follows.
            continue_final_message (`bool`): the last message is the assistant's and becomes the answer's beginning.
            tokenize, return_dict (`bool`): True for model inputs.
            return_tensors, processor_kwargs: see `__call__`.

        Returns:
            `BatchFeature` (see `__call__`), its `input_ids` alone with `return_dict=False`, or text.

        Raises:
            ValueError: for other roles, other orders, a second picture, or a picture that cannot be loaded.
        """
        conversation = getattr(conversation, "messages", conversation)
        if tools or documents:
            raise ValueError("Got tools or documents, but VisCPM-Chat has no use for them: leave them out.")
        if not isinstance(conversation, (list, tuple)) or not conversation:
            raise ValueError("Got no messages, expected a list of at least one message with role 'user'.")
        is_batch = not isinstance(conversation[0], dict)
        conversations = [getattr(c, "messages", c) for c in conversation] if is_batch else [conversation]
        parsed = [_read(messages, add_generation_prompt, continue_final_message) for messages in conversations]
        if not tokenize:
            return super().apply_chat_template(
                conversations if is_batch else conversation,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
            )
        encodings, pictures = [], []
        for picture, turns in parsed:
            pictures.append(picture)
            *earlier, (question, answer) = turns
            context = [self.format_turn(asked, answered) for asked, answered in earlier]
            encodings.append(
                self._encode(
                    picture is not None, question, context, self.to_grammar(answer or ""), self.max_input_length
                )
            )
        options = {**(processor_kwargs or {}), **kwargs, "return_tensors": return_tensors}
        unknown = options.keys() - {"padding", "padding_side", "return_tensors", "images_kwargs"}
        if unknown:
            logger.warning_once(f"{sorted(unknown)} are not arguments of this processor and will be ignored.")
        options = {key: options.get(key) for key in ("padding", "padding_side", "return_tensors", "images_kwargs")}
        batch = self._collate(encodings, pictures, **options)
        if processor_kwargs is not None and return_tensors == "pt" and "ext_table_ids" not in batch:
            # A pipeline passes these, and batches conversations only if all have the same keys: an unused column.
            unused = batch["input_ids"].new_zeros(len(encodings), 1)
            batch.update(ext_table_ids=unused, ext_table_subs=unused, ext_table_mask=unused)
        return batch if return_dict else batch["input_ids"]

    def post_process_image_text_to_text(self, generated_outputs, skip_special_tokens=True, ext_tables=None, **kwargs):
        """Turns generated ids into text.

        Args:
            generated_outputs (`torch.Tensor`, `np.ndarray` or lists, (rows, length)): new ids, with or without the
                prompt before them.
            skip_special_tokens (`bool`, *optional*, defaults to True): True gives clean text; False gives the
                original's, with every special token and with `<` doubled.
            ext_tables (`list[dict]`, *optional*): `ext_tables` of the inputs, each used for as many rows as
                there are answers per question. Without them the processor's last inputs are used where they fit.

        Returns:
            `list[str]`, one per row.

        Raises:
            ValueError: if the number of rows is not a multiple of the number of tables.
        """
        rows = generated_outputs.tolist() if hasattr(generated_outputs, "tolist") else list(generated_outputs)
        rows = [row.tolist() if hasattr(row, "tolist") else row for row in rows]
        rows = [rows] if rows and not isinstance(rows[0], (list, tuple)) else rows
        if ext_tables is None:
            tables = [self._find_table(row, index, len(rows)) for index, row in enumerate(rows)]
        elif not ext_tables or len(rows) % len(ext_tables):
            raise ValueError(f"Got {len(rows)} rows of ids and {len(ext_tables)} ext_tables, expected a multiple.")
        else:
            tables = [table for table in ext_tables for _ in range(len(rows) // len(ext_tables))]
        if skip_special_tokens:
            rows = [self._strip_padding(row) for row in rows]
        return [
            self.tokenizer.decode(row, skip_special_tokens=skip_special_tokens, ext_table=table)
            for row, table in zip(rows, tables, strict=True)
        ]

    def to_grammar(self, text):
        """The text itself if it follows the original's grammar, else escaped whole."""
        return text if self.tokenizer.parses(text) else self.tokenizer.escape(text)

    def format_turn(self, question, answer):
        """One turn of a context: the question escaped, the answer in the original's grammar."""
        return f"User: {self.tokenizer.escape(question)}\nAI: {self.to_grammar(answer)}\n"

    def _encode(self, has_image, question, turns, answer, max_length):
        """`turns` and `answer` are in the original's grammar, `question` is plain."""
        question = self.tokenizer.escape(question)
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
        choices = range(1, len(turns) + 1)
        dropped = 1 + bisect.bisect_left(choices, True, key=lambda n: len(encode(n)["input_ids"]) <= max_length)
        if dropped > len(turns):
            raise ValueError(
                f"Got a question of {len(encode(len(turns))['input_ids'])} tokens with everything around it, expected "
                f"at most {max_length}: shorten it or raise the processor's max_input_length."
            )
        shortened = encode(dropped)
        warnings.warn(
            f"The prompt of {len(encoding['input_ids'])} tokens is longer than {max_length}: its {dropped} oldest "
            f"turn(s) were dropped from the context, {len(shortened['input_ids'])} tokens remain.",
            stacklevel=3,
        )
        return shortened

    def _collate(self, encodings, pictures, padding, padding_side, return_tensors, images_kwargs):
        if padding is False and len({len(encoding["input_ids"]) for encoding in encodings}) > 1:
            raise ValueError("Got samples of different lengths with padding=False, expected padding=True.")
        batch = self.pad(encodings, padding_side)
        pictures = [picture for picture in pictures if picture is not None]
        if pictures:
            batch.update(self.image_processor(pictures, return_tensors="pt", **(images_kwargs or {})))
        self._last = [(encoding["input_ids"], encoding["ext_table"]) for encoding in encodings]
        self._waiting = [*([] if self._decoding else self._waiting), *self._last][-_REMEMBERED:]
        self._recent = [*self._recent, *self._last][-_REMEMBERED:]
        self._decoding = False
        if return_tensors == "np":
            batch.update({key: value.numpy() for key, value in batch.items()})
        return batch

    def _find_table(self, ids, row, rows):
        self._decoding = True
        start = next((i for i, token in enumerate(ids) if token), 0)
        by_position = self._last[row * len(self._last) // rows] if self._last and rows % len(self._last) == 0 else None
        # Prompts that differ in an unknown word only have the same ids, so what comes first counts: the rows of one
        # call in their order; from a pipeline, which prepares a batch sample by sample, the samples in their order.
        candidates = [by_position] if len(self._last) > 1 and by_position else []
        for sample in (*candidates, *self._waiting, *reversed(self._recent)):
            prompt, table = sample
            if list(ids[start : start + len(prompt)]) == list(prompt):
                if len(ids) - start == len(prompt) and sample in self._waiting:
                    self._waiting.remove(sample)  # a pipeline decodes the prompt alone after its answers
                return table
        if list(ids[start : start + 2]) == [self.tokenizer.bos_token_id, self.tokenizer.root_token_id]:
            return {}  # a prompt prepared elsewhere
        return by_position[1] if by_position else {}

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


def _read(messages, add_generation_prompt, continue_final_message):
    """Checks a conversation; returns its picture (or None) and its (question, answer or None) turns."""
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
    return (pictures[0] if pictures else None), list(zip(texts[::2], answers, strict=True))


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
    for key in ("image", "image_url", "url", "path", "base64"):
        if part.get(key) is not None:
            return _picture_source(part[key]) if isinstance(part[key], dict) else part[key]
    raise ValueError("Got an image part without a picture, expected it under 'image', 'url', 'path' or 'base64'.")


# a saved copy carries this file, so that it loads where the package is not installed
VisCPMChatProcessor.register_for_auto_class()
