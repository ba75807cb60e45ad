"""What goes over the network: uploading a converted repository, fetching ready-made parts."""

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from ..errors import CheckpointError, first_line


@dataclass(frozen=True)
class Wanted:
    """A model from elsewhere.

    Args:
        option: of the command line, which names it.
        what: it is.
        advice: what to give the option.
    """

    option: str
    what: str
    advice: str


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Uploads a converted repository, creating it on the Hub if need be.

    Args:
        folder: the converted repository.
        repo_id: `user/name`.
        private: whether a repository that does not exist yet is created private.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the folder is no repository, or the Hub refuses.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() and not (folder / "model_index.json").is_file():
        raise CheckpointError(
            f"{folder} is not a converted repository: it has no config.json; convert a checkpoint first."
        )
    api = HfApi()
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return api.upload_folder(
            folder_path=folder, repo_id=repo_id, commit_message="Converted with viscpm_hf", ignore_patterns=".*"
        ).commit_url
    except Exception as error:  # the Hub's client passes on those of its HTTP library
        raise CheckpointError(
            f"Could not upload {folder} to {repo_id} ({first_line(error)}); the folder is complete, so repeat with "
            f"{_command(folder, repo_id, private)}"
        ) from error


def fetch(source: str, wanted: Wanted, patterns: Iterable[str]) -> Path:
    """A folder on disk, or what is needed of a repository on the Hub.

    Args:
        source: the folder, a repository such as `CompVis/stable-diffusion-safety-checker`, or a folder in one such as
            `openbmb/VisCPM-Paint/text-security-checker`.
        wanted: for messages.
        patterns: of the files that are needed.

    Raises:
        CheckpointError: there is neither.
    """
    if os.path.isdir(source):
        return Path(source)
    if os.path.exists(source):
        raise CheckpointError(f"{source} is no folder; give {wanted.option} {wanted.advice}.")
    parts = source.split("/")
    repo_id, inside = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        patterns = [f"{inside}/{pattern}" if inside else pattern for pattern in patterns]
        return Path(snapshot_download(repo_id, allow_patterns=patterns)) / inside
    except Exception as error:  # the Hub's client passes on those of its HTTP library
        raise CheckpointError(
            f"There is no folder {source} and it could not be fetched from the Hub ({first_line(error)}); give "
            f"{wanted.option} {wanted.advice}."
        ) from error


def _command(folder: Path, repo_id: str, private: bool) -> str:
    """The same upload as a command; without --private it would publish."""
    place = f"./{folder}" if str(folder).startswith("-") else str(folder)  # else it would be taken for an option
    return shlex.join(["viscpm", "push", place, repo_id, *["--private"] * private])
