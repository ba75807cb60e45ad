"""Guards the pixels of Chat: the original's bit for bit, in whatever form a picture comes; a bad one is a sentence."""

import base64
import contextlib
import copy
import datetime
import http.server
import importlib.util
import io
import json
import pickle
import random
import resource
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from viscpm_hf.remote_code import image_processing_viscpm_chat
from viscpm_hf.remote_code.image_processing_viscpm_chat import VisCPMChatImageProcessor

GOLDEN = Path(__file__).parents[1] / "golden"
PATHS = [GOLDEN / "image_0.png", GOLDEN / "image_1.png"]


@pytest.fixture(scope="module")
def processor():
    return VisCPMChatImageProcessor(size=32)


@pytest.fixture(scope="module")
def expected():
    return load_file(GOLDEN / "chat_vision.safetensors")["pixel_values"]


def pixels(processor, images, **kwargs):
    return processor(images, return_tensors="np", **kwargs)["pixel_values"]


def test_equals_the_original_bit_for_bit(processor, expected):
    actual = pixels(processor, [Image.open(path) for path in PATHS])
    assert actual.dtype == np.float32
    assert np.array_equal(actual, expected)
    tensor = processor([Image.open(path) for path in PATHS], return_tensors="pt")["pixel_values"]
    assert torch.equal(tensor, torch.from_numpy(expected))


FORMS = {
    "array": lambda image: np.array(image),
    "channels first": lambda image: np.array(image).transpose(2, 0, 1),
    "float array": lambda image: np.array(image).astype(np.float32) / 255,
    "float array up to 255": lambda image: np.array(image).astype(np.float64),
    "int64 array": lambda image: np.array(image).astype(np.int64),
    "uint16 array": lambda image: np.array(image).astype(np.uint16) * 257,
    "RGBA array": lambda image: np.array(image.convert("RGBA")),
    "tensor": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
    "float tensor": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255,
    "batch of one": lambda image: np.array(image)[None],
    "nested list": lambda image: [[image]],
    "RGBA": lambda image: image.convert("RGBA"),
    "RGBa": lambda image: image.convert("RGBA").convert("RGBa"),
}


@pytest.mark.parametrize("form", FORMS)
def test_form_of_the_picture_does_not_matter(processor, expected, form):
    for index, path in enumerate(PATHS):
        assert np.array_equal(pixels(processor, FORMS[form](Image.open(path).copy())), expected[index : index + 1])


def test_loads_paths_data_uris_and_base64(processor, expected):
    encoded = base64.b64encode(PATHS[0].read_bytes()).decode()
    for source in (PATHS[0], str(PATHS[0]), encoded, f"data:image/png;base64,{encoded}"):
        assert np.array_equal(pixels(processor, source), expected[:1])


