"""Whatever goes wrong, in OpenAI's shape: one sentence, and a code that programs understand."""

import logging
import math
import reprlib
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...language import printable, shortened
from ...remote_code.pipeline_viscpm_paint import UnsafePromptError
from ...safety import UnsafeContentError
from ..batcher import DrainingError, QueueFullError
from ..engine import PromptTooLongError

logger = logging.getLogger(__name__)


class ApiError(HTTPException):
    """An answer that is none.

    Args:
        status (`int`): of HTTP.
        message (`str`): one sentence for people.
        code (`str`, *optional*): for programs.
        param (`str`, *optional*): the field at fault.
        type (`str`, *optional*): by default OpenAI's for the status.
        headers (*optional*): of HTTP.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        # what a client sent comes back in it, shortened; an answer can hold no half of a surrogate pair
        self.message = printable(shortened(message, 600))
        super().__init__(status, self.message, dict(headers or {}))
        self.code, self.param = code, None if param is None else printable(shortened(param, 100))
        self.type = type or _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")

    @property
    def body(self) -> dict[str, Any]:
        """For JSON."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        """For HTTP; it is an ASGI application too."""
        return JSONResponse(self.body, self.status_code, self.headers)


_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 504: "timeout_error"}


class Error(BaseModel):
    """What is wrong."""

    message: str = Field(description="One sentence.")
    type: str = Field(description="Of whose making it is, for example `invalid_request_error`.")
    param: str | None = Field(description="The field at fault.")
    code: str | None = Field(description="For programs, for example `context_length_exceeded`.")


class ErrorBody(BaseModel):
    """Every answer that is none."""

    error: Error


# of every route, in the OpenAPI document
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request cannot be answered",
        401: "A wrong API key",
        404: "No such model, or no such route",
        408: "The request took too long to come",
        413: "The request is too large",
        415: "The request is no JSON",
        429: "Too many requests wait: come again after `Retry-After` seconds",
        503: "The server is stopping",
        504: "The answer took too long",
        "default": "A fault of the server",  # also keeps FastAPI from announcing its own errors of status 422
    }.items()
}


def error_of(error: BaseException) -> ApiError:
    """What a client is told of an exception; of what is no fault of the client, only that there is a log."""
    match error:
        case ApiError():
            return error
        case HTTPException(status_code=404):
            return ApiError(404, "There is no such route: see /docs.", "route_not_found")
        case HTTPException(status_code=400):  # FastAPI's, for whatever json raises
            text = "The body cannot be read as JSON: is it UTF-8, not nested too deeply, and without endless numbers?"
            return ApiError(400, text, "invalid_json")
        case HTTPException(status_code=405):
            only = (error.headers or {}).get("Allow", "others")
            text = f"This route does not take this method, only {only}: see /docs."
            return ApiError(405, text, "method_not_allowed", headers=error.headers)
        case HTTPException():
            return ApiError(error.status_code, f"{error.detail}.", headers=error.headers)
        case RequestValidationError():
            return _of_validation(error)
        case QueueFullError():
            return ApiError(429, str(error), "queue_full", headers={"Retry-After": str(math.ceil(error.retry_after))})
        case DrainingError():
            return ApiError(503, str(error), "server_stopping", headers={"Retry-After": "10"})
        case TimeoutError():
            return ApiError(504, "The answer took longer than the server allows: ask for less.", "timeout")
        case UnsafeContentError(__cause__=UnsafePromptError()):
            return ApiError(400, "The safety checker refused the prompt: use another.", "unsafe_prompt", "prompt")
        case UnsafeContentError():
            return ApiError(400, "The safety checker refused the picture: use another.", "unsafe_image")
        case PromptTooLongError():
            return ApiError(400, str(error), "context_length_exceeded", "messages")
        case ValueError():
            return ApiError(400, str(error), "invalid_value")
    return ApiError(500, "The server failed at this request; its log says why.", "internal_error")


class Faults:
    """Answers what no handler knows, and logs its traceback.

    Starlette's own way is to raise it again, upon which the server closes the connection; a client that takes that
    for its next request would be cut off.

    Args:
        app: what may fail.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            logger.error("A request failed", exc_info=error)
            await error_of(error).response(scope, receive, send)


