"""What goes over the network: names of repositories, fetching ready-made parts, committing small files."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import CheckpointError, first_line
from .json_file import quoted


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


def is_repo_id(name: str) -> bool:
    """Whether a text may name a repository on the Hub, `owner/name`; paths such as `/x` and `./x` do not."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def require_repo_id(name: str) -> None:
    """CheckpointError unless a text may be the name of a repository to upload to."""
    if not is_repo_id(name):
        raise CheckpointError(
            f"Could not upload to {quoted(name)}: expected `owner/name` of letters, digits, `-`, `_` and `.`."
        )


def without_token(text: str) -> str:
    """A text of a library, which may quote what was sent, without the access token."""
    token = get_token()
    return text.replace(token, "hf_…") if token else text


def said(error: Exception) -> str:
    """What a library says of an error, in a line that fits into a sentence."""
    return without_token(first_line(error))


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
            f"There is no folder {source} and it could not be fetched from the Hub ({said(error)}); give "
            f"{wanted.option} {wanted.advice}."
        ) from error


def fetch_small_files(repo_id: str, folder: str | os.PathLike, patterns: Iterable[str]) -> str:
    """Fetches files of a Hub repository as they are now, not into the cache.

    Args:
        repo_id: `owner/name`.
        folder: to put them into.
        patterns: of their names.

    Returns:
        The commit they are of.

    Raises:
        CheckpointError: there is no such repository or it cannot be reached.
    """
    try:
        commit = HfApi().model_info(repo_id).sha
        snapshot_download(repo_id, revision=commit, allow_patterns=list(patterns), local_dir=folder)
    except Exception as error:  # the Hub's client passes on those of its HTTP library
        raise CheckpointError(
            f"There is no folder {repo_id} and it could not be fetched from the Hub ({said(error)}); give a "
            "converted folder or a Hub repository `owner/name`."
        ) from error
    return commit


def commit_files(repo_id: str, files: Mapping[str, bytes], message: str, parent: str, pull_request: bool) -> str:
    """Uploads some files in one commit.

    Args:
        repo_id: `owner/name`.
        files: contents by name.
        message: of the commit.
        parent: commit that must still be the newest.
        pull_request: whether to propose the commit instead.

    Returns:
        The address of the commit or of the pull request.

    Raises:
        CheckpointError: the Hub refuses.
    """
    try:
        commit = HfApi().create_commit(
            repo_id,
            [CommitOperationAdd(name, data) for name, data in files.items()],
            commit_message=message,
            parent_commit=parent,
            create_pr=pull_request,
        )
    except Exception as error:
        advice = "run again" if pull_request else "run again, or propose the change with --pull-request"
        raise CheckpointError(f"{repo_id} could not be written to ({said(error)}); {advice}.") from error
    return commit.pr_url if pull_request else commit.commit_url
