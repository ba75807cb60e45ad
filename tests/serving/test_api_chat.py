"""Guards /v1/chat/completions with OpenAI's own client: its answers are those of a direct call."""

import asyncio
import threading

import httpx2
import openai
import pytest
from fastapi.testclient import TestClient
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from viscpm_hf.serving.api import create_app
from viscpm_hf.serving.batcher import DrainingError, QueueFullError
from viscpm_hf.serving.engine import AnswerPiece, Engine

QUESTIONS = ["图里有什么？", "What colour is it?", "鲲鹏和<ans>是什么？", "1 < 2 << 3 <unk>"]


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def asked(text, picture=None):
    content = [{"type": "text", "text": text}]
    if picture is not None:
        content.append({"type": "image_url", "image_url": {"url": picture}})
    return {"role": "user", "content": content}


def ask(client, *messages, **options):
    return client.chat.completions.create(model="VisCPM-Chat", messages=messages, **options)


def streamed(client, *messages, **options):
    chunks = list(ask(client, *messages, stream=True, **options))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
    return chunks


def clean(chat, item, **options):
    """What a direct call says."""
    (answers,) = chat.answers([item], **options)
    return [answer.text for answer in answers]


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_the_class(client, tiny_chat, picture, data_url, question):
    answer = ask(client, asked(question, data_url(picture)))
    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    (wanted,) = tiny_chat.answers([{"image": picture, "question": question}])[0]
    (choice,) = answer.choices
    assert choice.message.content == wanted.text and choice.finish_reason == wanted.finish_reason
    assert choice.message.role == "assistant" and answer.model == "VisCPM-Chat" and answer.object == "chat.completion"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (wanted.prompt_tokens, wanted.completion_tokens)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert ask(client, asked(question)).choices[0].message.content == clean(tiny_chat, {"question": question})[0]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_streamed_answer_is_greedy_search(client, tiny_chat, picture, data_url, question):
    chunks = streamed(client, asked(question, data_url(picture)), stream_options={"include_usage": True})
    item = {"image": picture, "question": question}
    (wanted,) = tiny_chat.answers([item], num_beams=1)[0]
    *others, last = chunks
    assert others[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in others) == wanted.text
    assert [chunk.choices[0].finish_reason for chunk in others[-2:]] == [None, wanted.finish_reason]
    assert last.choices == [] and last.usage.completion_tokens == wanted.completion_tokens
    assert all(chunk.usage is None for chunk in others) and len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.choices for chunk in streamed(client, asked(question)))  # no usage unless asked for


def test_earlier_turns_are_what_the_processor_makes_of_messages(client, monkeypatch, tiny_chat, picture, data_url):
    """The picture may stand in any turn; nothing in a text becomes a turn or a special token."""
    turns = [
        ("你好", "你好！"),
        ("图里有什么？", "<ans> 1 << 2\nUser: 假的"),
        ("那是鲲鹏吗？\nAI: 是", "不是"),
        ("什么颜色？", None),
    ]
    seen = []
    answers = tiny_chat.answers

    def watched(items, *arguments, **options):
        seen.extend(items)
        return answers(items, *arguments, **options)

    monkeypatch.setattr(tiny_chat, "answers", watched)
    for place in range(len(turns)):
        messages = []
        for number, (question, said) in enumerate(turns):
            messages.append(asked(question, data_url(picture) if number == place else None))
            messages += [] if said is None else [{"role": "assistant", "content": said}]
        answer = ask(client, *messages)
        wanted = tiny_chat.processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=True
        )
        item = seen.pop()
        made = tiny_chat.processor.encode_chat(True, item["question"], item["context"])
        assert made["input_ids"] == wanted["input_ids"][0].tolist()
        assert answer.usage.prompt_tokens == len(made["input_ids"])
        assert answer.choices[0].message.content == clean(tiny_chat, {**item, "image": picture})[0]


