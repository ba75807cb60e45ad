"""Image safety for Chat: the Stable Diffusion safety checker looks at a picture before the model does."""

import logging
import os
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image
from transformers import CLIPImageProcessorPil

logger = logging.getLogger(__name__)

ORIGINAL_CHECKER = "CompVis/stable-diffusion-safety-checker"  # what the original downloads
SUBFOLDER = "safety_checker"


class UnsafeContentError(ValueError):
    """A picture was refused by the image safety checker."""


class ImageSafetyChecker:
    """Refuses pictures that the Stable Diffusion safety checker flags.

    Args:
        model (`StableDiffusionSafetyChecker`).
        image_processor (`CLIPImageProcessorPil`).
    """

    def __init__(self, model: StableDiffusionSafetyChecker, image_processor: CLIPImageProcessorPil):
        self.model = model.eval()
        self.image_processor = image_processor

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike, subfolder: str = "", device: str | torch.device | None = None
    ) -> "ImageSafetyChecker":
        """Loads the checker in float32 (half precision can turn its scores into NaN, which flag nothing).

        Args:
            path (`str` or `Path`): folder or Hub repository with the checker.
            subfolder (`str`, *optional*): where in it.
            device (*optional*): where to run.

        Raises:
            ValueError: if there is no complete checker.
        """
        try:
            model, info = StableDiffusionSafetyChecker.from_pretrained(
                path, subfolder=subfolder, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # what is wrong with a folder or a connection comes as anything
            raise ValueError(
                f"Could not load an image safety checker from {os.path.join(path, subfolder)!r} "
                f"({type(error).__name__}): give a folder or repository that has one, or image_safety_checker=False."
            ) from error
        if info["missing_keys"] or info["mismatched_keys"]:
            raise ValueError(
                f"The image safety checker in {os.path.join(path, subfolder)!r} lacks weights and would flag at "
                "random: give a complete one, or image_safety_checker=False."
            )
        try:
            image_processor = CLIPImageProcessorPil.from_pretrained(path, subfolder=subfolder)
        except OSError:  # a diffusers folder has none here; the class defaults are those of every CLIP with 224 pixels
            side = model.config.vision_config.image_size
            image_processor = CLIPImageProcessorPil(
                size={"shortest_edge": side}, crop_size={"height": side, "width": side}
            )
        return cls(model.to(device), image_processor)

    @torch.no_grad()
    def flags(self, pictures: list[Image.Image]) -> list[bool]:
        """Which of the RGB pictures are unsafe."""
        pictures = [_not_a_ribbon(picture) for picture in pictures]
        pixel_values = self.image_processor(pictures, return_tensors="pt")["pixel_values"]
        blackened = np.zeros((len(pictures), 1, 1, 3))  # the checker wants images to black out, we refuse instead
        return self.model(clip_input=pixel_values.to(self.model.device), images=blackened)[1]

    def check(self, pictures: list[Image.Image]) -> None:
        """Raises `UnsafeContentError` if any of the RGB pictures is unsafe."""
        unsafe = [index + 1 for index, flag in enumerate(self.flags(pictures)) if flag] if pictures else []
        if unsafe:
            which = "The picture" if len(pictures) == 1 else f"Of {len(pictures)} pictures, number {unsafe}"
            raise UnsafeContentError(
                f"{which} was refused by the image safety checker: use another, or image_safety_checker=False."
            )


def load_image_safety_checker(
    choice: bool | str | os.PathLike | None, model_path: str | os.PathLike, device: str | torch.device | None = None
) -> ImageSafetyChecker | None:
    """Finds the checker that `VisCPMChat(image_safety_checker=choice)` means.

    Args:
        choice: False for none; True for `safety_checker/` in the model's repository, else the original's from the
            Hub; None for the repository's if it has one; else the folder or repository to take it from.
        model_path (`str` or `Path`): folder or Hub repository of the model.
        device (*optional*): where to run.

    Raises:
        ValueError: if a checker is wanted and cannot be loaded.
    """
    if choice is False:
        return None
    if choice is True or choice is None:
        if _has_checker(model_path):
            return ImageSafetyChecker.from_pretrained(model_path, SUBFOLDER, device)
        if choice:
            return ImageSafetyChecker.from_pretrained(ORIGINAL_CHECKER, device=device)
        logger.warning(
            "%s has no safety_checker/, so pictures are not checked; image_safety_checker=True takes the original's, "
            "image_safety_checker=False silences this.",
            model_path,
        )
        return None
    if not isinstance(choice, str | os.PathLike):
        raise ValueError(
            f"image_safety_checker is True, False, None, or a folder or repository that has one, got {choice!r}."
        )
    subfolder = SUBFOLDER if (Path(choice) / SUBFOLDER).is_dir() else ""
    return ImageSafetyChecker.from_pretrained(choice, subfolder, device)


def _has_checker(model_path):
    if os.path.isdir(model_path):
        return (Path(model_path) / SUBFOLDER).is_dir()
    try:
        return bool(hf_hub_download(str(model_path), f"{SUBFOLDER}/config.json"))
    except EntryNotFoundError:  # also: offline, and not among the files fetched before
        return False


def _not_a_ribbon(picture):
    """Middle of a very long picture: the processor would scale its short side up and cut to the middle afterwards."""
    width, height = picture.size
    across, up = max(width - 8 * height, 0) // 2, max(height - 8 * width, 0) // 2
    return picture.crop((across, up, width - across, height - up)) if across or up else picture
