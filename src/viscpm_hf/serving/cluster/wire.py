"""What goes between an engine that is elsewhere and its replicas: plain texts, numbers and the bytes of pictures."""

import traceback
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from PIL import Image

from ...chat import ChatAnswer
from ...remote_code.image_processing_viscpm_chat import VisCPMChatImageProcessor
from ...remote_code.pipeline_viscpm_paint import UnsafePromptError
from ...safety import UnsafeContentError
from ..batcher import Counters, DrainingError, QueueFullError
from ..engine import Painted, PromptTooLongError, Question


class ReplicaFailedError(RuntimeError):
    """A replica failed at a request through no fault of the client; a note says where."""


class Picture(NamedTuple):
    """A picture on its way.

    Args:
        size: width and height.
        pixels: RGB, row by row.
    """

    size: tuple[int, int]
    pixels: bytes


@dataclass(frozen=True)
class Failure:
    """An error on its way: Ray's own way loses its cause and what a class keeps besides its message.

    Args:
        kind: name of its class, of those that a client is told of; "" for others.
        message: for people.
        retry_after: of a QueueFullError.
        trace: where it was raised, for the log.
    """

    kind: str
    message: str
    retry_after: float = 0.0
    trace: str = ""


@dataclass(frozen=True)
class Reply:
    """What a replica sends.

    Args:
        value: a result, a piece of one, or a [`Failure`].
        replica: which it was.
        counters: of its engine by then; None within a stream.
    """

    value: Any
    replica: str = ""
    counters: Counters | None = None


# a client is told of these; of others, only that there is a log
_TOLD = {
    kind.__name__: kind
    for kind in (
        QueueFullError,
        DrainingError,
        TimeoutError,
        UnsafePromptError,
        UnsafeContentError,
        PromptTooLongError,
        torch.OutOfMemoryError,
        ValueError,
    )
}


def packed(value: Any) -> Any:
    """Questions, answers, pictures and errors, fit for the network."""
    match value:
        case Question(image=Image.Image()):
            # as the model's own processor would; the safety checker sees it in its full size
            (image,) = VisCPMChatImageProcessor().to_pil(value.image)
            return replace(value, image=Picture(image.size, image.tobytes()))
        case ChatAnswer():
            return replace(value, vision_hidden_states=None)  # megabytes that no client reads
        case Painted():
            return replace(value, image=Picture(value.image.size, value.image.tobytes()))
        case list():
            return [packed(each) for each in value]
        case UnsafeContentError(__cause__=UnsafePromptError()):
            return Failure("UnsafePromptError", str(value))
        case QueueFullError():
            return Failure("QueueFullError", str(value), value.retry_after)
        case Exception():
            for kind in type(value).__mro__:
                if _TOLD.get(kind.__name__) is kind:
                    return Failure(kind.__name__, str(value))
            trace = "".join(traceback.format_exception(value))
            return Failure("", f"{type(value).__name__}: {value}", trace=trace)
    return value


def unpacked(value: Any) -> Any:
    """The reverse of `packed`; of an error, it is raised.

    Raises:
        Exception: as an [`Engine`] would; `ReplicaFailedError` for what is no fault of the client.
    """
    match value:
        case Question(image=Picture()) | Painted(image=Picture()):
            return replace(value, image=Image.frombytes("RGB", *value.image))
        case list():
            return [unpacked(each) for each in value]
        case Failure(kind="QueueFullError"):
            raise QueueFullError(value.message, value.retry_after)
        case Failure(kind="UnsafePromptError"):
            raise UnsafeContentError(value.message) from UnsafePromptError(value.message)
        case Failure(kind=""):
            error = ReplicaFailedError(value.message)
            error.add_note(value.trace)
            raise error
        case Failure():
            raise _TOLD[value.kind](value.message)
    return value
