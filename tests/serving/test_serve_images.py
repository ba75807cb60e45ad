"""Guards /v1/images/generations, /v1/models, /health and /metrics with OpenAI's own client and Prometheus' parser."""

import base64
import io
import json
import threading

import numpy as np
import openai
import pytest
import torch
from fastapi.testclient import TestClient
from openai.types import ImagesResponse, Model
from paint import prompt_checker_parts, safety_checker_parts
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from viscpm_hf import VisCPMPaint
from viscpm_hf.cli import main
from viscpm_hf.serving.api import create_app
from viscpm_hf.serving.engine import Engine
from viscpm_hf.tiny import GUIDANCE_SCALE, tiny_paint_repo

CAT = "草地上有一只猫"
NAMES = {"chat": "VisCPM-Chat-tiny", "paint": "owner/VisCPM-Paint"}


@pytest.fixture(scope="module")
def painter():
    return VisCPMPaint(tiny_paint_repo(), image_safety_checker=False, prompt_safety_checker=False, add_ranker=False)


@pytest.fixture
def engine(painter):
    engine = Engine(paint=painter, painting={"guidance": GUIDANCE_SCALE}, timeout=60)
    yield engine
    engine.close()


@pytest.fixture
def api(engine):
    with TestClient(create_app(engine, NAMES, max_pixels=10_000)) as client:
        yield client


@pytest.fixture
def client(api):
    return openai.OpenAI(base_url=f"{api.base_url}/v1", api_key="none", max_retries=0, http_client=api)


def pixels(picture):
    file = io.BytesIO(base64.b64decode(picture.b64_json))
    with Image.open(file) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def test_a_seed_paints_what_the_command_and_the_class_paint(client, painter, tmp_path, monkeypatch):
    found = client.images.generate(model="owner/VisCPM-Paint", prompt=CAT, n=2, extra_body={"seed": 7, "steps": 3})
    ImagesResponse.model_validate(found.model_dump(), strict=True)
    assert (found.output_format, found.size, [one.seed for one in found.data]) == ("png", "96x96", [7, 8])
    monkeypatch.chdir(tmp_path)
    for picture in found.data:
        assert main(["paint", CAT, "--seed", str(picture.seed), "--steps", "3", "--output", str(picture.seed)]) == 0
        (path,) = (tmp_path / str(picture.seed)).iterdir()
        again = client.images.generate(prompt=CAT, extra_body={"seed": picture.seed, "steps": 3})
        assert (pixels(again.data[0]) == np.asarray(Image.open(path))).all()
        # both of one request went through the model together
        assert np.abs(pixels(picture).astype(int) - np.asarray(Image.open(path))).max() <= 1


def test_every_setting_arrives(client, painter):
    settings = {"seed": 2**64 - 1, "steps": 2, "guidance": 1.5, "negative_prompt": "白色"}
    found = client.images.generate(prompt="a red apple", size="32x64", extra_body=settings)
    wanted = painter.generate(
        "a red apple", "白色", guidance_scale=1.5, num_inference_steps=2, generator=2**64 - 1, width=32, height=64
    )
    assert (pixels(found.data[0]) == np.asarray(wanted)).all() and found.size == "32x64"


