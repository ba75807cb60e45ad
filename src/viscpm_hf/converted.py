"""Whether a path is a converted checkpoint, and what to do if it is not."""

import os

from .checkpoint.errors import CheckpointError, pasted


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
