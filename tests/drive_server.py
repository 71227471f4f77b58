"""What stands in for Google Drive: the documented calls of its API, version 3, over HTTP on loopback, in memory.

As strict as the documents: only the fields that were asked for, pages that are small, queries of the known form.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from imageloom.stores import credentials, open_store

FOLDER = "application/vnd.google-apps.folder"
ROOT = "the-root"
_QUERY = re.compile(
    r"\((?P<parents>.*? in parents)\) and trashed = false(?: and name = (?P<name>'.*'))?", re.DOTALL
)

Fault = tuple[int, str]
"""A status and Drive's reason."""


class DriveServer:
    """A Drive of one user; it ends with the block.

    Args:
        fault: what goes wrong with a request, by its method and path; called in its own thread.
        page: files or changes in an answer at the most.
    """

    def __init__(
        self, fault: Callable[[str, str], Fault | None] = lambda method, path: None, page: int = 7
    ) -> None:
        self.fault = fault
        self.page = page
        self.lock = threading.RLock()
        self.files: dict[str, dict[str, Any]] = {
            ROOT: {"id": ROOT, "name": "My Drive", "mimeType": FOLDER, "parents": [], "may_add": True}
        }
        self.changes: list[str] = []
        self.requests: list[tuple[str, str]] = []
        """Methods and paths with their queries."""
        self.uploads: dict[str, tuple[str, dict[str, Any], int, bytearray]] = {}
        self.given: set[str] = set()
        """Ids that were given out."""
        self._numbers = itertools.count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.drive = self  # type: ignore[attr-defined]

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> DriveServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked(self, path: str) -> int:
        """How often a path was asked for whose query has that text."""
        return sum(path in asked for _, asked in self.requests)

    # Past its interface

    def number(self) -> int:
        with self.lock:
            return next(self._numbers)

    def add(self, name: str, parent: str = ROOT, data: bytes | None = None, **more: Any) -> str:
        """A new file, or a folder where there are no data; its id."""
        made = f"id-{self.number()}"
        self.save(
            {
                "id": made,
                "name": name,
                "parents": [parent],
                **({"mimeType": FOLDER} if data is None else {}),
                **more,
            },
            data,
        )
        return made

    def save(self, file: dict[str, Any], data: bytes | None) -> dict[str, Any]:
        """Create a file or change one."""
        with self.lock:
            above = self.files.get(next(iter(file.get("parents", [])), ""), {})
            file = ({"driveId": above["driveId"]} if "driveId" in above else {}) | file
            now = (datetime.now(UTC) + timedelta(milliseconds=len(self.changes))).isoformat(
                timespec="milliseconds"
            )
            now = now.replace("+00:00", "Z")
            known = self.files.setdefault(
                file["id"], {"createdTime": now, "mimeType": "image/jpeg", "trashed": False}
            )
            known |= file | {"modifiedTime": now}
            if data is not None:
                known |= {"data": data, "size": str(len(data)), "md5Checksum": hashlib.md5(data).hexdigest()}
            self.changes.append(file["id"])
            return known

    def remove(self, file_id: str) -> None:
        with self.lock:
            del self.files[file_id]
            self.changes.append(file_id)

    def folder(self, path: str, parent: str = ROOT) -> str:
        """The id of a folder by its path, made where there is none."""
        for name in filter(None, path.split("/")):
            found = [f["id"] for f in self.within(parent) if f["name"] == name and f["mimeType"] == FOLDER]
            parent = found[0] if found else self.add(name, parent)
        return parent

    def within(self, parent: str) -> list[dict[str, Any]]:
        with self.lock:
            return [f for f in self.files.values() if parent in f["parents"] and not f.get("trashed")]

    def put(self, path: str, data: bytes, parent: str = ROOT) -> str:
        """A file by its path, new or with new content; its id."""
        folder, _, name = path.rpartition("/")
        parent = self.folder(folder, parent)
        for file in self.within(parent):
            if file["name"] == name and file["mimeType"] != FOLDER:
                self.save({"id": file["id"]}, data)
                return str(file["id"])
        return self.add(name, parent, data)

    def contents(self, parent: str = ROOT, prefix: str = "") -> dict[str, bytes]:
        """All files below a folder by their paths, which must be unique."""
        found: dict[str, bytes] = {}
        for file in self.within(parent):
            if file["mimeType"] == FOLDER:
                below = self.contents(file["id"], f"{prefix}{file['name']}/")
            else:
                below = {prefix + file["name"]: file["data"]}
            assert not found.keys() & below.keys(), "two files have one name"
            found |= below
        return found