def test_what_asks_for_nothing_is_no_reason_to_refuse(api):
    neutral = {"quality": "auto", "style": None, "background": "opaque", "output_format": "png", "moderation": "auto"}
    neutral |= {"stream": False, "user": "me", "size": "auto", "response_format": "b64_json", "n": None, "seed": None}
    answer = api.post("/v1/images/generations", json={"prompt": CAT, "steps": 1.0, "partial_images": 0, **neutral})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0].keys() == {"b64_json", "seed"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("prompt", value) for value in ("", " \n", None, 5, "长" * 1001, "\ud800")),
        *(("n", value) for value in (0, 11, "2", 1.5, True)),
        *(("steps", value) for value in (0, 1001, "many")),
        *(("guidance", value) for value in (float("nan"), float("inf"), 1e9, "7")),
        *(("seed", value) for value in (-1, 2**64)),
        *(("size", value) for value in ("64", "0x64", "64x64px", "-8x8", "6４x64", 64, "8X8")),
        ("negative_prompt", "长" * 1001),
        ("response_format", "url"),
        ("quality", "hd"),
        ("style", "vivid"),
        ("background", "transparent"),
        ("output_format", "webp"),
        ("output_compression", 50),
        ("moderation", "low"),
        *(("stream", value) for value in (True, 0)),
        *(("partial_images", value) for value in (1, False)),
        ("svg", {"model": "x"}),
        ("nosuch", 1),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(api, field, value, engine):
    body = json.dumps({"prompt": CAT, "steps": 1, field: value})
    answer = api.post("/v1/images/generations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == field and error["type"] == "invalid_request_error" and field in error["message"]
    assert not engine.batchers["paint"].counters.batches


@pytest.mark.parametrize(
    ("size", "near"), [("66x30", "64x32"), ("1024x1024", "100x100"), ("999999x4", "2500x4"), ("0x8", "4x8")]
)
def test_a_size_is_one_the_model_has(client, size, near):
    """The nearest that is possible is named, and possible."""
    with pytest.raises(openai.BadRequestError, match=rf"Got size {size}, .* such as {near}\.") as error:
        client.images.generate(prompt=CAT, size=size)
    assert error.value.code == "invalid_size"
    assert client.images.generate(prompt=CAT, size=near, extra_body={"steps": 1}).size == near


def test_no_picture_has_far_more_pixels_than_the_model_was_made_for(painter):
    engine = Engine(paint=painter)
    with TestClient(create_app(engine, NAMES)) as api:
        answer = api.post("/v1/images/generations", json={"prompt": CAT, "size": "2048x2048"})
    engine.close()
    assert answer.status_code == 400 and "such as 384x384" in answer.json()["error"]["message"]


def test_a_size_that_does_not_fit_into_memory_is_said(client, painter, monkeypatch):
    def paint(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(painter, "paint", paint)
    with pytest.raises(openai.BadRequestError, match="Got size 96x96, which does not fit into memory") as error:
        client.images.generate(prompt=CAT, size="96x96")
    assert (error.value.code, error.value.param) == ("invalid_size", "size")


def test_who_is_not_served_is_said(client, tiny_chat):
    with pytest.raises(openai.NotFoundError, match="There is no VisCPM-Paint 'dall-e-3' here") as error:
        client.images.generate(model="dall-e-3", prompt=CAT)
    assert error.value.code == "model_not_found"
    engine = Engine(tiny_chat)
    with TestClient(create_app(engine, NAMES)) as api:
        answer = api.post("/v1/images/generations", json={"prompt": CAT})
        assert [model["id"] for model in api.get("/v1/models").json()["data"]] == ["VisCPM-Chat-tiny"]
    engine.close()
    assert answer.status_code == 404 and "--paint" in answer.json()["error"]["message"]


def test_what_the_checkers_find_is_said(client, painter, tmp_path, monkeypatch):
    """An unsafe prompt is refused; an unsafe picture is black, which is said."""
    checker = prompt_checker_parts(tmp_path, "红色的圆形", "坏的圆形")
    for name, part in checker.items():
        monkeypatch.setattr(painter.pipeline, name, part)
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(prompt="坏的圆形", extra_body={"steps": 1})
    assert (error.value.code, error.value.param) == ("unsafe_prompt", "prompt")
    monkeypatch.undo()

    unsafe, safe = (
        painter.generate(CAT, guidance_scale=4.0, num_inference_steps=9, generator=seed) for seed in (0, 5)
    )
    for name, part in safety_checker_parts(unsafe, safe).items():
        monkeypatch.setattr(painter.pipeline, name, part)
    for seed, black in ((0, True), (5, False)):
        (picture,) = client.images.generate(prompt=CAT, extra_body={"seed": seed, "steps": 9}).data
        assert bool(getattr(picture, "blackened", False)) == black == (not pixels(picture).any())
        assert bool(getattr(picture, "reason", "")) == black


def test_the_models_that_are_served(client):
    (model,) = client.models.list().data
    Model.model_validate(model.model_dump(), strict=True)
    assert model.id == "owner/VisCPM-Paint" and client.models.retrieve("owner/VisCPM-Paint") == model
    with pytest.raises(openai.NotFoundError, match="expected owner/VisCPM-Paint"):
        client.models.retrieve("gpt-4")


def test_metrics_count_what_the_engine_did(api, engine, painter, monkeypatch):
    """Two alike that waited for one are a batch."""
    entered, go, paint = threading.Event(), threading.Event(), painter.paint

    def waiting(*arguments, **options):
        entered.set()
        assert go.wait(20)
        return paint(*arguments, **options)

    monkeypatch.setattr(painter, "paint", waiting)
    body = {"prompt": CAT, "steps": 1}
    threads = [
        threading.Thread(target=api.post, args=("/v1/images/generations",), kwargs={"json": body}) for _ in "123"
    ]
    threads[0].start()
    assert entered.wait(20)
    for thread in threads[1:]:
        thread.start()
    while len(engine.batchers["paint"]) < 2:
        assert threads[1].is_alive()
    assert metrics(api)["viscpm_queue_length"] == 2
    go.set()
    for thread in threads:
        thread.join()
    found = metrics(api)
    assert found["viscpm_requests_total", "answered"] == 3 and found["viscpm_requests_total", "failed"] == 0
    assert (found["viscpm_batches_total"], found["viscpm_queue_length"]) == (2, 0)
    assert [found["viscpm_batch_size_bucket", most] for most in ("1", "2", "+Inf")] == [1, 2, 2]
    assert (found["viscpm_batch_size_sum"], found["viscpm_batch_size_count"]) == (3, 2)
    assert found["viscpm_busy_seconds_total"] > 0


def metrics(api):
    answer = api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert not sample.name.startswith("viscpm") or labels.pop("model") == "owner/VisCPM-Paint"
            found[(sample.name, *labels.values()) if labels else sample.name] = sample.value
    return found


def test_health_knows_who_stops_and_who_has_died(api, engine):
    assert api.get("/health").json() == {
        "status": "ok",
        "live": True,
        "ready": True,
        "models": {"paint": {"id": "owner/VisCPM-Paint", "alive": True, "queue": 0}},
    }
    engine.drain()
    answer = api.get("/health")
    assert (answer.status_code, answer.json()["status"], answer.json()["ready"]) == (503, "draining", False)
    assert api.get("/health/live").status_code == 200
    refused = api.post("/v1/images/generations", json={"prompt": CAT})
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0


def test_a_model_whose_thread_has_died_is_not_healthy(painter, monkeypatch):
    engine = Engine(paint=painter)
    batcher = engine.batchers["paint"]
    monkeypatch.setattr(batcher, "draining", True)
    with batcher._changed:
        batcher._changed.notify_all()  # its thread leaves
    batcher._thread.join()
    monkeypatch.undo()
    with TestClient(create_app(engine, NAMES)) as api:
        for path in ("/health", "/health/live"):
            answer = api.get(path)
            assert (answer.status_code, answer.json()["status"], answer.json()["live"]) == (503, "failed", False)
