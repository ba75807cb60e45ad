"""Guards pictures of clients: each becomes what opening its file would give, or one sentence; nothing else happens."""

import asyncio
import base64
import http.server
import io
import struct
import threading
import time
import warnings
import zlib

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageOps, PngImagePlugin

from viscpm_hf.serving.api import create_app
from viscpm_hf.serving.api.errors import ApiError
from viscpm_hf.serving.api.fetching import Fetcher
from viscpm_hf.serving.api.pictures import Pictures
from viscpm_hf.serving.engine import Engine


@pytest.fixture(scope="module")
def pictures(tiny_chat):
    return Pictures(tiny_chat.processor.image_processor.to_pil, 10_000)


def read(pictures, data):
    """The picture of a file's bytes, or of base64 text."""

    async def main():
        async with pictures.from_base64(
            data if isinstance(data, str) else base64.b64encode(data).decode(), "image"
        ) as picture:
            return picture

    return asyncio.run(main())


def gradient(mode, size=(40, 30)):
    levels = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0])
    if mode == "I;16":
        return Image.fromarray((levels * 257).astype(np.uint16))
    if mode in ("1", "L"):
        return Image.fromarray(levels.astype(np.uint8)).convert(mode)
    picture = Image.merge("RGB", [Image.fromarray(np.roll(levels, n, 0).astype(np.uint8)) for n in (0, 7, 11)])
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(levels[::-1].astype(np.uint8)))
    return picture.convert(mode)


FILES = [
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("PNG", "P", {"transparency": 3}),
    ("PNG", "L", {"transparency": 0}),
    ("PNG", "RGB", {"transparency": (0, 0, 0)}),
    *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
    *(("WEBP", mode, {"lossless": True}) for mode in ("RGB", "RGBA")),
    ("GIF", "P", {"transparency": 5}),
    ("GIF", "L", {}),
    *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB")),
]


@pytest.mark.parametrize(("kind", "mode", "options"), FILES)
def test_a_picture_is_what_the_class_makes_of_its_file(pictures, tiny_chat, file_of, kind, mode, options):
    data = file_of(gradient(mode), kind, **options)
    processor = tiny_chat.processor.image_processor
    picture = read(pictures, data)
    assert picture.mode == "RGB"
    wanted = processor(Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"]
    assert processor(picture, return_tensors="pt")["pixel_values"].equal(wanted)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [*range(10), 65535])