class Server(http.server.BaseHTTPRequestHandler):
    """Pictures, and what hostile servers do instead."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.paths.append(self.path)
        answer = getattr(self, self.path.strip("/").partition("?")[0], self.picture)
        with contextlib.suppress(OSError):  # hung up
            answer()

    def start(self, code=200, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def repeat(self, data, pause=0.05):
        while True:
            self.wfile.write(data)
            self.wfile.flush()
            time.sleep(pause)

    def picture(self):
        self.start()
        self.wfile.write(PATHS[0].read_bytes())

    def page(self):
        self.start()
        self.wfile.write(b"<html>")

    def missing(self):
        self.start(404)

    def moved(self):
        self.start(302, Location="/图片 2.png".encode().decode("latin-1"))
        self.repeat(bytes(2**16), 0)

    def moved_on(self):
        self.start(302, Location="/moved_on")

    def moved_to_ftp(self):
        self.start(302, Location="ftp://127.0.0.1/picture.png")

    def moved_to_file(self):
        self.start(302, Location=PATHS[0].as_uri())

    def drop_by_drop(self):
        self.start()
        self.repeat(b"x")

    def header_by_drops(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Header: ")
        self.repeat(b"x")

    def chunk_by_drops(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.repeat(b"0")

    def soon(self):
        self.repeat(b"HTTP/1.1 100 Continue\r\n\r\n")

    def silence(self):
        time.sleep(3)

    def endless(self):
        self.start()
        self.repeat(bytes(2**16), 0)


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch, http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setattr(image_processing_viscpm_chat, "_DOWNLOAD_SECONDS", 1)
        patch.setattr(image_processing_viscpm_chat, "_DOWNLOAD_BYTES", 2**22)
        server.daemon_threads, server.block_on_close, server.paths = True, False, []
        server.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


ADDRESSES = {
    "/picture.png": "/picture.png",
    "/图片.png": "/%E5%9B%BE%E7%89%87.png",
    "/%E5%9B%BE.png": "/%E5%9B%BE.png",
    "/a picture.png?name=图 1&x=%20#top": "/a%20picture.png?name=%E5%9B%BE%201&x=%20",
    "/100%.png": "/100%25.png",
    "/a+b&c=[1];(2).png": "/a+b&c=[1];(2).png",
    "/moved": "/%E5%9B%BE%E7%89%87%202.png",
}


@pytest.mark.parametrize("path", ADDRESSES)
def test_loads_addresses(processor, expected, server, path):
    for address in (server.address + path, f" {server.address.replace('http', 'HTTP')}{path}\n"):
        assert np.array_equal(pixels(processor, address), expected[:1])
        assert server.paths[-1] == ADDRESSES[path]


@pytest.mark.parametrize(
    "path, reason",
    {
        "missing?signature=secret": "HTTP Error 404: Not Found",
        "page": "UnidentifiedImageError",
        "moved_on": "more than 10 redirects",
        "moved_to_ftp": "a redirect to 'ftp'",
        "moved_to_file": "a redirect to 'file'",
        "drop_by_drop": "not there after 1 seconds",
        "header_by_drops": "not there after 1 seconds",
        "chunk_by_drops": "not there after 1 seconds",
        "soon": "not there after 1 seconds",
        "silence": "not there after 1 seconds",
        "endless": "more than 4 MiB",
    }.items(),
)
def test_addresses_without_a_picture_end_in_a_sentence(processor, server, path, reason):
    with pytest.raises(ValueError, match=f"Could not load a picture from .*{reason}") as error:
        processor(f"{server.address}/{path}")
    assert "secret" not in str(error.value)


def test_address_does_not_show_its_password(processor):
    with pytest.raises(ValueError, match="from 'http://127.0.0.1:1/x'") as error:
        processor("http://me:secret@127.0.0.1:1/x?key=secret")
    assert "secret" not in str(error.value)


def test_grey_modes_agree(processor):
    grey = Image.open(PATHS[1]).convert("L")
    levels = np.array(grey)
    sixteen = levels.astype(np.uint16) * 257
    expected = pixels(processor, grey)
    for picture in (
        grey.convert("LA"),
        Image.fromarray(sixteen),  # I;16
        Image.fromarray(sixteen.astype(np.int32)),  # I
        Image.fromarray(levels.astype(np.int32)),
        Image.fromarray(levels.astype(np.float32)),  # F
        Image.fromarray(levels / np.float32(255)),
        levels,
        levels[None],
        levels[..., None],
    ):
        assert np.array_equal(pixels(processor, picture), expected)
    assert np.array_equal(pixels(processor, levels > 127), pixels(processor, grey.point(lambda v: 255 * (v > 127))))


def test_sixteen_bit_file_is_scaled_not_clipped(processor, tmp_path):
    levels = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert abs(pixels(processor, tmp_path / "deep.png").mean()) < 0.01


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "HSV", "RGBa"])
def test_other_modes_are_converted_as_pillow_does(processor, mode):
    image = Image.open(PATHS[1])
    image = image.convert("RGBA").convert("RGBa") if mode == "RGBa" else image.convert(mode)
    rgb = image.convert("RGBA").convert("RGB") if mode == "RGBa" else image.convert("RGB")
    assert np.array_equal(pixels(processor, image), pixels(processor, rgb))


def see_through():
    """A picture with every level and every alpha, and what people see of it on white."""
    levels, alpha = (plane.astype(np.uint8) for plane in np.meshgrid(np.arange(256), np.arange(256)))
    image = Image.fromarray(np.stack([levels, levels, levels, alpha], axis=-1))
    return image, Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


TRANSPARENT = {
    "RGBA": lambda image: image,
    "LA": lambda image: image.convert("LA"),
    "array": np.asarray,
    "channels first": lambda image: np.asarray(image).transpose(2, 0, 1),
    "floats": lambda image: np.asarray(image) / np.float32(255),
    "tensor": lambda image: torch.tensor(np.array(image)).permute(2, 0, 1),
    "PNG": lambda image: _file(image),
    "WebP": lambda image: _file(image, "WEBP", lossless=True, exact=True),
    "batch": lambda image: np.asarray(image)[None],
}


def _file(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return "data:;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", TRANSPARENT)
def test_what_is_transparent_lies_on_white(processor, form):
    """Listed deviation: the original dropped alpha and saw what is below."""
    image, seen = see_through()
    assert np.array_equal(pixels(processor, TRANSPARENT[form](image)), pixels(processor, seen))
    assert processor.to_pil(TRANSPARENT[form](image))[0].tobytes() == seen.tobytes()


@pytest.mark.filterwarnings("error")
def test_transparency_of_palettes_and_colours(processor):
    image = Image.open(PATHS[1]).convert("RGB").quantize(16)
    colour = tuple(image.getpalette()[3 * 5 : 3 * 5 + 3])
    index, rgb = np.asarray(image), np.asarray(image.convert("RGB"))
    seen = pixels(processor, np.where(index[..., None] == 5, 255, rgb))
    plain = pixels(processor, rgb)
    assert not np.array_equal(seen, plain)

    image.info["transparency"] = 5
    assert np.array_equal(pixels(processor, _file(image, "GIF")), seen)
    assert np.array_equal(pixels(processor, image), seen)
    image.info["transparency"] = bytes(255 * (entry != 5) for entry in range(16))
    assert np.array_equal(pixels(processor, image), seen)
    assert np.array_equal(pixels(processor, image.convert("PA")), seen)

    # a colour as transparent: so in a file, but not in what somebody has converted to RGB, where Pillow keeps it
    encoded = _file(Image.fromarray(rgb), transparency=colour)
    assert np.array_equal(pixels(processor, encoded), seen)
    opened = Image.open(io.BytesIO(base64.b64decode(encoded.partition(",")[2])))
    assert np.array_equal(pixels(processor, opened), seen)
    converted = opened.copy()
    assert converted.info["transparency"] == colour
    assert np.array_equal(pixels(processor, converted), plain)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_level_as_transparent(processor, dtype):
    levels = np.asarray(Image.open(PATHS[1]).convert("L")).astype(dtype) * (1 if dtype == np.uint8 else 257)
    level = int(levels[0, 0])
    white = np.where(levels == level, np.iinfo(dtype).max, levels).astype(dtype)
    encoded = _file(Image.fromarray(levels), transparency=level)
    assert np.array_equal(pixels(processor, encoded), pixels(processor, white))


def test_first_frame_of_a_file_and_current_one_of_a_picture(processor, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        path = tmp_path / f"frames.{kind.lower()}"
        frames[0].save(
            path, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
        )
        assert np.array_equal(pixels(processor, path), pixels(processor, frames[0])), kind
        with Image.open(path) as opened:
            opened.seek(1)
            assert np.array_equal(pixels(processor, opened), pixels(processor, frames[1])), kind


def test_exif_orientation_is_left_alone(processor):
    image = Image.open(PATHS[1])
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    assert np.array_equal(pixels(processor, Image.open(buffer)), pixels(processor, image))


def _truncated():
    return Image.open(io.BytesIO(PATHS[1].read_bytes()[:1500]))


def _closed():
    with Image.open(PATHS[0]) as image:
        return image


def _closed_file():
    with open(PATHS[0], "rb") as file:
        return Image.open(file)


def _emptied():
    image = Image.new("RGB", (4, 4))
    image.close()
    return image


def _deep():
    images = Image.new("RGB", (4, 4))
    for _ in range(5000):
        images = [images]
    return images


def _loop():
    images = []
    images.append(images)
    return images


def _png(width, height, color=0, bits=8):
    """A file of zeros in little memory."""
    row = bytes(1 + (width * bits * (1, 0, 3, 1, 2, 0, 4)[color] + 7) // 8)
    rows = max(1, 2**20 // len(row))
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row * min(rows, height - done)) for done in range(0, height, rows))

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", data + packer.flush()) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()


BAD = {
    "nothing": lambda: None,
    "text": lambda: "what is this?",
    "empty text": lambda: "",
    "long text": lambda: "x" * 100_000,
    "text with NUL": lambda: "a\0b",
    "half a surrogate": lambda: "http://127.0.0.1/\ud800",
    "folder": lambda: GOLDEN,
    "device": lambda: "/dev/zero",
    "no host": lambda: "http:///picture.png",
    "half an address": lambda: "http://[::1/picture.png",
    "number": lambda: 7,
    "date": lambda: datetime.date(2023, 6, 1),
    "bytes": lambda: PATHS[0].read_bytes(),
    "dict": lambda: {"image": PATHS[0]},
    "empty list": lambda: [],
    "empty lists": lambda: [[], []],
    "empty batch": lambda: np.zeros((0, 4, 4, 3), np.uint8),
    "deep list": _deep,
    "list of itself": _loop,
    "no pixels": lambda: Image.new("RGB", (0, 5)),
    "no pixels, array": lambda: np.zeros((0, 5, 3), np.uint8),
    "NaN": lambda: np.full((4, 4, 3), np.nan, np.float32),
    "infinite": lambda: np.full((4, 4, 3), np.inf),
    "negative": lambda: np.full((4, 4, 3), -1.0, np.float32),
    "too bright": lambda: np.full((4, 4, 3), 256),
    "no dimension": lambda: np.zeros(()),
    "one dimension": lambda: np.zeros(12, np.uint8),
    "five dimensions": lambda: np.zeros((1, 1, 4, 4, 3), np.uint8),
    "five channels": lambda: np.zeros((8, 8, 5), np.uint8),
    "objects": lambda: np.array([[None, 1], [2, 3]], dtype=object),
    "texts": lambda: np.array([["a", "b"]]),
    "dates": lambda: np.zeros((4, 4), "datetime64[s]"),
    "durations": lambda: np.zeros((4, 4), "timedelta64[s]"),
    "records": lambda: np.zeros((4, 4), [("red", "u1")]),
    "complex": lambda: np.zeros((4, 4), complex),
    "meta tensor": lambda: torch.zeros(3, 4, 4, device="meta"),
    "batch of meta": lambda: torch.zeros(2, 3, 4, 4, device="meta"),
    "sparse tensor": lambda: torch.zeros(4, 4).to_sparse(),
    "batch of sparse": lambda: torch.zeros(2, 3, 4, 4).to_sparse(),
    "complex tensor": lambda: torch.zeros(3, 4, 4, dtype=torch.complex64),
    "virtually huge": lambda: np.broadcast_to(np.uint8(7), (200_000, 200_000, 3)),
    "truncated file": _truncated,
    "closed": _closed,
    "file closed": _closed_file,
    "closed after loading": _emptied,
    "program": lambda: Image.open(io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n")),
    "one bad among good": lambda: [Image.new("RGB", (4, 4)), None],
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_picture_is_one_sentence(processor, kind):
    with pytest.raises(ValueError) as error:
        processor(BAD[kind](), return_tensors="pt")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO"])
def test_any_bytes_are_a_picture_or_a_sentence(processor, kind, capfd):
    """Files with a few bytes changed, where sizes, tables and lengths stand or anywhere."""
    image = Image.open(PATHS[1]).convert("RGB" if kind in ("JPEG", "BMP", "PPM") else "RGBA")
    sound = base64.b64decode(_file(image, kind).partition(",")[2])
    rng, seen = random.Random(kind), set()
    for _ in range(150):
        data = bytearray(sound[: rng.choice([len(sound), len(sound), rng.randrange(len(sound))])])
        for _ in range(rng.choice([1, 2, 8]) if data else 0):
            place = rng.randrange(min(len(data), rng.choice([40, len(data)])))
            data[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\1\0", bytes([rng.randrange(256)])])
        try:
            assert pixels(processor, base64.b64encode(data).decode()).shape == (1, 3, 32, 32)
            seen.add("picture")
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
            seen.add("sentence")
    capfd.readouterr()  # libtiff prints
    assert seen == {"picture", "sentence"}


def test_closed_picture_says_so(processor):
    with pytest.raises(ValueError, match="was its file closed before"):
        processor(_closed())
    with Image.open(PATHS[0]) as loaded:
        loaded.load()
    assert pixels(processor, loaded).shape == (1, 3, 32, 32)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(1, 89_000_000), (89_000_000, 1), (20_000, 20_000), (13_000, 13_000)])
def test_pictures_of_gigabytes_are_refused_before_decoding(processor, size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="pixels"):
        processor(_png(*size, bits=1))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB; the file is a fifth of it


@pytest.mark.parametrize("size", [(1, 3_000_000), (3_000_000, 1), (3, 2_000_000)])
def test_narrow_pictures_take_little_memory(processor, size):
    """Width first, the picture between the two passes would have 100 million pixels and more."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert np.array_equal(pixels(processor, _png(*size)), np.full((1, 3, 32, 32), -1))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_limit_is_pillows(processor, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    picture = Image.new("RGB", (150, 150))
    with pytest.raises(ValueError, match="150x150 pixels, expected at most 30000"):
        processor(picture)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert pixels(processor, picture).shape == (1, 3, 32, 32)


