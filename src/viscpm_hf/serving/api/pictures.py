"""Pictures of clients: from base64 text or an address to `PIL.Image`, or one sentence.

Nothing of what a client sends is taken for a path, and nothing is decoded before its format and size are known.
"""

import asyncio
import base64
import binascii
import io
import reprlib
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import ExifTags, Image

from .errors import ApiError
from .fetching import Fetcher

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # TIFF's many codecs are a risk, SVG and PDF are programs
_LONGEST = 65_535  # pixels of a side; each row costs something too
_UPRIGHT = {  # by EXIF's orientation, as ImageOps.exif_transpose does it; that also writes the EXIF anew, and may fail
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


class Pictures:
    """Reads pictures in threads of its own.

    Args:
        to_rgb (`Callable`): `VisCPMChatImageProcessor.to_pil`, which lays on white and knows all modes.
        max_pixels (`int`): a picture may have.
        fetcher (`Fetcher`, *optional*): of pictures at http(s) addresses; None refuses them.
    """

    def __init__(self, to_rgb: Callable[[Any], list[Image.Image]], max_pixels: int, fetcher: Fetcher | None = None):
        self._to_rgb, self._max_pixels, self._fetcher = to_rgb, max_pixels, fetcher
        # few, so that few are there in full size, and not asyncio's, which others may fill
        self._threads = ThreadPoolExecutor(2, "pictures")
        # what Pillow warns of a file is for its owner, who is not here; there is no other way that threads share
        warnings.filterwarnings("ignore", module=r"PIL\.")

    async def from_base64(self, text: str, param: str) -> Image.Image:
        """The RGB picture of a file in base64, or in a data URL.

        Args:
            text (`str`): with or without line breaks and padding, in either alphabet.
            param (`str`): its field, for errors.

        Raises:
            ApiError: of status 400.
        """

        def load():
            try:
                data = _decoded(text)
            except ValueError:  # of base64, or of text that is not ASCII
                raise ApiError(
                    400,
                    f"Got {reprlib.repr(text)}, expected a picture file in base64, or as a data URL with base64.",
                    "invalid_image",
                    param,
                ) from None
            return self.read(data, param)

        return await self._in_thread(load, param)

    async def from_url(self, url: str, param: str) -> Image.Image:
        """The RGB picture of a data URL, or of an http(s) address if that is allowed.

        Raises:
            ApiError: of status 400.
        """
        scheme = url.lstrip()[:8].lower()
        if scheme.startswith("data:"):
            return await self.from_base64(url, param)
        if not scheme.startswith(("http://", "https://")):
            raise ApiError(
                400, f"Got {reprlib.repr(url)}, expected a data URL with a picture.", "invalid_image", param
            )
        if self._fetcher is None:
            raise ApiError(
                400, "Pictures are not fetched here: send a data URL with the picture.", "image_urls_disabled", param
            )
        data = await self._fetcher.fetch(url.strip(), param)
        return await self._in_thread(lambda: self.read(data, param), param)

    def read(self, data: bytes, param: str | None = None) -> Image.Image:
        """The RGB picture of a file's bytes, upright; the first frame of an animated one.

        Raises:
            ApiError: of status 400.
        """
        if not data:
            raise ApiError(400, "Got an empty picture.", "invalid_image", param)
        try:
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.UnidentifiedImageError:
            raise ApiError(
                400, f"Got a file that is no picture in {', '.join(FORMATS)}.", "invalid_image", param
            ) from None
        width, height = picture.size
        if width * height > self._max_pixels or max(width, height) > _LONGEST:
            raise ApiError(
                400,
                f"Got a picture of {width}x{height} pixels, expected at most {self._max_pixels} in all and "
                f"{_LONGEST} along a side.",
                "image_too_large",
                param,
            )
        picture.load()
        upright = _orientation(picture)
        (picture,) = self._to_rgb(picture)
        return picture if upright is None else picture.transpose(upright)

    async def _in_thread(self, read, param):
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, read)
        except ApiError:
            raise
        except Image.DecompressionBombError:
            raise ApiError(400, "Got a picture of far too many pixels.", "image_too_large", param) from None
        except Exception:  # Pillow's decoders raise anything, from SyntaxError to struct.error
            raise ApiError(400, "Got a picture that is damaged or incomplete.", "invalid_image", param) from None


def _decoded(text: str) -> bytes:
    """Raises ValueError, of any kind, for what is no base64."""
    if text.lstrip()[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.rstrip().lower().endswith(";base64"):
            raise binascii.Error("a data URL without base64")
    code = text.encode("ascii").translate(_URL_SAFE, b" \t\r\n").rstrip(b"=")
    return base64.b64decode(code + b"=" * (-len(code) % 4), validate=True)


def _orientation(picture: Image.Image) -> Image.Transpose | None:
    """What turns it upright, as the camera noted."""
    try:
        return _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged notes do not damage the picture
        return None
