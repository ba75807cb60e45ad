"""Guards `viscpm serve` as a process: what it prints, and how it ends on signals with people still waiting."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

import viscpm_hf

CAT = "草地上有一只猫"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(viscpm_hf.__file__).parents[1])}

# The program around an application without models. It looks like the command, so that the package imports no torch.
SCRIPT = """# viscpm_hf.cli
import asyncio, sys, threading, types
from viscpm_hf.serving import connections, server

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/bug":
        raise ValueError
    for _ in range(10**9 if scope["path"] == "/endless" else 1):
        await send({"type": "http.response.body", "body": b"x" * 10000, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})

def close():
    if sys.argv[1] == "stuck":
        threading.Event().wait()

def tell(text):
    print(text, file=sys.stderr, flush=True)

server._LAST_STEP = 0.1
connections._HEADER_SECONDS = 0.5
engine = types.SimpleNamespace(batchers={}, drain=lambda: None, close=close)
listening = server.bound_socket("127.0.0.1", int(sys.argv[3]))
with listening:
    sys.exit(server.run(
        app, engine, listening, float(sys.argv[2]), lambda: f"Serving at {server.url_of(listening)}, ", tell
    ))
"""


class Program:
    """A server in a process of its own."""

    def __init__(self, process):
        self.process, self.lines = process, []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, pattern, seconds=90):
        """The first line with a pattern."""
        end = time.monotonic() + seconds
        while not (found := next((line for line in self.lines if re.search(pattern, line)), None)):
            assert time.monotonic() < end and (self.process.poll() is None or self._reader.is_alive()), self.lines
            time.sleep(0.02)
        return found

    @property
    def address(self):
        return re.search(r"(http://\S+:\d+)[,， ]", self.wait_for("http://"))[1]

    def end(self, *signals):
        """The exit code after these."""
        for number in signals:
            self.process.send_signal(number)
        code = self.process.wait(90)
        self._reader.join()
        return code


@contextmanager
def program(*command, **environment):
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, env={**ENVIRONMENT, **environment}
    )
    running = Program(process)
    try:
        yield running
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def script(tmp_path):
    """Context manager: the program around the application; seconds to finish in, port, what the engine does."""

    def run(seconds, port=0, engine="free", text=SCRIPT, prefix=()):
        (tmp_path / "viscpm").write_text(text)
        return program(*prefix, sys.executable, tmp_path / "viscpm", engine, seconds, port)

    return run


def serve(*arguments, **environment):
    return program(sys.executable, "-m", "viscpm_hf.cli", "serve", "--port", 0, *arguments, **environment)


@pytest.mark.slow
def test_whoever_waits_at_sigterm_is_answered(tmp_path):
    """Eight are under way or queued: all are answered, the next is told to come again, and the exit code is 0."""
    with serve("--chat", "none", "--max-batch", 4) as running, ThreadPoolExecutor(9) as threads:
        address = running.address
        assert running.lines[-2] == "Paint: VisCPM-Paint-tiny"
        assert "tiny models in the package" in running.lines[0]
        body = {"prompt": CAT, "steps": 15}

        def ask(seed):
            return httpx2.post(f"{address}/v1/images/generations", json={**body, "seed": seed}, timeout=90)

        asked = [threads.submit(ask, seed) for seed in range(8)]
        while httpx2.get(f"{address}/health").json()["models"]["paint"]["queue"] < 7:
            assert not any(one.done() for one in asked)
        running.process.send_signal(signal.SIGTERM)
        running.wait_for("^Stopping")
        health, late = httpx2.get(f"{address}/health"), ask(9)
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        assert late.status_code == 503 and int(late.headers["retry-after"]) > 0
        assert [one.result().json()["data"][0]["seed"] for one in asked] == list(range(8))
        assert running.end() == 0
    log = "\n".join(running.lines)
    assert len(re.findall(r"(?m)^POST /v1/images/generations 200 \d+\.\d{3} s$", log)) == 8
    assert "Traceback" not in log and CAT not in log and len(running.lines) == 3 + 1 + 8 + 2


@pytest.mark.slow
def test_sigkill_leaves_nothing(tmp_path):
    """Of a Chat, in Chinese, behind a key, in the middle of an answer."""
    environment = {"TMPDIR": str(tmp_path), "LC_ALL": "zh_CN.UTF-8", "KEY": "s3cret"}
    with serve("--paint", "none", "--api-key-env", "KEY", **environment) as running:
        address = running.address
        assert "接口说明" in running.lines[-1] and "小模型" in running.lines[0]
        with openai.OpenAI(base_url=f"{address}/v1", api_key="s3cret", max_retries=0) as client:
            assert [model.id for model in client.models.list().data] == ["VisCPM-Chat-tiny"]
            messages = [{"role": "user", "content": "图里有什么？"}]
            assert client.chat.completions.create(model="VisCPM-Chat-tiny", messages=messages).choices
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="wrong").models.list()
            next(iter(client.chat.completions.create(model="VisCPM-Chat-tiny", messages=messages, stream=True)))
            assert running.end(signal.SIGKILL) == -signal.SIGKILL
    assert not any("s3cret" in line or "图里" in line for line in running.lines)
    assert list(tmp_path.iterdir()) == []


def test_the_port_can_be_used_again_at_once(script):
    with script(1) as running, hanging(running):
        running.end(signal.SIGKILL)
        with script(1, port=urlsplit(running.address).port) as again:
            assert again.address == running.address and again.end(signal.SIGINT) == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_who_does_not_read_cannot_keep_it(script, number, code):
    """A client hangs on a stream without an end: it is cut off when the time is over."""
    with script(0.5) as running, hanging(running):
        assert running.end(number) == code
    assert any(line.startswith("GET /endless 200 ") for line in running.lines)
    assert not any("Traceback" in line for line in running.lines)


def test_a_second_ctrl_c_does_not_wait(script):
    with script(1000) as running, hanging(running):
        running.process.send_signal(signal.SIGINT)
        running.wait_for("Stopping")
        assert running.end(signal.SIGINT) == 130


def test_a_model_that_hangs_in_a_step_cannot_keep_it(script):
    with script(1, engine="stuck") as running:
        assert running.address and running.end(signal.SIGTERM) == 0


def test_ctrl_c_is_not_for_a_job_in_the_background(script):
    """Shells start these with SIGINT ignored."""
    with script(1, prefix=("bash", "-c", 'trap "" INT; exec "$@"', "bash")) as running:
        address = running.address
        running.process.send_signal(signal.SIGINT)
        assert httpx2.get(f"{address}/").status_code == 200
        assert running.end(signal.SIGTERM) == 0


def test_a_request_is_a_line_without_its_query(script):
    """What would act on a terminal is escaped; a probe that went well is no line, a failure is one."""
    with script(1) as running:
        parts = urlsplit(running.address)
        for path in ("/a%1b%5b31mred?key=s3cret", "/health", "/bug", "/" + "x" * 5000):
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
            connection.request("GET", path)
            try:
                connection.getresponse().read()
            except http.client.IncompleteRead:
                assert path == "/bug"
            connection.close()
        running.wait_for("GET /xxx")
        assert running.end(signal.SIGTERM) == 0
    requests = [line for line in running.lines if line.startswith("GET")]
    assert len(requests) == 3 and max(map(len, requests)) < 300
    assert re.fullmatch(r"GET /a\\x1b\[31mred 200 \d+\.\d{3} s", requests[0])
    assert "s3cret" not in "".join(running.lines)


@pytest.mark.parametrize("reader", ["gone", "asleep"])
def test_a_log_that_nobody_reads_is_no_reason_to_fail(tmp_path, reader):
    """Longer than a pipe holds, and what uvicorn warns of is in it: requests are answered, SIGTERM ends with 0."""
    (tmp_path / "viscpm").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "viscpm", "free", "1", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        parts = urlsplit(re.search(r"http://[^,]+", process.stderr.readline())[0])
        if reader == "gone":
            process.stderr.close()
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        for _ in range(500):
            connection.request("GET", "/" + "x" * 190)
            assert connection.getresponse().read()
        for _ in range(100):
            with socket.create_connection((parts.hostname, parts.port), 60) as bad:
                bad.sendall(b"no HTTP\r\n\r\n")
                assert b" 400 " in bad.recv(1000)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_who_never_asks_is_left(script):
    """Half a request's head, at the beginning and after an answer, costs others nothing and is closed in time."""
    with script(1) as running:
        parts = urlsplit(running.address)
        sockets = [socket.create_connection((parts.hostname, parts.port), 60) for _ in range(3)]
        sockets[0].sendall(b"GET / HTTP/1.1\r\nHo")
        sockets[1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            answer += sockets[1].recv(100_000)
        sockets[1].sendall(b"GET /")
        for each in sockets:  # the third says nothing at all
            assert each.recv(1000) == b""
            each.close()
        with hanging(running):  # while a request is under way nobody is left
            time.sleep(1)
            assert httpx2.get(running.address).status_code == 200
            assert running.end(signal.SIGTERM) == 0


def test_more_connections_than_files_cost_no_others(script):
    """Beyond the limit connections are refused at once; when some have gone, others are taken again."""
    with script(1, prefix=("bash", "-c", 'ulimit -n 260; exec "$@"', "bash")) as running:
        parts = urlsplit(running.address)
        sockets = [socket.create_connection((parts.hostname, parts.port), 60) for _ in range(300)]
        for each in sockets:
            each.settimeout(60)
            with suppress(ConnectionError):
                assert each.recv(10) == b""
            each.close()
        assert httpx2.get(running.address).status_code == 200
        assert running.end(signal.SIGTERM) == 0
    assert len(running.lines) < 10


def test_a_port_that_was_taken_meanwhile_is_said(script):
    """Two that load at the same time: the second finds out when it begins to listen."""
    taken = """import socket
other = socket.socket()
other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
other.bind(listening.getsockname())
other.listen()
with listening:"""
    with script(1, text=SCRIPT.replace("with listening:", taken)) as running:
        assert running.end() == 1
    assert re.search(r"^ValueError: Port \d+ of 127.0.0.1 is in use: ", running.lines[-1])


@contextmanager
def hanging(running):
    """A client that asks for a stream without an end and reads nothing of it."""
    parts = urlsplit(running.address)
    with socket.create_connection((parts.hostname, parts.port)) as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(1)
        yield
