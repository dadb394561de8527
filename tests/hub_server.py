"""
A Hub on the loopback: the endpoints by which `huggingface_hub` makes a model repository and uploads to it, over real
HTTP. Repositories are kept in memory, where a test can look at them.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id


TOKEN = "hf_ThisTokenMustAppearNowhere0123456789"
USER = "tester"


@dataclass
class Repo:
    """A model repository: what it holds, and the message and paths of every commit."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[str, list[str]]] = field(default_factory=list)

    def write(self, directory: Path) -> Path:
        for name, content in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return directory


class HubServer(ThreadingHTTPServer):
    """
    Serves in a thread of its own, as a context manager.

    Args:
        errors (`dict[tuple[str, str], int]`, *optional*):
            (`"create"` or `"commit"`, repository) -> the HTTP status of an error that such requests end in.
    """

    daemon_threads = True

    def __init__(self, errors: dict[tuple[str, str], int] | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.errors = errors or {}
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.unauthorized: list[str] = []  # requests that needed the token and came without
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status: int, content=None):
        body = json.dumps(content or {}).encode()
        self.send_response(status)
        if status >= 400:
            self.send_header("X-Error-Message", content["error"])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def fails(self, action: str, repo: str) -> bool:
        status = self.server.errors.get((action, repo))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.server.unauthorized.append(self.path)
            status = 401
        if status is not None:
            self.answer(status, {"error": f"The server refuses to {action} {repo}."})
        return status is not None

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_GET(self):
        # After a create that was refused: is it there already?
        self.answer(404, {"error": "Repository not found"})

    def do_PUT(self):
        self.server.blobs[self.path.removeprefix("/storage/")] = self.body()
        self.answer(200)

    def do_POST(self):
        body = self.body()
        for pattern, action in (
            (r"/api/repos/create", self.create),
            (r"/api/validate-yaml", self.validate_yaml),
            (r"/api/models/(.+?)/preupload/main", self.preupload),
            (r"/(.+)\.git/info/lfs/objects/batch", self.lfs_batch),
            (r"/verify", self.lfs_verify),
            (r"/api/models/(.+?)/commit/main", self.commit),
        ):
            if match := re.fullmatch(pattern, self.path):
                action(body, *match.groups())
                return
        self.answer(404, {"error": f"No such endpoint: {self.path}"})

    def create(self, body):
        wanted = json.loads(body)
        name = f"{wanted['organization'] or USER}/{wanted['name']}"
        if self.fails("create", name):
            return
        exists = name in self.server.repos
        self.server.repos.setdefault(name, Repo(private=wanted.get("visibility") == "private"))
        answer = {"url": f"{self.server.endpoint}/{name}", "error": "You already created this model repo"}
        self.answer(409 if exists else 200, answer)

    def validate_yaml(self, body):
        errors = metadata_errors(json.loads(body)["content"])
        content = {"errors": [{"message": error} for error in errors], "warnings": []}
        self.answer(400 if errors else 200, content | {"error": "Invalid metadata in README.md"})

    def preupload(self, body, name):
        if not self.fails("preupload", name):
            lfs = (".safetensors", ".bin", ".pt", ".pth")  # of the Hub's .gitattributes
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(lfs) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})

    def lfs_batch(self, body, name):
        if not self.fails("upload to", name):
            objects = json.loads(body)["objects"]
            for file in objects:
                if file["oid"] not in self.server.blobs:
                    file["actions"] = {
                        "upload": {"href": f"{self.server.endpoint}/storage/{file['oid']}"},
                        "verify": {"href": f"{self.server.endpoint}/verify"},
                    }
            self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_verify(self, body):
        wanted = json.loads(body)
        blob = self.server.blobs.get(wanted["oid"], b"")
        right = len(blob) == wanted["size"] and hashlib.sha256(blob).hexdigest() == wanted["oid"]
        self.answer(*((200,) if right else (422, {"error": "The upload is damaged"})))

    def commit(self, body, name):
        if self.fails("commit", name):
            return
        header, *operations = (json.loads(line) for line in body.splitlines())
        repo = self.server.repos[name]
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "lfsFile":
                repo.files[value["path"]] = self.server.blobs[value["oid"]]
            else:
                assert operation["key"] == "file", operation["key"]
                repo.files[value["path"]] = base64.b64decode(value["content"])
        repo.commits.append((header["value"]["summary"], [operation["value"]["path"] for operation in operations]))
        oid = hashlib.sha1(body).hexdigest()
        self.answer(200, {"commitOid": oid, "commitUrl": f"{self.server.endpoint}/{name}/commit/{oid}"})


def metadata_errors(card: str) -> list[str]:
    """What the Hub has against a model card's metadata: https://github.com/huggingface/hub-docs/blob/main/modelcard.md."""
    block = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    data = yaml.safe_load(block[1]) if block else None
    if not isinstance(data, dict):
        return ["There is no metadata block"]
    errors = []
    for name in ("base_model", "datasets"):
        values = data.get(name) or []
        for value in values if isinstance(values, list) else [values]:
            try:
                validate_repo_id(value)
            except HFValidationError as error:
                errors.append(f'"{name}" with value "{value}" is not valid: {error}')
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        errors.append('"tags" must be strings')
    for model in data.get("model-index", []):
        if not isinstance(model.get("name"), str):
            errors.append('"model-index[].name" is required')
        for result in model["results"]:
            if not re.fullmatch(r"[\w-]+", result["task"]["type"]):
                errors.append('"task.type" must be a task')
            if not (result["dataset"].get("name") and re.fullmatch(r"[\w./-]+", result["dataset"].get("type", ""))):
                errors.append('"dataset" needs a name, and the type of an id')
            for metric in result["metrics"]:
                if not (isinstance(metric.get("type"), str) and isinstance(metric.get("value"), int | float)):
                    errors.append('"metrics[]" needs a type and a value')
    return errors
