"""Image processor of VisCPM-Chat: any picture becomes a square RGB tensor, resized by Pillow on every machine."""

import base64
import http.client
import io
import math
import operator
import os
import re
import socket
import string
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature, get_size_dict
from transformers.processing_utils import ImagesKwargs

_MAX_SIDE = 4096  # of what the model gets
_MAX_NESTING = 8  # of lists in lists
_MAX_INTERMEDIATE = 2**25  # pixels between the two passes of a resize
_DOWNLOAD_SECONDS = 60  # for all of an address, redirects included
_DOWNLOAD_BYTES = 2**27


class _Refused(ValueError):
    """Says all there is to say."""


class VisCPMChatImageProcessorKwargs(ImagesKwargs, total=False):
    """Options of `VisCPMChatImageProcessor` that can also be given to `from_pretrained`."""

    backend: str


class VisCPMChatImageProcessor(BaseImageProcessor):
    """Lays on white, converts to RGB, resizes to exactly `size` without keeping the aspect ratio, scales to [-1, 1].

    EXIF orientation is not applied: turn the picture upright before if you want that. Of a file with several frames
    the first is taken, of such a `PIL.Image` the current one.

    Args:
        size (`int` or `dict`, *optional*, defaults to 224): side in pixels, or `{"height": ..., "width": ...}`.
        resample (`int`, *optional*, defaults to 3): a `PIL.Image.Resampling`; 3 is bicubic.
        image_mean, image_std (`float` or `list[float]`, *optional*, defaults to 0.5 each): per channel, on values in
            [0, 1].
        backend (`str`, *optional*, defaults to `"pil"`): `"pil"` gives the original's pixels; `"torchvision"` resizes
            tensors, which differs by one of 256 levels here and there. Give it to this class or to a call:
            `AutoImageProcessor` keeps its own argument of that name to itself.
        do_resize, do_normalize (`bool`, *optional*, defaults to True): whether to do that step.
        do_rescale (`bool`, *optional*, defaults to True): whether to multiply levels 0..255 by `rescale_factor`. With
            False they stay as they came: 0..1 in arrays of such floats, 0..255 in everything else.
        rescale_factor (`float`, *optional*, defaults to 1/255).
        do_convert_rgb (`bool`, *optional*, defaults to True): False keeps one channel for grey pictures and four for
            RGBA, which this model does not take.
        kwargs: defaults for the further options of `preprocess`.

    Raises:
        ValueError: for an option without a meaning here, such as a crop, or a value out of its range.
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = VisCPMChatImageProcessorKwargs
    data_format, input_data_format, device, return_tensors = "channels_first", None, None, None

    def __init__(
        self,
        size: int | dict[str, int] = 224,
        resample: int = Image.Resampling.BICUBIC,
        image_mean: float | Sequence[float] = (0.5, 0.5, 0.5),
        image_std: float | Sequence[float] = (0.5, 0.5, 0.5),
        backend: str = "pil",
        do_resize: bool = True,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        do_convert_rgb: bool = True,
        **kwargs: Any,
    ):
        _refuse(kwargs)
        super().__init__(**kwargs)
        self.size = _checked("size", size)
        self.resample = _checked("resample", resample)
        self.image_mean = _checked("image_mean", image_mean)
        self.image_std = _checked("image_std", image_std)
        self.backend = _checked("backend", backend)
        self.do_resize = _checked("do_resize", do_resize)
        self.do_rescale = _checked("do_rescale", do_rescale)
        self.rescale_factor = _checked("rescale_factor", rescale_factor)
        self.do_normalize = _checked("do_normalize", do_normalize)
        self.do_convert_rgb = _checked("do_convert_rgb", do_convert_rgb)

    def fetch_images(self, images: Any) -> Any:
        """Loads every path, http(s) address, data URI and base64 text among (nested lists of) pictures."""
        return _fetch(images)

    def to_pil(self, images: Any, input_data_format: str | None = None) -> list[Image.Image]:
        """Loads pictures of any form (see `preprocess`) as a flat list of RGB `PIL.Image`, not resized."""
        input_data_format = _checked("input_data_format", input_data_format)
        return [_to_picture(image, input_data_format)[0] for image in _flatten(images)]

    def preprocess(
        self,
        images: Any,
        size: int | dict[str, int] | None = None,
        backend: str | None = None,
        input_data_format: str | None = None,
        return_tensors: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Turns pictures into pixel values.

        Args:
            images: a picture or a (nested) list of them: `PIL.Image` of any mode, `numpy` array or tensor
                (height, width, channels) or (channels, height, width) of 0..255 integers or 0..1 floats, path,
                http(s) address, data URI or base64 text.
            size, backend (*optional*): override the attributes for this call.
            input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"` for arrays whose shape
                does not tell.
            return_tensors (`str`, *optional*): `"pt"`, `"np"` or None for a list of arrays.
            options (*optional*): the other arguments of the class; `data_format`, by default `"channels_first"`;
                `device` of the tensors. `disable_grouping` is taken and changes nothing.

        Returns:
            `BatchFeature` with `pixel_values` (number of pictures, 3, height, width), float32.

        Raises:
            ValueError: for anything that is not a picture, a picture without pixels or with more than 1.5 times
                `PIL.Image.MAX_IMAGE_PIXELS`, or an option without a meaning here.
        """
        _refuse(options)
        unknown = sorted(options.keys() - self.valid_kwargs.__annotations__.keys())
        if unknown:
            raise ValueError(f"Got {', '.join(unknown)}, unknown to VisCPMChatImageProcessor: leave it out.")
        options.update(size=size, backend=backend, input_data_format=input_data_format, return_tensors=return_tensors)
        chosen = SimpleNamespace()
        for name in _CHECKS:
            value = options.get(name)
            setattr(chosen, name, _checked(name, getattr(self, name) if value is None else value))
        if chosen.device is not None and chosen.return_tensors != "pt":
            raise ValueError('Got a device without return_tensors="pt", but only tensors have one.')
        # one after the other, so that only one picture is there in its full size
        arrays = [_pixel_values(image, chosen) for image in _flatten(images)]
        if not arrays:
            raise ValueError("Got an empty list of pictures, expected at least one.")
        shapes = {array.shape for array in arrays}
        if chosen.return_tensors and len(shapes) > 1:
            raise ValueError(
                f"Got pictures that become arrays of the shapes {sorted(shapes)}, expected one shape for a tensor: "
                "leave do_resize and do_convert_rgb at True, or return_tensors at None."
            )
        batch = BatchFeature({"pixel_values": arrays}, tensor_type=chosen.return_tensors)
        return batch if chosen.device is None else batch.to(chosen.device)