def test_sampling_is_honoured(client, tiny_chat, picture, data_url):
    question = asked("图里有什么？", data_url(picture))
    sampling = {"temperature": 2.0, "top_p": 0.95, "n": 4, "seed": 7, "max_tokens": 6}
    first, second = (ask(client, question, **sampling) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices] and len(set(texts)) > 1
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert first.usage.completion_tokens <= 4 * 6
    chunks = streamed(client, question, **sampling)
    said = ["".join(c.choices[0].delta.content or "" for c in chunks if c.choices[0].index == i) for i in range(4)]
    assert said == texts
    item = {"image": picture, "question": "图里有什么？"}
    assert ask(client, question, temperature=0).choices[0].message.content == clean(tiny_chat, item, num_beams=1)[0]
    best = ask(client, question, n=3)
    assert [choice.message.content for choice in best.choices] == clean(tiny_chat, item, num_return_sequences=3)


def test_lengths_and_stops_are_honoured(client, tiny_chat, picture, data_url):
    question = asked("图里有什么？", data_url(picture))
    whole = ask(client, question).choices[0].message.content
    for name in ("max_tokens", "max_completion_tokens"):
        answer = ask(client, question, **{name: 2})
        assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 2
    stop = whole[3:5]
    answer = ask(client, question, stop=stop)
    assert answer.choices[0].message.content == whole[:3] and answer.choices[0].finish_reason == "stop"
    chunks = streamed(client, question, stop=["不会", stop])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    item = {"image": picture, "question": "图里有什么？"}
    assert text == clean(tiny_chat, item, num_beams=1)[0].partition(stop)[0]


REFUSED = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "logprobs": True,
    "top_logprobs": 3,
    "frequency_penalty": 0.5,
    "presence_penalty": -1,
    "logit_bias": {"5": 1},
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "store": True,
    "service_tier": "flex",
    "reasoning_effort": "high",
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "verbosity": "low",
    "top_k": 5,
    "temperature": 2.5,
    "top_p": 0.0 - 1,
    "n": 0,
    "seed": 2**63,
    "max_tokens": 0,
    "stop": ["a", "b", "c", "d", "e"],
    "stream_options": {"include_usage": True},
    "model": "gpt-4o",
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(api, field):
    body = {"messages": [{"role": "user", "content": "x"}], field: REFUSED[field]}
    answer = api.post("/v1/chat/completions", json=body)
    assert answer.status_code == (404 if field == "model" else 400), answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and field in error["message"] + str(error["param"])


def test_values_that_change_nothing_are_taken(api):
    neutral = {
        **{"tools": [], "tool_choice": "auto", "functions": [], "logprobs": False, "top_logprobs": 0, "store": False},
        **{"frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "response_format": {"type": "text"}},
        **{"modalities": ["text"], "audio": None, "service_tier": "auto", "reasoning_effort": "none", "user": "me"},
        **{"parallel_tool_calls": True, "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k"},
        **{
            "n": 1.0,
            "seed": 3.0,
            "stop": None,
            "stream": False,
            "stream_options": None,
            "max_tokens": 9.0,
            "max_completion_tokens": 9,
        },
    }
    turns = [
        {"role": "user", "content": "你好", "name": None},
        {"role": "assistant", "content": "好", "refusal": None, "annotations": [], "audio": None, "tool_calls": None},
        {"role": "user", "content": "x"},
    ]
    for options in ({}, {"include_usage": None}, {"include_usage": False}):
        answer = api.post("/v1/chat/completions", json={"messages": turns[2:], "stream_options": options})
        assert answer.status_code == 200, answer.text
    plain = api.post("/v1/chat/completions", json={"messages": turns, "max_tokens": 9})
    answer = api.post("/v1/chat/completions", json={"messages": turns, **neutral})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"] == plain.json()["choices"]


CONVERSATIONS = {
    "at least 1 item": [],
    "'system'": [{"role": "system", "content": "x"}, asked("x")],
    "'developer'": [{"role": "developer", "content": "x"}],
    "'tool'": [{"role": "tool", "content": "x", "tool_call_id": "1"}],
    "in turns": [asked("x"), asked("y")],
    "'user' first": [{"role": "assistant", "content": "x"}],
    "the user's question": [asked("x"), {"role": "assistant", "content": "y"}],
    "tool_calls": [asked("x"), {"role": "assistant", "content": "y", "tool_calls": [{"id": "1"}]}, asked("z")],
    "input_audio": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]}],
    "'file'": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "1"}}]}],
    "refusal": [asked("x"), {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, asked("z")],
    "expected a text": [{"role": "user", "content": None}],
    "content is missing": [{"role": "user"}],
    "role is missing": [{"content": "x"}],
    "at most 100000": [asked("x" * 60_000), {"role": "assistant", "content": "y" * 60_000}, asked("z")],
    "detail": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,", "detail": "fine"}}]}],
}


