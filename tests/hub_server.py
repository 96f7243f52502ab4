"""A small server on loopback that answers as the hub does, and a client process whose environment points at it."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

LARGE = (".safetensors", ".bin", ".gguf")  # what the hub keeps elsewhere and redirects to


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    authorization: str
    range: str


class Hub:
    """The repositories, by name and commit, and what was asked.

    Attributes
    ----------
    repositories : dict of name to dict of revision to dict of file to bytes
    private : dict of name to the token that opens it
    gated : set of names
    renamed : dict of an old name to the new one
    answers : dict of a path's end to a status, for what goes wrong
    asked : list of Asked
    """

    def __init__(self):
        self.repositories, self.private, self.gated, self.answers, self.asked = {}, {}, set(), {}, []
        self.renamed = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                hub.answer(self)

            def do_GET(self):
                hub.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.elsewhere = f"http://localhost:{self.server.server_port}/cdn/"  # another host, as far as a client knows
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, name, files, revision="main"):
        """Put a repository of files by name there."""
        files = {file: data if isinstance(data, bytes) else json.dumps(data).encode() for file, data in files.items()}
        self.repositories.setdefault(name, {})[revision] = files

    def commit(self, name, revision="main"):
        """Return what a revision stands for."""
        return hashlib.sha1(f"{name} {sorted(self.repositories[name][revision].items())}".encode()).hexdigest()

    def took(self, method="GET"):
        """Return the files asked for with a method since the last call, without their commits, and forget them all."""
        took = [re.sub(r".*/resolve/[^/]+/", "", one.path) for one in self.asked if one.method == method]
        self.asked.clear()
        return took

    def answer(self, request):
        header = request.headers.get
        if "/resolve/" in request.path or "/cdn/" in request.path:  # the client's own affairs are not of interest
            self.asked.append(Asked(request.command, request.path, header("Authorization", ""), header("Range", "")))
        cdn = re.fullmatch(r"/cdn/(\w+)", request.path)
        if cdn:
            return self._give(request, self._by_etag(cdn[1]), {"ETag": f'"{cdn[1]}"'})
        match = re.fullmatch(r"/(?P<name>.+?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", request.path)
        if not match:
            return self._refuse(request, 404, "", "no such page")
        name, revision, file = match.groups()
        if name in self.renamed:
            return self._send(request, 307, b"", {"Location": request.path.replace(name, self.renamed[name], 1)})
        if name not in self.repositories:
            return self._refuse(request, 401, "RepoNotFound", "Repository Not Found")
        if name in self.private and header("Authorization") != f"Bearer {self.private[name]}":
            return self._refuse(request, 401, "RepoNotFound", "Repository Not Found")
        if name in self.gated:
            return self._refuse(request, 403, "GatedRepo", "Access to this model is restricted")
        commits = {self.commit(name, one): one for one in self.repositories[name]}
        revision = commits.get(revision, revision)
        if revision not in self.repositories[name]:
            return self._refuse(request, 404, "RevisionNotFound", "Invalid rev id")
        said = {"X-Repo-Commit": self.commit(name, revision)}
        status = next((status for end, status in self.answers.items() if request.path.endswith(end)), None)
        if status is not None:
            return self._refuse(request, status, "", "out of order", said)
        files = self.repositories[name][revision]
        if file not in files:
            return self._refuse(request, 404, "EntryNotFound", "Entry not found", said)
        etag = hashlib.sha256(files[file]).hexdigest()
        if file.endswith(LARGE):
            said |= {"X-Linked-Size": str(len(files[file])), "X-Linked-Etag": f'"{etag}"'}
            said |= {"Location": self.elsewhere + etag}
            return self._send(request, 302, b"", said)
        return self._give(request, files[file], said | {"ETag": f'"{etag}"'})

    def _by_etag(self, etag):
        everything = (data for one in self.repositories.values() for files in one.values() for data in files.values())
        return next(data for data in everything if hashlib.sha256(data).hexdigest() == etag)

    def _give(self, request, data, headers):
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if not part:
            return self._send(request, 200, data, headers)
        start, stop = int(part[1]), min(int(part[2] or len(data)) + 1, len(data))
        headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        return self._send(request, 206, data[start:stop], headers)

    def _refuse(self, request, status, code, message, headers=()):
        said = {"X-Error-Code": code} if code else {}
        return self._send(request, status, b"{}", dict(headers) | said | {"X-Error-Message": message})

    def _send(self, request, status, data, headers):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data)


class Client:
    """Processes that know of the hub from their environment alone."""

    def __init__(self, hub: Hub, home: Path):
        self.hub, self.home = hub, home
        hidden = ("HF_", "HUGGING", "XDG_CACHE", "TRANSFORMERS_")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        self.environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost"}

    def python(self, program, **environment):
        """Run a program, and return its process with what it wrote."""
        command = [sys.executable, "-c", program]
        return self._run(command, environment)

    def numtx(self, *arguments, **environment):
        """Run the command."""
        return self._run([sys.executable, "-m", "numtx", *map(str, arguments)], environment)

    def _run(self, command, environment):
        environment = self.environment | {name: str(value) for name, value in environment.items()}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=self.home)
