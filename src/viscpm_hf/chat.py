"""VisCPMChat: the original package's class for talking about a picture, on transformers."""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers.generation import StoppingCriteria
from transformers.generation.streamers import BaseStreamer
from transformers.utils.quantization_config import QuantizationConfigMixin

from .checkpoint.adapter import add_to, read_adapter
from .checkpoint.parts import PROCESSOR_FILES
from .checkpoint.repo import check_is_converted, loads_or_says_why
from .memory.budget import WORDS, fast_dtype, find_plan
from .memory.machine import usable_device
from .memory.packing import pack_chat
from .memory.placement import load_chat, put_in_one_type, sparing_vision
from .remote_code.configuration_viscpm_chat import VisCPMChatConfig
from .remote_code.modeling_viscpm_chat import VisCPMChatForConditionalGeneration
from .remote_code.processing_viscpm_chat import VisCPMChatProcessor
from .safety import load_image_safety_checker

Picture = Image.Image | np.ndarray | torch.Tensor | str | os.PathLike  # a text is a path or an address

# what generate() takes beside its settings
_OWN_INPUTS = {
    *("inputs", "input_ids", "inputs_embeds", "attention_mask", "segment_ids", "context_mask", "segment_rel"),
    *("mm_token_type_ids", "pixel_values", "image_features", "mm_encoder_outputs", "unk_allowed", "labels"),
    *("shift_labels", "position_ids"),
}


class Piece(NamedTuple):
    """A token of an answer that is being written, in both spellings of [`ChatAnswer`]."""

    text: str
    answer: str


@dataclass(frozen=True, eq=False)
class ChatAnswer:
    """An answer, with what a server wants to know of it.

    Args:
        text (`str`): as people read it, without special tokens.
        answer (`str`): as the original decodes it and `VisCPMChat.chat` returns it: special tokens literally, `<`
            doubled.
        context (`str`): for the next question, with this turn.
        vision_hidden_states (`torch.Tensor`, *optional*): of the picture, (1, query_num, hidden).
        prompt_tokens (`int`): of question, context and picture.
        completion_tokens (`int`): generated, with the end token.
        finish_reason (`str`): `"stop"` at its end or a stop text, `"length"` where it was cut off.
    """

    text: str
    answer: str
    context: str
    vision_hidden_states: torch.Tensor | None = field(repr=False)
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


class _WithAdapter:
    """Loads models as their class does, and adds an adapter to the weights before they are packed or moved."""

    def __init__(self, adapter: str | os.PathLike):
        self.adapter = read_adapter(adapter)

    def from_pretrained(self, model_path: str | os.PathLike, **options: Any) -> VisCPMChatForConditionalGeneration:
        if "quantization_config" in options or options["device_map"] == "auto":
            raise self.refusal("weights that are quantized, or spread over GPU and main memory")
        model = VisCPMChatForConditionalGeneration.from_pretrained(model_path, **options)
        if getattr(model, "quantization_method", None) is not None:
            raise self.refusal(f"the quantized weights of {model_path}")
        add_to(model, self.adapter, model_path)
        return model

    def refusal(self, weights: str) -> ValueError:
        """Why there can be no adapter for such weights."""
        return ValueError(
            f"Got the adapter {self.adapter.path} for {weights}: merge it into the model that is not quantized with "
            "`viscpm merge --model DIR --adapter DIR --output DIR` and give the result."
        )