# ------------------------------------------------------------------------------------------------------------- options


def test_options_of_the_class_and_of_a_call_agree(processor):
    image = Image.open(PATHS[0])
    levels = np.asarray(image.convert("RGB")).astype(np.float32)
    small = np.asarray(image.resize((16, image.height)).resize((16, 16))).astype(np.float32)
    plain = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    for options, wanted in (
        (plain, levels),
        ({"do_resize": False, "do_normalize": False}, levels / 255),
        ({"do_resize": False, "do_normalize": False, "rescale_factor": 2.0}, levels * 2),
        (
            {**plain, "do_normalize": True, "image_mean": 3, "image_std": [1, 2, 4]},
            (levels - 3) / np.float32([1, 2, 4]),
        ),
        ({**plain, "data_format": "channels_first"}, levels),
        ({"size": 16}, (small / 255 - 0.5) / 0.5),
        (
            {"size": (16, 16), "resample": 3, "backend": "pil", "device": "cpu", "disable_grouping": True},
            (small / 255 - 0.5) / 0.5,
        ),
    ):
        called = processor(image, return_tensors="pt", **options)["pixel_values"]
        made = VisCPMChatImageProcessor(**{"size": 32, **options})(image, return_tensors="pt")["pixel_values"]
        assert torch.equal(called, made)
        assert np.array_equal(called[0].permute(1, 2, 0).numpy(), wanted.astype(np.float32)), options
    last = processor(image, data_format="channels_last", return_tensors="np")["pixel_values"]
    assert np.array_equal(last[0].transpose(2, 0, 1), pixels(processor, image)[0])
    assert isinstance(processor(image)["pixel_values"], list)
    assert not np.array_equal(pixels(processor, image, resample=Image.Resampling.NEAREST), pixels(processor, image))