def _refuse(options):
    """No option is ignored: VisCPM has no place for these, as it stretches the whole picture to one size."""
    for name in ("do_center_crop", "crop_size", "do_pad", "pad_size", "image_seq_length"):
        if options.get(name):
            raise ValueError(
                f"Got {name}={options[name]!r}, but VisCPM stretches the whole picture to one size: leave it out, and "
                "crop or pad the picture before if you want that."
            )
    if options.get("default_to_square") is False:
        raise ValueError("Got default_to_square=False, but VisCPM has one size for both sides: leave it out.")


def _is_number(value):
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def _is_device(value):
    with suppress(RuntimeError, TypeError):
        return value is None or bool(torch.device(value))
    return False


_FLAG = (lambda value: isinstance(value, bool), "True or False")
_LAYOUT = (lambda value: value in (None, "channels_first", "channels_last"), "'channels_first' or 'channels_last'")
# of each option: what it must be, as a test and in words
_CHECKS = {
    "size": (
        lambda value: all(1 <= side <= _MAX_SIDE for side in value.values()),
        f"sides of 1 to {_MAX_SIDE} pixels",
    ),
    "resample": (lambda value: value in [*map(int, Image.Resampling)], "a PIL.Image.Resampling"),
    "image_mean": (lambda value: value and all(map(_is_number, value)), "a number for each channel"),
    "image_std": (lambda value: value and all(map(_is_number, value)) and 0 not in value, "numbers other than 0"),
    "backend": (lambda value: value in ("pil", "torchvision"), "'pil' or 'torchvision'"),
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"), _FLAG),
    "rescale_factor": (_is_number, "a number"),
    **dict.fromkeys(("data_format", "input_data_format"), _LAYOUT),
    "return_tensors": (lambda value: value in (None, "pt", "np"), "'pt', 'np' or None"),
    "device": (_is_device, "the name of a device"),
}


