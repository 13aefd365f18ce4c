"""A hub that misbehaves: just enough of its protocol for one model or data set, and one fault at a time.

It has the repositories that it was given, each with one commit. ``fault`` says what is wrong with it:

    refuse   every request is answered with status 503
    hang     a request for a file is never answered, a question neither
    stall    a file stops in its middle, and the connection stays
    cut      a file ends in its middle, and the connection with it
    flip     one byte of a file is another than its ETag says
    other    the commit has another content, with ETags that fit it
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
RESOLVE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Repository:
    """Files by path, and the commit that they are said to be."""

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        self.commit = hashlib.sha1("".join(f"{name}{etag(data)}" for name, data in files.items()).encode()).hexdigest()


def etag(data: bytes) -> str:
    """Return the name that the hub gives a file: git's."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def altered(data: bytes) -> bytes:
    """Return as many bytes of which one differs, within a word and far from both ends."""
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


class FaultyHub:
    """A hub on a port of this machine; ``fault`` may be changed while it serves, ``asked`` counts requests.

    Args:
        repositories: by kind (``models`` or ``datasets``) and id.
        victims: only files whose paths end so suffer from a fault.
    """

    def __init__(self, repositories: dict[tuple[str, str], Repository], victims: tuple[str, ...]):
        self.repositories, self.victims = repositories, victims
        self.fault: str | None = None
        self.asked = 0
        self.ending = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop, and let go of requests that hang."""
        self.ending.set()
        self.server.shutdown()
        self.server.server_close()

    def content(self, name: str, data: bytes) -> bytes:
        """Return what a file holds as this hub is now."""
        return altered(data) if self.fault == "other" and name.endswith(self.victims) else data


def handler_of(hub: FaultyHub) -> type:
    """Return the class that answers a hub's requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            hub.asked += 1
            length = int(self.headers.get("Content-Length") or 0)
            self.form = parse_qs(self.rfile.read(length).decode()) if length else {}
            if hub.fault == "refuse":
                return self.send_json({"error": "no service"}, 503)
            if hub.fault == "hang":
                hub.ending.wait()
                self.close_connection = True
                return None
            return self.answer(urlsplit(self.path))

        do_HEAD = do_POST = do_GET  # noqa: N815

        def answer(self, url):
            if match := API.fullmatch(url.path):
                kind, name, verb, revision, rest = match.groups()
                repository = self.find(kind, name, revision)
                if repository is None:
                    return None
                if verb in ("tree", "paths-info"):
                    wanted = self.form.get("paths") or [unquote(rest or "").strip("/")]
                    return self.send_json(
                        [
                            {"type": "file", "path": path, "size": len(data), "oid": etag(hub.content(path, data))}
                            for path, data in repository.files.items()
                            if any(path == one or path.startswith(f"{one}/" if one else "") for one in wanted)
                        ]
                    )
                return self.send_json(
                    {
                        "_id": "0" * 24, "id": unquote(name), "sha": repository.commit, "private": False,
                        "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [],
                        "createdAt": "2024-01-01T00:00:00.000Z", "lastModified": "2024-01-01T00:00:00.000Z",
                        "siblings": [{"rfilename": path} for path in repository.files],
                    }
                )  # fmt: skip
            if match := RESOLVE.fullmatch(url.path):
                kind, name, revision, path = match.groups()
                repository = self.find(kind or "models", name, revision)
                if repository is None:
                    return None
                path = unquote(path)
                if path not in repository.files:
                    return self.refuse("EntryNotFound", repository.commit)
                return self.send_file(path, repository)
            return self.refuse("RepoNotFound")

        def find(self, kind, name, revision):
            repository = hub.repositories.get((kind, unquote(name)))
            if repository is None:
                return self.refuse("RepoNotFound")
            if revision and unquote(revision) not in ("main", repository.commit):
                return self.refuse("RevisionNotFound")
            return repository

        def refuse(self, code, commit=None):
            self.send_json(
                {"error": code}, 404, {"X-Error-Code": code, **({"X-Repo-Commit": commit} if commit else {})}
            )

        def send_json(self, value, status=200, headers=None):
            body = json.dumps(value).encode()
            self.begin(status, {"Content-Type": "application/json", "Content-Length": len(body), **(headers or {})})
            if self.command != "HEAD":
                self.wfile.write(body)

        def begin(self, status, headers):
            self.send_response(status)
            for key, text in headers.items():
                self.send_header(key, str(text))
            self.end_headers()

        def send_file(self, path, repository):
            data = hub.content(path, repository.files[path])
            name, first, status = etag(data), 0, 200
            if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
                first, status = int(match[1]), 206
            headers = {"ETag": f'"{name}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
            headers |= {"Content-Length": len(data) - first}
            if status == 206:
                headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            suffers = path.endswith(hub.victims)
            if hub.fault == "flip" and suffers:
                data = altered(data)
            self.begin(status, headers)
            if self.command == "HEAD":
                return
            if hub.fault in ("cut", "stall") and suffers:
                self.wfile.write(data[first : first + max(0, (len(data) // 2) - first)])
                self.wfile.flush()
                if hub.fault == "stall":
                    hub.ending.wait()
                self.close_connection = True
                return
            self.wfile.write(data[first:])

        def log_message(self, *args):
            pass

    return Handler
