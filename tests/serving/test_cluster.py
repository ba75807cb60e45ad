"""Guards the cluster: `viscpm serve --ray` with two replicas of the tiny Chat and a real Ray, which is not mocked.

Requests are answered right while a replica is killed, errors arrive as what they are, who hangs up stops the model,
and SIGTERM lets what is under way be finished.
"""

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
import torch
import yaml
from PIL import Image

from viscpm_hf import UnsafeContentError, tiny
from viscpm_hf.chat import ChatAnswer
from viscpm_hf.remote_code.pipeline_viscpm_paint import UnsafePromptError
from viscpm_hf.serving.api.errors import error_of
from viscpm_hf.serving.batcher import DrainingError, QueueFullError
from viscpm_hf.serving.engine import Painted, PromptTooLongError, Question

pytest.importorskip("ray.serve", reason="the extra `cluster` is not installed")

from ray.serve.schema import ServeDeploySchema

from viscpm_hf.serving.cluster import connection
from viscpm_hf.serving.cluster.application import Arguments
from viscpm_hf.serving.cluster.wire import packed, unpacked

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "RAY_ADDRESS": "local", "LC_ALL": "C.UTF-8"}
EXAMPLE = Path(__file__).parents[2] / "examples" / "deploy" / "cluster.yaml"
QUESTIONS = ["图里有什么？", "鲲鹏在哪？", "What is in the picture?", "什么颜色？"]


def sent(value):
    """What comes out at the other end of the network."""
    return unpacked(pickle.loads(pickle.dumps(packed(value))))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1", "I;16"])
def test_pictures_arrive_as_the_model_would_see_them(tiny_chat, mode):
    if mode == "I;16":
        image = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40))
    else:
        image = Image.effect_noise((40, 30), 80).convert("RGB").convert(mode)
    (wanted,) = tiny_chat.processor.image_processor.to_pil(image)
    arrived = sent(Question("x", image, context="c", turns=(("a", "b"),)))
    assert np.array_equal(arrived.image, wanted) and (arrived.context, arrived.turns) == ("c", (("a", "b"),))
    (painted,) = sent([Painted(wanted, 7, True)])
    assert np.array_equal(painted.image, wanted) and (painted.seed, painted.blackened) == (7, True)


def test_answers_leave_the_states_behind(tiny_chat, picture):
    (answer,) = tiny_chat.answers([{"image": picture, "question": "图里有什么？"}])[0]
    (arrived,) = sent([answer])
    assert isinstance(arrived, ChatAnswer) and arrived.vision_hidden_states is None
    assert (arrived.text, arrived.context, arrived.prompt_tokens) == (
        answer.text,
        answer.context,
        answer.prompt_tokens,
    )


def unsafe_prompt():
    error = UnsafeContentError("no")
    error.__cause__ = UnsafePromptError("no")
    return error


@pytest.mark.parametrize(
    "error",
    [
        QueueFullError("5 wait", 2.5),
        DrainingError("stopping"),
        TimeoutError(),
        UnsafeContentError("no"),
        unsafe_prompt(),
        PromptTooLongError("too long"),
        ValueError("Got this."),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        RuntimeError("a secret"),
        torch.OutOfMemoryError("CUDA out of memory"),
        KeyError("x"),
    ],
    ids=repr,
)
def test_errors_arrive_as_what_they_are(error):
    """A client is told the same, whoever met it."""
    with pytest.raises(Exception) as raised:
        sent(error)
    here, there = error_of(error), error_of(raised.value)
    assert (there.status_code, there.body, there.headers) == (here.status_code, here.body, here.headers)
    assert isinstance(raised.value, ValueError) == isinstance(error, ValueError)


def test_the_example_is_a_configuration():
    config = ServeDeploySchema.model_validate(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))
    (application,) = config.applications
    module, _, name = application.import_path.rpartition(":")
    assert callable(getattr(sys.modules[module], name)) and Arguments(**application.args).replicas == "1-4"


@pytest.mark.parametrize("wrong", [{"replicas": "4-1"}, {"gpus_per_replica": 1.5}, {"no": 1}, {"chat": None}])
def test_a_configuration_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError):
        Arguments(**{"chat": "x", **wrong})


@pytest.mark.parametrize(
    ("address", "said"),
    [
        *((wrong, "expected an address") for wrong in ("nowhere", "ray://there:10001", "a b:1", "x:", "::", "x:١")),
        *((none, "could not find the cluster") for none in ("127.0.0.1:1", "localhost:99999", "[::1]:1", "a..b:1")),
    ],
)
def test_an_address_without_a_ray_is_said_at_once(address, said, monkeypatch):
    """Ray itself would wait for minutes, and then end the process."""
    monkeypatch.setattr(connection, "ADDRESS", address)
    with pytest.raises((ValueError, OSError), match=said) as refused, connection.connected(1):
        raise AssertionError
    assert f"RAY_ADDRESS={address}" in str(refused.value)


