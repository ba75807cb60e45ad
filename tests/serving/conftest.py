"""Shared by the tests of the HTTP API: the tiny Chat, its engine, and a real server of it."""

import base64
import io
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image, ImageDraw

from viscpm_hf import VisCPMChat, tiny
from viscpm_hf.serving.api import create_app
from viscpm_hf.serving.engine import Engine
from viscpm_hf.serving.server import bound_socket


@pytest.fixture(scope="session")
def tiny_chat():
    """The tiny Chat without a safety checker."""
    return VisCPMChat(tiny.tiny_chat_repo(), image_safety_checker=False)


@pytest.fixture(scope="module")
def engine(tiny_chat):
    """An engine of the tiny Chat."""
    engine = Engine(tiny_chat, max_batch=4, timeout=60)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def api(engine):
    """A client of the API within the process; what the server fails at is raised."""
    with TestClient(create_app(engine)) as client:
        yield client


@pytest.fixture(scope="session")
def serving():
    """Context manager: the address of an application on a real server."""

    @contextmanager
    def serve(app):
        with bound_socket("127.0.0.1", 0) as listener:
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            while not server.started:
                time.sleep(0.01)
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()

    return serve


@pytest.fixture(scope="module")
def address(engine, serving):
    """The address of a real server of the API."""
    with serving(create_app(engine)) as address:
        yield address


@pytest.fixture
def picture():
    """A red circle on white."""
    picture = Image.new("RGB", (80, 80), "white")
    ImageDraw.Draw(picture).ellipse((20, 20, 60, 60), fill=(220, 40, 40))
    return picture


@pytest.fixture(scope="session")
def file_of():
    """The bytes of a picture's file."""

    def save(picture, kind="PNG", **options):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        return file.getvalue()

    return save


@pytest.fixture(scope="session")
def data_url(file_of):
    """The data URL of a picture, or of a file's bytes."""

    def make(picture):
        data = picture if isinstance(picture, bytes) else file_of(picture)
        return f"data:image/png;base64,{base64.b64encode(data).decode()}"

    return make


@pytest.fixture(scope="session")
def wait_until():
    """Waits for what happens in other threads."""

    def wait(is_so, seconds=20):
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, "It did not happen."
            time.sleep(0.01)

    return wait