def _checked(name, value):
    """The option in its one form: enums as their values, numbers of channels and sides as a list and a dict."""
    is_good, wanted = _CHECKS[name]
    if name == "size":
        value = _square(value)
    elif name in ("image_mean", "image_std"):
        value = list(value) if isinstance(value, (list, tuple)) else [value]
    else:
        value = getattr(value, "value", value)
    if not is_good(value):
        raise ValueError(f"Got {name}={value!r}, expected {wanted}.")
    return value


def _square(size):
    try:
        sides = get_size_dict(size)
        if set(sides) == {"height", "width"} and not any(isinstance(side, bool) for side in sides.values()):
            return {name: operator.index(side) for name, side in sides.items()}
    except (ValueError, TypeError, IndexError):
        pass
    raise ValueError(f"Got size={size!r}, expected a number or a height and a width: the model has one fixed size.")


def _pixel_values(image, options):
    picture, white = _to_picture(image, options.input_data_format, options.do_convert_rgb)
    pixels = _resize(picture, options) if options.do_resize else np.asarray(picture)
    values = (pixels if pixels.ndim == 3 else pixels[..., None]).astype(np.float32)
    # the order of these operations is torchvision's ToTensor and Normalize, which the original used
    if options.do_rescale and options.rescale_factor != 1 / 255:
        values *= np.float32(options.rescale_factor)
    elif options.do_rescale or white == 1:
        values /= 255
    if options.do_normalize:
        if {len(options.image_mean), len(options.image_std)} - {1, values.shape[2]}:
            raise ValueError(
                f"Got image_mean={options.image_mean} and image_std={options.image_std} for a picture of "
                f"{values.shape[2]} channels, expected a number for each or one for all."
            )
        values -= np.float32(options.image_mean)
        values /= np.float32(options.image_std)
    return values if options.data_format == "channels_last" else values.transpose(2, 0, 1)


def _resize(picture, options):
    height, width, resample = options.size["height"], options.size["width"], options.resample
    if width * picture.height > _MAX_INTERMEDIATE:  # higher than any that people have: width first takes gigabytes
        picture = picture.resize((picture.width, height), resample)
    if options.backend == "pil":
        # each pass rounds to 8 bits, so their order shows; Pillow 13 reversed it, the original's went width first
        return np.asarray(picture.resize((width, picture.height), resample).resize((width, height), resample))
    try:
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as F
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch raises RuntimeError
        raise ImportError(
            f"backend='torchvision' needs a working torchvision ({error}): install the one for your torch, "
            "or leave the default backend='pil'."
        ) from error
    name = Image.Resampling(resample).name
    if name not in ("NEAREST", "BILINEAR", "BICUBIC"):
        raise ValueError(f"Got resample={name}, which backend='torchvision' does not have: choose another of the two.")
    pixels = F.resize(F.pil_to_tensor(picture), [height, width], InterpolationMode[name], antialias=True)
    return pixels.permute(1, 2, 0).numpy()


def _flatten(images, depth=0):
    """The pictures of nested lists and of batches, arrays as arrays of numpy."""
    if isinstance(images, torch.Tensor):
        images = _to_numpy(images)
    if isinstance(images, (list, tuple)):
        return [flat for image in images for flat in _flatten(image, _deeper(depth))]
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return list(images)
    return [images]


def _fetch(images, depth=0):
    if isinstance(images, (list, tuple)):
        return [_fetch(image, _deeper(depth)) for image in images]
    return _load(images) if isinstance(images, (str, os.PathLike)) else images


def _deeper(depth):
    if depth == _MAX_NESTING:
        raise ValueError(f"Got pictures in more than {_MAX_NESTING} lists inside each other, expected a list of them.")
    return depth + 1