class Program:
    """A command that serves, what it says, and its replicas."""

    def __init__(self, *command, ready):
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | ENVIRONMENT,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ready, self._found, self.match = ready, threading.Event(), None
        threading.Thread(target=self._read, daemon=True).start()
        self._found.wait(400)
        if self.match is None:
            self.stop(signal.SIGKILL)
            if "Ray could not start" in self.said:
                pytest.skip(self.said[-500:])
            pytest.fail(f"It does not serve after 400 s: {self.said}")

    @property
    def said(self):
        return "".join(self.lines)

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            self.match = self.match or re.search(self._ready, line)
            if self.match:
                self._found.set()
        self._found.set()

    def stop(self, number):
        self.process.send_signal(number)
        return self.process.wait(120)


def replicas(port):
    """Process ids."""
    listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    ours = re.compile(rf"ray::ServeReplica:\S+-{port}-chat")
    return [int(line.split()[0]) for line in listed.splitlines() if ours.search(line)]


@pytest.fixture(scope="module")
def program():
    program = Program(
        *("viscpm_hf", "serve", "--chat", "tiny", "--paint", "none", "--port", "0", "--max-batch", "4"),
        *("--ray", "--replicas", "2"),
        ready=r"http://127\.0\.0\.1:(\d+)",
    )
    program.port = int(program.match[1])
    yield program
    if program.process.poll() is None:
        program.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def client(program):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{program.port}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client, question, url=None, **options):
    content = [{"type": "text", "text": question}]
    if url is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    messages = [{"role": "user", "content": content}]
    return client.chat.completions.create(model="VisCPM-Chat-tiny", messages=messages, timeout=60, **options)


def outcomes(program):
    with urllib.request.urlopen(f"http://127.0.0.1:{program.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {name: float(number) for name, number in re.findall(r'outcome="(\w+)"} (\S+)', text)}, text


def test_a_killed_replica_costs_no_answer_and_returns(client, program, tiny_chat, picture, data_url, wait_until):
    """A stream that has begun cannot be taken back, and ends with an error; every other request is answered."""
    url = data_url(picture)
    items = [{"image": picture, "question": question} for question in QUESTIONS]
    beams, greedy = ([found[0].text for found in tiny_chat.answers(items, **way)] for way in ({}, {"num_beams": 1}))
    before = replicas(program.port)
    assert len(before) == 2
    answered = threading.Semaphore(0)

    def work(number):
        question, stream = number % len(QUESTIONS), number % 3 == 0
        text = ""
        try:
            if stream:
                for chunk in ask(client, QUESTIONS[question], url, stream=True):
                    text += chunk.choices[0].delta.content or ""
            else:
                text = ask(client, QUESTIONS[question], url).choices[0].message.content
        except openai.APIError as error:
            assert stream and text and error.code == "internal_error"
            return "cut"
        finally:
            answered.release()
        assert text == (greedy if stream else beams)[question]
        return "right"

    with ThreadPoolExecutor(32) as threads:
        found = [threads.submit(work, number) for number in range(96)]
        for _ in range(8):
            answered.acquire()
        os.kill(before[0], signal.SIGKILL)
        found = [each.result() for each in found]
    assert found.count("right") >= 96 - 4  # of a batch of streams
    counted, _ = outcomes(program)
    assert counted["answered"] == found.count("right") and counted["failed"] == found.count("cut")
    wait_until(lambda: len(replicas(program.port)) == 2 and before[0] not in replicas(program.port), 90)
    with urllib.request.urlopen(f"http://127.0.0.1:{program.port}/health", timeout=10) as health:
        assert health.status == 200


def test_who_hangs_up_stops_the_model(client, program):
    """Long answers hold both replicas, unless they stop when nobody reads them: the third would wait for minutes."""
    before, _ = outcomes(program)
    for _ in range(20):  # some answers are short by chance
        stream = ask(client, "x", stream=True, temperature=2, max_tokens=100_000)
        next(iter(stream))
        stream.close()
        if outcomes(program)[0]["cancelled"] >= before["cancelled"] + 3:
            break
    else:
        pytest.fail("Nothing was cancelled.")
    assert ask(client, "图里有什么？").choices[0].finish_reason == "stop"


def test_what_a_replica_refuses_is_said(client):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="expected at most 3000") as refused:
            ask(client, "图里有什么？" * 1000, stream=stream)
        assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="at most 3 from its beams"):
        ask(client, "x", n=4)


def test_earlier_turns_go_along(client, tiny_chat):
    messages = [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "<ans> 你好"},
        {"role": "user", "content": "图里有什么？"},
    ]
    answer = client.chat.completions.create(model="VisCPM-Chat-tiny", messages=messages, timeout=60)
    context = tiny_chat.processor.format_turn("你好", tiny_chat.processor.tokenizer.escape("<ans> 你好"))
    (wanted,) = tiny_chat.answers([{"image": None, "question": "图里有什么？", "context": context}])[0]
    assert answer.choices[0].message.content == wanted.text and answer.usage.prompt_tokens == wanted.prompt_tokens


