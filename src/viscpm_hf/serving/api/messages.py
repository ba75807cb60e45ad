"""What `/v1/chat/completions` takes: OpenAI's fields, none of them ignored.

A field that VisCPM-Chat has no use for is refused by name, unless its value is one that changes nothing.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    WithJsonSchema,
    model_validator,
)

from .errors import quoted

MOST_CHARACTERS = 100_000  # of all texts of a request; the model reads 3000 tokens
MOST_MESSAGES = 1000  # and parts of one: each is a token or more
MOST_STOPS = 4


def _whole(text: str) -> str:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, expected valid Unicode") from None
    return text


# JSON can also spell what is no Unicode, and what is said comes back in answers
Text = Annotated[str, AfterValidator(_whole)]


def text(**limits: int) -> Any:
    """The type of a `Text` of so many characters."""
    return Annotated[str, Field(**limits), AfterValidator(_whole)]


class Strict(BaseModel):
    """Takes no other fields, and no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, data: Any) -> Any:
        """Leaves of many unknown fields the first: pydantic would make an error of each."""
        if not isinstance(data, dict) or len(data) <= len(cls.model_fields):
            return data
        unknown = next(name for name in data if name not in cls.model_fields)
        return {name: value for name, value in data.items() if name in cls.model_fields or name == unknown}