def _load(source):
    text = os.fsdecode(source)
    is_address = text.lstrip()[:8].lower().startswith(("http://", "https://"))
    try:
        if is_address:
            return _decode(io.BytesIO(_download(text)))
        if os.path.isfile(text):  # a pipe or a device might never end
            with open(text, "rb") as file:
                return _decode(file)
        if not text.startswith("data:") and re.search(r"\.\w{1,5}$", text):  # no base64 text has a dot
            raise FileNotFoundError("there is no such file")
        data = text.partition(",")[2] if text.startswith("data:") else text
        # transformers' load_image clips 16-bit pictures to white, so Pillow opens and `_to_picture` scales
        return _decode(io.BytesIO(base64.b64decode(data)))
    except _Refused:
        raise
    except Exception as error:  # Pillow's decoders raise anything, from SyntaxError to struct.error
        # an address may hold a password before its host and a signature behind its question mark
        shown = re.sub("//[^/]*@", "//", text.partition("?")[0]) if is_address else text
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise ValueError(
            f"Could not load a picture from {shown!r} ({_reason(error)}): expected the path of a picture file, "
            "an http(s) address, a data URI or base64 text."
        ) from error


def _reason(error):
    name, text = type(error).__name__, " ".join(str(error).split()).rstrip(".!")
    # of what it cannot identify Pillow prints the address in memory
    return f"{name}: {text[:160]}" if text and not isinstance(error, Image.UnidentifiedImageError) else name


def _download(address):
    """The bytes at an http(s) address, in bounded time and memory whatever the server does."""
    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    watched = []  # connections that are being made, and their sockets

    def watch(kind):
        class Watched(kind):
            def connect(self):
                watched.append(self)
                super().connect()
                watched.append(self.sock)

        return Watched

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request):
            return self.do_open(watch(http.client.HTTPConnection), request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request):
            return self.do_open(watch(http.client.HTTPSConnection), request)

    class Redirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args):  # urllib would read the whole body first, and also go to ftp
            return None

    def hang_up():  # a timeout counts from the last byte, and a server may send one at a time
        for item in watched:
            with suppress(OSError, AttributeError):
                getattr(item, "sock", item).shutdown(socket.SHUT_RDWR)

    opener = urllib.request.build_opener(Http, Https, Redirect)
    timer = threading.Timer(_DOWNLOAD_SECONDS, hang_up)
    timer.daemon = True
    timer.start()
    try:
        for _ in range(10):
            request = urllib.request.Request(_ascii_address(address), headers={"User-Agent": "viscpm_hf"})
            try:
                with opener.open(request, timeout=min(20, _DOWNLOAD_SECONDS)) as response:
                    data = bytearray()
                    while (part := response.read1(2**16)) and time.monotonic() < deadline:
                        data += part
                        if len(data) > _DOWNLOAD_BYTES:
                            raise ValueError(f"more than {_DOWNLOAD_BYTES >> 20} MiB")
                    break
            except urllib.error.HTTPError as error:
                location = error.headers.get("Location") if error.code in (301, 302, 303, 307, 308) else None
                error.close()
                if not location:
                    raise
                # headers are read as Latin-1, whatever they are
                location = urllib.parse.quote(location, safe=string.punctuation, encoding="latin-1")
                address = urllib.parse.urljoin(address, location)
        else:
            raise ValueError("more than 10 redirects")
    finally:
        timer.cancel()
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not there after {_DOWNLOAD_SECONDS} seconds")
    return data


def _ascii_address(address):
    """What a browser makes of an address with Chinese or blanks in it."""
    parts = urllib.parse.urlsplit(address.strip())
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"a redirect to {parts.scheme!r}")
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode("ascii")
    path, query = (
        urllib.parse.quote(re.sub("%(?![0-9a-fA-F]{2})", "%25", part), safe="%/:=&?~+!$,;'@()*[]")
        for part in (parts.path, parts.query)
    )
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


def _decode(file):
    picture = Image.open(file)
    _judge(picture.size, picture.format)
    picture.load()
    return picture


def _judge(size, file_format=None):
    """Refuses what would take gigabytes before any pixel is decoded; each row and column has costs of its own."""
    width, height = size
    if 0 in size:
        raise _Refused(f"Got a picture of {width}x{height} pixels, expected at least 1x1.")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and (width + 32) * (height + 32) > 1.5 * limit:
        raise _Refused(
            f"Got a picture of {width}x{height} pixels, expected at most {limit * 3 // 2} in all: "
            "make it smaller before, or raise PIL.Image.MAX_IMAGE_PIXELS."
        )
    if file_format == "EPS":
        raise _Refused("Got an EPS file, which is a program and no picture: save it as PNG before.")


