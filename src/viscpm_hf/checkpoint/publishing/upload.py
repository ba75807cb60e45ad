"""Uploading a folder to the Hub: looked at first, private unless it is said otherwise, resumed where it broke off."""

import glob
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from .. import repo
from ..errors import CheckpointError
from ..files.hub import require_repo_id
from . import space
from .card import adapter_config, card_of
from .contents import ADAPTER_CONFIG, Contents, read_contents
from .refusals import NO_TOKEN, reason

MESSAGE = "Uploaded with viscpm_hf"
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin")


@dataclass(frozen=True)
class Upload:
    """What is to be uploaded where.

    Args:
        folder: a converted repository, also fine-tuned or quantized, or an adapter.
        repo_id: `owner/name`.
        public: whether others may see it; otherwise a repository that does not exist yet is created private, and one
            that is public is left alone.
        private: whether that was said; it is so without.
        base_model: repository of the model that an adapter belongs to.
        checkpoint: the original, to compare every byte with before.
        space: whether to upload a Space of the same name as well, with the model's web page.

    Raises:
        CheckpointError: `repo_id` or `base_model` are no names of repositories, or options contradict each other.
    """

    folder: Path
    repo_id: str
    public: bool = False
    private: bool = False
    base_model: str | None = None
    checkpoint: Path | None = None
    space: bool = False
    api: HfApi = field(default_factory=HfApi, repr=False, compare=False)

    def __post_init__(self):
        require_repo_id(self.repo_id)
        if self.base_model is not None:
            require_repo_id(self.base_model)
        if self.public and self.private:
            raise CheckpointError("Got both --public and --private, expected one of them.")

    def command(self) -> str:
        """The same upload, fit for a shell."""
        words = ["viscpm", "push", _place(self.folder), self.repo_id]
        words += [f"--{option}" for option in ("public", "private", "space") if getattr(self, option)]
        words += ["--base-model", self.base_model] if self.base_model is not None else []
        words += ["--checkpoint", _place(self.checkpoint)] if self.checkpoint is not None else []
        return shlex.join(words)

    def look(self, kind: str = "model") -> str:
        """Whether a repository of this name is `absent`, `private` or `public`.

        Args:
            kind: `model` or `space`.

        Raises:
            CheckpointError: it is public and that was not said, there is no token, or the Hub does not answer.
        """
        with self.failures():
            if get_token() is None:
                raise _Refused(*NO_TOKEN)
            try:
                info = self.api.repo_info(self.repo_id, repo_type=kind)
            except RepositoryNotFoundError as error:
                if error.response.status_code != 404:
                    raise
                return "absent"
        if info.private:
            return "private"
        if not self.public:
            what = "repository" if kind == "model" else "Space"
            raise CheckpointError(
                f"The {what} {self.repo_id} on the Hub is public: everybody would see what is uploaded; give --public "
                "if that is meant, else choose another name or make it private in its settings first."
            )
        return "public"

    def contents(self) -> Contents:
        """What the folder holds.

        Raises:
            CheckpointError: it is not whole, or the options do not fit it.
        """
        contents = read_contents(self.folder, self.checkpoint)
        if self.base_model is not None and not contents.is_adapter:
            raise CheckpointError(f"{self.folder} is no adapter, so that --base-model has nothing to name.")
        if self.space:
            space.page_of(contents)
        return contents

    def name_card(self) -> None:
        """Writes the card with the repository's name into a folder that was just made."""
        (self.folder / repo.CARD).write_bytes(card_of(self.contents(), self.repo_id))

    def run(self, contents: Contents | None = None) -> str:
        """Uploads it, and gives the address of the commit, or that of the Space.

        Args:
            contents: of the folder, if somebody has looked.
        """
        found = self.look()
        found_space = self.look("space") if self.space else None
        contents = contents or self.contents()
        address = self._send(contents, found)
        if self.space:
            with space.written(contents, self.repo_id) as folder:
                address = self._send_space(folder, found_space)
        return address

    def _send(self, contents, found):
        own = {repo.CARD: card_of(contents, self.repo_id, self.base_model)}
        own[ADAPTER_CONFIG] = adapter_config(contents, self.base_model)
        own = {
            name: data for name, data in own.items() if data is not None and not _holds(contents.folder / name, data)
        }
        names = [name for name in contents.files if name not in own]
        with self.failures():
            self._create(found, "model")
            if own:
                operations = [CommitOperationAdd(name, data) for name, data in own.items()]
                self.api.create_commit(self.repo_id, operations, commit_message=MESSAGE)
            return self.api.upload_folder(
                repo_id=self.repo_id,
                folder_path=contents.folder,
                commit_message=MESSAGE,
                allow_patterns=[glob.escape(name) for name in names],
                delete_patterns=[glob.escape(name) for name in self._outdated(names)] or None,
            ).commit_url

    def _outdated(self, names: list[str]) -> list[str]:
        """Weights on the Hub beside those that are uploaded, as of other shards: they would be loaded instead."""
        folders = {name.rpartition("/")[0] for name in names if name.endswith(_WEIGHTS)}
        there = [name for name in self.api.list_repo_files(self.repo_id) if name.endswith(_WEIGHTS)]
        return [name for name in there if name.rpartition("/")[0] in folders and name not in names]

    def _send_space(self, folder, found):
        with self.failures():
            self._create(found, "space")
            self.api.upload_folder(
                repo_id=self.repo_id,
                repo_type="space",
                folder_path=folder,
                commit_message=MESSAGE,
                delete_patterns="viscpm_hf/*",
            )
        return f"{self.api.endpoint}/spaces/{self.repo_id}"

    def _create(self, found: str, kind: str) -> None:
        if found != "absent":
            return
        sdk = {"space_sdk": "gradio"} if kind == "space" else {}
        self.api.create_repo(self.repo_id, private=not self.public, repo_type=kind, **sdk)
        if not self.public and not self.api.repo_info(self.repo_id, repo_type=kind).private:
            raise _Refused("the Hub has created it public", "make it private in its settings")

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Turns what the Hub and the network do into a sentence with the command to repeat."""
        try:
            yield
        except Exception as error:  # the Hub's client passes on those of its HTTP library
            why, advice = error.args if isinstance(error, _Refused) else reason(error, self.repo_id)
            raise HubError(
                f"Could not upload {self.folder} to {self.repo_id}: {why}; {advice}. Nothing is lost and what has "
                f"arrived is not sent again, so repeat with {self.command()}",
                why,
            ) from None  # whose texts may hold the token


class HubError(CheckpointError):
    """The Hub does not do what it is asked, or is not there; `why` is what it says."""

    def __init__(self, message: str, why: str):
        super().__init__(message)
        self.why = why


class _Refused(Exception):
    """Why, and what to do."""


def push_to_hub(
    folder: str | os.PathLike,
    repo_id: str,
    private: bool = False,
    *,
    public: bool = False,
    base_model: str | None = None,
    checkpoint: str | os.PathLike | None = None,
    space: bool = False,
) -> str:
    """Uploads a converted repository or an adapter, creating it on the Hub if need be: private unless `public`.

    Args:
        folder: a converted repository, also fine-tuned or quantized, or an adapter.
        repo_id: `owner/name`.
        private: whether to say that it is to be private, which it is without.
        public: whether everybody may see it. Without, a repository that is public is not filled.
        base_model: repository of the model that an adapter belongs to.
        checkpoint: the original, to compare every byte with before.
        space: whether to upload a Space of the same name as well, with the model's web page.

    Returns:
        The address of the commit, or of the Space.

    Raises:
        CheckpointError: the folder is none of these or not whole, `repo_id` is no name of a repository, or the Hub
            refuses.
    """
    checkpoint = checkpoint and Path(checkpoint)
    return Upload(Path(folder), repo_id, public, private, base_model, checkpoint, space).run()


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _place(path: Path) -> str:
    return f"./{path}" if str(path).startswith("-") else str(path)  # else it would be taken for an option
