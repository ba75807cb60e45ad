"""The HTTP API on the tiny Chat: requests a second, latencies, batches, what HTTP costs, and whether anything is lost.

    python benchmarks/serving.py [--rounds 3] [--mixed 1000] [--fuzz 10]

Server and clients share this machine's cores, so requests a second are of both together. Loopback only.
"""

import argparse
import asyncio
import base64
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx2
from PIL import Image

from viscpm_hf import VisCPMChat
from viscpm_hf.tiny import PICTURES, tiny_chat_repo, use_one_thread

PICTURE = PICTURES / "1_cat_and_apple.png"
DATA_URL = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
QUESTION = "猫在哪里？"
CLIENTS = (1, 8, 64)


def completion(question=QUESTION, url=DATA_URL, **settings):
    """A request to /v1/chat/completions."""
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": content}], **settings}


class Server:
    """A running `viscpm serve`."""

    def __init__(self, process, address):
        self.process, self.address = process, address

    def metric(self, name):
        """The sum of a metric over its labels."""
        text = httpx2.get(f"{self.address}/metrics", trust_env=False).text
        return sum(float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, re.M))

    def resident(self):
        """Bytes of memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s*(\d+)", status)[1])


@contextmanager
def serving(*options):
    """Starts `viscpm serve` with the tiny Chat on a free port; at the end it is to stop cleanly."""
    command = [sys.executable, "-m", "viscpm_hf", "serve", "--paint", "none", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            raise SystemExit("viscpm serve did not start")
        # what it says later must not fill the pipe
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Server(process, found[0])
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(60):
            raise SystemExit(f"viscpm serve ended with {process.returncode}")


def client(address, connections=64):
    """Keeps connections open, as clients do."""
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx2.AsyncClient(base_url=address, limits=limits, timeout=120, trust_env=False)


async def load(server, clients, requests):
    """Seconds of each request, and of all, with so many clients that ask one after the other."""
    left, seconds = iter(range(requests)), []

    async def ask(session):
        for _ in left:
            start = time.perf_counter()
            answer = await session.post("/v1/chat/completions", json=completion())
            answer.raise_for_status()
            seconds.append(time.perf_counter() - start)

    async with client(server.address) as session:
        start = time.perf_counter()
        await asyncio.gather(*(ask(session) for _ in range(clients)))
        return seconds, time.perf_counter() - start


def throughput(rounds):
    """Prints requests a second and latencies, batching on and off, interleaved."""
    print("| clients | batching | requests/s | p50 | p95 | p99 | questions a call |\n|---|---|---|---|---|---|---|")
    with serving("--max-batch", "8") as on, serving("--max-batch", "1") as off:
        servers, found = {"on": on, "off": off}, {}
        for server in servers.values():
            asyncio.run(load(server, 4, 16))  # warm
        for _ in range(rounds):
            for clients in CLIENTS:
                for name, server in servers.items():
                    calls = server.metric("viscpm_batches_total")
                    seconds, all_seconds = asyncio.run(load(server, clients, max(30, 3 * clients)))
                    calls = server.metric("viscpm_batches_total") - calls
                    found.setdefault((clients, name), []).append((seconds, all_seconds, calls))
    for (clients, name), runs in found.items():
        seconds = sorted(second for run in runs for second in run[0])
        rate = statistics.median(len(run[0]) / run[1] for run in runs)
        cuts = statistics.quantiles(seconds, n=100, method="inclusive")
        each = len(seconds) / sum(run[2] for run in runs)
        shown = " | ".join(f"{1000 * cuts[percent - 1]:.0f} ms" for percent in (50, 95, 99))
        print(f"| {clients} | {name} | {rate:.1f} | {shown} | {each:.1f} |")


def overhead(pairs=60):
    """Prints what HTTP costs over a direct call, one client, interleaved."""
    use_one_thread()
    chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False)
    direct, served = [], []
    with serving() as server, httpx2.Client(base_url=server.address, trust_env=False) as session:
        for number in range(pairs + 5):
            start = time.perf_counter()
            with Image.open(PICTURE) as picture:
                answer = chat.chat(picture, QUESTION)[0]
            middle = time.perf_counter()
            reply = session.post("/v1/chat/completions", json=completion()).json()
            end = time.perf_counter()
            if reply["choices"][0]["message"]["content"] != answer:
                raise SystemExit(f"served {reply} for {answer}")
            if number >= 5:
                direct.append(middle - start)
                served.append(end - middle)
    direct, served = 1000 * statistics.median(direct), 1000 * statistics.median(served)
    print(f"one client: direct {direct:.1f} ms, over HTTP {served:.1f} ms, difference {served - direct:.1f} ms")


def equal_requests(count=64):
    """Prints how many calls of the model equal requests that come at once take."""
    with serving() as server:
        asyncio.run(load(server, 2, 4))
        calls = server.metric("viscpm_batches_total")
        asyncio.run(load(server, count, count))
        print(
            f"{count} equal requests at once: {server.metric('viscpm_batches_total') - calls:.0f} calls of the model"
        )


async def _mixed(server, count, answer):
    """Sends good and bad requests, 16 at a time; counts what came back that should not have."""
    good = {
        "completion": completion(),
        "sampled": completion(temperature=0.8, seed=1),
        "stream": completion(stream=True),
        "text": {"messages": [{"role": "user", "content": "你好"}]},
    }
    bad = {
        "field": completion(logprobs=True),
        "picture": completion(url="data:image/png;base64,AAAA"),
        "base64": completion(url="data:image/png;base64,***"),
        "address": completion(url="http://127.0.0.1/picture.png"),
        "role": {"messages": [{"role": "system", "content": "x"}]},
        "number": completion(temperature="hot"),
        "model": completion(model="gpt"),
        "long": completion("图里有什么？" * 3000),
    }
    kinds = [*good, *bad, "json", "hang up"]
    found, gate = Counter(), asyncio.Semaphore(16)

    async def ask(session, number):
        kind = kinds[number % len(kinds)]
        async with gate:
            if kind == "hang up":
                task = asyncio.create_task(session.post("/v1/chat/completions", json=good["completion"]))
                await asyncio.sleep(0.02)
                task.cancel()
                return await asyncio.gather(task, return_exceptions=True)
            body = {"content": b"{"} if kind == "json" else {"json": good.get(kind) or bad[kind]}
            reply = await session.post("/v1/chat/completions", **body)
        right = reply.status_code == 200 if kind in good else 400 <= reply.status_code < 500
        if kind == "completion":
            right = right and reply.json()["choices"][0]["message"]["content"] == answer
        elif kind == "stream":
            right = right and reply.text.endswith("data: [DONE]\n\n")
        elif kind not in good:
            right = right and reply.json()["error"]["message"]
        found[kind if right else f"{kind}: {reply.status_code}"] += 1

    async with client(server.address) as session:
        await asyncio.gather(*(ask(session, number) for number in range(count)))
    return {kind: number for kind, number in found.items() if kind not in kinds}, found.total()


def mixed(count):
    """Prints what was lost of good and bad requests, and how the server's memory grew."""
    chat = VisCPMChat(tiny_chat_repo(), image_safety_checker=False)
    answer = chat.chat(Image.open(PICTURE), QUESTION)[0]
    with serving() as server:
        asyncio.run(_mixed(server, 300, answer))  # allocators fill their pools
        before = server.resident()
        wrong, done = asyncio.run(_mixed(server, count, answer))
        after = server.resident()
        health = httpx2.get(f"{server.address}/health", trust_env=False).status_code
    print(
        f"{count} mixed requests: {done} answered or refused as they should, the others hung up; wrong: {wrong or 0}; "
        f"/health {health}; memory {before / 2**20:.0f} → {after / 2**20:.0f} MB ({after / before - 1:+.1%})"
    )


def fuzz(examples):
    """Prints what schemathesis says of requests it makes up from the OpenAPI document."""
    program = Path(sys.executable).with_name("st")
    if not program.exists():
        print("no schemathesis: pip install schemathesis")
        return
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    options = ["--checks", checks, "--max-examples", str(examples), "--phases", "examples,coverage,fuzzing"]
    with serving("--paint", "tiny", "--timeout", "60") as server:
        command = [
            program,
            "run",
            f"{server.address}/openapi.json",
            *options,
            "--request-timeout",
            "120",
            "--no-color",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
    print("schemathesis:", " ".join(re.findall(r"Test cases:\s+(.*)", done.stdout)), f"(exit code {done.returncode})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mixed", type=int, default=1000)
    parser.add_argument("--fuzz", type=int, default=10, metavar="EXAMPLES", help="of schemathesis, for each operation")
    arguments = parser.parse_args()
    overhead()
    equal_requests()
    throughput(arguments.rounds)
    mixed(arguments.mixed)
    fuzz(arguments.fuzz)


if __name__ == "__main__":
    main()