class VisCPMChat:
    """Drop-in for the original's `VisCPMChat`.

    Args:
        model_path (`str` or `Path`): a converted folder or Hub repository.
        image_safety_checker (*optional*): True uses `safety_checker/` in the repository, else the original's from the
            Hub; None (default) uses the repository's if it has one; False none; a folder or repository id that one.
        device (*optional*): where to run; CUDA if there is one by default.
        dtype (`str` or `torch.dtype`, *optional*): the stored one by default. On a CPU that multiplies in bfloat16 the
            language model's matrices are packed for it, see `pack_chat`.
        memory (`str` or `int`, *optional*): what a whole turn may take of the GPU, or without one of main memory, such
            as `"5GB"`; the fastest way that fits is taken, see `viscpm fit`. `CUDA_MEMORY_CPMBEE_MAX=1g` in the
            environment limits the language model alone.
        quantization (`str` or config, *optional*): `"auto"` quantizes weights, with a warning, where exact ones
            do not fit into `memory`; `"int8"`, `"4bit"` or a transformers quantization config ask for them, in the
            language model's blocks. None never quantizes: what does not fit is brought in when needed.
        adapter (`str` or `Path`, *optional*): a LoRA as `viscpm finetune` or peft saves it, folder or Hub repository,
            which is added to the weights. Where these are quantized, merge it before with `viscpm merge`.

    Raises:
        ValueError: if `model_path` is not a converted VisCPM-Chat, no safety checker can be loaded, `memory` is
            less than the least that works, or `adapter` is not one for this model.

    Example:
        >>> chat = VisCPMChat("viscpm-chat", image_safety_checker=False)
        >>> answer, context, vision_hidden_states = chat.chat(Image.open("picture.png"), "这是什么？")
    """

    @loads_or_says_why
    def __init__(
        self,
        model_path: str | os.PathLike,
        image_safety_checker: bool | str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        memory: str | int | None = None,
        quantization: str | QuantizationConfigMixin | None = None,
        adapter: str | os.PathLike | None = None,
    ):
        _check_is_converted(model_path)
        loader = VisCPMChatForConditionalGeneration if adapter is None else _WithAdapter(adapter)
        # not `model.device`, which is "meta" where weights are brought in layer by layer
        self.device = usable_device(device)
        without = ("safety_checker",) if image_safety_checker is False else ()
        plan = find_plan(model_path, self.device, memory, quantization, dtype, without)
        if adapter is not None and plan is not None and plan.method in WORDS:
            raise loader.refusal("weights that are quantized")
        self.image_safety_checker = load_image_safety_checker(image_safety_checker, model_path, self.device)
        self.processor = VisCPMChatProcessor.from_pretrained(model_path)
        if plan is not None:
            self.model = load_chat(loader, model_path, plan, self.device)
        else:
            options = {"dtype": dtype or self._stored_or_fast(model_path), "device_map": {"": self.device}}
            if quantization is not None and not isinstance(quantization, str):
                options["quantization_config"] = sparing_vision(quantization)
            self.model = loader.from_pretrained(model_path, **options)
            rounded = getattr(self.model, "quantization_method", None) is not None
            if rounded:
                put_in_one_type(self.model, self.model.config.dtype)
            if self.device.type == "cpu" and (rounded or dtype in (torch.bfloat16, "bfloat16")):
                pack_chat(self.model)
        self.model.eval()
        # weights that are brought in and taken away again are there for one answer at a time
        self._turn = nullcontext() if plan is None or plan.in_place else threading.RLock()

    def _stored_or_fast(self, model_path):
        """The precision of what is not quantized: as stored, but beside quantized weights one the CPU is fast in."""
        config = VisCPMChatConfig.get_config_dict(model_path)[0]
        stored = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
        if self.device.type != "cpu" or not config.get("quantization_config") or stored is None:
            return "auto"
        return fast_dtype(stored)

    def chat(
        self,
        image: Picture | None,
        question: str,
        context: str = "",
        vision_hidden_states: torch.Tensor | None = None,
        **generate_kwargs: Any,
    ) -> tuple[str, str, torch.Tensor | None]:
        """Answers one question.

        Args:
            image: a picture in any form that `VisCPMChatImageProcessor` takes; None to talk without one.
            question (`str`): plain text.
            context (`str`, *optional*): earlier turns, as the previous call returned them.
            vision_hidden_states (`torch.Tensor`, *optional*): what the previous call returned, (1, query_num, hidden);
                `image` is then not looked at.
            **generate_kwargs: for `generate()`; by default the original's three beams and settings.

        Returns:
            The answer as the original decodes it (special tokens literally, `<` doubled), the context with this turn,
            and the picture's states for the next (None without a picture).

        Raises:
            ValueError: for bad input, or a question too long.
            UnsafeContentError: if the safety checker refuses the picture.
        """
        item = {"image": image, "question": question, "context": context, "vision_hidden_states": vision_hidden_states}
        return self.batch_chat([item], **generate_kwargs)[0]

    def batch_chat(
        self, items: Sequence[dict[str, Any]], **generate_kwargs: Any
    ) -> list[tuple[str, str, torch.Tensor | None]]:
        """Answers several questions at once, each as `VisCPMChat.chat` would.

        Args:
            items (`list[dict]`): the arguments of `chat`: `image`, `question`, `context`, `vision_hidden_states`.
            **generate_kwargs: see `chat`.

        Returns:
            `list` of (answer, context, vision_hidden_states), in order.

        Raises:
            ValueError, UnsafeContentError: see `chat`; then nothing is answered.
        """
        answers = [first for (first,) in self.answers(items, **self._for_one_answer(generate_kwargs))]
        return [(one.answer, one.context, one.vision_hidden_states) for one in answers]

    def answers(
        self,
        items: Sequence[dict[str, Any]],
        on_piece: Callable[[int, int, Piece], None] | None = None,
        is_stopped: Callable[[int], bool] | None = None,
        **generate_kwargs: Any,
    ) -> list[list[ChatAnswer]]:
        """Answers several questions at once, for a server: with counts, piece by piece if wanted, and stoppable.

        Args:
            items (`list[dict]`): see `batch_chat`.
            on_piece (*optional*): called with the number of a question, of its answer, and the piece as soon as it
                is there, in the thread of this call. There are no beams then.
            is_stopped (*optional*): called with the number of a question at each step; once it says True, no more is
                generated for that question, whose answers are then what they are by now.
            **generate_kwargs: see `chat`; `num_return_sequences` answers for each question.

        Returns:
            For each question its answers, best first.

        Raises:
            ValueError, UnsafeContentError: see `chat`; then nothing is answered.
        """
        options = self._checked_options(generate_kwargs, streams=on_piece is not None)
        if not items:
            return []
        return self._answers(items, *self._prepare(items), on_piece, is_stopped, options)

    def stream(
        self,
        image: Picture | None,
        question: str,
        context: str = "",
        vision_hidden_states: torch.Tensor | None = None,
        **generate_kwargs: Any,
    ) -> Iterator[str]:
        """Answers one question piece by piece, greedily or by sampling.

        Args:
            image, question, context, vision_hidden_states: see `chat`; `encode_image` gives the states to reuse, and
                `add_turn` the context for the next question.
            **generate_kwargs: for `generate()`, with one beam; `do_sample=True, temperature=…` samples.

        Returns:
            Iterator of `str`, the pieces of the answer. Closing it stops the generation.

        Raises:
            ValueError, UnsafeContentError: see `chat`, before the first piece.
        """
        options = self._checked_options(self._for_one_answer(generate_kwargs), streams=True)
        item = {"image": image, "question": question, "context": context, "vision_hidden_states": vision_hidden_states}
        return self._stream([item], self._prepare([item]), options)

    def encode_image(self, image: Picture) -> torch.Tensor:
        """The states of a picture, (1, query_num, hidden), which every question about it may reuse.

        Raises:
            UnsafeContentError: if the safety checker refuses the picture.
        """
        pictures = self.processor.image_processor.to_pil(image)
        if len(pictures) != 1:
            raise ValueError(f"Got {len(pictures)} pictures, expected one.")
        if self.image_safety_checker is not None:
            self.image_safety_checker.check(pictures)
        pixel_values = self.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
        with self._turn, torch.no_grad():
            return self.model.get_image_features(pixel_values.to(self.device)).pooler_output

    def add_turn(self, context: str, question: str, answer: str) -> str:
        """The context with one more turn, in the original's grammar whatever the texts are."""
        for name, text in (("context", context), ("question", question), ("answer", answer)):
            if not isinstance(text, str):
                raise ValueError(f"Got {type(text).__name__} as {name}, expected a text.")
        return self.processor.to_grammar(context) + self.processor.format_turn(question, answer)

    def _for_one_answer(self, generate_kwargs):
        if self._setting(generate_kwargs, "num_return_sequences") not in (None, 1):
            raise ValueError("Got num_return_sequences, but a question has one answer here: call answers().")
        return generate_kwargs

    def _checked_options(self, generate_kwargs, streams):
        """Options for `generate()`, none of which are what this class gives it."""
        if streams and generate_kwargs.get("num_beams", 1) != 1:
            raise ValueError(f"Got num_beams={generate_kwargs['num_beams']}, but only one beam can be streamed.")
        if streams and generate_kwargs.get("streamer") is not None:
            raise ValueError("Got a streamer, which is made here: take the pieces.")
        if streams or generate_kwargs.get("num_beams") == 1:
            # length_penalty concerns beams, and transformers warns of it
            generate_kwargs = {"length_penalty": 1.0, **generate_kwargs, "num_beams": 1}
        own = sorted(key for key in generate_kwargs if key in _OWN_INPUTS or key.startswith("ext_table"))
        if own:
            raise ValueError(
                f"Got {', '.join(own)}, which are made of image, question and context here: leave them out, or call "
                "model.generate()."
            )
        if generate_kwargs.get("stop_strings"):
            return {"tokenizer": self.processor.tokenizer, **generate_kwargs}
        return generate_kwargs

    def _prepare(self, items):
        """Model inputs, tables for decoding and vision states of checked items."""
        known = {"image", "question", "context", "vision_hidden_states"}
        for item in items:
            if not isinstance(item, dict) or not item.keys() <= known:
                shown = sorted(map(str, item.keys() - known)) if isinstance(item, dict) else type(item).__name__
                raise ValueError(
                    f"Got {shown} in a question, expected a dict of image, question, context and vision_hidden_states."
                )
        encodings = [
            self.processor.encode_chat(
                item.get("image") is not None or item.get("vision_hidden_states") is not None,
                item.get("question"),
                item.get("context") or "",
                max_length=self.processor.max_input_length,
            )
            for item in items
        ]
        states = [self._vision_states(item) for item in items]
        batch = self.processor.pad(encodings)
        tables = batch.ext_tables
        inputs = dict(batch.to(self.device))
        pictures = [state for state in states if state is not None]
        if pictures:
            inputs["image_features"] = torch.cat(pictures)
        return inputs, tables, states

    def _vision_states(self, item):
        states = item.get("vision_hidden_states")
        if states is None:
            return None if item.get("image") is None else self.encode_image(item["image"])
        wanted = (1, self.processor.query_num, self.model.get_input_embeddings().embedding_dim)
        if not isinstance(states, torch.Tensor) or tuple(states.shape) != wanted:
            shown = tuple(states.shape) if isinstance(states, torch.Tensor) else type(states).__name__
            raise ValueError(f"Got {shown} as vision_hidden_states, expected what chat() returned, of shape {wanted}.")
        if not torch.isfinite(states).all():
            raise ValueError(
                "Got vision_hidden_states with values that are not finite, expected what chat() returned."
            )
        return states.to(self.device)

    def _generate(self, **options):
        if options.get("cache_implementation") and threading.current_thread() is not threading.main_thread():
            # what transformers compiles by itself on a GPU are CUDA graphs, which torch has for one thread only
            options = {"disable_compile": "compile_config" not in options, **options}
        with self._turn:
            return self.model.generate(**options)

    def _answers(self, items, inputs, tables, states, on_piece, is_stopped, options):
        stop_texts = self._setting(options, "stop_strings")
        stop_texts = [stop_texts] if isinstance(stop_texts, str) else stop_texts or []
        count = self._setting(options, "num_return_sequences") or 1
        rows = [_Row(self.processor.tokenizer, table, stop_texts) for table in tables for _ in range(count)]
        if on_piece is not None:
            options = {**options, "streamer": _RowStreamer(rows, count, on_piece)}
        if is_stopped is not None:
            criteria = options.get("stopping_criteria")
            criteria = [] if criteria is None else [criteria] if callable(criteria) else [*criteria]
            options = {**options, "stopping_criteria": [*criteria, _StopQuestions(len(items), is_stopped)]}
        output = self._generate(**inputs, **options)
        if on_piece is None:  # else they have been read already
            new = getattr(output, "sequences", output)[:, inputs["input_ids"].shape[1] :].tolist()
            for row, ids in zip(rows, new, strict=True):
                for token in ids:
                    row.read(token)
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        return [
            [
                ChatAnswer(
                    row.text,
                    row.answer,
                    self.add_turn(item.get("context") or "", item["question"], row.answer),
                    states[number],
                    prompt_tokens[number],
                    row.tokens,
                    row.finish_reason,
                )
                for row in rows[number * count : (number + 1) * count]
            ]
            for number, item in enumerate(items)
        ]

    def _setting(self, options, name):
        return options.get(name, getattr(options.get("generation_config") or self.model.generation_config, name, None))

    def _stream(self, items, prepared, options):
        pieces, stop = queue.SimpleQueue(), threading.Event()

        def generate():
            try:
                self._answers(
                    items, *prepared, lambda *piece: pieces.put(piece[2].answer), lambda _: stop.is_set(), options
                )
                pieces.put(None)
            except BaseException as error:  # of whatever kind, it is for whoever reads the answer
                pieces.put(error)

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            stop.set()
            thread.join()


