"""What `/v1/chat/completions` takes: OpenAI's fields, none of them ignored.

A field that VisCPM-Chat has no use for is refused by name, unless its value is one that changes nothing.
"""

import json
import reprlib
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MOST_CHARACTERS = 100_000  # of all texts of a request; the model reads 3000 tokens
MOST_STOPS = 4


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, expected valid Unicode") from None
    return text


# JSON can also spell what is no Unicode, and what is said comes back in answers
Text = Annotated[str, AfterValidator(_whole)]


class Strict(BaseModel):
    """Takes no other fields, and no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _only(*neutral: Any) -> Any:
    """The type of a field that may be there, but only with one of these values, or None."""

    def check(value):
        # True is no 1 here
        if value is None or any(type(value) is type(each) and value == each for each in neutral):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and value in neutral:
            return value
        raise ValueError(f"got {reprlib.repr(value)}, which VisCPM-Chat cannot honour: leave it out")

    shown = " or ".join(json.dumps(each) for each in (*neutral, None))
    return Annotated[
        Any, AfterValidator(check), Field(description=f"Not supported, may only be {shown}.", examples=[None])
    ]


class TextPart(Strict):
    """A text; several are joined by line breaks."""

    type: Literal["text"]
    text: Text


class ImageUrl(Strict):
    """Where the picture is."""

    url: Text = Field(
        description="A data URL: `data:image/png;base64,…`. Where the server allows it, an http(s) address."
    )
    detail: _only("auto") = None


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
            shown = f"of type {reprlib.repr(kind)}" if isinstance(kind, str) else "without a type"
            raise ValueError(f"got a part {shown}, expected 'text' or 'image_url'")
    return content


def _role(role: Any) -> Any:
    if role not in ("user", "assistant"):
        raise ValueError(f"got {reprlib.repr(role)}, but VisCPM-Chat knows no other role than 'user' and 'assistant'")
    return role


class Message(Strict):
    """A turn of the conversation. One of them may have a picture."""

    role: Annotated[Literal["user", "assistant"], BeforeValidator(_role)]
    content: Annotated[
        list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
        Field(min_length=1),
        BeforeValidator(_parts, json_schema_input_type=str | list[TextPart | ImagePart]),
    ]
    # what an answer of this API, or of the openai client, has beside them
    name: _only() = None
    refusal: _only() = None
    annotations: _only([]) = None
    audio: _only() = None
    function_call: _only() = None
    tool_calls: _only([]) = None

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
    include_obfuscation: _only(False) = None


def _stops(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class ChatRequest(Strict):
    """A conversation that the model is to continue."""

    messages: list[Message] = Field(
        min_length=1, description="In turns of `user` and `assistant`; the last is the user's question."
    )
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
    max_tokens: int | None = Field(None, ge=1, le=100_000, description="By default the model's.")
    max_completion_tokens: int | None = Field(None, ge=1, le=100_000, description="Another name of `max_tokens`.")
    n: int | None = Field(
        None, ge=1, le=128, description="How many answers: with sampling; without it, the best of the beams."
    )
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="Makes sampling repeatable.")
    stop: Annotated[
        list[Annotated[Text, Field(min_length=1, max_length=200)]] | None,
        Field(max_length=MOST_STOPS, description="Texts that end the answer and are no part of it."),
        BeforeValidator(_stops, json_schema_input_type=str | list[str] | None),
    ] = None

    # without effect on answers
    user: Text | None = Field(None, description="Not looked at.")
    metadata: dict[Text, Text] | None = Field(None, description="Not looked at.")
    safety_identifier: Text | None = Field(None, description="Not looked at.")
    prompt_cache_key: Text | None = Field(None, description="Not looked at.")

    # not supported
    audio: _only() = None
    frequency_penalty: _only(0) = None
    function_call: _only("none", "auto") = None
    functions: _only([]) = None
    logit_bias: _only({}) = None
    logprobs: _only(False) = None
    modalities: _only(["text"]) = None
    parallel_tool_calls: _only(True, False) = None
    prediction: _only() = None
    presence_penalty: _only(0) = None
    prompt_cache_retention: _only() = None
    reasoning_effort: _only("none") = None
    response_format: _only({"type": "text"}) = None
    service_tier: _only("auto", "default") = None
    store: _only(False) = None
    tool_choice: _only("none", "auto") = None
    tools: _only([]) = None
    top_logprobs: _only(0) = None
    verbosity: _only() = None
    web_search_options: _only() = None

    @model_validator(mode="after")
    def _check(self):
        for number, message in enumerate(self.messages):
            if message.role != ("user", "assistant")[number % 2]:
                raise ValueError(
                    f"messages[{number}] has role {message.role!r}, expected 'user' and 'assistant' in turns, 'user' "
                    "first"
                )
            if message.role == "assistant" and message.images:
                raise ValueError(f"messages[{number}] is the assistant's and has a picture, expected text")
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
        if self.stream_options is not None and not self.stream:
            raise ValueError("got stream_options without stream: leave them out, or set stream to true")
        return self
