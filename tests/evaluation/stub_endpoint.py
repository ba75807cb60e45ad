"""A chat completions server for tests that misbehaves as it is told, one reply after the other."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-secret-of-the-tests"


class StubEndpoint:
    """Answers each request with the next of its question's replies; the last one is repeated.

    A reply is a text (of a completion), a number (an HTTP error), `"slow"` (later than any client here waits) or
    bytes (a body that is no completion).

    Args:
        reply: the prompt → its replies.
    """

    def __init__(self, reply, models=("stub",)):
        self.reply, self.models = reply, models
        self.requests, self.prompts, self.asked = [], [], Counter()
        self.most_at_once = self._now = 0
        self._lock, self._leave = threading.Lock(), threading.Event()

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"stub": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        return self

    def __exit__(self, *_):
        self._leave.set()
        self._server.shutdown()
        self._server.server_close()

    def next_reply(self, request):
        prompt = request["messages"][-1]["content"]
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self.requests.append(request)
            self.prompts.append(prompt)
            key = json.dumps(prompt, sort_keys=True)
            replies = self.reply(prompt)
            replies = replies if isinstance(replies, list) else [replies]
            found = replies[min(self.asked[key], len(replies) - 1)]
            self.asked[key] += 1
        time.sleep(0.005)  # so that requests meet
        with self._lock:
            self._now -= 1
        if found == "slow":
            self._leave.wait(20)
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.stub.models]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = self.stub.next_reply(request)
        if isinstance(found, dict):  # an error of OpenAI's shape
            self._send(400, {"error": found})
        elif isinstance(found, int):
            message = f"error {found} for {self.headers['Authorization']}"
            self._send(found, {"error": {"message": message, "code": "made_up"}})
        elif isinstance(found, bytes):
            self._send(200, found)
        else:
            message = {"role": "assistant", "content": found}
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._send(200, {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

    def _send(self, status, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client has not waited
            self.close_connection = True
