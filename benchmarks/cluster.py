"""What replicas cost and bring on one machine: start, memory, requests per second, as RESULTS.md has them.

python benchmarks/cluster.py [--clients 64] [--requests 256] [--rounds 2]
"""

import argparse
import base64
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from viscpm_hf.tiny import PICTURES

QUESTION = "图里有什么？"
WAYS = {
    "viscpm serve": [],
    "--ray --replicas 1": ["--ray", "--replicas", "1"],
    "--ray --replicas 2": ["--ray", "--replicas", "2"],
}


@contextmanager
def served(options: list[str]) -> Iterator[tuple[int, int, float]]:
    """A server of the tiny Chat: its process id, its port, the seconds until it was ready."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "viscpm_hf", "serve", *"--chat tiny --paint none --port 0".split(), *options]
    environment = os.environ | {"LC_ALL": "C.UTF-8", "RAY_ADDRESS": "local"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    try:
        lines = iter(process.stderr.readline, "")
        port = next((found[1] for line in lines if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line))), None)
        if port is None:
            raise SystemExit(f"error: {' '.join(command)} does not serve")
        seconds = time.perf_counter() - started
        with ThreadPoolExecutor(1) as reading:
            reading.submit(lambda: [None for _ in lines])
            yield process.pid, int(port), seconds
            process.send_signal(signal.SIGTERM)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def load(port: int, clients: int, requests: int) -> tuple[float, list[float]]:
    """Requests per second, and the seconds of each."""
    picture = base64.b64encode((PICTURES / "1_cat_and_apple.png").read_bytes()).decode()
    body = json.dumps({"image": picture, "question": QUESTION})

    def client(number):
        connection, seconds = http.client.HTTPConnection("127.0.0.1", port, timeout=120), []
        for _ in range(requests // clients):
            start = time.perf_counter()
            connection.request("POST", "/viscpm", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise SystemExit(f"error: {answer.status}: {answer.read().decode()[:500]}")
            answer.read()
            seconds.append(time.perf_counter() - start)
        return seconds

    with ThreadPoolExecutor(clients) as threads:
        start = time.perf_counter()
        seconds = [one for each in threads.map(client, range(clients)) for one in each]
        return len(seconds) / (time.perf_counter() - start), seconds


def processes(pid: int) -> dict[str, list[int]]:
    """Of a server: itself, its replicas, the rest of Ray."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    parents = {int(number): int(parent) for number, parent, *_ in rows}
    found = {"server": [pid], "replicas": [], "rest": []}
    for number, name in ((int(row[0]), row[-1]) for row in rows):
        above = parents[number]
        while above in parents and above != pid:
            above = parents[above]
        if above == pid:
            found["replicas" if "ServeReplica" in name else "rest"].append(number)
    return found


def memory(pids: list[int]) -> float:
    """MiB; what several processes share is counted once."""
    files = [Path(f"/proc/{pid}/smaps_rollup") for pid in pids]
    texts = [file.read_text() for file in files if file.exists()]  # ps itself is gone
    return sum(int(re.search(r"^Pss: +(\d+)", text, re.M)[1]) for text in texts) / 1024


def used(pids: list[int]) -> float:
    """Seconds of a core that processes have had."""
    files = [Path(f"/proc/{pid}/stat") for pid in pids]
    fields = [file.read_text().rpartition(")")[2].split() for file in files if file.exists()]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


COLUMNS = [
    *("", "start (s)", "server (MiB)", "a replica (MiB)", "rest of Ray (MiB)", "requests/s", "p50 (s)", "p95 (s)"),
    *("CPU of a request: server (ms)", "replicas", "rest", "load of the machine before"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print(f"{options.clients} clients, {options.requests} requests, {os.cpu_count()} cores")
    print("|", " | ".join(COLUMNS), "|")
    print("|" + " - |" * len(COLUMNS))
    for _ in range(options.rounds):
        for name, way in WAYS.items():
            busy = os.getloadavg()[0]
            with served(way) as (pid, port, seconds):
                load(port, options.clients, options.clients)
                found = processes(pid)
                before = {kind: used(each) for kind, each in found.items()}
                rate, times = load(port, options.clients, options.requests)
                cpu = [1000 * (used(each) - before[kind]) / len(times) for kind, each in found.items()]
                sizes = {kind: memory(each) for kind, each in found.items()}
            cuts = statistics.quantiles(times, n=20)
            cells = [
                f"{seconds:.0f}",
                f"{sizes['server']:.0f}",
                f"{sizes['replicas'] / max(1, len(found['replicas'])):.0f}",
                f"{sizes['rest']:.0f}",
                f"{rate:.1f}",
                f"{cuts[9]:.2f}",
                f"{cuts[18]:.2f}",
                *(f"{each:.0f}" for each in cpu),
                f"{busy:.1f}",
            ]
            print("|", " | ".join([name, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
