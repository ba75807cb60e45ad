"""What goes over the network: uploading a converted repository, fetching a safety checker."""

import shutil
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from .errors import CheckpointError


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
            f"Could not upload {folder} to {repo_id} ({_first_line(error)}); the folder is complete, so repeat with "
            f"python conversion/push_to_hub.py {folder} {repo_id}"
        ) from error


def copy_safety_checker(source: str, target: Path) -> None:
    """Copies a StableDiffusionSafetyChecker with its image processor into the repository.

    Args:
        source: a folder, or a repository on the Hub such as `CompVis/stable-diffusion-safety-checker`.
        target: folder to create.

    Raises:
        CheckpointError: there is nothing of the kind.
    """
    folder = Path(source)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"]))
        except Exception as error:
            raise CheckpointError(
                f"There is no folder {source} and it could not be fetched from the Hub ({_first_line(error)}); give "
                "--safety-checker a folder, a repository id or none."
            ) from error
    weights = [*folder.glob("*.safetensors")]
    if not (folder / "config.json").is_file() or not weights:
        raise CheckpointError(
            f"{source} is not a safety checker: expected a config.json and safetensors weights; give --safety-checker "
            "another folder, a repository id or none."
        )
    target.mkdir(parents=True)
    for file in [*folder.glob("*.json"), *weights]:
        shutil.copyfile(file, target / file.name)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