def _integral(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def integer(**limits: int) -> Any:
    """The type of an integer or None; 1.0 is one, as in JSON Schema, true and "1" are none."""
    return Annotated[int, Field(**limits), BeforeValidator(_integral)] | None


def _at_most(most: int, what: str) -> Any:
    """Judges how many there are before any of them is read."""

    def check(value):
        if isinstance(value, list | dict) and len(value) > most:
            raise ValueError(f"got {len(value)} {what}, expected at most {most}")
        return value

    return BeforeValidator(check)


def only(*neutral: Any) -> Any:
    """The type of a field that may be there, but only with one of these values, or None."""

    def check(value):
        # true is no 1 here, but 1.0 is
        if value is None or any(
            value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral
        ):
            return value
        raise ValueError(f"got {quoted(value)}, which cannot be honoured here: leave it out")

    shown = " or ".join(json.dumps(each) for each in (*neutral, None))
    return Annotated[
        Any,
        AfterValidator(check),
        WithJsonSchema({"enum": [*neutral, None]}),
        Field(description=f"Not supported, may only be {shown}."),
    ]


class TextPart(Strict):
    """A text; several are joined by line breaks."""

    type: Literal["text"]
    text: Text


class ImageUrl(Strict):
    """Where the picture is."""

    url: Text = Field(
        json_schema_extra={"minLength": 1},
        description="A data URL: `data:image/png;base64,…`. Where the server allows it, an http(s) address.",
    )
    detail: Literal["auto", "low", "high"] | None = Field(
        None, description="Changes nothing: VisCPM sees every picture in one size."
    )


class ImagePart(Strict):
    """The picture, in a message of the user."""

    type: Literal["image_url"]
    image_url: ImageUrl


def _parts(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError("expected a text or a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "image_url"):
            shown = f"of type {quoted(kind)}" if isinstance(kind, str) else "without a type"
            raise ValueError(f"got a part {shown}, expected 'text' or 'image_url'")
    return content


def _role(role: Any) -> Any:
    if role not in ("user", "assistant"):
        raise ValueError(f"got {quoted(role)}, but VisCPM-Chat knows no other role than 'user' and 'assistant'")
    return role


class Message(Strict):
    """A turn of the conversation. One of them may have a picture."""

    role: Annotated[Literal["user", "assistant"], BeforeValidator(_role)]
    content: Annotated[
        list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
        Field(min_length=1, max_length=MOST_MESSAGES),
        FailFast(),
        _at_most(MOST_MESSAGES, "parts"),
        BeforeValidator(_parts, json_schema_input_type=str | list[TextPart | ImagePart]),
    ]
    # what an answer of this API, or of the openai client, has beside them
    name: only() = None
    refusal: only() = None
    annotations: only([]) = None
    audio: only() = None
    function_call: only() = None
    tool_calls: only([]) = None

    @property
    def text(self) -> str:
        """All its texts."""
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> dict[int, str]:
        """The addresses of its pictures, by the number of the part."""
        return {number: part.image_url.url for number, part in enumerate(self.content) if isinstance(part, ImagePart)}


class StreamOptions(Strict):
    """Of a streamed answer."""

    include_usage: bool | None = Field(None, description="Whether a last chunk tells the numbers of tokens.")
    include_obfuscation: only(False) = None


_Stop = text(min_length=1, max_length=200)


def _stops(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class ChatRequest(Strict):
    """A conversation that the model is to continue."""

    messages: Annotated[
        list[Message],
        Field(
            min_length=1,
            max_length=MOST_MESSAGES,
            description="In turns of `user` and `assistant`; the last is the user's question.",
        ),
        FailFast(),
        _at_most(MOST_MESSAGES, "messages"),
    ]
    model: str | None = Field(None, description="One of `/v1/models`; by default the server's.")
    stream: bool | None = Field(
        None, description="Whether the answer comes piece by piece. Without sampling it is then greedy search."
    )
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="0 is greedy search. Without it and `top_p` it is the original's beam search.",
    )
    top_p: float | None = Field(None, ge=0, le=1)
    max_tokens: integer(ge=1, le=100_000) = Field(None, description="By default the model's.")
    max_completion_tokens: integer(ge=1, le=100_000) = Field(None, description="Another name of `max_tokens`.")
    n: integer(ge=1, le=128) = Field(
        None, description="How many answers: with sampling; without it, the best of the beams."
    )
    seed: integer(ge=-(2**63), lt=2**63) = Field(None, description="Makes sampling repeatable.")
    stop: Annotated[
        list[_Stop] | None,
        Field(max_length=MOST_STOPS, description="Texts that end the answer and are no part of it."),
        _at_most(MOST_STOPS, "texts"),
        BeforeValidator(
            _stops, json_schema_input_type=_Stop | Annotated[list[_Stop], Field(max_length=MOST_STOPS)] | None
        ),
    ] = None

    # without effect on answers
    user: Text | None = Field(None, description="Not looked at.")
    metadata: Annotated[
        dict[Text, Text] | None, Field(description="Not looked at.", max_length=16), _at_most(16, "entries")
    ] = None
    safety_identifier: Text | None = Field(None, description="Not looked at.")
    prompt_cache_key: Text | None = Field(None, description="Not looked at.")

    # not supported
    audio: only() = None
    frequency_penalty: only(0) = None
    function_call: only("none", "auto") = None
    functions: only([]) = None
    logit_bias: only({}) = None
    logprobs: only(False) = None
    modalities: only(["text"]) = None
    parallel_tool_calls: only(True, False) = None
    prediction: only() = None
    presence_penalty: only(0) = None
    prompt_cache_retention: only() = None
    reasoning_effort: only("none") = None
    response_format: only({"type": "text"}) = None
    service_tier: only("auto", "default") = None
    store: only(False) = None
    tool_choice: only("none", "auto") = None
    tools: only([]) = None
    top_logprobs: only(0) = None
    verbosity: only() = None
    web_search_options: only() = None

    @model_validator(mode="after")
    def _check(self):
        for number, message in enumerate(self.messages):
            if message.role != ("user", "assistant")[number % 2]:
                raise ValueError(
                    f"got role {message.role!r} in messages[{number}], expected 'user' and 'assistant' in turns, "
                    "'user' first"
                )
            if message.role == "assistant" and message.images:
                raise ValueError(f"got a picture in messages[{number}], which is the assistant's, expected text")
        if self.messages[-1].role != "user":
            raise ValueError("the last message is the assistant's, expected the user's question")
        if (pictures := sum(len(message.images) for message in self.messages)) > 1:
            raise ValueError(f"got {pictures} pictures in one conversation, but VisCPM-Chat sees one")
        if (characters := sum(len(message.text) for message in self.messages)) > MOST_CHARACTERS:
            raise ValueError(f"got texts of {characters} characters, expected at most {MOST_CHARACTERS}")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError(
                "got max_tokens and max_completion_tokens that differ, though they are the same: give one"
            )
        if self.stream_options is not None and self.stream_options.include_usage and not self.stream:
            raise ValueError("got stream_options without stream: leave them out, or set stream to true")
        return self
