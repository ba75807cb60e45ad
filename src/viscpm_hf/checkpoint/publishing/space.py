"""A Space: the web page of a model on the Hub, with the package that serves it."""

import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from string import Template

from .. import repo
from ..errors import CheckpointError
from ..layout.keys import CHAT, PAINT
from .contents import Contents

# as setup.cfg has them; gradio is named in README.md
NEEDED = (
    *("torch", "transformers", "accelerate", "huggingface_hub", "safetensors", "tokenizers", "diffusers", "jinja2"),
    *("pillow", "numpy", "tqdm", "filelock", "typer", "rich"),
    *("fastapi", "prometheus_client", "pydantic", "requests-hardened", "uvicorn"),
)
_TEMPLATES = Path(__file__).parent / "space_files"
_PAGES = {CHAT.model_type: "chat", PAINT.model_type: "paint"}
# GPU memory that is more than the weights by some, and what has it
_HARDWARE = ((1e9, "cpu-basic"), (18e9, "l4x1"), (40e9, "l40sx1"), (float("inf"), "a100-large"))


def page_of(contents: Contents) -> str:
    """The page of `viscpm demo` that a model has.

    Raises:
        CheckpointError: it has none.
    """
    if contents.kind not in _PAGES:
        raise CheckpointError(
            f"{contents.folder} is no converted VisCPM-Chat or VisCPM-Paint, and only these have a web page: leave "
            "--space away."
        )
    return _PAGES[contents.kind]


@contextmanager
def written(contents: Contents, repo_id: str) -> Iterator[Path]:
    """The folder of a Space: app.py, README.md, requirements.txt and the package.

    The package is in no index, so that it is put in whole, but for the weights of the embedded models.

    Args:
        contents: of the model's folder.
        repo_id: of the model on the Hub.
    """
    fields = {
        "page": page_of(contents),
        "model": repo_id,
        "title": repo_id.partition("/")[2],
        "size": f"{contents.nbytes / 1e9:.1f} GB",
        "hardware": next(name for most, name in _HARDWARE if contents.nbytes < most),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "gradio": _version("gradio") or "6.31.0",
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for template in ("app.py", "README.md"):
            text = (_TEMPLATES / template).read_text(encoding="utf-8")
            (folder / template).write_text(Template(text).substitute(fields), encoding="utf-8")
        (folder / "requirements.txt").write_text("\n".join(requirements()) + "\n", encoding="utf-8")
        shutil.copytree(
            repo.PACKAGE, folder / "viscpm_hf", ignore=shutil.ignore_patterns("__pycache__", "pytorch_model.bin")
        )
        yield folder


def requirements() -> list[str]:
    """What the package needs to show its pages, in the versions that are installed here."""
    return [f"{name}=={version}" if (version := _version(name)) else name for name in NEEDED]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name).partition("+")[0]  # without the build, as of torch's for CPUs
    except metadata.PackageNotFoundError:
        return None