def _to_picture(image, input_data_format, convert_rgb=True):
    """`PIL.Image` of 8 bits, and the level of white in what came: 1 in floats up to 1, else 255."""
    white = 255
    if isinstance(image, (str, os.PathLike)):
        image = _load(image)
    elif isinstance(image, np.ndarray):
        levels, white = _to_levels(_channels_last(np.asarray(image), input_data_format))
        image = Image.fromarray(levels)
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"Got {type(image).__name__} as a picture, expected a PIL image, an array, a tensor, or where to load one."
        )
    _judge(image.size, image.format)
    try:
        image.load()
    except Exception as error:  # as in `_load`
        raise ValueError(
            f"The picture could not be read ({_reason(error)}): was its file closed before, or is it incomplete?"
        ) from error
    # Only in a file: Pillow keeps the colour of a palette's transparent entry in what a user has converted to RGB.
    key = image.info.get("transparency") if isinstance(image, ImageFile.ImageFile) else None
    if image.mode.startswith("I") or image.mode == "F":  # Pillow's own conversion clips these at 255
        pixels = np.asarray(image)
        if image.mode == "I;16" and isinstance(key, int):
            pixels, key = np.where(pixels == key, 65535, pixels), None
        if image.mode != "F" and (image.mode != "I" or pixels.max() > 255):
            pixels = pixels.clip(0, 65535).astype(np.uint16)
        levels, white = _to_levels(pixels)
        image = Image.fromarray(levels)
    if not convert_rgb and image.mode not in ("L", "RGB", "RGBA"):
        raise ValueError(f"Got do_convert_rgb=False for a picture of mode {image.mode}, expected L, RGB or RGBA.")
    try:
        return (_to_rgb(image, key) if convert_rgb else image), white
    except Exception as error:
        raise ValueError(f"Pillow cannot make RGB of a picture of mode {image.mode} ({_reason(error)}).") from error


def _to_rgb(image, key):
    """Lays what is transparent on white, as people see it.

    The original's `convert("RGB")` dropped alpha, so that it saw what lies below, often black. This deviates on
    purpose; opaque pictures are the same to the bit.
    """
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or (key is not None and image.mode in ("1", "L", "RGB")):
        image = image.convert("LA") if image.mode == "La" else image
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            canvas = Image.new("RGB", image.size, "white")
            canvas.paste(image, mask=image)
            return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_numpy(tensor):
    try:
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except Exception as error:  # without data, sparse, quantized, nested
        raise ValueError(f"Got a tensor as a picture that numpy cannot read: {_reason(error)}.") from error


def _channels_last(array, input_data_format):
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim != 3:
        raise ValueError(f"Got an array of shape {array.shape} as a picture, expected 2 or 3 dimensions.")
    elif input_data_format == "channels_first" or (
        input_data_format is None and (array.shape[0] in (1, 3) or (array.shape[0] == 4 and array.shape[2] != 3))
    ):
        array = array.transpose(1, 2, 0)
    if array.shape[2] not in (1, 3, 4):
        raise ValueError(f"Got {array.shape[2]} channels in a picture array, expected 1, 3 or 4.")
    _judge(array.shape[1::-1])
    return array[..., 0] if array.shape[2] == 1 else array


def _to_levels(array):
    """8-bit levels of an array, and the level of white in it."""
    if array.dtype.kind not in "buif":
        raise ValueError(f"Got an array of {array.dtype} as a picture, expected numbers.")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array), 255
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8), 255
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):  # NaN fails both comparisons
        raise ValueError(f"Got pixel values from {low} to {high}, expected 0..255, or 0..1 for floats.")
    white = 1 if array.dtype == bool or (array.dtype.kind == "f" and high <= 1) else 255
    return np.rint(array * np.float32(255) if white == 1 else array).astype(np.uint8), white


# a saved copy carries this file, so that it loads where the package is not installed
VisCPMChatImageProcessor.register_for_auto_class()