class _Row:
    """An answer read token by token: a token's text does not depend on its neighbours.

    Padding that follows in a batch, after its end or a stop text, is left out.
    """

    def __init__(self, tokenizer, table, stop_texts):
        self._tokenizer, self._table, self._stop_texts = tokenizer, table, stop_texts
        self.text = self.answer = ""
        self.tokens, self.finish_reason = 0, "length"

    def read(self, token: int) -> Piece | None:
        """The token's text; None for the end, which is left out, and for all that follows."""
        if self.finish_reason == "stop":
            return None
        self.tokens += 1
        if token == self._tokenizer.eos_token_id:
            self.finish_reason = "stop"
            return None
        tokenizer, table = self._tokenizer, self._table
        shown = table
        if token not in table and (token == tokenizer.unk_token_id or token >= tokenizer.vocab_size):
            shown = {token: tokenizer.unk_token}  # special tokens are left out, a word nobody can spell is not
        piece = Piece(
            tokenizer.decode([token], skip_special_tokens=True, ext_table=shown),
            tokenizer.decode([token], ext_table=table),
        )
        self.text, self.answer = self.text + piece.text, self.answer + piece.answer
        if any(stop in whole for stop in self._stop_texts for whole in (self.text, self.answer)):
            self.finish_reason = "stop"
        return piece


