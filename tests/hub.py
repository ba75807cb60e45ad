"""A Hub on this machine: serves folders to huggingface_hub clients over HTTP, and takes their uploads."""

import base64
import hashlib
import json
import os
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


class HubError(Exception):
    """An answer other than 200."""

    def __init__(self, status, code, message, **body):
        super().__init__(message)
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Code": code, "X-Error-Message": message}


class LocalHub:
    """Context manager. Repositories are folders, one revision (`main`) each.

    Args:
        uploads (`Path`): Where repositories created by clients are written, as `owner/name`.

    Attributes:
        url (`str`): What clients need as HF_ENDPOINT before they import anything.
        pull_requests (`list[str]`): The repository of each; its files are in `uploads`, as `owner/name-pr-1`, ….
        log (`list[tuple[str, str, int]]`): Method, path and status of every request.
        token (`str`): That may read what is private, and write.
        large (`int`, *optional*): Bytes from which on a file is uploaded by itself, as by Git LFS.
        objects (`dict[str, bytes]`): Such files by SHA-256.
        faults (`list[tuple[str, HubError]]`): Of the requests to come that have this in method and path, the first is
            answered so, and the fault is gone.
        on_object (*optional*): Called with the hash of every object before it is kept.

    Spaces are repositories whose name begins with `spaces/`.
    """

    token = "hf_local"

    def __init__(self, uploads, large=None):
        self.uploads, self.repositories, self.log = Path(uploads), {}, []
        self.private = set()
        self.pull_requests = []
        self.large, self.objects, self.on_object = large, {}, None
        self.faults = []

    def add(self, repo_id, folder):
        """Serves a folder as it is, links not followed out of it."""
        self.repositories[repo_id] = Path(folder)

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home):
        """Environment of a client process with its own cache in `home`."""
        proxies = {"http_proxy", "https_proxy", "all_proxy", "ftp_proxy"}
        inherited = {key: value for key, value in os.environ.items() if key.lower() not in proxies}
        return {
            **inherited,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": self.token,
        }

    def downloaded(self, repo_id):
        """Paths of the repository's files that clients have read, as opposed to looked up."""
        start = f"/{repo_id}/resolve/"
        paths = [path for method, path, status in self.log if method == "GET" and status < 300]
        return {path[len(start) :].partition("/")[2] for path in paths if path.startswith(start)}

    # What follows answers requests: a dict is sent as JSON, a Path as a file.

    def files(self, repo_id):
        if repo_id not in self.repositories:
            raise HubError(404, "RepoNotFound", "Repository not found")
        folder = self.repositories[repo_id]
        # What is served is looked up among these, so no path leads elsewhere.
        return {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.resolve().is_relative_to(folder.resolve())
        }

    def commit(self, repo_id):
        state = [(name, path.stat().st_mtime_ns) for name, path in self.files(repo_id).items()]
        return hashlib.sha1(repr(state).encode()).hexdigest()

    def check_revision(self, repo_id, revision):
        if revision not in ("main", self.commit(repo_id)):
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def info(self, repo_id):
        files = self.files(repo_id)
        return {
            "_id": repo_id,
            "id": repo_id.removeprefix("spaces/"),
            "modelId": repo_id.removeprefix("spaces/"),
            "sha": self.commit(repo_id),
            "private": repo_id in self.private,
            "tags": [],
            "siblings": [{"rfilename": name} for name in files],
        }

    def tree(self, repo_id, folder, recursive):
        entries = {}
        start = f"{folder}/" if folder else ""
        for name, path in self.files(repo_id).items():
            if not name.startswith(start):
                continue
            parts = name[len(start) :].split("/")
            for depth in range(1, len(parts)):
                parent = start + "/".join(parts[:depth])
                if depth == 1 or recursive:
                    entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
            if len(parts) == 1 or recursive:
                entries[name] = {"type": "file", "path": name, "oid": blob_id(path), "size": path.stat().st_size}
        if folder and not entries:
            raise HubError(404, "EntryNotFound", "Entry not found")
        return list(entries.values())

    def file(self, repo_id, name):
        files = self.files(repo_id)
        if name not in files:
            raise HubError(404, "EntryNotFound", "Entry not found")
        return files[name]

    def create(self, organization, name, visibility=None, type="model", **_):
        repo_id = f"{'spaces/' * (type == 'space')}{organization or 'local'}/{name}"
        if repo_id in self.repositories:
            raise HubError(409, "RepoExists", "You already created this model repo", url=f"{self.url}/{repo_id}")
        folder = self.uploads / repo_id
        folder.mkdir(parents=True)
        self.add(repo_id, folder)
        if visibility == "private":
            self.private.add(repo_id)
        name = repo_id.removeprefix("spaces/")
        return {"url": f"{self.url}/{repo_id}", "name": name, "id": name}

    def preupload(self, repo_id, files):
        """ "regular" puts the bytes into the commit itself."""
        there = self.files(repo_id)
        answers = []
        for file in files:
            name, is_large = file["path"], self.large is not None and file["size"] >= self.large
            answer = {"path": name, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
            if name in there:
                answer["oid"] = sha256(there[name]) if is_large else blob_id(there[name])
            answers.append(answer)
        return {"files": answers}

    def batch(self, objects):
        """Where objects are to be put that are not here yet."""
        for each in objects:
            if each["oid"] not in self.objects:
                each["actions"] = {"upload": {"href": f"{self.url}/objects/{each['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def put(self, oid, data):
        if hashlib.sha256(data).hexdigest() != oid:
            raise HubError(400, "BadRequest", "The object has another hash")
        if self.on_object:
            self.on_object(oid)
        self.objects[oid] = data
        return {}

    def upload(self, repo_id, operations, create_pr):
        folder = self.repositories[repo_id]
        parent = next(each["value"].get("parentCommit") for each in operations if each["key"] == "header")
        if parent not in (None, self.commit(repo_id)):
            raise HubError(412, "PreconditionFailed", "A commit has happened since. Please refresh and try again.")
        if create_pr:  # into a folder of its own
            self.pull_requests.append(repo_id)
            folder = self.uploads / f"{repo_id}-pr-{len(self.pull_requests)}"
        for operation in operations:
            value = operation["value"]
            target = folder / value.get("path", "")
            if not target.resolve().is_relative_to(folder.resolve()):
                raise HubError(400, "BadRequest", "Path outside of the repository")
            if operation["key"] in ("file", "lfsFile"):
                is_file = operation["key"] == "file"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(base64.b64decode(value["content"]) if is_file else self.objects[value["oid"]])
            elif operation["key"] == "deletedFile":
                target.unlink()
            elif operation["key"] != "header":
                raise HubError(400, "BadRequest", f"Operation {operation['key']} is not served here")
        commit = self.commit(repo_id)
        answer = {"success": True, "commitOid": commit, "commitUrl": f"{self.url}/{repo_id}/commit/{commit}"}
        if create_pr:
            answer["pullRequestUrl"] = f"{self.url}/{repo_id}/discussions/{len(self.pull_requests)}"
        return answer


@cache
def _blob_id(path, size, modified):
    return hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()


def blob_id(path):
    """Git's hash of a file, which the Hub gives as ETag."""
    status = path.stat()
    return _blob_id(path, status.st_size, status.st_mtime_ns)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, *_):
        pass

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answer = self._answer(body)
            if isinstance(answer, tuple):
                self._send_file(*answer)
            else:
                self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        except HubError as error:
            self._send(error.status, json.dumps(error.body).encode(), error.headers)

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self, body):
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = parse_qs(url.query)
        for number, (where, fault) in enumerate(self.hub.faults):
            if where in f"{self.command} {url.path}":
                del self.hub.faults[number]
                raise fault
        match parts:  # Spaces go by names of three parts
            case ["api", "spaces", owner, name, *rest]:
                parts = ["api", "models", f"spaces/{owner}", name, *rest]
            case ["spaces", owner, name, *rest]:
                parts = [f"spaces/{owner}", name, *rest]
        if self.command == "PUT" and parts[0] == "objects":
            return self.hub.put(parts[1], body)
        self._admit(parts)
        if self.command == "POST":
            return self._take(parts, body, query)
        match parts:
            case ["api", "whoami-v2"]:
                return {"type": "user", "name": "local", "auth": {"type": "access_token"}}
            case ["api", "models", owner, name]:
                return self.hub.info(f"{owner}/{name}")
            case ["api", "models", owner, name, "revision", revision]:
                self.hub.check_revision(f"{owner}/{name}", revision)
                return self.hub.info(f"{owner}/{name}")
            case ["api", "models", owner, name, "tree", revision, *folder]:
                self.hub.check_revision(f"{owner}/{name}", revision)
                recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
                return self.hub.tree(f"{owner}/{name}", "/".join(folder), recursive)
            case [owner, name, "resolve", revision, *path]:
                self.hub.check_revision(f"{owner}/{name}", revision)
                return f"{owner}/{name}", self.hub.file(f"{owner}/{name}", "/".join(path))
        raise HubError(404, "NotFound", f"{self.path} is not served here")

    def _admit(self, parts):
        """Whoever has no token may only read what is public."""
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            repo_id = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
            if self.command == "POST" or repo_id in self.hub.private:
                raise HubError(401, "RepoNotFound", "Invalid username or password.")

    def _take(self, parts, body, query):
        match parts:
            case ["api", "repos", "create"]:
                return self.hub.create(**json.loads(body))
            case ["api", "validate-yaml"]:
                return {"errors": [], "warnings": []}
            case ["api", "models", owner, name, "preupload", _]:
                return self.hub.preupload(f"{owner}/{name}", json.loads(body)["files"])
            case [*_, "info", "lfs", "objects", "batch"]:
                return self.hub.batch(json.loads(body)["objects"])
            case ["api", "models", owner, name, "commit", revision]:
                self.hub.check_revision(f"{owner}/{name}", revision)
                operations = [json.loads(line) for line in body.splitlines()]
                return self.hub.upload(f"{owner}/{name}", operations, query.get("create_pr") == ["1"])
        raise HubError(404, "NotFound", f"{self.path} is not served here")

    def _send_file(self, repo_id, path):
        headers = {
            "ETag": f'"{blob_id(path)}"',
            "X-Repo-Commit": self.hub.commit(repo_id),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        data = path.read_bytes()
        start = self.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
        if start.isdigit():
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206, data[int(start) :], headers)
        else:
            self._send(200, data, headers)

    def _send(self, status, body, headers):
        self.hub.log.append((self.command, urlsplit(self.path).path, status))
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