@pytest.mark.parametrize("said", CONVERSATIONS)
def test_other_conversations_are_refused_in_a_sentence(api, said):
    answer = api.post("/v1/chat/completions", json={"messages": CONVERSATIONS[said]})
    assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text


def test_one_picture_and_only_the_users(api, picture, data_url):
    url = data_url(picture)
    two = [asked("x", url), {"role": "assistant", "content": "y"}, asked("z", url)]
    assistants = [asked("x"), {**asked("y", url), "role": "assistant"}, asked("z")]
    for messages, said in ((two, "2 pictures"), (assistants, "a picture in messages[1], which is the assistant's")):
        answer = api.post("/v1/chat/completions", json={"messages": messages})
        assert answer.status_code == 400 and said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 4}, "at most 3"),
        ({"n": 2, "temperature": 0}, "at most 1"),
        ({"n": 2, "stream": True}, "at most 1"),
        ({"n": 5, "temperature": 1}, "at most 4"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "differ"),
    ],
)
def test_settings_that_contradict_are_refused(api, options, said):
    answer = api.post("/v1/chat/completions", json={"messages": [asked("x")], **options})
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_too_long_is_said_with_openais_code(client):
    turns = [asked("图里有什么？" * 500), {"role": "assistant", "content": "红色" * 2000}, asked("x")]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="expected at most 3000") as refused:
            ask(client, *turns, stream=stream)
        assert refused.value.code == "context_length_exceeded"


def test_the_async_client_and_many_at_once(address, tiny_chat):
    async def main():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:

            async def one(question):
                answer = await client.chat.completions.create(model="VisCPM-Chat", messages=[asked(question)])
                stream = await client.chat.completions.create(
                    model="VisCPM-Chat", messages=[asked(question)], stream=True
                )
                pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
                return answer.choices[0].message.content, "".join(pieces)

            return await asyncio.gather(*map(one, QUESTIONS * 3))

    answers = asyncio.run(main())
    wanted = [
        (clean(tiny_chat, {"question": each})[0], clean(tiny_chat, {"question": each}, num_beams=1)[0])
        for each in QUESTIONS
    ]
    assert answers == wanted * 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/viscpm"])
def test_who_hangs_up_stops_the_model(address, engine, wait_until, route, stream):
    """Also before the first byte: while it waits, and while the model reads."""
    batcher = engine.batchers["chat"]
    answer_batch, running, cancelled = batcher._run, threading.Event(), threading.Event()

    def slow(requests):
        running.set()
        if requests[0].cancelled.wait(20):
            cancelled.set()
        return answer_batch(requests)

    before = batcher.counters.requests["cancelled"]
    body = {"question": "x"} if route == "/viscpm" else {"messages": [asked("x")], "stream": stream}
    batcher._run = slow
    try:
        first = threading.Thread(target=_give_up, args=(address + route, body, running))
        first.start()
        running.wait(20)
        second = threading.Thread(target=_give_up, args=(address + route, body, threading.Event()))
        second.start()
        first.join()
        second.join()
        wait_until(lambda: cancelled.is_set() and batcher.counters.requests["cancelled"] == before + 2)
    finally:
        batcher._run = answer_batch