class Folder:
    """A folder of it, as a place for the suite of stores."""

    def __init__(self, server: DriveServer, path: str) -> None:
        self._server = server
        self._path = path
        self.address = f"gdrive://root/{path}"
        self.id = server.folder(path)

    def put(self, key: str, data: bytes) -> None:
        self._server.put(f"{self._path}/{key}", data)

    def contents(self) -> dict[str, bytes]:
        return self._server.contents(self.id)


def reach(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the stores of this test and of what it starts ask there."""
    monkeypatch.setenv(credentials.GOOGLE_FROM, endpoint)
    open_store.cache_clear()


class _Answer(Exception):
    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self.answer()

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815  # as http.server calls them

    def answer(self) -> None:
        self.drive: DriveServer = self.server.drive  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with self.drive.lock:
            self.drive.requests.append((self.command, self.path))
        try:
            if fault := self.drive.fault(self.command, self.path):
                raise _Answer(*fault)
            with self.drive.lock:
                self.route(parts.path)
        except _Answer as answer:
            errors = [{"domain": "global", "reason": answer.reason, "message": "secret text"}]
            self.say(answer.status, {"error": {"code": answer.status, "errors": errors}})

    def route(self, path: str) -> None:
        drive, method = self.drive, self.command
        match method, path.removeprefix("/drive/v3/").removeprefix("/upload/drive/v3/"):
            case "GET", "files":
                self.list()
            case "GET", "files/generateIds":
                ids = [f"given-{drive.number()}" for _ in range(int(self.query["count"]))]
                drive.given.update(ids)
                self.say(200, {"ids": ids})
            case "GET", "changes/startPageToken":
                self.say(200, {"startPageToken": str(1 + len(drive.changes))})
            case "GET", "changes":
                self.list_changes()
            case "PUT", "session":
                self.take_part()
            case "POST", "files" if path.startswith("/upload/"):
                self.upload("")
            case "POST", "files":
                self.say(200, self.shown(drive.save(self.new(json.loads(self.body)), None)))
            case _, other if other.startswith("files/"):
                self.one(method, other.removeprefix("files/"), path.startswith("/upload/"))
            case _:
                raise _Answer(404, "notFound")

    def one(self, method: str, file_id: str, uploads: bool) -> None:
        file_id = ROOT if file_id == "root" else file_id
        file = self.drive.files.get(file_id)
        if file is None:
            raise _Answer(404, "notFound")
        if method == "PATCH" and uploads:
            self.upload(file_id)
        elif method == "DELETE":
            self.drive.remove(file_id)
            self.say(204, None)
        elif method == "GET" and self.query.get("alt") == "media":
            self.send_range(file["data"])
        elif self.query.get("fields") == "capabilities/canAddChildren":
            self.say(200, {"capabilities": {"canAddChildren": file.get("may_add", True)}})
        elif method == "GET":
            self.say(200, self.shown(file))
        else:
            raise _Answer(400, "badRequest")

    # Listing

    def list(self) -> None:
        asked = _QUERY.fullmatch(self.query["q"])
        if asked is None or self.query.get("orderBy") != "createdTime":
            raise _Answer(400, "invalid")
        parents = [unquoted(each.removesuffix(" in parents")) for each in asked["parents"].split(" or ")]
        name = (
            unquoted(asked["name"]).lower() if asked["name"] else None
        )  # it is told that case does not count
        found = [
            file
            for file in self.drive.files.values()
            if set(parents) & set(file["parents"])
            and self.is_asked_for(file)
            and not file.get("trashed")
            and (name is None or file["name"].lower() == name)
        ]
        found.sort(key=lambda file: file["createdTime"])
        start = int(self.query.get("pageToken", "0"))
        size = min(self.drive.page, int(self.query["pageSize"]))
        page: dict[str, Any] = {"files": [self.shown(file) for file in found[start : start + size]]}
        if start + size < len(found):
            page["nextPageToken"] = str(start + size)
        self.say(200, page)

    def is_asked_for(self, file: dict[str, Any]) -> bool:
        """Whether the request is for the shared drive that a file lies in, or for the user's own."""
        if "driveId" in self.query and self.query.get("corpora", "drive") != "drive":
            raise _Answer(403, "teamDrivesParentLimit")
        shown = self.query.get("includeItemsFromAllDrives") == self.query.get("supportsAllDrives") == "true"
        return file.get("driveId") == self.query.get("driveId") and (shown or "driveId" not in file)

    def list_changes(self) -> None:
        token = self.query["pageToken"]
        if not token.isdigit():
            raise _Answer(400, "invalid")
        start = int(token) - 1
        changes = []
        for file_id in self.drive.changes[start : start + self.drive.page]:
            file = self.drive.files.get(file_id)
            if file and not self.is_asked_for(file):
                continue
            change: dict[str, Any] = {"fileId": file_id, "removed": file is None}
            changes.append(change | ({"file": self.shown(file)} if file else {}))
        until = min(start + self.drive.page, len(self.drive.changes))
        more = until < len(self.drive.changes)
        self.say(200, {"changes": changes, "nextPageToken" if more else "newStartPageToken": str(until + 1)})

    def shown(self, file: dict[str, Any]) -> dict[str, Any]:
        """The fields that were asked for."""
        mask = re.search(r"\bfiles?\((.*?)\)", self.query.get("fields", ""))
        fields = (mask[1] if mask else self.query.get("fields", "id,name,mimeType")).split(",")
        return {name: file[name] for name in fields if name in file}

    # Content

    def new(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """What is to be created.

        Raises:
            _Answer: its id was not given out, is taken, or its parent is not there.
        """
        if metadata["id"] in self.drive.files:
            raise _Answer(409, "fileIdInUse")
        if metadata["id"] not in self.drive.given or len(metadata["parents"]) != 1:
            raise _Answer(400, "invalid")
        if metadata["parents"][0] not in self.drive.files:
            raise _Answer(404, "notFound")
        return metadata

    def upload(self, file_id: str) -> None:
        if self.query["uploadType"] == "multipart":
            boundary = self.headers["Content-Type"].partition("boundary=")[2]
            _, first, second, end = self.body.split(f"--{boundary}".encode())
            assert end == b"--"
            metadata = json.loads(first.partition(b"\r\n\r\n")[2])
            data = second.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            self.save(file_id, metadata, data)
            return
        metadata = json.loads(self.body)
        if not file_id:
            self.new(metadata)
        session = f"upload-{self.drive.number()}"
        self.drive.uploads[session] = (
            file_id,
            metadata,
            int(self.headers["X-Upload-Content-Length"]),
            bytearray(),
        )
        where = f"http://{self.headers['Host']}/upload/drive/v3/session?upload_id={session}"
        self.say(200, None, {"Location": where})

    def save(self, file_id: str, metadata: dict[str, Any], data: bytes) -> None:
        file = metadata | {"id": file_id} if file_id else self.new(metadata)
        self.say(200, self.shown(self.drive.save(file, data)))

    def take_part(self) -> None:
        file_id, metadata, size, held = self.drive.uploads[self.query["upload_id"]]
        asked = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", self.headers["Content-Range"])
        assert asked
        assert int(asked[3]) == size
        if asked[1]:
            if int(asked[1]) != len(held):
                raise _Answer(400, "invalid")
            held += self.body
        if len(held) < size:
            arrived = {"Range": f"bytes=0-{len(held) - 1}"} if held else {}
            self.say(308, None, arrived)
        elif file_id or metadata["id"] not in self.drive.files:
            self.save(file_id, metadata, bytes(held))
        else:
            self.say(200, self.shown(self.drive.files[metadata["id"]]))

    def send_range(self, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert asked
        start, end = int(asked[1]), min(int(asked[2]), len(data) - 1)
        if start > end:
            raise _Answer(416, "requestedRangeNotSatisfiable")
        self.send(206, data[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(data)}"})

    def say(self, status: int, answer: object, headers: dict[str, str] | None = None) -> None:
        self.send(status, b"" if answer is None else json.dumps(answer).encode(), headers or {})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def unquoted(value: str) -> str:
    assert value[0] == value[-1] == "'"
    return re.sub(r"\\(.)", r"\1", value[1:-1])
