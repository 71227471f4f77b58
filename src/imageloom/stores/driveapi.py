"""Google Drive's HTTP API, version 3: requests with retries, uploads in parts, errors as text.

Credentials are Google's application default credentials. A file is created with an ID that Drive has generated
before, so that a retry does not create a second file.
"""

from __future__ import annotations

import json
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from imageloom.stores import credentials
from imageloom.stores.media import HEAD, media_type

if TYPE_CHECKING:
    from requests import Response

FOLDER = "application/vnd.google-apps.folder"
NATIVE = "application/vnd.google-apps."
"""Prefix of the types without content: folders, shortcuts, documents."""
FIELDS = "id,name,mimeType,size,md5Checksum,createdTime,modifiedTime,parents,trashed,properties,driveId"
PAGE = 1000
IDS = 100
"""Number of IDs per request for new IDs."""
SMALL = 5_000_000
"""Files up to this number of bytes are uploaded in one request."""
PART = 8 << 20
"""Bytes per request of a larger upload; a multiple of 256 KiB."""
TRIES = 8
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 16.0
_TIMEOUT = (10.0, 60.0)
_THROTTLED = ("rateLimitExceeded", "userRateLimitExceeded")
_EVERYWHERE = {"supportsAllDrives": "true"}
_T = TypeVar("_T")


class File(msgspec.Struct, rename="camel", frozen=True):
    """A file or folder as Drive describes it."""

    id: str
    name: str = ""
    mime_type: str = ""
    size: int = 0
    md5_checksum: str = ""
    created_time: str = ""
    modified_time: str = ""
    parents: tuple[str, ...] = ()
    trashed: bool = False
    properties: dict[str, str] = {}
    drive_id: str = ""
    """ID of the shared drive that contains it."""


class Change(msgspec.Struct, rename="camel", frozen=True):
    file_id: str = ""
    removed: bool = False
    file: File | None = None


class _Files(msgspec.Struct, rename="camel", frozen=True):
    files: tuple[File, ...] = ()
    next_page_token: str = ""


class _Changes(msgspec.Struct, rename="camel", frozen=True):
    changes: tuple[Change, ...] = ()
    next_page_token: str = ""
    new_start_page_token: str = ""


class _Token(msgspec.Struct, rename="camel", frozen=True):
    start_page_token: str


class _Ids(msgspec.Struct, frozen=True):
    ids: tuple[str, ...]


