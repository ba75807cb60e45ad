"""Pictures painted one after the other, each a PNG that says how it can be painted again."""

import io
import os
import re
import secrets
import sys
import tempfile
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .. import __version__
from ..checkpoint.errors import CheckpointError
from ..checkpoint.files.disk import SMALL, read_small
from ..checkpoint.files.json_file import quoted, read_json_file
from ..language import printable
from ..safety import UnsafeContentError
from .remarks import is_terminal, tell

_NAME = 40  # characters of a prompt in a file's name


def read_lines(file: str) -> list[str]:
    """The prompts of a file, one a line; of standard input for `-`.

    Raises:
        CheckpointError: there is no such file, it is no text in UTF-8, or it holds no prompt.
    """
    name = "standard input" if file == "-" else file
    try:
        if file == "-":
            data = b"" if sys.stdin is None else sys.stdin.buffer.read(SMALL + 1)
            if len(data) > SMALL:
                raise CheckpointError(f"{name} has more than {SMALL >> 20} MB, far more than prompts need.")
        else:
            data = read_small(file)
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name} is not a text in UTF-8; give one with a prompt on each line.") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise CheckpointError(f"{name} holds no prompt; give a text in UTF-8 with a prompt on each line.")
    return prompts


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Makes a folder that can be written to, before hours of painting; it is removed if nothing was painted.

    Raises:
        CheckpointError: it is something else than a folder, or nothing can be written there.
    """
    created = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]  # innermost first
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except (FileExistsError, NotADirectoryError) as error:
            raise CheckpointError(f"{error.filename or folder} is not a folder; choose another --output.") from error
        except OSError as error:
            why = error.strerror or error
            raise CheckpointError(f"{folder} cannot be written to ({why}); choose another --output.") from error
        yield
    finally:
        for path in created:
            with suppress(OSError):  # it holds pictures, or was never made
                path.rmdir()


def check_size(model: str | None, size: tuple[int, int] | None) -> None:
    """Stops before a model is loaded if it has no such size; a Hub repository says it later.

    Raises:
        CheckpointError: width or height is no multiple of what the VAE makes of one latent.
    """
    from ..tiny import PAINT_CHECKPOINT

    folder = PAINT_CHECKPOINT / "sd_base" if model is None else Path(model)
    config = folder / "vae" / "config.json"
    if size is None or not config.is_file():
        return
    blocks = read_json_file(config).get("block_out_channels")
    factor = 2 ** (len(blocks) - 1) if isinstance(blocks, list) and 0 < len(blocks) < 12 else 1
    if any(side % factor for side in size):
        near = "x".join(str(max(round(side / factor), 1) * factor) for side in size)
        raise CheckpointError(
            f"Got --size {size[0]}x{size[1]}, expected multiples of {factor} for this model, such as {near}."
        )


def check_candidates(model: str | None, candidates: int | None) -> None:
    """Stops before a model is loaded if it has nothing to choose with; a Hub repository says it later.

    Raises:
        CheckpointError: more than one is wanted, and there is no ranker.
    """
    index = None if model is None else Path(model) / "model_index.json"
    if model is None:
        _require_ranker(None, candidates)
    elif index.is_file():
        ranker = read_json_file(index).get("ranker")
        _require_ranker(ranker[0] if isinstance(ranker, list) and ranker else None, candidates)


def _require_ranker(ranker, candidates):
    if ranker is None and (candidates or 1) > 1:
        raise CheckpointError(
            f"Got --candidates {candidates}, but this model has no ranker to choose from them: leave it out, or "
            "convert the checkpoint with --ranker."
        )


class Painter:
    """A loaded model with its settings.

    Args:
        model (`str`, *optional*): folder or Hub repository; the tiny one of the package by default.
        scheduler (`str`, *optional*): `"ddpm"` or `"dpm++"`.
        settings (`dict`): steps, size, negative, guidance and candidates, None for the model's own.
        loading (`dict`): options of `VisCPMPaint`.
    """

    def __init__(self, model, scheduler, settings, loading):
        from ..paint import VisCPMPaint, make_scheduler
        from ..tiny import GUIDANCE_SCALE, tiny_paint_repo

        name = "VisCPM-Paint-tiny" if model is None else Path(model).resolve().name if os.path.isdir(model) else model
        self.model = printable(name)
        self.loading = {name: value for name, value in loading.items() if value is not None}
        self.negative, self.size = settings["negative"] or "", settings["size"]
        self.candidates = settings["candidates"]
        self.guidance = settings["guidance"]
        if self.guidance is None:
            self.guidance = GUIDANCE_SCALE if model is None else 7.5
        self.steps = settings["steps"] or (20 if scheduler == "dpm++" else 50)
        model = tiny_paint_repo() if model is None else model
        with warnings.catch_warnings():  # checkers and ranker are used where the repository has them
            warnings.filterwarnings("ignore", r"[\s\S]* has no (safety_checker|prompt_checker|ranker), so")
            self.painter = VisCPMPaint(model, **loading)
        self.pipeline = self.painter.pipeline
        _require_ranker(self.pipeline.ranker, self.candidates)
        if scheduler is not None:
            self.pipeline.scheduler = make_scheduler(scheduler, self.pipeline.scheduler.config)

    def paint(self, prompts: list[str], folder: Path, seed: int | None, sheet: bool) -> int:
        """Paints every prompt into a new file of a folder and prints where.

        One at a time: in a batch a picture would differ in its last bits from the same one painted alone.

        Args:
            prompts: what to paint.
            folder: made if it is not there.
            seed: of every picture; one that comes again gets the next.
            sheet: whether to save them side by side, too.

        Returns:
            The exit code: 1 if a prompt was refused.
        """
        painted, before = [], Counter()
        for number, prompt in enumerate(prompts, 1):
            own = secrets.randbits(32) if seed is None else (seed + before[prompt]) % 2**64
            before[prompt] += 1
            title = prompt[:30] if len(prompts) == 1 else f"{number}/{len(prompts)} {prompt[:30]}"
            self.pipeline.set_progress_bar_config(
                desc=printable(title), leave=False, disable=not is_terminal(sys.stderr)
            )
            try:
                picture = self._picture(prompt, own)
            except (ValueError, RuntimeError) as error:  # RuntimeError: it is NaN, or there is too little memory
                refused = isinstance(error, UnsafeContentError)
                why = "the prompt checker refused it, use another" if refused else " ".join(str(error).split())
                tell(f"error: {quoted(prompt)}: {why}")
                continue
            path = save(picture, self._settings(prompt, own, picture), folder, prompt)
            print(printable(str(path)), flush=True)
            painted.append((path, prompt, picture))
        if sheet and painted:
            print(printable(str(_save_sheet(painted, folder))), flush=True)
        return int(len(painted) < len(prompts))

    def _picture(self, prompt, seed):
        size = {} if self.size is None else {"width": self.size[0], "height": self.size[1]}
        picture = self.painter.generate(
            prompt,
            negative_prompt=self.negative,
            guidance_scale=self.guidance,
            num_inference_steps=self.steps,
            num_candidates=self._candidates(prompt),
            generator=seed,
            **size,
        )
        if self.pipeline.safety_checker is not None and picture.getbbox() is None:
            tell(f"warning: {quoted(prompt)}: the image safety checker replaced the picture by a black one")
        return picture

    def _candidates(self, prompt):
        """Those asked for; none where the ranker, which knows Chinese only, is left out."""
        from ..paint import CHINESE

        return self.candidates if CHINESE.search(prompt) else None

    def _settings(self, prompt, seed, picture):
        number = self._candidates(prompt)
        candidates = {} if number is None else {"candidates": number}
        return {
            "prompt": prompt,
            "negative prompt": self.negative,
            "seed": seed,
            "steps": self.steps,
            "guidance": self.guidance,
            "size": f"{picture.width}x{picture.height}",
            "scheduler": type(self.pipeline.scheduler).__name__,
            "model": self.model,
            **candidates,
            **self.loading,
        }


def save(picture: Image.Image, settings: dict, folder: Path, prompt: str) -> Path:
    """Writes a picture to a new file: the next number of the folder, and what the prompt has of letters and digits.

    Args:
        picture: to write.
        settings: for the PNG's text chunks, by name.
        folder: made if it is not there.
        prompt: for the name.
    """
    information = PngInfo()
    for key, value in {"Software": f"viscpm-hf {__version__}", **settings}.items():
        information.add_itxt(key, str(value))  # not tEXt, which has Latin letters only
    data = io.BytesIO()
    picture.save(data, "PNG", pnginfo=information)
    letters = "".join(c if c.isalnum() else " " for c in unicodedata.normalize("NFC", prompt))
    name = "_".join(letters.split())[:_NAME].strip("_") or "picture"
    folder.mkdir(parents=True, exist_ok=True)
    numbers = (re.match(r"(\d{1,9})_", each) for each in os.listdir(folder))
    number = max((int(found[1]) for found in numbers if found), default=0) + 1
    while True:
        path = folder / f"{number:04}_{name}.png"
        try:
            file = open(path, "xb")
        except FileExistsError:  # another process was faster
            number += 1
            continue
        try:
            with file:
                file.write(data.getvalue())
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise CheckpointError(f"Could not write {path} ({error.strerror}); nothing of it was left.") from error
            raise
        return path


def _save_sheet(painted, folder):
    """All pictures side by side, each over its file's number and, if there are fonts for it, its prompt."""
    from ..tiny.world.contact_sheet import can_write, contact_sheet

    labels = []
    for path, prompt, _ in painted:
        number, text = path.name.partition("_")[0], " ".join(prompt.split())
        text = text if len(text) <= 80 else f"{text[:77]}..."
        labels.append(f"{number} {text}" if can_write(text) else number)
    pictures = [picture for *_, picture in painted]
    scale = max(1, 192 // pictures[0].width)
    columns = min(len(painted), 4)
    about = {"pictures": "\n".join(path.name for path, *_ in painted)}
    return save(contact_sheet(pictures, labels, columns, scale), about, folder, "sheet")
