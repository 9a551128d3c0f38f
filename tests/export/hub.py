"""A Hugging Face Hub on this machine: the few endpoints that `ppvit export --push` asks, with a failure where told to.

Endpoints and answers are those that huggingface_hub's ``HfApi`` calls and reads (its ``hf_api.py`` and ``lfs.py``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_write"


class Hub:
    """The state of the hub.

    Attributes:
        repositories: files by repository.
        private: whether each is.
        commits: number of commits by repository.
        received: all bodies that came.
        fails: part of an address that is answered with this code.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: dict[str, int] = {}
        self.received: list[bytes] = []
        self.fails: dict[str, int] = {}
        self.large: dict[str, bytes] = {}
        self.address = ""

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        """Status and JSON."""
        self.received.append(body)
        if (failing := next((part for part in self.fails if part in f"{method} {path}"), None)) is not None:
            return self.fails[failing], {"error": "refused here"}
        if path == "/api/validate-yaml":
            problems = problems_of_card(json.loads(body)["content"])
            return (400 if problems else 200), {"errors": [{"message": each} for each in problems], "warnings": []}
        if method == "PUT":  # what a signed address takes has no token
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "me"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.repositories[name], self.private[name] = {".gitattributes": b""}, self.is_private(asked)
            return 200, {"url": f"{self.address}/{name}"}
        if path == "/api/repos/delete":
            asked = json.loads(body)
            del self.repositories[f"{asked['organization']}/{asked['name']}"]
            return 200, {}
        name = re.sub(r"^/(api/models/)?([^/]+/[^/.]+).*", r"\2", path)
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}
        return 200, self.of_repository(name, path, body)

    @staticmethod
    def is_private(asked: dict[str, Any]) -> bool:
        return asked.get("private") or asked.get("visibility") == "private"

    def of_repository(self, name: str, path: str, body: bytes) -> Any:
        files = self.repositories[name]
        if "/preupload/" in path:
            listed = json.loads(body)["files"]
            modes = {each["path"]: "lfs" if each["path"].endswith("safetensors") else "regular" for each in listed}
            return {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}
        if "/info/lfs/objects/batch" in path:
            return {"transfer": "basic", "objects": [self.upload_of(each) for each in json.loads(body)["objects"]]}
        if "/commit/" in path:
            for line in body.decode().splitlines():
                self.change(files, **json.loads(line))
            self.commits[name] = self.commits.get(name, 0) + 1
            oid = "0" * 40
            return {"success": True, "commitUrl": f"{self.address}/{name}/commit/{oid}", "commitOid": oid}
        if "/tree/" in path:
            return [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files.items()
            ]
        return {
            "id": name,
            "modelId": name,
            "siblings": [{"rfilename": each} for each in files],
            "private": True,
            "tags": [],
        }

    def upload_of(self, asked: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.address}/upload/{asked['oid']}"
        return {**asked, "authenticated": True, "actions": {"upload": {"href": href, "header": {}}}}

    def change(self, files: dict[str, bytes], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            data = self.large[value["oid"]]
            assert hashlib.sha256(data).hexdigest() == value["oid"]
            files[value["path"]] = data
        elif key == "deletedFile":
            del files[value["path"]]


def problems_of_card(content: str) -> list[str]:
    """What the Hub asks of the front matter, as its documentation of model cards has it."""
    values = yaml.safe_load(content.split("---\n")[1])
    problems = [] if re.fullmatch(r"[a-z0-9.+-]+", values.get("license", "")) else ["license is none"]
    if values.get("license") == "no-such-licence":
        problems.append('"license" must be one of [apache-2.0, mit, ...]')
    for name in ("datasets", "metrics", "tags"):
        listed = values.get(name, [])
        problems += [] if all(isinstance(each, str) for each in listed) else [f"{name} must be a list of texts"]
    for model in values.get("model-index", []):
        for result in model["results"]:
            whole = result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
            whole = whole and all(each["type"] and "value" in each for each in result["metrics"])
            problems += [] if whole and model["name"] else ["model-index lacks something"]
    return problems


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers while this lasts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = hub.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            data = json.dumps(answer).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