def test_without_rescaling_levels_stay_as_they_came(processor):
    levels = np.array(Image.open(PATHS[0]).convert("RGB").resize((32, 32)))
    raw = {"do_rescale": False, "do_normalize": False}
    assert np.array_equal(pixels(processor, levels, **raw)[0].transpose(1, 2, 0), levels)
    unit = levels / np.float32(255)
    assert np.array_equal(pixels(processor, unit, **raw)[0].transpose(1, 2, 0), unit)


def test_channels_as_they_are(processor):
    grey, see = Image.open(PATHS[0]).convert("L"), Image.open(PATHS[0]).convert("RGBA")
    assert pixels(processor, grey, do_convert_rgb=False, image_mean=0.5, image_std=0.5).shape == (1, 1, 32, 32)
    four = {"image_mean": [0] * 4, "image_std": [1] * 4}
    assert pixels(processor, [see, np.asarray(see)], do_convert_rgb=False, **four).shape == (2, 4, 32, 32)
    with pytest.raises(ValueError, match="for a picture of 4 channels"):
        processor(see, do_convert_rgb=False)
    with pytest.raises(ValueError, match="of mode CMYK, expected L, RGB or RGBA"):
        processor(see.convert("CMYK"), do_convert_rgb=False)
    with pytest.raises(ValueError, match="one shape for a tensor"):
        processor([grey, see], do_convert_rgb=False, do_normalize=False, return_tensors="pt")


