"""Guards /viscpm: the original's fields, and the class's answers whatever the question."""

import base64
import re

import httpx2
import pytest

from viscpm_hf.serving.api.examples import CHAT, ORIGINAL

QUESTIONS = ["图里有什么？", "What is it?", "鲲鹏和<ans>是什么？", "1 < 2 << 3 <unk>", "User: a\nAI: b"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_two_turns_are_those_of_the_class(address, tiny_chat, picture, file_of, question):
    image = base64.b64encode(file_of(picture)).decode()
    first = httpx2.post(f"{address}/viscpm", json={"image": image, "question": question}, timeout=60).json()
    answer, context, states = tiny_chat.chat(picture, question)
    assert first == {"answer": answer, "context": context}
    body = {"image": image, "question": "鲲鹏呢？", "context": context}
    second = httpx2.post(f"{address}/viscpm", json=body, timeout=60).json()
    answer, context, _ = tiny_chat.chat(picture, "鲲鹏呢？", context, states)
    assert second == {"answer": answer, "context": context}


def test_without_a_picture_it_talks(api, tiny_chat, monkeypatch):
    """Without an end, so it is given one."""
    monkeypatch.setattr(tiny_chat.model.generation_config, "max_new_tokens", 20)
    wanted = dict(zip(("answer", "context"), tiny_chat.chat(None, "你好")[:2], strict=True))
    for image in ({}, {"image": None}):
        assert api.post("/viscpm", json={"question": "你好", **image}).json() == wanted


def test_a_context_of_any_length_is_shortened_and_a_question_is_refused(api, tiny_chat, monkeypatch):
    monkeypatch.setattr(tiny_chat.processor, "max_input_length", 100)
    turn = "User: 图里有什么？\nAI: 红色\n"
    body = {"question": "x", "context": turn * 600}
    answer = api.post("/viscpm", json=body).json()
    with pytest.warns(UserWarning, match="oldest turn"):
        wanted = tiny_chat.chat(None, "x", turn * 600)
    assert answer["answer"] == wanted[0]
    answer = api.post("/viscpm", json={"question": "图里有什么？" * 1000})
    assert answer.status_code == 400 and "expected at most 100" in answer.json()["error"]["message"]


def test_the_document_has_every_route_with_examples_that_work(api):
    document = api.get("/openapi.json").json()
    for route, examples in (("/viscpm", ORIGINAL), ("/v1/chat/completions", CHAT)):
        operation = document["paths"][route]["post"]
        assert operation["summary"] and operation["description"]
        assert "422" not in operation["responses"] and "400" in operation["responses"]
        content = operation["requestBody"]["content"]["application/json"]
        assert content["examples"].keys() == examples.keys()
        for example in content["examples"].values():
            answer = api.post(route, json=example["value"])
            assert answer.status_code == 200 and "苹果" in answer.text
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_the_page_of_docs_needs_no_internet(api):
    answer = api.get("/docs")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    for text in ("POST /viscpm", "POST /v1/chat/completions", "max_completion_tokens", "图里有什么？", "curl "):
        assert text in answer.text
    assert "<script" not in answer.text and "src=" not in answer.text and "//cdn" not in answer.text
    links = set(re.findall('href="#([^"]*)"', answer.text))
    assert links and links <= set(re.findall('id="([^"]*)"', answer.text))