def test_equal_requests_share_batches(client, program):
    before = float(re.search(r"viscpm_batches_total{.*} (\S+)", outcomes(program)[1])[1])
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda number: ask(client, "图里有什么？"), range(64)))
    after = float(re.search(r"viscpm_batches_total{.*} (\S+)", outcomes(program)[1])[1])
    assert 16 <= after - before < 40  # of four, by two replicas


def test_only_this_machine_reaches_it(program):
    """Whoever reaches Ray can run what he likes. Replicas have a port at all addresses, which asks for Ray's token."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = dict(map(int, line.split()) for line in listed.splitlines())
    tree = {program.process.pid}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    files = [file for pid in tree - set(replicas(program.port)) for file in Path(f"/proc/{pid}/fd").glob("*")]
    sockets = {os.readlink(file) for file in files if file.is_symlink()}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                listening.append(fields[1].partition(":")[0])
    assert len(listening) > 5  # of Ray, which has many, and the server's own
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_it_stops_when_all_is_answered(client, program):
    """The last of the module, since it stops the server."""
    with ThreadPoolExecutor(32) as threads:
        found = [threads.submit(ask, client, question) for question in QUESTIONS * 8]
        found[0].result()
        program.process.send_signal(signal.SIGTERM)
        answers = []
        for each in found:
            try:
                answers.append(each.result().choices[0].finish_reason)
            except (openai.InternalServerError, openai.APIConnectionError) as error:  # not yet taken by then
                assert getattr(error, "code", None) in (None, "server_stopping")
    assert len(answers) >= 8
    assert program.process.wait(60) == 0 and "Stopping" in program.said
    deadline = time.monotonic() + 20
    while replicas(program.port) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not replicas(program.port)


def test_without_ray_requests_get_503_and_the_server_ends_with_70():
    """The raylet is killed under answers that would take minutes; systemd starts the server anew."""
    program = Program(
        *("viscpm_hf", "serve", "--chat", "tiny", "--paint", "none", "--port", "0", "--ray"),
        ready=r"http://127\.0\.0\.1:(\d+)",
    )
    begun = threading.Semaphore(0)

    def work(stream):
        while True:  # some answers are short by chance
            try:
                answer = ask(client, "x", stream=stream, temperature=2, max_tokens=100_000)
                for _ in answer if stream else ():
                    begun.release()
            except openai.APIError as error:
                return getattr(error, "status_code", type(error).__name__), error.code

    try:
        base_url = f"http://127.0.0.1:{program.match[1]}/v1"
        with (
            openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client,
            ThreadPoolExecutor(4) as threads,
        ):
            found = [threads.submit(work, number == 0) for number in range(4)]
            assert begun.acquire(timeout=60)
            own = ["ps", "--ppid", str(program.process.pid), "-o", "pid=,comm="]
            listed = subprocess.run(own, capture_output=True, text=True, check=True).stdout
            (raylet,) = re.findall(r"(\d+) raylet", listed)
            os.kill(int(raylet), signal.SIGKILL)
            stream, *others = [each.result(90) for each in found]
        # the replica may be the first to go, and what was streamed cannot be asked again
        assert stream[1] in ("server_stopping", "internal_error")
        assert others == [(503, "server_stopping")] * 3
        assert program.process.wait(90) == 70
        assert "Ray, which ran the models, is gone" in program.said and "Traceback" not in program.said
    finally:
        if program.process.poll() is None:
            program.stop(signal.SIGKILL)


def test_the_example_runs(tmp_path, picture, data_url, tiny_chat, wait_until):
    """`serve run` with Ray's own HTTP server: the example, but for its models, its address and its GPUs."""
    config = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    folder = Path(tiny.tiny_chat_repo())
    config["http_options"] |= {"host": "127.0.0.1", "port": (port := free_port())}
    arguments = config["applications"][0]["args"]
    arguments |= {"chat": str(folder), "replicas": 1, "gpus_per_replica": 0, "entrances": 1}
    del arguments["paint"]
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    program = Program("ray.serve.scripts", "run", str(tmp_path / "cluster.yaml"), ready="Submitted deploy config")
    try:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
            wait_until(lambda: is_ready(port) or program.process.poll() is not None, 180)
            (model,) = client.models.list()
            assert model.id == folder.name
            content = [
                {"type": "image_url", "image_url": {"url": data_url(picture)}},
                {"type": "text", "text": "图里有什么？"},
            ]
            options = {"model": model.id, "messages": [{"role": "user", "content": content}], "timeout": 60}
            answer = client.chat.completions.create(**options)
            assert answer.choices[0].message.content == tiny_chat.chat(picture, "图里有什么？")[0]
            pieces = list(client.chat.completions.create(**options, stream=True))
            assert len(pieces) > 3
            with pytest.raises(openai.BadRequestError, match="at most 3 from its beams"):
                client.chat.completions.create(**options, n=4)
    finally:
        program.stop(signal.SIGINT)


def is_ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