WRONG = {
    "size": ["x", 0, -3, 2.5, True, 10**9, [16], {"shortest_edge": 224}, {"height": 8}, {"height": 8, "width": "8"}],
    "resample": ["bicubic", 17, 1.5],
    "image_mean": ["x", [], [0.5, None, 0.5], float("nan"), [[0.5]], [0.5, 0.5]],
    "image_std": [0, [1, 0, 1], float("inf")],
    "rescale_factor": ["x", float("nan"), True],
    "do_resize": ["yes", 2],
    "do_normalize": [1.0],
    "do_convert_rgb": ["RGB"],
    "backend": ["cuda", 3],
    "data_format": ["HWC", 1],
    "input_data_format": ["HWC"],
    "return_tensors": ["tf", "jax"],
    "device": ["nowhere", 1.5],
    "do_center_crop": [True],
    "crop_size": [16, {"height": 8, "width": 8}],
    "do_pad": [True],
    "pad_size": [16],
    "default_to_square": [False],
    "image_seq_length": [64],
    "nonsense": [1],
}


@pytest.mark.parametrize("name", WRONG)
def test_options_are_honoured_or_refused_by_name(processor, name):
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=name) as error:
            processor(Image.new("RGB", (4, 4)), **{"return_tensors": "pt", name: value})
        assert "\n" not in str(error.value)
        if (
            name not in ("nonsense", "data_format", "input_data_format", "return_tensors", "device")
            and value != [0.5] * 2
        ):
            with pytest.raises(ValueError, match=name):
                VisCPMChatImageProcessor(**{name: value})