class _RowStreamer(BaseStreamer):
    """Hands out the pieces of a batch of answers."""

    def __init__(self, rows, count, on_piece):
        self.rows, self.count, self.on_piece = rows, count, on_piece
        self.is_prompt = True

    def put(self, value):
        if self.is_prompt:
            self.is_prompt = False
            return
        for number, tokens in enumerate(value.view(len(self.rows), -1).tolist()):
            for token in tokens:
                piece = self.rows[number].read(token)
                if piece is not None:
                    self.on_piece(*divmod(number, self.count), piece)

    def end(self):
        pass


class _StopQuestions(StoppingCriteria):
    def __init__(self, count, is_stopped):
        self.count, self.is_stopped = count, is_stopped

    def __call__(self, input_ids, scores, **kwargs):
        stopped = torch.tensor([self.is_stopped(number) for number in range(self.count)], device=input_ids.device)
        return stopped.repeat_interleave(len(input_ids) // self.count)


def _check_is_converted(model_path):
    check_is_converted(model_path, "VisCPM-Chat", "chat", "config.json")
    model_type = VisCPMChatConfig.get_config_dict(model_path)[0].get("model_type")
    if model_type != VisCPMChatConfig.model_type:
        raise ValueError(f"{model_path} holds a model of type {model_type!r}, expected a converted VisCPM-Chat.")
    folder = Path(model_path)
    if folder.is_dir() and not any((folder / name).is_file() for name in PROCESSOR_FILES):
        raise ValueError(
            f"{model_path} has a model and no processor, which `model.save_pretrained` does not write: save it there, "
            "too, with `processor.save_pretrained`, or copy the folder the model came from."
        )
