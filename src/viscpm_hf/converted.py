"""Whether a path is a converted checkpoint, and what to do if it is not."""

import functools
import os
from collections.abc import Callable

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from .checkpoint.errors import CheckpointError, pasted
from .checkpoint.hub import first_line


def loads_or_says_why(load: Callable) -> Callable:
    """Decorator of `load(self, model_path, …)`: what libraries make of odd files is one sentence, a CheckpointError.

    ValueError, OSError and ImportError are sentences already.
    """

    @functools.wraps(load)
    def loading(self, model_path, *args, **kwargs):
        try:
            return load(self, model_path, *args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except (
            TypeError,
            AttributeError,
            LookupError,
            RuntimeError,  # which a too deep nesting is, too
            SafetensorError,
            StrictDataclassError,
        ) as error:
            raise CheckpointError(
                f"{model_path} does not load ({first_line(error)}): convert the checkpoint again."
            ) from error

    return loading


def check_is_converted(model_path, name: str, script: str, config_file: str):
    """Raises an error that says how to convert, unless this may be a converted folder or a Hub repository.

    Args:
        model_path (`str` or `Path`): what the user gave.
        name (`str`): of the model, for people.
        script (`str`): that converts it, with the arguments it needs besides.
        config_file (`str`): what a converted folder has at its root.

    Raises:
        CheckpointError: it is something else.
    """
    if os.path.isfile(model_path):
        raise CheckpointError(
            f"{model_path} is a file, expected a converted folder: run `python conversion/{script} "
            f"--checkpoint {pasted(model_path)} --vocab VOCAB --output DIR` once and give DIR."
        )
    if os.path.isdir(model_path):
        if not os.path.isfile(os.path.join(model_path, config_file)):
            raise CheckpointError(
                f"The folder {model_path} has no {config_file}, expected a converted {name}: make one with "
                f"`python conversion/{script} --checkpoint CKPT --vocab VOCAB --output DIR`."
            )
    elif os.path.lexists(model_path):
        raise CheckpointError(f"{model_path} is neither a folder nor a file, expected a converted folder.")
    elif str(model_path).count("/") != 1:
        raise CheckpointError(
            f"{model_path} does not exist, expected a converted folder or a Hub repository `owner/name`."
        )
