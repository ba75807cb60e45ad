"""Guards what is judged before anything is answered: size, time, key, origins, and JSON that is none."""

import asyncio
import json
import socket
import time

import httpx2
import openai
import pytest
from fastapi.testclient import TestClient

from viscpm_hf.serving.api import create_app, errors
from viscpm_hf.serving.api.limits import Limits
from viscpm_hf.serving.engine import AnswerPiece, Engine
from viscpm_hf.serving.server import bound_socket


@pytest.fixture(scope="module")
def small(serving):
    """The address of a server that takes 1000 bytes in a second; it has no model."""
    with serving(create_app(Engine(timeout=1.0), max_body=1000)) as address:
        yield address


def raw(address, *pieces, pause=0.0):
    """What a server says to bytes."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        said = b""
        while part := connection.recv(2**16):
            said += part
            if pause == 0 and b"}}" in said:
                break
    return said.decode()


JSON = {"content-type": "application/json"}
HEAD = b"POST /viscpm HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_a_large_body_is_refused_before_it_comes(small):
    said = raw(small, HEAD + b"Content-Length: 1001\r\n\r\n")
    assert said.startswith("HTTP/1.1 413") and '"request_too_large"' in said and "connection: close" in said.lower()


def test_a_large_body_of_unknown_size_is_refused_while_it_comes(small):
    said = raw(
        small,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1f4\r\n" + b" " * 500 + b"\r\n",
        b"1f5\r\n" + b" " * 501,
    )
    assert said.startswith("HTTP/1.1 413") and '"request_too_large"' in said


def test_who_sends_too_much_still_reads_why(small):
    """The openai client writes all before it reads."""
    with openai.OpenAI(base_url=f"{small}/v1", api_key="x", max_retries=0) as client:
        for _ in range(3):
            with pytest.raises(openai.APIStatusError) as refused:
                client.chat.completions.create(model="x", messages=[{"role": "user", "content": "x" * 10**7}])
            assert refused.value.status_code == 413


def test_1000_bytes_are_taken(small):
    body = json.dumps({"question": ""}).encode()
    answer = httpx2.post(f"{small}/viscpm", content=body + b" " * (1000 - len(body)), headers=JSON)
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def test_a_slow_body_is_not_waited_for(small):
    said = raw(small, HEAD + b"Content-Length: 900\r\n\r\n", *[b" "] * 4, pause=0.4)
    assert said.startswith("HTTP/1.1 408") and '"slow_request"' in said


def test_many_values_are_not_read(api):
    bodies = (b"[" + b"1," * 10_000 + b"1]", b"[" * 10_001, b'{"a":' * 10_001, b'{"question": "' + b"\\n" * 1_000_001)
    for body in bodies:
        answer = api.post("/viscpm", content=body, headers=JSON)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "too_many_values"


def turns(count):
    return [{"role": ("user", "assistant")[number % 2], "content": "x"} for number in range(count)]


MANY = {
    "got 1001 messages, expected at most 1000": {"messages": turns(1001)},
    "Got 0 as messages[0], expected an object": {"messages": [0] * 1000},
    "messages[0].role is missing": {"messages": [{}] * 1000},
    "got 1001 parts, expected at most 1000": {"messages": [{"role": "user", "content": [{"type": "text"}] * 1001}]},
    "messages[0].content[0].text is missing": {"messages": [{"role": "user", "content": [{"type": "text"}] * 1000}]},
    "k0 is unknown here": {"messages": turns(1), **{f"k{number}": 0 for number in range(9900)}},
    "messages[0].k0 is unknown here": {"messages": [{**turns(1)[0], **{f"k{number}": 0 for number in range(9900)}}]},
    "got 17 entries, expected at most 16": {
        "messages": turns(1),
        "metadata": {str(number): "" for number in range(17)},
    },
    "got 5 texts, expected at most 4": {"messages": turns(1), "stop": [0] * 5},
}


@pytest.mark.parametrize("said", MANY)
def test_of_many_faults_one_is_looked_for(api, said, monkeypatch):
    """An error of each would hold up everybody for seconds."""
    found = []

    def noted(error):
        found.extend(error.errors())
        return of_validation(error)

    of_validation = errors._of_validation
    monkeypatch.setattr(errors, "_of_validation", noted)
    answer = api.post("/v1/chat/completions", json=MANY[said])
    assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text
    assert 0 < len(found) < 5


def test_a_thousand_messages_are_read(api):
    answer = api.post("/v1/chat/completions", json={"messages": turns(999)})
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_compressed_bodies_are_refused_by_name(api):
    """Not taken for JSON that is broken, nor for what it is not."""
    for kind in ("gzip", "br", "identity, gzip"):
        answer = api.post("/viscpm", content=b'{"question": "x"}', headers={**JSON, "Content-Encoding": kind})
        assert answer.status_code == 415 and f"Content-Encoding '{kind}'" in answer.json()["error"]["message"]
    answer = api.post("/viscpm", content=b'{"question": "x"}', headers={**JSON, "Content-Encoding": "Identity"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("null", "Got null as the body, expected an object."),
        ('{"question": null}', "Got null as question, expected a text."),
        ('{"question": true}', "Got true as question, expected a text."),
        ('{"question": [null, false, "a"]}', "Got [null, false, 'a'] as question, expected a text."),
        ('{"question": "' + "x" * 100_001 + '"}', "Got 100001 characters as question, expected at most 100000."),
        ('{"question": ' + "1" * 101 + "}", "Got a number of 101 digits, expected at most 100."),
        ('{"question": "x", "a\\u0000b": 1}', "a\\x00b is unknown here: leave it out."),
    ],
)
def test_errors_speak_of_json(api, body, said):
    answer = api.post("/viscpm", content=body.encode(), headers=JSON)
    assert answer.status_code == 400 and answer.json()["error"]["message"] == said


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("stop", "", "Got '' as stop, expected a text that is not empty."),
        ("stop", ["x" * 201], "Got 201 characters as stop[0], expected at most 200."),
        ("stream", 1, "Got 1 as stream, expected true or false."),
        ("tools", True, "tools: got true, which cannot be honoured here: leave it out."),
        ("temperature", 3, "Got 3 as temperature, expected at most 2."),
        ("temperature", "1", "Got '1' as temperature, expected a number."),
        ("n", True, "Got true as n, expected an integer."),
        ("n", 1.5, "Got 1.5 as n, expected an integer."),
        ("max_tokens", 10**6, "Got 1000000 as max_tokens, expected at most 100000."),
        ("metadata", [], "Got [] as metadata, expected an object."),
        ("messages", [], "Got [] as messages, expected at least 1 item."),
        ("messages", [turns(1)[0]] * 2, "Got role 'user' in messages[1], expected 'user' and 'assistant' in turns"),
        ("model", "a\0\\b", "There is no VisCPM-Chat 'a\\x00\\b' here, only 'VisCPM-Chat'."),
    ],
)
def test_errors_are_sentences_of_our_own(api, field, value, said):
    answer = api.post("/v1/chat/completions", json={"messages": turns(1), field: value})
    assert answer.status_code in (400, 404) and answer.json()["error"]["message"].startswith(said), answer.text


def test_whole_addresses_are_paths_too(api, small):
    for target, status in (("http://x/health", 200), ("HTTP://x:1/health?a=b", 200), ("http://x", 404)):
        said = raw(small, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert said.startswith(f"HTTP/1.1 {status} "), said


def test_the_deadline_begins_with_the_request():
    """Not with its end, which may come late."""

    async def main():
        loop, came, deadlines = asyncio.get_running_loop(), [], []

        async def app(scope, receive, send):
            deadlines.append(scope["state"]["deadline"])

        async def receive():
            came.append(loop.time())
            await asyncio.sleep(0.05)
            return {"type": "http.request", "body": b"{", "more_body": len(came) < 3}

        scope = {"type": "http", "headers": [], "state": {"own": 1}}
        await Limits(app, 1000, 9.0)(scope, receive, None)
        assert deadlines[0] <= came[0] + 9.0 and scope["state"] == {"own": 1}
        await Limits(app, 1000, None)({"type": "http", "headers": []}, receive, None)
        assert deadlines[1] is None

    asyncio.run(main())


def test_the_body_and_the_answer_have_one_deadline(tiny_chat, serving):
    """It begins with the request; the engine's own begins when the body has come, and is none here."""
    engine = Engine(tiny_chat)

    def endless(requests):
        while not requests[0].cancelled.wait(0.01):
            if requests[0].emit is not None:
                requests[0].emit(AnswerPiece(0, "x"))
        return [RuntimeError()]

    engine.batchers["chat"]._run = endless
    app = create_app(engine)
    (limits,) = (middleware for middleware in app.user_middleware if middleware.cls is Limits)
    limits.kwargs["timeout"] = 1.0
    with serving(app) as address:
        body = {"messages": turns(1)}
        for route, more in (
            ("/viscpm", None),
            ("/v1/chat/completions", {}),
            ("/v1/chat/completions", {"stream": True}),
        ):
            sent = {"question": "x"} if more is None else {**body, **more}
            answer = httpx2.post(address + route, json=sent, timeout=20)
            if more:
                assert answer.status_code == 200 and '"code":"timeout"' in answer.text and "[DONE]" not in answer.text
            else:
                assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
    engine.close()