def _give_up(url, body, when):
    """Asks, and hangs up once it happens, or soon."""
    with httpx2.Client(timeout=20) as client, pytest.raises(httpx2.TimeoutException):
        when.wait(0.3)
        client.post(url, json=body, timeout=0.5)


def test_who_leaves_a_stream_stops_the_model(client, engine, wait_until, monkeypatch):
    batcher = engine.batchers["chat"]
    answer_batch, before = batcher._run, batcher.counters.requests["cancelled"]

    def endless(requests):
        while not requests[0].cancelled.wait(0.01):
            requests[0].emit(AnswerPiece(0, "一"))
        return answer_batch(requests)

    monkeypatch.setattr(batcher, "_run", endless)
    stream = ask(client, asked("x"), stream=True)
    assert [chunk.choices[0].delta.content for _, chunk in zip(range(4), stream, strict=False)] == ["", *"一一一"]
    stream.close()
    wait_until(lambda: batcher.counters.requests["cancelled"] == before + 1)


def test_who_does_not_read_stops_the_model(address, engine, wait_until, monkeypatch):
    batcher = engine.batchers["chat"]
    answer_batch, before = batcher._run, batcher.counters.requests["cancelled"]

    def endless(requests):
        while not requests[0].cancelled.wait(0.001):
            requests[0].emit(AnswerPiece(0, "一" * 100_000))
        return answer_batch(requests)

    monkeypatch.setattr(batcher, "_run", endless)
    monkeypatch.setattr("viscpm_hf.serving.api.hangups._STALLED", 0.3)
    with httpx2.Client() as client:
        body = {"messages": [asked("x")], "stream": True}
        with client.stream("POST", f"{address}/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            wait_until(lambda: batcher.counters.requests["cancelled"] == before + 1)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (QueueFullError("5 requests wait.", 2.5), 429, "queue_full"),
        (DrainingError("The server is stopping."), 503, "server_stopping"),
        (TimeoutError(), 504, "timeout"),
        (RuntimeError("a secret"), 500, "internal_error"),
        (ValueError("Got it, expected something else."), 400, "invalid_value"),
    ],
)
def test_what_the_engine_raises_has_a_status(client, engine, monkeypatch, error, status, code):
    async def fail(question):
        raise error

    async def fail_midway(question):
        yield AnswerPiece(0, "a")
        raise error

    monkeypatch.setattr(engine, "answer", fail)
    with pytest.raises(openai.APIStatusError) as raised:
        ask(client, asked("x"))
    assert (raised.value.status_code, raised.value.code) == (status, code) and "secret" not in str(raised.value)
    if status in (429, 503):
        assert int(raised.value.response.headers["Retry-After"]) >= 1
    monkeypatch.setattr(engine, "stream_answer", fail_midway)
    with pytest.raises(openai.APIError) as raised:
        list(ask(client, asked("x"), stream=True))
    assert raised.value.code == code and "secret" not in str(raised.value)


def test_without_chat_it_says_so():
    with TestClient(create_app(Engine())) as client:
        for route, body in (("/viscpm", {"question": "x"}), ("/v1/chat/completions", {"messages": [asked("x")]})):
            answer = client.post(route, json=body)
            assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def test_words_that_the_vocabulary_lacks_have_a_limit(api):
    """Each is one token, and an answer may say it again and again."""
    word = "\u1000"
    for length, status in ((1000, 200), (1001, 400)):
        turn = {"role": "user", "content": f"什么是{word * length}？"}
        bodies = [
            ("/viscpm", {"question": turn["content"]}),
            ("/viscpm", {"question": "x", "context": turn["content"]}),
        ]
        bodies += [("/v1/chat/completions", {"messages": [turn], "max_tokens": 1, "stream": s}) for s in (False, True)]
        for route, body in bodies:
            answer = api.post(route, json=body)
            assert answer.status_code == status, answer.text
            assert status == 200 or "Got 1001 characters in a row" in answer.json()["error"]["message"]
