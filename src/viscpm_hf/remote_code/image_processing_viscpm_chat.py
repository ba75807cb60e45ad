"""Image processor of VisCPM-Chat: any picture becomes a square RGB tensor, resized by Pillow on every machine."""

import base64
import io
import os
import urllib.request

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature, get_size_dict
from transformers.processing_utils import ImagesKwargs


class VisCPMChatImageProcessorKwargs(ImagesKwargs, total=False):
    """Options of [`VisCPMChatImageProcessor`] that can also be given to `from_pretrained`."""

    backend: str


class VisCPMChatImageProcessor(BaseImageProcessor):
    """Converts to RGB, resizes to exactly `size` without keeping the aspect ratio, scales to [-1, 1].

    EXIF orientation is not applied: turn the picture upright before if you want that.

    Args:
        size (`int` or `dict`, *optional*, defaults to 224): side in pixels, or `{"height": ..., "width": ...}`.
        resample (`int`, *optional*, defaults to 3): a `PIL.Image.Resampling`; 3 is bicubic.
        image_mean, image_std (`list[float]`, *optional*, defaults to 0.5 each): per channel, on values in [0, 1].
        backend (`str`, *optional*, defaults to `"pil"`): `"pil"` gives the original's pixels; `"torchvision"` resizes
            tensors, which differs by one of 256 levels here and there. Give it to this class or to a call:
            `AutoImageProcessor` keeps its own argument of that name to itself.
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = VisCPMChatImageProcessorKwargs

    def __init__(
        self,
        size=224,
        resample=Image.Resampling.BICUBIC,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        backend="pil",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size = _square(size)
        self.resample = int(resample)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.backend = backend

    def fetch_images(self, images):
        """Loads every path, http(s) address, data URI and base64 text among (nested lists of) pictures."""
        if isinstance(images, (list, tuple)):
            return [self.fetch_images(image) for image in images]
        return _load(images) if isinstance(images, (str, os.PathLike)) else images

    def to_pil(self, images, input_data_format=None):
        """Loads pictures of any form (see `preprocess`) as a flat list of RGB `PIL.Image`, not resized."""
        return [_to_rgb(image, input_data_format) for image in _flatten(self.fetch_images(images))]

    def preprocess(self, images, size=None, backend=None, input_data_format=None, return_tensors=None):
        """Turns pictures into pixel values.

        Args:
            images: a picture or a (nested) list of them: `PIL.Image` of any mode, `numpy` array or tensor
                (height, width, channels) or (channels, height, width) of 0..255 integers or 0..1 floats, path,
                http(s) address, data URI or base64 text.
            size, backend (*optional*): override the attributes for this call.
            input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"` for arrays whose shape
                does not tell.
            return_tensors (`str`, *optional*): `"pt"`, `"np"` or None for a list of arrays.

        Returns:
            `BatchFeature` with `pixel_values` (number of pictures, 3, height, width), float32.

        Raises:
            ValueError: for anything that is not a picture, or a picture without pixels.
        """
        size = self.size if size is None else _square(size)
        backend = self.backend if backend is None else backend
        pictures = self.to_pil(images, input_data_format)
        if not pictures:
            raise ValueError("Got an empty list of pictures, expected at least one.")
        resized = [self._resize(picture, (size["height"], size["width"]), backend) for picture in pictures]
        mean, std = np.float32(self.image_mean), np.float32(self.image_std)
        # the order of these operations is torchvision's ToTensor and Normalize, which the original used
        arrays = [((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1) for pixels in resized]
        return BatchFeature({"pixel_values": arrays}, tensor_type=return_tensors)

    def _resize(self, picture, size, backend):
        height, width = size
        if backend == "pil":
            # each pass rounds to 8 bits, so their order shows; Pillow 13 reversed it, the original's went width first
            return np.asarray(picture.resize((width, picture.height), self.resample).resize(size[::-1], self.resample))
        if backend != "torchvision":
            raise ValueError(f"Got backend={backend!r}, expected 'pil' or 'torchvision'.")
        try:
            from torchvision.transforms.v2 import InterpolationMode
            from torchvision.transforms.v2 import functional as F
        except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises RuntimeError
            raise ImportError(
                f"backend='torchvision' needs a working torchvision ({error}): install the one for your torch, "
                "or leave the default backend='pil'."
            ) from error
        mode = InterpolationMode[Image.Resampling(self.resample).name]
        return F.resize(F.pil_to_tensor(picture), [height, width], mode, antialias=True).permute(1, 2, 0).numpy()


def _square(size):
    size = get_size_dict(size)
    if set(size) != {"height", "width"}:
        raise ValueError(f"Got size={size}, expected a number or a height and a width: the model has one fixed size.")
    return {"height": int(size["height"]), "width": int(size["width"])}


def _load(source):
    text = os.fspath(source)
    try:
        if text.startswith(("http://", "https://")):
            request = urllib.request.Request(text, headers={"User-Agent": "viscpm_hf"})
            with urllib.request.urlopen(request, timeout=60) as response:
                data = io.BytesIO(response.read())
        elif os.path.isfile(text):
            data = text
        else:
            data = io.BytesIO(base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text))
        # transformers' load_image clips 16-bit pictures to white, so Pillow opens and `_to_rgb` scales
        picture = Image.open(data)
        picture.load()
        return picture
    except Exception as error:  # Pillow's decoders raise anything, from SyntaxError to struct.error
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise ValueError(
            f"Could not load a picture from {shown!r} ({type(error).__name__}): expected the path of a picture file, "
            "an http(s) address, a data URI or base64 text."
        ) from error


def _flatten(images):
    if isinstance(images, (list, tuple)):
        return [flat for image in images for flat in _flatten(image)]
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    return [images]


def _to_rgb(image, input_data_format):
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(_array_to_uint8(_channels_last(image, input_data_format)))
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"Got {type(image).__name__} as a picture, expected a PIL image, an array, a tensor, or where to load one."
        )
    if 0 in image.size:
        raise ValueError(f"Got a picture of {image.size[0]}x{image.size[1]} pixels, expected at least 1x1.")
    try:
        if image.mode.startswith("I") or image.mode == "F":  # Pillow's own conversion clips these at 255
            pixels = np.asarray(image)
            deep = image.mode != "F" and (image.mode != "I" or pixels.max() > 255)
            image = Image.fromarray(_array_to_uint8(pixels.clip(0, 65535).astype(np.uint16) if deep else pixels))
        elif image.mode in ("P", "PA", "RGBa", "La"):  # these have no lossless direct way to RGB
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        return image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"The picture could not be decoded ({error}): is the file complete?") from error


def _channels_last(array, input_data_format):
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim != 3:
        raise ValueError(f"Got an array of shape {tuple(array.shape)} as a picture, expected 2 or 3 dimensions.")
    elif input_data_format == "channels_first" or (input_data_format is None and array.shape[0] in (1, 3, 4)):
        array = array.transpose(1, 2, 0)
    if array.shape[2] not in (1, 3, 4):
        raise ValueError(f"Got {array.shape[2]} channels in a picture array, expected 1, 3 or 4.")
    if array.size == 0:
        raise ValueError(f"Got a picture array of shape {tuple(array.shape)}, expected at least one pixel.")
    return array[..., 0] if array.shape[2] == 1 else array[..., :3]  # alpha is dropped, as convert("RGB") does


def _array_to_uint8(array):
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):  # NaN fails both comparisons
        raise ValueError(f"Got pixel values from {low} to {high}, expected 0..255, or 0..1 for floats.")
    if array.dtype == bool or (array.dtype.kind == "f" and high <= 1):
        array = array * np.float32(255)
    return np.rint(array).astype(np.uint8)


# a saved copy carries this file, so that it loads where the package is not installed
VisCPMChatImageProcessor.register_for_auto_class()