def add_to(app: FastAPI) -> None:
    """Makes it answer every error so."""
    app.add_middleware(Faults)

    async def answer(request: Request, error: Exception) -> JSONResponse:
        return error_of(error).response

    for kind in (HTTPException, RequestValidationError, QueueFullError, DrainingError, TimeoutError, ValueError):
        app.add_exception_handler(kind, answer)


def check_model(model: str | None, name: str | None, kind: str) -> None:
    """Raises `ApiError` unless a model is served, and it is the one that is asked for.

    Args:
        model (`str`, *optional*): asked for; None takes what there is.
        name (`str`, *optional*): served; None if there is none.
        kind (`str`): for people.
    """
    if name is None:
        flag = f"--{kind.rpartition('-')[2].lower()}"
        raise ApiError(
            404, f"{kind} is not served here: `viscpm serve` takes one as {flag}.", "model_not_found", "model"
        )
    if model not in (None, name):
        raise ApiError(
            404, f"There is no {kind} {quoted(model)} here, only {quoted(name)}.", "model_not_found", "model"
        )


def _of_validation(error: RequestValidationError) -> ApiError:
    """Of all that is wrong the first, with its field as it is written in Python."""
    first, body = error.errors()[0], error.body
    if isinstance(body, bytes):
        return ApiError(
            415, "The body is not announced as JSON: send 'Content-Type: application/json'.", "unsupported_media_type"
        )
    kind, got = first["type"], first.get("input")
    if kind == "json_invalid":
        text = f"The body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}."
        return ApiError(400, text, "invalid_json")
    param = _field(first["loc"], body, kind == "missing")
    match kind:
        case "missing":
            text = f"{param or 'The body'} is missing."
        case "extra_forbidden":
            text = f"{param} is unknown here: leave it out."
        case "value_error":
            text = f"{param}: {first['ctx']['error']}." if param else f"{_capital(str(first['ctx']['error']))}."
        case _:
            limits = {k: f"{v:g}" if isinstance(v, float) else v for k, v in first.get("ctx", {}).items()}
            wanted = _WANTED[kind].format(**limits) if kind in _WANTED else f"something else ({first['msg']})"
            shown = f"{len(got)} characters" if kind == "string_too_long" else quoted(got)
            text = f"Got {shown} as {param or 'the body'}, expected {wanted}."
    return ApiError(400, text, "invalid_value", param)


# pydantic's kinds of errors that fields of ours can have
_WANTED = {
    **dict.fromkeys(("int_type", "int_from_float"), "an integer"),
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "string_unicode": "valid Unicode",
    "string_too_short": "a text that is not empty",
    "string_too_long": "at most {max_length}",
    "list_type": "a list",
    "too_short": "at least {min_length} item",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "an object"),
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
}


def _field(where, body, is_missing):
    """`messages[0].content`, without what pydantic puts between (the names of types)."""
    path, value = "", body
    for number, part in enumerate(where):
        is_last = number == len(where) - 1
        if isinstance(value, list) and isinstance(part, int) and part < len(value):
            path, value = f"{path}[{part}]", value[part]
        elif (
            isinstance(value, dict)
            and isinstance(where[number - 1], int)
            and part == value.get("type")
            and not is_last
        ):
            continue  # which kind of part it is
        elif isinstance(value, dict) and (part in value or is_missing and is_last):
            path, value = f"{path}.{part}" if path else part, value.get(part)
    return path or None


class _Shown(reprlib.Repr):
    """Little of a value, and not too deep; as JSON calls it, not Python."""

    def repr_str(self, value, level):
        return f"'{value if len(value) <= self.maxstring else f'{value[:12]}...{value[-13:]}'}'"

    def repr_NoneType(self, value, level):
        return "null"

    def repr_bool(self, value, level):
        return "true" if value else "false"


quoted = _Shown().repr


def _capital(text):
    return text[:1].upper() + text[1:]