def test_size_must_make_sense(processor):
    image = Image.new("RGB", (4, 4))
    assert pixels(processor, image, size={"height": 8, "width": 16}).shape == (1, 3, 8, 16)
    with pytest.raises(ValueError, match="one fixed size"):
        VisCPMChatImageProcessor(size={"shortest_edge": 224})


def test_calls_change_nothing(processor, expected):
    before = pickle.dumps(processor)
    assert pickle.loads(before).to_dict() == copy.deepcopy(processor).to_dict() == processor.to_dict()
    for options in ({"size": 16}, {"do_normalize": False}, {"image_mean": 0.0}):
        processor(Image.open(PATHS[0]), return_tensors="pt", **options)
    assert pickle.dumps(processor) == before
    assert np.array_equal(pixels(pickle.loads(before), Image.open(PATHS[0])), expected[:1])


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_torchvision_must_be_installed_when_asked_for(processor):
    with pytest.raises(ImportError, match="leave the default backend='pil'"):
        processor(Image.new("RGB", (4, 4)), backend="torchvision")


def test_torchvision_is_within_one_level(expected):
    pytest.importorskip("torchvision")
    processor = VisCPMChatImageProcessor(size=32, backend="torchvision")
    assert np.abs(pixels(processor, [Image.open(path) for path in PATHS]) - expected).max() <= 2.1 / 255
    with pytest.raises(ValueError, match="resample=LANCZOS"):
        processor(PATHS[0], resample=Image.Resampling.LANCZOS)


def test_survives_saving(processor, expected, tmp_path):
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["size"] == {"height": 32, "width": 32} and saved["backend"] == "pil"
    reloaded = VisCPMChatImageProcessor.from_pretrained(tmp_path)
    assert np.array_equal(pixels(reloaded, Image.open(PATHS[0])), expected[:1])
    assert VisCPMChatImageProcessor.from_pretrained(tmp_path, backend="torchvision").backend == "torchvision"