class Refusal(Exception):
    """Drive answered with an error, or did not answer.

    Args:
        status: HTTP status of the answer; 0 if there was no answer.
        reason: Drive's code for the error, or the name of an exception; never a message text.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    @property
    def may_pass(self) -> bool:
        """Whether a retry may succeed."""
        return self.status in (0, 408, 429) or self.status >= 500 or self.reason in _THROTTLED

    def __str__(self) -> str:
        answer = f"{self.status} {self.reason}".strip()
        if self.status == 0:
            return f"Drive cannot be reached, or it cut the connection ({self.reason})"
        if self.status == 404:
            return f"there is no such file or folder, or it is not shared with this account ({answer})"
        if self.status == 429 or self.reason in _THROTTLED:
            return f"there were too many requests to Drive ({answer})"
        if self.status in (401, 403):
            return f"access is denied: check the credentials and their rights ({answer})"
        return f"Drive answered {answer}"


class Drive:
    """A client of Google Drive. Thread-safe: each thread has its own connection.

    Raises:
        MissingExtra: google-auth or requests is not installed.
        StorageError: there are no credentials.
    """

    def __init__(self) -> None:
        self._origin, self._credentials = credentials.google()
        self._own = threading.local()
        self._shared = ""
        self._ids: list[str] = []
        self._lock = threading.Lock()

    # Files and folders

    def open(self, folder_id: str) -> File:
        """Open the folder for all further requests. If it is in a shared drive, requests go to that drive."""
        folder = self.get(folder_id)
        self._shared = folder.drive_id
        return folder

    def get(self, file_id: str) -> File:
        return self._decode(
            self.send("GET", self._file(file_id), params=_EVERYWHERE | {"fields": FIELDS}), File
        )

    def may_add(self, folder_id: str) -> bool:
        """Whether this account may put files into a folder."""
        params = _EVERYWHERE | {"fields": "capabilities/canAddChildren"}
        found = self._decode(
            self.send("GET", self._file(folder_id), params=params), dict[str, dict[str, bool]]
        )
        return found.get("capabilities", {}).get("canAddChildren", True)

    def children(self, folder_ids: tuple[str, ...], name: str = "") -> Iterator[File]:
        """Yield the files and folders in these folders, the oldest first.

        Args:
            name: yield only those with this name.
        """
        query = f"({' or '.join(f'{quoted(each)} in parents' for each in folder_ids)}) and trashed = false"
        if name:
            query += f" and name = {quoted(name)}"
        params = self._within | {
            "q": query,
            "fields": f"nextPageToken,files({FIELDS})",
            "orderBy": "createdTime",
            "pageSize": str(PAGE),
        }
        if self._shared:
            params["corpora"] = "drive"
        while True:
            page = self._decode(self.send("GET", f"{self._origin}/drive/v3/files", params=params), _Files)
            yield from (file for file in page.files if not name or file.name == name)
            if not page.next_page_token:
                return
            params["pageToken"] = page.next_page_token

    def make_folder(self, name: str, parent: str) -> None:
        metadata = {"id": self._new_id(), "name": name, "parents": [parent], "mimeType": FOLDER}
        self._created(
            lambda: self.send("POST", f"{self._origin}/drive/v3/files", params=_EVERYWHERE, json=metadata)
        )

    def delete(self, file_id: str) -> None:
        try:
            self.send("DELETE", self._file(file_id), params=_EVERYWHERE)
        except Refusal as refusal:
            if refusal.status != 404:
                raise

    def _file(self, file_id: str) -> str:
        return f"{self._origin}/drive/v3/files/{file_id}"

    def _new_id(self) -> str:
        with self._lock:
            if not self._ids:
                url = f"{self._origin}/drive/v3/files/generateIds"
                self._ids.extend(self._decode(self.send("GET", url, params={"count": str(IDS)}), _Ids).ids)
            return self._ids.pop()

    # Changes

    def token(self) -> str:
        """A token for all changes from now on."""
        url = f"{self._origin}/drive/v3/changes/startPageToken"
        return self._decode(self.send("GET", url, params=self._within), _Token).start_page_token

    def changes(self, token: str, tries: int) -> tuple[list[Change], str]:
        """The changes since a token was created, and the next token."""
        params = self._within | {
            "fields": f"nextPageToken,newStartPageToken,changes(fileId,removed,file({FIELDS}))",
            "pageSize": str(PAGE),
        }
        found: list[Change] = []
        while True:
            params["pageToken"] = token
            answer = self.send("GET", f"{self._origin}/drive/v3/changes", params=params, tries=tries)
            page = self._decode(answer, _Changes)
            found += page.changes
            if not page.next_page_token:
                return found, page.new_start_page_token
            token = page.next_page_token

    @property
    def _within(self) -> dict[str, str]:
        """The request parameters that include shared drives."""
        drive = {"driveId": self._shared} if self._shared else {}
        return _EVERYWHERE | {"includeItemsFromAllDrives": "true"} | drive

    # Content

    def download(self, file: File, write: Callable[[bytes], object], start: int, length: int) -> None:
        """Download a non-empty range of a file. After a broken connection, continue at that position."""
        position, end, failures = start, start + length, 0
        while True:
            try:
                headers = {"Range": f"bytes={position}-{end - 1}", "Accept-Encoding": "identity"}
                params = _EVERYWHERE | {"alt": "media"}
                with self._once(
                    "GET", self._file(file.id), params=params, headers=headers, stream=True
                ) as answer:
                    if answer.status_code != 206 and position:
                        raise Refusal(answer.status_code, "no range")
                    for chunk in answer.iter_content(1 << 16):
                        wanted = chunk[: end - position]
                        write(wanted)
                        position += len(wanted)
                        failures = 0
                        if position == end:
                            return
                raise Refusal(0, "short")
            except _transport_errors() as error:
                failures = self._pause(failures, error)

    def create(
        self, name: str, parent: str, content: BufferedIOBase, size: int, properties: dict[str, str]
    ) -> str:
        """Create a file, which becomes visible when it is complete. Returns its ID."""
        made = self._new_id()
        metadata = {"id": made, "name": name, "parents": [parent], "properties": properties}
        url = f"{self._origin}/upload/drive/v3/files"
        self._created(lambda: self._upload("POST", url, metadata, content, size))
        return made

    def replace(self, file: File, content: BufferedIOBase, size: int, properties: dict[str, str]) -> None:
        """Replace the content of a file. The old content stays visible until the new content is complete."""
        url = f"{self._origin}/upload/drive/v3/files/{file.id}"
        self._upload("PATCH", url, {"name": file.name, "properties": properties}, content, size)

    def _created(self, create: Callable[[], object]) -> None:
        try:
            create()
        except Refusal as refusal:
            if refusal.status != 409:  # it was created, but the answer was lost
                raise

    def _upload(
        self, method: str, url: str, metadata: dict[str, Any], content: BufferedIOBase, size: int
    ) -> None:
        content.seek(0)
        kind = media_type(content.read(HEAD), metadata["name"])
        content.seek(0)
        if size > SMALL:
            self._upload_parts(method, url, metadata, content, size, kind)
            return
        boundary = secrets.token_hex(16)
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(metadata)}\r\n"
        )
        head += f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n"
        body = head.encode() + content.read() + f"\r\n--{boundary}--".encode()
        headers = {"Content-Type": f"multipart/related; boundary={boundary}"}
        self.send(method, url, params=_EVERYWHERE | {"uploadType": "multipart"}, data=body, headers=headers)

    def _upload_parts(
        self, method: str, url: str, metadata: dict[str, Any], content: BufferedIOBase, size: int, kind: str
    ) -> None:
        headers = {"X-Upload-Content-Type": kind, "X-Upload-Content-Length": str(size)}
        params = _EVERYWHERE | {"uploadType": "resumable"}
        where = self.send(method, url, params=params, json=metadata, headers=headers).headers["Location"]
        position = failures = 0
        while True:
            content.seek(position)
            part = content.read(PART)
            headers = {"Content-Range": f"bytes {position}-{position + len(part) - 1}/{size}"}
            try:
                answer = self._once("PUT", where, data=part, headers=headers)
                failures = 0
            except _transport_errors() as error:
                failures = self._pause(failures, error)
                answer = self.send("PUT", where, headers={"Content-Range": f"bytes */{size}"})
            if answer.status_code != 308:
                return
            arrived = re.fullmatch(r"bytes=0-(\d+)", answer.headers.get("Range", ""))
            position = int(arrived[1]) + 1 if arrived else 0

    # Requests

    def send(self, method: str, url: str, tries: int = TRIES, **options: Any) -> Response:
        """Send a request, with retries.

        Raises:
            Refusal: the last attempt failed.
        """
        failures = 0
        while True:
            try:
                return self._once(method, url, **options)
            except _transport_errors() as error:
                failures = self._pause(failures, error, tries)

    def _once(self, method: str, url: str, **options: Any) -> Response:
        from google.auth.exceptions import GoogleAuthError, TransportError

        try:
            answer: Response = self._session.request(
                method, url, timeout=_TIMEOUT, allow_redirects=False, **options
            )
        except TransportError as error:
            raise Refusal(0, type(error).__name__) from None
        except GoogleAuthError as error:
            raise Refusal(401, type(error).__name__) from None
        if answer.status_code >= 400:
            raise Refusal(answer.status_code, _reason(answer.content))
        return answer

    def _pause(self, failures: int, error: Exception, tries: int = TRIES) -> int:
        """Wait before a retry (back-off). Returns the number of failures in a row.

        Raises:
            Refusal: a retry is useless, or there were too many.
        """
        refusal = error if isinstance(error, Refusal) else Refusal(0, type(error).__name__)
        if not refusal.may_pass or failures + 1 >= tries:
            raise refusal from None
        time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**failures) * (1 + random.random()))
        return failures + 1

    @property
    def _session(self) -> Any:
        if not hasattr(self._own, "session"):
            from google.auth.transport.requests import AuthorizedSession

            session: Any = AuthorizedSession(self._credentials)  # type: ignore[no-untyped-call]
            session.trust_env = self._origin == credentials.GOOGLE
            self._own.session = session
        return self._own.session

    def _decode(self, answer: Response, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(answer.content, type=kind, strict=False)
        except msgspec.DecodeError:
            raise Refusal(answer.status_code, "unintelligible") from None


def quoted(value: str) -> str:
    """Quote a value for Drive's query language."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _reason(body: bytes) -> str:
    """Drive's code for an error, from the body of its answer, which may be anything."""
    try:
        reason = json.loads(body)["error"]["errors"][0]["reason"]
    except (ValueError, LookupError, TypeError):
        return ""
    return reason if isinstance(reason, str) and re.fullmatch(r"\w{1,60}", reason) else ""


def _transport_errors() -> tuple[type[Exception], ...]:
    from requests import RequestException

    return Refusal, RequestException
