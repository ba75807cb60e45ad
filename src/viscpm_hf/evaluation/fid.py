"""Fréchet inception distance, Heusel et al. 2017, over an Inception that is given as a file."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from ..checkpoint.errors import CheckpointError, first_line
from ..checkpoint.files.disk import open_regular
from ..language import say

# NVIDIA's inception-2015-12-05.pt, the TorchScript of TensorFlow's network that FID was defined with
KNOWN_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class Inception(torch.nn.Module):
    """Features of pictures by a TorchScript network.

    Args:
        path (`Path`): the file: takes uint8 pictures (n, 3, height, width) of any size and returns (n, features), if
            asked to by `return_features=True` where it has that argument.
        sha256 (`str`): that the file must have, since what it holds is run.

    Raises:
        CheckpointError: it has another, or is no such network.
    """

    def __init__(self, path: str | Path, sha256: str = KNOWN_SHA256):
        super().__init__()
        with open_regular(path) as file:
            data = file.read()
        found = hashlib.sha256(data).hexdigest()
        if found != sha256.lower():
            raise CheckpointError(
                f"{path} has the SHA-256 {found}, expected {sha256.lower()}: give NVIDIA's inception-2015-12-05.pt, "
                "or the hash of the file that is meant with --inception-sha256."
            )
        try:
            self.network = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
            names = [argument.name for argument in self.network.forward.schema.arguments]
            self.options = {"return_features": True} if "return_features" in names else {}
            self.num_features = self(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape[1]
        except Exception as error:  # the archive's, the network's
            raise CheckpointError(
                f"{path} is no TorchScript network from pictures to features ({first_line(error)})."
            ) from error

    @torch.no_grad()
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features (n, features) of pictures (n, 3, height, width), uint8."""
        features = self.network(pictures, **self.options)
        if features.ndim != 2 or len(features) != len(pictures):
            raise ValueError(f"its features have the shape {tuple(features.shape)}")
        return features


def frechet_distance(inception: Inception) -> torch.nn.Module:
    """torchmetrics' `FrechetInceptionDistance` over that network.

    Its statistics are sums, which `compute()` adds up over processes. Real ones stay when it is reset, so that
    several sets are compared with one.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise ImportError('FID needs torchmetrics: pip install "torchmetrics>=1.8"') from error
    return FrechetInceptionDistance(inception, reset_real_features=False)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, and of those in it, by name.

    Raises:
        CheckpointError: there are fewer than two, which have no covariance.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(found) < 2:
        raise CheckpointError(f"{folder} holds {len(found)} pictures, expected the real ones, such as COCO's val2014.")
    return found


def add_pictures(
    metric: torch.nn.Module, paths: Sequence[Path], real: bool, size: tuple[int, int], batch_size: int = 32
) -> None:
    """Adds pictures to the statistics.

    Args:
        metric: of `frechet_distance`.
        paths: of this process.
        real: or painted ones.
        size: width and height that all are brought to, cut to that shape around the middle first.
        batch_size: pictures at a time.
    """
    title = say("real pictures", "真实图片") if real else say("painted pictures", "生成图片")
    with tqdm(total=len(paths), desc=title, leave=False, disable=None) as bar:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            metric.update(as_tensor(open_picture(path, size) for path in batch).to(metric.device), real=real)
            bar.update(len(batch))


def open_picture(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture in RGB.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with open_regular(path) as file, Image.open(file) as picture:
            picture = picture.convert("RGB")
    except Exception as error:  # each format fails in its own way
        raise CheckpointError(
            f"{path} is not a picture that can be read ({first_line(error)}): remove it and run again."
        ) from error
    return picture if size in (None, picture.size) else ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def as_tensor(pictures: Iterable[Image.Image]) -> torch.Tensor:
    """Pictures of one size as uint8 (n, 3, height, width)."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).contiguous()