def test_pictures_stand_upright(pictures, file_of, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(gradient("RGB"), kind, exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(read(pictures, data), wanted)


def test_the_first_frame_of_an_animated_picture(pictures, file_of):
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = file_of(frames[0], kind, save_all=True, append_images=frames[1:])
        assert read(pictures, data).getpixel((4, 4))[0] > 250


@pytest.mark.parametrize(
    "spelled",
    [
        lambda text: text,
        lambda text: "\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + "\r\n",
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: f"data:image/png;base64,{text}",
        lambda text: f" DATA:image/anything;charset=x;BASE64,{text}",
        lambda text: f"data:;base64,{text}",
        lambda text: f"data:;base64,{text}".replace("+", "%2B").replace("/", "%2f").replace("=", "%3D") + "%0a",
    ],
)
def test_base64_however_it_is_spelled(pictures, file_of, spelled):
    text = base64.b64encode(file_of(gradient("RGB"))).decode()
    assert np.array_equal(read(pictures, spelled(text)), gradient("RGB"))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def bomb():
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "0" * 2**25, zip=True)
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def exif_loop():
    """A JPEG whose EXIF points to itself."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + b"\0\x01" + b"\x87\x69\0\x04\0\0\0\x01\0\0\0\x08" + b"\0\0\0\x08"
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def many_scans():
    """A JPEG as hostile ones are: of a large picture each scan takes 0.1 seconds, and 60 bytes."""
    data = saved("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + 100 * data[last:-2] + data[-2:]


def saved(kind, **options):
    file = io.BytesIO()
    gradient("RGB").save(file, kind, **options)
    return file.getvalue()


BROKEN_EXIF = b"Exif\0\0II*\0\xff\xff\xff\xff"
HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "zeros": bytes(1000),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "pdf": b"%PDF-1.4\n1 0 obj\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "tiff": saved("TIFF"),
    "ppm": saved("PPM"),
    "ico": saved("ICO"),
    "signature": b"\x89PNG\r\n\x1a\n",
    "half": saved("PNG")[:-300],
    "half a JPEG": saved("JPEG")[:-300],
    "half a WEBP": saved("WEBP")[:-100],
    "half a GIF": saved("GIF")[:-300],
    "half a BMP": saved("BMP")[:-300],
    "no pixels": png(9, 9),
    "no width": png(0, 9, chunk(b"IDAT", zlib.compress(b""))),
    "2**31 wide": png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", zlib.compress(b"\0" * 100))),
    "a little too large": png(101, 100, chunk(b"IDAT", zlib.compress(b"\0" * 304 * 100))),
    "a ribbon": png(1, 10_001, chunk(b"IDAT", zlib.compress(b"\0" * 4 * 10_001))),
    "text bomb": bomb(),
    "profile bomb": png(9, 9, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**25)))),
    "many scans": many_scans(),
    "wrong sum": saved("PNG")[:40] + b"\xff" + saved("PNG")[41:],
    "BMP of minus": b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, -5, -5, 1, 24, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_good_picture_is_refused_in_a_sentence(api, engine, name):
    """The server takes 40 million pixels, so that the first limits are those of the files."""
    limited = name in ("a little too large", "a ribbon")
    client = TestClient(create_app(engine, max_pixels=10_000)) if limited else api
    text = base64.b64encode(HOSTILE[name]).decode()
    answer = client.post("/viscpm", json={"image": text, "question": "x"})
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}]
    other = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": parts}]})
    assert answer.status_code == other.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] in ("invalid_image", "image_too_large") and error["param"] == "image"
    assert other.json()["error"]["param"] == "messages[0].content[0].image_url.url"
    assert error["message"].endswith(".") and "0x" not in error["message"] and len(error["message"]) < 300


@pytest.mark.parametrize("data", [exif_loop(), saved("JPEG", exif=BROKEN_EXIF), saved("PNG") + b"<script>"])
def test_damage_beside_the_picture_does_not_matter(pictures, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read(pictures, data).mode == "RGB"


def test_pillow_warns_nobody(pictures, capfd):
    with warnings.catch_warnings():
        warnings.resetwarnings()
        Pictures(None, 1)  # as a server begins
        read(pictures, saved("JPEG", exif=BROKEN_EXIF))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "text",
    [
        *("/etc/hostname", "file:///etc/hostname", "../picture.png", "https://example.com/a.png", "~", "图"),
        *("data:image/png,abc", "data:image/png;base64", "data:text/plain;base64,/etc/hostname", "a" * 10**6, "a"),
    ],
)
def test_texts_are_never_paths_or_addresses(api, tmp_path, monkeypatch, picture, text):
    """A path that is there, too."""
    monkeypatch.chdir(tmp_path)
    picture.save("picture.png")
    for each in (text, "picture.png", str(tmp_path / "picture.png")):
        answer = api.post("/viscpm", json={"image": each, "question": "x"})
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_image"
        parts = [{"type": "image_url", "image_url": {"url": each}}]
        answer = api.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": parts}]})
        assert answer.status_code == 400 and answer.json()["error"]["code"] in ("invalid_image", "image_urls_disabled")


class Files(http.server.BaseHTTPRequestHandler):
    """A server of good and bad files."""

    seen: list = []

    def do_GET(self):
        Files.seen.append((self.path, dict(self.headers)))
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/picture.png")
            self.end_headers()
        elif self.path == "/missing":
            self.send_error(404)
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(2**16))
            except OSError:
                pass
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(100):
                    self.wfile.write(b"\x89")
                    self.wfile.flush()
                    time.sleep(0.1)
            except OSError:
                pass
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(saved("PNG"))

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def files():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_private_addresses_are_refused_whatever_they_are_called(files, caplog):
    fetcher, port = Fetcher(10**6), files.rpartition(":")[2]
    Files.seen.clear()
    hosts = ["127.0.0.1", "localhost", "127.1", "2130706433", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1"]
    for host in [
        *hosts,
        "169.254.169.254",
        "192.168.1.1",
        "user:secret@127.0.0.1",
        "no.such.invalid",
        "",
        "[::1",
        "a" * 300,
    ]:
        with pytest.raises(ApiError, match="could not be fetched") as refused:
            asyncio.run(fetcher.fetch(f"http://{host}:{port}/picture.png", "image"))
        assert refused.value.status_code == 400 and "secret" not in str(refused.value)
    assert Files.seen == [] and caplog.text == ""


def test_pictures_are_fetched_without_redirects_and_within_bounds(files, monkeypatch):
    monkeypatch.setattr("viscpm_hf.serving.api.fetching._SECONDS", 1.0)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # is not asked
    fetcher = Fetcher(10**6, allow_loopback=True)
    assert asyncio.run(fetcher.fetch(f"{files}/picture.png")) == saved("PNG")
    Files.seen.clear()
    for path in ("redirect", "missing", "endless", "slow"):
        with pytest.raises(ApiError, match="could not be fetched"):
            asyncio.run(fetcher.fetch(f"{files}/{path}"))
    assert [path for path, _ in Files.seen] == ["/redirect", "/missing", "/endless", "/slow"]


def test_addresses_of_pictures_only_where_they_are_allowed(engine, api, files):
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"{files}/picture.png"}}]}]
    Files.seen.clear()
    off = api.post("/v1/chat/completions", json={"messages": messages})
    with TestClient(create_app(engine, allow_image_urls=True)) as client:
        private = client.post("/v1/chat/completions", json={"messages": messages})
    assert [off.json()["error"]["code"], private.json()["error"]["code"]] == [
        "image_urls_disabled",
        "image_fetch_failed",
    ]
    assert Files.seen == []


def test_a_fetched_picture_is_answered(engine, files, tiny_chat, monkeypatch):
    monkeypatch.setattr("viscpm_hf.serving.api.app.Fetcher", lambda size: Fetcher(size, allow_loopback=True))
    question = [
        {"type": "text", "text": "图里有什么？"},
        {"type": "image_url", "image_url": {"url": f"{files}/picture.png"}},
    ]
    with TestClient(create_app(engine, allow_image_urls=True)) as client:
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": 8}
        answer = client.post("/v1/chat/completions", json=body)
    (wanted,) = tiny_chat.answers([{"image": gradient("RGB"), "question": "图里有什么？"}], max_new_tokens=8)[0]
    assert answer.json()["choices"][0]["message"]["content"] == wanted.text


def test_unsafe_pictures_are_refused_with_the_reason(engine, api, data_url, picture, monkeypatch):
    class Flags:
        def check(self, pictures):
            from viscpm_hf.safety import UnsafeContentError

            raise UnsafeContentError("The picture was refused by the image safety checker.")

    monkeypatch.setattr(engine.chat, "image_safety_checker", Flags())
    parts = [{"type": "image_url", "image_url": {"url": data_url(picture)}}]
    for stream in (False, True):
        body = {"messages": [{"role": "user", "content": parts}], "stream": stream}
        answer = api.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "unsafe_image"


def test_large_pictures_that_wait_are_counted(tiny_chat, file_of):
    """A small file can be a large picture, and a queue full of them would fill the memory."""
    pictures = Pictures(tiny_chat.processor.image_processor.to_pil, 1600)
    half, whole, small = (
        base64.b64encode(file_of(Image.new("RGB", size))).decode() for size in ((40, 20), (40, 40), (10, 10))
    )

    async def hold(text, until):
        async with pictures.from_base64(text, "image"):
            await until.wait()

    async def main():
        until = asyncio.Event()
        texts = [whole] * 4 + [half] * 8 + [small] * 20
        holders = [asyncio.create_task(hold(text, until)) for text in texts]
        await asyncio.sleep(0.3)
        for text in (whole, half):
            with pytest.raises(ApiError, match="Too many large pictures") as refused:
                await hold(text, until)
            assert refused.value.status_code == 429 and refused.value.headers["Retry-After"]
        until.set()
        await asyncio.gather(*holders)
        await asyncio.gather(*[hold(whole, until) for _ in range(8)])  # and none is left

    asyncio.run(main())


def test_large_pictures_go_through_the_model_together(tiny_chat, data_url):
    """While they wait they are in the queue, not before it."""
    engine = Engine(tiny_chat, max_batch=8, timeout=60)
    batcher, begun, go, sizes = engine.batchers["chat"], threading.Event(), threading.Event(), []
    answer_batch = batcher._run

    def waiting(requests):
        begun.set()
        assert go.wait(20)
        sizes.append(len(requests))
        return answer_batch(requests)

    batcher._run = waiting
    parts = [{"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", (100, 100)))}}]
    body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}

    async def ask_all():
        transport = httpx2.ASGITransport(app=create_app(engine, max_pixels=20_000))
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
            asked = [asyncio.create_task(client.post("/v1/chat/completions", json=body))]
            assert await asyncio.to_thread(begun.wait, 20)  # the first is by itself
            asked += [asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(8)]
            end = time.monotonic() + 20
            while len(batcher) < 8:
                assert time.monotonic() < end, len(batcher)
                await asyncio.sleep(0.01)
            go.set()
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask_all()) == [200] * 9
    engine.close()
    assert sizes == [1, 8]
