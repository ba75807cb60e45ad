"""Guards the pixels of Chat: the original's bit for bit, in whatever form a picture comes; a bad one is a sentence."""

import base64
import http.server
import importlib.util
import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

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
    "transparent": lambda image: _with_alpha(image),
}


def _with_alpha(image):
    image = image.convert("RGBA")
    image.putalpha(7)
    return image


@pytest.mark.parametrize("form", FORMS)
def test_form_of_the_picture_does_not_matter(processor, expected, form):
    for index, path in enumerate(PATHS):
        assert np.array_equal(pixels(processor, FORMS[form](Image.open(path).copy())), expected[index : index + 1])


def test_loads_paths_data_uris_and_base64(processor, expected):
    encoded = base64.b64encode(PATHS[0].read_bytes()).decode()
    for source in (PATHS[0], str(PATHS[0]), encoded, f"data:image/png;base64,{encoded}"):
        assert np.array_equal(pixels(processor, source), expected[:1])


def test_loads_addresses(processor, expected, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=GOLDEN)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert np.array_equal(pixels(processor, f"{address}/image_0.png"), expected[:1])
        for missing in ("nothing.png", "vocab.txt"):
            with pytest.raises(ValueError, match="Could not load a picture"):
                processor(f"{address}/{missing}")
        server.shutdown()


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


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency_does_not_warn(processor):
    image = Image.open(PATHS[1]).convert("P")
    plain = pixels(processor, image)
    image.info["transparency"] = bytes(range(256))
    assert np.array_equal(pixels(processor, image), plain)


def test_exif_orientation_is_left_alone(processor):
    image = Image.open(PATHS[1])
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    assert np.array_equal(pixels(processor, Image.open(buffer)), pixels(processor, image))


def _truncated():
    return Image.open(io.BytesIO(PATHS[1].read_bytes()[:1500]))


BAD = {
    "nothing": lambda: None,
    "text": lambda: "what is this?",
    "empty text": lambda: "",
    "long text": lambda: "x" * 100_000,
    "number": lambda: 7,
    "empty list": lambda: [],
    "no pixels": lambda: Image.new("RGB", (0, 5)),
    "no pixels, array": lambda: np.zeros((0, 5, 3), np.uint8),
    "NaN": lambda: np.full((4, 4, 3), np.nan, np.float32),
    "negative": lambda: np.full((4, 4, 3), -1.0, np.float32),
    "too bright": lambda: np.full((4, 4, 3), 256),
    "one dimension": lambda: np.zeros(12, np.uint8),
    "five channels": lambda: np.zeros((8, 8, 5), np.uint8),
    "truncated file": _truncated,
    "one bad among good": lambda: [Image.new("RGB", (4, 4)), None],
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_picture_is_one_sentence(processor, kind):
    with pytest.raises(ValueError) as error:
        processor(BAD[kind](), return_tensors="pt")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_size_and_backend_must_make_sense(processor):
    image = Image.new("RGB", (4, 4))
    assert pixels(processor, image, size={"height": 8, "width": 16}).shape == (1, 3, 8, 16)
    with pytest.raises(ValueError, match="one fixed size"):
        VisCPMChatImageProcessor(size={"shortest_edge": 224})
    with pytest.raises(ValueError, match="backend='cuda'"):
        processor(image, backend="cuda")


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_torchvision_must_be_installed_when_asked_for(processor):
    with pytest.raises(ImportError, match="leave the default backend='pil'"):
        processor(Image.new("RGB", (4, 4)), backend="torchvision")


def test_torchvision_is_within_one_level(expected):
    pytest.importorskip("torchvision")
    actual = pixels(VisCPMChatImageProcessor(size=32, backend="torchvision"), [Image.open(path) for path in PATHS])
    assert np.abs(actual - expected).max() <= 2.1 / 255


def test_survives_saving(processor, expected, tmp_path):
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["size"] == {"height": 32, "width": 32} and saved["backend"] == "pil"
    reloaded = VisCPMChatImageProcessor.from_pretrained(tmp_path)
    assert np.array_equal(pixels(reloaded, Image.open(PATHS[0])), expected[:1])
    assert VisCPMChatImageProcessor.from_pretrained(tmp_path, backend="torchvision").backend == "torchvision"
