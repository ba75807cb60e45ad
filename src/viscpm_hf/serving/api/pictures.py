"""Pictures of clients: from base64 text or an address to `PIL.Image`, or one sentence.

Nothing of what a client sends is taken for a path, and nothing is decoded before its format and size are known.
"""

import asyncio
import base64
import binascii
import io
import warnings
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from PIL import ExifTags, Image

from .errors import ApiError, quoted
from .fetching import Fetcher

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # TIFF's many codecs are a risk, SVG and PDF are programs
_LONGEST = 65_535  # pixels of a side; each row costs something too
_WAITING = 8  # pictures of the most pixels, or as many pixels of smaller ones
_SCANS = 100  # of a JPEG, which goes over all pixels in each: a progressive one has about ten
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

    def __init__(
        self,
        to_rgb: Callable[[Any], list[Image.Image]],
        max_pixels: int,
        fetcher: Fetcher | None = None,
    ):
        self._to_rgb, self._max_pixels, self._fetcher = to_rgb, max_pixels, fetcher
        self._threads = ThreadPoolExecutor(2, "pictures")  # not asyncio's, which others may fill
        self._pixels = 0  # of all large pictures that are there
        # what Pillow warns of a file is for its owner, who is not here; there is no other way that threads share
        warnings.filterwarnings("ignore", module=r"PIL\.")

    @asynccontextmanager
    async def from_base64(self, text: str, param: str) -> AsyncIterator[Image.Image]:
        """The RGB picture of a file in base64, or in a data URL; to be left once it is no longer needed.

        Args:
            text (`str`): with or without line breaks and padding, in either alphabet.
            param (`str`): its field, for errors.

        Raises:
            ApiError: of status 400; 429 if too many large pictures are there.
        """

        def load():
            try:
                return _decoded(text)
            except ValueError:  # of base64, or of text that is not ASCII
                text_of = f"Got {quoted(text)}, expected a picture file in base64, or as a data URL with base64."
                raise ApiError(400, text_of, "invalid_image", param) from None

        async with self.from_bytes(await self._in_thread(load, param), param) as picture:
            yield picture

    @asynccontextmanager
    async def from_url(self, url: str, param: str) -> AsyncIterator[Image.Image]:
        """As `from_base64`, of a data URL, or of an http(s) address if that is allowed."""
        scheme = url.lstrip()[:8].lower()
        if scheme.startswith("data:"):
            async with self.from_base64(url, param) as picture:
                yield picture
            return
        if not scheme.startswith(("http://", "https://")):
            text = f"Got {quoted(url)}, expected a data URL with a picture."
            raise ApiError(400, text, "invalid_image", param)
        if self._fetcher is None:
            text = "Pictures are not fetched here: send a data URL with the picture."
            raise ApiError(400, text, "image_urls_disabled", param)
        async with self.from_bytes(await self._fetcher.fetch(url.strip(), param), param) as picture:
            yield picture

    @asynccontextmanager
    async def from_bytes(self, data: bytes, param: str) -> AsyncIterator[Image.Image]:
        """As `from_base64`, of a file's bytes; upright, the first frame of an animated one."""
        file = await self._in_thread(lambda: self._opened(data, param), param)
        # A file of a hundred kilobytes can be as large as a picture may be, and a queue full of them fills the memory.
        # Small ones are bounded by the queue.
        pixels = file.width * file.height
        large = pixels if pixels > self._max_pixels // 16 else 0
        if large and self._pixels + large > _WAITING * self._max_pixels:
            text = "Too many large pictures wait: try again later, or send smaller ones."
            raise ApiError(429, text, "queue_full", headers={"Retry-After": "5"})
        self._pixels += large
        try:
            yield await self._in_thread(lambda: self._rgb(file), param)
        finally:
            self._pixels -= large

    def _opened(self, data, param):
        """The file, of which no pixel is decoded yet."""
        if not data:
            raise ApiError(400, "Got an empty picture.", "invalid_image", param)
        try:
            file = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.UnidentifiedImageError:
            text = f"Got a file that is no picture in {', '.join(FORMATS)}, or a damaged one."
            raise ApiError(400, text, "invalid_image", param) from None
        width, height = file.size
        if width * height > self._max_pixels or max(width, height) > _LONGEST:
            text = (
                f"Got a picture of {width}x{height} pixels, expected at most {self._max_pixels} in all and {_LONGEST} "
                "along a side."
            )
            raise ApiError(400, text, "image_too_large", param)
        if data.count(b"\xff\xda") > _SCANS and file.format in ("JPEG", "MPO"):
            raise ApiError(400, f"Got a JPEG of more than {_SCANS} scans: save it anew.", "invalid_image", param)
        return file

    def _rgb(self, file):
        file.load()
        upright = _orientation(file)
        (picture,) = self._to_rgb(file)
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
        for sign in "+/=\r\n":  # all that base64 has to be escaped; RFC 2397 lets any be
            text = text.replace(f"%{ord(sign):02X}", sign).replace(f"%{ord(sign):02x}", sign)
    code = text.encode("ascii").translate(_URL_SAFE, b" \t\r\n").rstrip(b"=")
    return base64.b64decode(code + b"=" * (-len(code) % 4), validate=True)


def _orientation(picture: Image.Image) -> Image.Transpose | None:
    """What turns it upright, as the camera noted."""
    try:
        return _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged notes do not damage the picture
        return None
