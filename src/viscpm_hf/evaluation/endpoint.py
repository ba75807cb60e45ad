"""Chat completions over HTTP, of a judge or of a running server: in parallel, patient, errors in a line."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ..checkpoint.errors import first_line
from ..language import shortened

IN_A_ROW = 5  # requests that failed after all their tries: then something else is wrong
# what newer models call otherwise, or refuse
_PARAMETERS = {"max_tokens": "max_completion_tokens", "temperature": None}


class EndpointError(ValueError):
    """It answers nobody: its address, the key or the model is wrong, or it is down."""


class FailedRequestError(ValueError):
    """It does not answer this."""


class MalformedReplyError(ValueError):
    """What came is no chat completion."""


@dataclass(frozen=True)
class Reply:
    """A completion.

    Args:
        text (`str`): of it.
        prompt_tokens, completion_tokens (`int`): as the server counts, 0 if it does not.
        finish_reason (`str`): as the server says.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


class Endpoint:
    """An OpenAI-compatible server.

    Its client waits and tries again after 408, 409, 429, 5xx, timeouts and broken connections, as long as the server
    asks for or ever longer.

    Args:
        base_url (`str`, *optional*): such as `http://127.0.0.1:8000/v1`; OpenAI's by default.
        key_variable (`str`): the environment's variable with the key; it need not be set where a `base_url` is given.
        timeout (`float`): seconds for a reply.
        retries (`int`): how often a request that failed is sent again.

    Raises:
        EndpointError: there is no key.
        ImportError: the `openai` package is missing.
    """

    def __init__(self, base_url: str | None, key_variable: str, timeout: float = 120.0, retries: int = 8):
        try:
            import openai
        except ImportError as error:
            raise ImportError('This needs the openai package: pip install "openai>=3.50"') from error
        self._openai = openai
        self._key = os.environ.get(key_variable, "").strip()
        if not self._key and base_url is None:
            raise EndpointError(f"There is no key: set {key_variable}, or give the address of a server without one.")
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise EndpointError(f"Got {base_url!r} as an address, expected one such as http://127.0.0.1:8000/v1.")
        self.base_url = base_url or "https://api.openai.com/v1"  # not what OPENAI_BASE_URL says, silently
        self._options = {"timeout": timeout, "max_retries": retries}
        self._refused: set[str] = set()
        self._failed_in_a_row = 0

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["Endpoint"]:
        """Meanwhile requests can be made."""
        # some key the client insists on
        async with self._openai.AsyncOpenAI(
            api_key=self._key or "none", base_url=self.base_url, **self._options
        ) as self._client:
            yield self

    async def models(self) -> list[str]:
        """The ids of its models."""
        try:
            return [model.id for model in (await self._client.models.list()).data]
        except Exception as error:
            raise EndpointError(f"{self.base_url} does not list its models ({self._reason(error)}).") from error

    async def complete(self, **request: Any) -> Reply:
        """A chat completion.

        Raises:
            MalformedReplyError, FailedRequestError: another request may do better.
            EndpointError: none will.
        """
        openai = self._openai
        while True:
            sent = {self._name(name): value for name, value in request.items() if self._name(name)}
            try:
                response = await self._client.chat.completions.create(**sent)
                break
            except openai.BadRequestError as error:
                if error.param in _PARAMETERS and error.param in sent:
                    self._refused.add(error.param)
                    continue
                raise FailedRequestError(self._reason(error)) from error
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise EndpointError(f"{self.base_url} refuses ({self._reason(error)}).") from error
            except openai.APIResponseValidationError as error:
                raise MalformedReplyError(self._reason(error)) from error
            except openai.APIError as error:
                self._failed_in_a_row += 1
                nobody = isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)
                spent = getattr(error, "code", None) == "insufficient_quota"
                if nobody or spent or self._failed_in_a_row >= IN_A_ROW:
                    raise EndpointError(f"{self.base_url} fails ({self._reason(error)}).") from error
                raise FailedRequestError(self._reason(error)) from error
            except json.JSONDecodeError as error:
                raise MalformedReplyError(self._reason(error)) from error
        self._failed_in_a_row = 0
        try:
            choice = response.choices[0]
            text, usage = choice.message.content, response.usage
            if not isinstance(text, str):
                raise TypeError(f"a message of type {type(text).__name__}")
            counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
            return Reply(text, *(each if isinstance(each, int) else 0 for each in counts), str(choice.finish_reason))
        except (AttributeError, IndexError, TypeError) as error:
            raise MalformedReplyError(f"no chat completion: {self._reason(error)}") from error

    def _name(self, parameter):
        return _PARAMETERS[parameter] if parameter in self._refused else parameter

    def _reason(self, error):
        """In a line, without the key, which a server may repeat."""
        text = first_line(error)
        return shortened(text.replace(self._key, "***") if self._key else text, 300)


async def in_parallel(items: Iterable[Any], work: Callable[[Any], Awaitable[None]], most: int) -> None:
    """Works on items, so many at a time; the first error ends it all."""
    queue = iter(items)

    async def worker():
        for item in queue:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(most):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