BODIES = {
    "array": b"[]",
    "text": b'"x"',
    "null": b"null",
    "number": b"1",
    "nothing": b"",
    "half": b'{"question": "x"',
    "twice": b'{"question": "x"} {"question": "y"}',
    "invalid UTF-8": b'{"question": "\xff"}',
    "a surrogate in UTF-8": b'{"question": "\xed\xa0\x80"}',
    "half a surrogate pair": b'{"question": "\\ud800"}',
    "in a context": b'{"question": "x", "context": "\\udfff"}',
    "in a picture": b'{"question": "x", "image": "\\ud800"}',
    "in a name": b'{"question": "x", "\\ud800": 1}',
    "NaN": b'{"question": NaN}',
    "NaN unknown": b'{"question": "x", "other": NaN}',
    "deep": b'{"question": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "less deep": b'{"question": ' + b"[" * 900 + b"]" * 900 + b"}",
    "endless number": b'{"question": ' + b"1" * 10_000 + b"}",
    "unknown": b'{"question": "x", "images": []}',
    "missing": b"{}",
    "a list": b'{"question": ["x"]}',
    "long": json.dumps({"question": "x" * 100_001}).encode(),
    "long context": json.dumps({"question": "x", "context": "x" * 100_001}).encode(),
    "UTF-32 of nothing": b"\xff\xfe\x00\x00",
}


@pytest.mark.parametrize("route", ["/viscpm", "/v1/chat/completions"])
@pytest.mark.parametrize("name", BODIES)
def test_odd_bodies_are_the_clients_fault(api, route, name):
    answer = api.post(route, content=BODIES[name], headers=JSON)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["message"].strip() and len(error["message"]) < 700 and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "text", ["a\0b", "\x1b[31m", "\u202e", "\r\n", "👩‍👩‍👧", "\U0010ffff", "<", "", " ", "</s><ans>", "\ufeff"]
)
def test_odd_texts_are_answered(api, tiny_chat, text):
    answer = api.post("/viscpm", json={"question": text, "context": text}).json()
    assert answer == dict(zip(("answer", "context"), tiny_chat.chat(None, text, text)[:2], strict=True))
    answer = api.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], "stream": True})
    assert answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("route", "body", "name"),
    [
        ("/viscpm", b'{"question": "x", "question": "y"}', "question"),
        ("/viscpm", b'{"question": "x", "context": "", "context": ""}', "context"),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "x", "role": "user"}]}', "role"),
    ],
)
def test_a_name_that_comes_twice_is_refused(api, route, body, name):
    answer = api.post(route, content=body, headers=JSON)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == name and f"Got {name} more than once" in error["message"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"])
def test_only_what_is_announced_as_json_is_read(api, kind):
    """Pages of other origins can send the others to a server on this machine without asking."""
    headers = {} if kind is None else {"content-type": kind}
    answer = api.post("/viscpm", content=b'{"question": "x"}', headers=headers)
    assert answer.status_code == 415 and "application/json" in answer.json()["error"]["message"]


def test_methods_and_routes(api):
    for method, route, status in [
        ("GET", "/viscpm", 405),
        ("HEAD", "/v1/chat/completions", 405),
        ("OPTIONS", "/viscpm", 405),
        ("DELETE", "/viscpm", 405),
        ("POST", "/openapi.json", 405),
        ("POST", "/viscpm/", 404),
        ("GET", "/", 404),
        ("GET", "/v1/../etc/passwd", 404),
        ("GET", "/%ff%00", 404),
        ("HEAD", "/openapi.json", 200),
        ("GET", "/openapi.json", 200),
    ]:
        answer = api.request(method, route)
        assert answer.status_code == status, (method, route)
        if method == "HEAD":
            assert answer.content == b""
        elif status != 200:
            assert answer.json()["error"]["message"].endswith(".")
        if status == 405:
            assert answer.headers["allow"]
            assert method == "HEAD" or answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("key", ["secret", "密钥"])
def test_the_key(engine, key):
    with TestClient(create_app(engine, api_key=key)) as client:

        def status(value, route="/viscpm"):
            headers = {} if value is None else {"Authorization": value if isinstance(value, bytes) else value.encode()}
            return client.post(route, json={"question": "x"}, headers=headers)

        assert status(f"Bearer {key}").status_code == status(f"bearer  {key} ").status_code == 200
        wrong = [
            None,
            "",
            key,
            "Bearer",
            "Bearer ",
            f"Basic {key}",
            f"Bearer {key}x",
            f"Bearer {key[:-1]}",
            b"Bearer \xff",
        ]
        for value in wrong:
            answer = status(value)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["WWW-Authenticate"] == "Bearer" and key not in answer.text
        assert status(None, "/v1/chat/completions").status_code == status(None, "/nothing").status_code == 401
        assert client.get("/openapi.json").status_code == client.get("/docs").status_code == 200
        assert client.post("/health/../viscpm", json={"question": "x"}).status_code == 401


def test_an_empty_key_is_none():
    for key in ("", " "):
        with pytest.raises(ValueError, match="empty"):
            create_app(Engine(), api_key=key)


def test_openais_client_sends_the_key(engine, serving):
    with serving(create_app(engine, api_key="secret")) as address:
        for key, is_good in (("secret", True), ("wrong", False)):
            with openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as client:
                message = {"role": "user", "content": "x"}
                if is_good:
                    assert client.chat.completions.create(model="VisCPM-Chat", messages=[message]).choices
                else:
                    with pytest.raises(openai.AuthenticationError) as refused:
                        client.chat.completions.create(model="VisCPM-Chat", messages=[message])
                    assert refused.value.code == "invalid_api_key"


def test_browsers_of_other_origins(engine):
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    asks |= {"Access-Control-Request-Headers": "authorization,content-type"}
    with TestClient(create_app(engine)) as client:
        answers = [client.options("/viscpm", headers=asks), client.post("/viscpm", json={}, headers=asks)]
        assert not any(name.startswith("access-control") for answer in answers for name in answer.headers)
    with TestClient(create_app(engine, cors=["https://a.example"], api_key="secret")) as client:
        answer = client.options("/viscpm", headers=asks)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        answer = client.post("/viscpm", json={}, headers=asks)  # 401, which the page can read
        assert answer.status_code == 401 and answer.headers["access-control-allow-origin"] == "https://a.example"
        other = client.options("/viscpm", headers={**asks, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_all_bodies_together_have_a_limit(small, wait_until):
    """Eight of the largest may be there, also where each is still on its way."""
    host, port = small.removeprefix("http://").split(":")
    connections = [socket.create_connection((host, int(port))) for _ in range(8)]
    try:
        for connection in connections:
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + b" " * 999)
        answer = None

        def is_refused():
            nonlocal answer
            answer = httpx2.post(f"{small}/viscpm", json={"question": "x"})
            return answer.status_code == 429

        wait_until(is_refused)
        assert answer.headers["Retry-After"] == "5" and answer.json()["error"]["code"] == "queue_full"
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: httpx2.post(f"{small}/viscpm", json={"question": "x"}).status_code == 404)


def test_slow_clients_hold_up_nobody(small):
    """A hundred bodies that never come, and an answer meanwhile."""
    host, port = small.removeprefix("http://").split(":")
    connections = [socket.create_connection((host, int(port))) for _ in range(100)]
    try:
        for connection in connections:
            connection.sendall(HEAD + b"Content-Length: 900\r\n\r\n{")
        assert httpx2.post(f"{small}/viscpm", json={"question": "x"}).status_code == 404
    finally:
        for connection in connections:
            connection.close()


def test_an_answer_is_sent_at_once():
    """Its head and body are two packets; without this the second waits for the client, for 40 ms."""
    with bound_socket("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP  # what asyncio goes by


def test_a_fault_is_answered_and_logged(engine, serving, monkeypatch, caplog):
    """And the next request may use the same connection."""

    async def fail(question):
        raise RuntimeError("a secret")

    with serving(create_app(engine)) as address, httpx2.Client() as client:
        for _ in range(5):
            monkeypatch.setattr(engine, "answer", fail)
            answer = client.post(f"{address}/viscpm", json={"question": "x"})
            assert answer.status_code == 500 and "secret" not in answer.text
            assert answer.json()["error"]["code"] == "internal_error" and "a secret" in caplog.text
            monkeypatch.undo()
            assert client.post(f"{address}/viscpm", json={"question": "x"}).status_code == 200
