"""Object stores: S3 and compatible stores, Google Cloud Storage, Azure Blob Storage, through obstore.

An upload is atomic: an object is complete or does not exist. A worker uploads an output directly under its name,
on the condition that the name is free. An existing object with the mark of the same item, or with the same
bytes, counts as this output. So an item needs one GET and one PUT, and a late worker cannot replace an output.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from msgspec.structs import replace

from imageloom.errors import (
    DiskFull,
    InvalidName,
    ItemError,
    LimitExceeded,
    MissingExtra,
    OutputExists,
    StorageError,
    UnreadableItem,
    UnsupportedImage,
    UnwritableOutput,
    UsageError,
)
from imageloom.model import Item, Unlisted
from imageloom.stores import credentials
from imageloom.stores.media import HEAD, media_type
from imageloom.stores.names import PROBE, STAGING, unsafe
from imageloom.stores.rawlist import RawListing
from imageloom.stores.remote import RemoteStore, Staging, checked, invalid, is_hidden
from imageloom.system import folders

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore as Client

EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure", "memory": "s3"}
MARK = "imageloom"
"""The object attribute that identifies the item that an object was made from."""
CONTENT_TYPE = "Content-Type"
PART = 8 << 20
"""Bytes per part of a large upload or download."""
PAGE = 1000
RETRIES = 6
_RETRY: Any = {
    "max_retries": RETRIES,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
}
_memories: dict[str, Client] = {}
_FULL = r"status code: 507|<Code>(?:QuotaExceeded|InsufficientStorage|XMinio\w{0,20}(?:Full|QuotaExceeded))<"
"""What stores answer if there is no space, or a quota is used up."""


class ObjectStore(RemoteStore):
    """The objects of a bucket, or those with a prefix.

    Args:
        address: `s3://bucket/prefix`; other schemes are gs, az (the bucket is a container) and memory.

    Raises:
        UsageError: the address has no bucket.
        MissingExtra: obstore is not installed.
        StorageError: there are no credentials.
    """

    creates = True

    def __init__(self, address: str) -> None:
        scheme, _, rest = address.partition("://")
        bucket, _, prefix = rest.partition("/")
        prefix = prefix.strip("/")
        if not bucket:
            raise UsageError(f"{address} has no bucket: give {scheme}://bucket/folder")
        try:
            checked(prefix or "-")
        except InvalidName as error:
            raise UsageError(f"{address}: {error}") from None
        self.address = f"{scheme}://{bucket}" + (f"/{prefix}" if prefix else "")
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _connect(scheme, bucket)
        self._bucket = bucket if scheme == "s3" else ""
        self._staging = Staging()

    # Reading

    @cached_property
    def _raw(self) -> RawListing | None:
        """A listing of raw keys, if the store has one."""
        found = RawListing(self._bucket, credentials.aws()) if self._bucket else None
        return found if found and found.is_possible else None

    def items(self) -> Iterator[Item | Unlisted]:
        """Yield all objects in the order of their keys, without hidden objects and folder markers. A broken
        listing continues where it stopped.

        Raises:
            StorageError: the bucket cannot be listed.
        """
        import obstore
        from obstore.exceptions import InvalidPathError

        offset: str | None = None
        failures = 0
        if not self._prefix and self._has_leading_slashes():
            yield from self._raw_items("")
            return
        while True:
            try:
                folder = self._prefix.rstrip("/") or None
                for page in obstore.list(self._client, folder, offset=offset, chunk_size=PAGE):
                    failures = 0
                    for found in page:
                        offset = found["path"]
                        key = offset.removeprefix(self._prefix)
                        if not (is_hidden(key) or self._is_marker(key, found)):
                            yield self._item(key, found)
                return
            except InvalidPathError as error:
                if self._raw:
                    yield from self._raw_items(offset or "")
                    return
                wrong = _offending(error)
                if wrong is None or not unsafe(wrong) or (offset is not None and _behind(wrong) <= offset):
                    raise StorageError(
                        f"cannot list {self.address}: one of its keys is not a valid path"
                    ) from None
                yield invalid(
                    wrong.removeprefix(self._prefix),
                    f"{unsafe(wrong)}; up to a thousand keys before it are not seen, as its library lists none",
                )
                offset = _behind(wrong)
            except _errors() as error:
                failures += 1
                if _is_final(error) or failures == RETRIES:
                    raise StorageError(f"cannot list {self.address}: {explain(error)}") from None
                time.sleep(0.1 * 2**failures * (1 + random.random()))

    def _has_leading_slashes(self) -> bool:
        """Whether keys start with a slash. obstore would list them without it."""
        try:
            return bool(self._raw and self._raw.has("/"))
        except (OSError, ValueError):  # obstore reports it
            return False

    def _raw_items(self, after: str) -> Iterator[Item | Unlisted]:
        """Yield the objects after a key, also those whose keys are not valid paths."""
        assert self._raw is not None
        try:
            for found in self._raw.keys(self._prefix, after):
                key = found.key.removeprefix(self._prefix)
                names = [part for part in key.split("/") if part not in (".", "..")]
                if is_hidden("/".join(names)) or (found.key.endswith("/") and not found.size):
                    continue
                if reason := unsafe(key):
                    yield invalid(key, reason)
                else:
                    meta = {"size": found.size, "last_modified": found.modified, "e_tag": found.etag}
                    yield self._item(key, meta)
        except (OSError, ValueError, ElementTree.ParseError) as error:
            raise StorageError(f"cannot list {self.address}: {explain(error)}") from None

    def _is_marker(self, key: str, found: Mapping[str, Any]) -> bool:
        """Whether a listed object marks a folder: its key ends with a slash, which the library hides."""
        return found["size"] == 0 and (not found["path"].startswith(self._prefix) or self.find(key) is None)

    def _item(self, key: str, found: Mapping[str, Any]) -> Item:
        modified = int(found["last_modified"].timestamp() * 1_000_000) * 1000
        return Item(key, found["size"], modified, (found["e_tag"] or "").strip('"'))

    def _check_planned(self, planned: Item | None, meta: Mapping[str, Any]) -> None:
        """Check that an object is the planned version. Times are not compared: listings round them differently."""
        if planned:
            planned.check(replace(self._item(planned.key, meta), mtime_ns=0))

    def find(self, key: str) -> Item | None:
        import obstore

        try:
            return self._item(key, obstore.head(self._client, self._key(key)))
        except FileNotFoundError:
            return None
        except _errors() as error:
            raise StorageError(
                f"cannot read the metadata of {self.address}/{key}: {explain(error)}"
            ) from None

    def _open(self, key: str, limit: int, planned: Item | None) -> GetResult:
        """Begin to read an object, after checks of its version, size and encoding."""
        import obstore

        found = obstore.get(self._client, self._key(key))
        self._check_planned(planned, found.meta)
        _check_size(found.meta["size"], limit)
        encoding = str(found.attributes.get("Content-Encoding") or "").strip().lower()
        if encoding not in ("", "identity", "aws-chunked"):
            raise UnsupportedImage(
                f"the object is stored with Content-Encoding: {encoding[:40]}, which is not decoded: store the "
                "image itself"
            )
        return found

    def read(self, key: str, limit: int, planned: Item | None = None) -> bytes:
        with self._reading():
            found = self._open(key, limit, planned)
            data = found.bytes().to_bytes()
            if len(data) != found.meta["size"]:
                raise UnreadableItem(
                    f"the download was incomplete: {len(data):,} of {found.meta['size']:,} bytes"
                )
            return data

    def head(self, key: str, length: int, start: int = 0) -> bytes:
        import obstore

        with self._reading():
            return obstore.get_range(self._client, self._key(key), start=start, length=length).to_bytes()

    def fetch(self, key: str, path: str, limit: int, planned: Item | None = None) -> None:
        with self._reading(), folders.create(path) as file:
            found = self._open(key, limit, planned)
            for chunk in found.stream(min_chunk_size=PART):
                file.write(chunk)
            if file.tell() != found.meta["size"]:
                raise UnreadableItem(
                    f"the download was incomplete: {file.tell():,} of {found.meta['size']:,} bytes"
                )

    # Writing

    def prepare(self, scratch: str = "") -> None:
        """Check that the bucket can be written to."""
        import obstore

        probe = self._key(f"{STAGING}/{PROBE}")
        try:
            obstore.put(self._client, probe, b"", use_multipart=False)
        except _errors() as error:
            raise StorageError(f"cannot write to {self.address}: {explain(error)}") from None
        with contextlib.suppress(*_errors()):  # writing may be allowed, but not deleting
            obstore.delete(self._client, probe)
        self._staging.prepare(scratch)

    def tidy(self) -> None:
        self._staging.tidy()

    def commit(self, token: str, key: str, maker: str, replace: bool) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        data, mark = self._staging.take(token), _mark(maker)
        with self._writing(key):
            for mode in ("overwrite",) if replace else ("create", "overwrite"):
                with contextlib.suppress(AlreadyExistsError):
                    attributes: Any = {MARK: mark, CONTENT_TYPE: media_type(data[:HEAD], key)}
                    obstore.put(
                        self._client,
                        self._key(key),
                        data,
                        mode=mode,  # type: ignore[arg-type]
                        attributes=attributes,
                        use_multipart=False,
                    )
                    return
                if self._holds(key, data):
                    return
                self._check_maker(key, mark)

    def marked_size(self, key: str, maker: str) -> int | None:
        """See `made.Marked`."""
        import obstore

        try:
            found = obstore.get(self._client, self._key(key), options={"head": True})
        except FileNotFoundError:
            return None
        except _errors() as error:
            raise StorageError(f"cannot read {self.address}/{key}: {explain(error)}") from None
        return found.meta["size"] if found.attributes.get(MARK) == _mark(maker) else -1

    def delete(self, key: str) -> None:
        import obstore

        try:
            obstore.delete(self._client, self._key(key))
        except _errors() as error:
            raise StorageError(f"cannot delete {self.address}/{key}: {explain(error)}") from None

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> None:
        """Upload an output that was made as a file, in parts that become visible together."""
        import obstore

        path = self._staging.file(token)
        if path is None:
            return
        with self._writing(key):
            if not replace and self.exists(key):
                self._check_maker(key, _mark(maker))
            with open(path, "rb") as file:
                kind = media_type(file.read(HEAD), key)
            attributes: Any = {MARK: _mark(maker), CONTENT_TYPE: kind}
            obstore.put(self._client, self._key(key), Path(path), attributes=attributes, chunk_size=PART)
        self._staging.discard(token)

    def _holds(self, key: str, data: bytes) -> bool:
        """Whether an object has exactly these bytes: an earlier attempt may have succeeded without an answer."""
        import obstore

        found = obstore.get(self._client, self._key(key))
        return found.meta["size"] == len(data) and found.bytes().to_bytes() == data

    def _check_maker(self, key: str, mark: str) -> None:
        import obstore

        found = obstore.get(self._client, self._key(key), options={"head": True})
        if found.attributes.get(MARK) != mark:
            raise OutputExists(
                f"its output {key} exists and was not made from this item (--if-exists overwrite)"
            )

    def _key(self, key: str) -> str:
        return self._prefix + checked(key)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except ItemError:
            raise
        except FileNotFoundError:
            raise UnreadableItem("cannot read it: the file no longer exists") from None
        except _errors() as error:
            raise UnreadableItem(f"cannot read it: {explain(error)}") from None

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            yield
        except ItemError:
            raise
        except _errors() as error:
            kind = DiskFull if re.search(_FULL, str(error)) else UnwritableOutput
            raise kind(f"cannot put {key}: {explain(error)}") from None


def _connect(scheme: str, bucket: str) -> Client:
    try:
        from obstore import store
    except ImportError:
        raise MissingExtra(f"{scheme}://", EXTRAS[scheme]) from None
    options: Any = {"timeout": "300s", "read_timeout": "30s", "connect_timeout": "5s"}
    try:
        match scheme:
            case "memory":
                return _memories.setdefault(bucket, store.MemoryStore())
            case "gs":
                return store.GCSStore(bucket, client_options=options, retry_config=_RETRY)
            case "az":
                return store.AzureStore(bucket, client_options=options, retry_config=_RETRY)
        config: Any = credentials.aws()
        options["allow_http"] = config.get("endpoint", "").startswith("http://")
        return store.S3Store(bucket, config=config, client_options=options, retry_config=_RETRY)
    except _errors() as error:
        raise StorageError(f"cannot use {scheme}://{bucket}: {explain(error)}") from None


def _errors() -> tuple[type[Exception], ...]:
    """The exceptions of obstore. Their messages contain addresses and requests, so they are never shown."""
    from obstore.exceptions import BaseError

    return BaseError, OSError, ValueError


def explain(error: Exception) -> str:
    """An obstore error as text: only the store's status and code, without obstore's message."""
    if isinstance(error, (StorageError, ItemError)):
        return str(error)
    text = str(error)
    status = re.search(r"status code: (\d{3}) ?([A-Za-z ]*)", text)
    code = re.search(r"<Code>(\w{1,60})</Code>", text)
    answer = " ".join(filter(None, (status and status[1], status and status[2].strip(), code and code[1])))
    kind = type(error).__name__
    if "NoSuchBucket" in text or (status and status[1] == "404") or isinstance(error, FileNotFoundError):
        return f"there is no such bucket or object ({answer or 'not found'})"
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or (status and status[1] in ("401", "403")):
        return f"access is denied: check the credentials and their rights ({answer or kind})"
    if status:
        return f"the store answered {answer}"
    if isinstance(error, ValueError):
        return "the library refuses the name or the settings"
    if "timed out" in text or "timeout" in text:
        return "the store did not answer in time"
    if "error sending request" in text or "connect" in text:
        return "the store cannot be reached, or it cut the connection"
    return f"the store failed ({kind})"


def _mark(maker: str) -> str:
    """The mark of an object: a hash that identifies its item without revealing its address."""
    return hashlib.sha256(maker.encode()).hexdigest()[:32]


def _is_final(error: Exception) -> bool:
    """Whether a retry of a listing is useless: the store has refused, or there were too many attempts."""
    return isinstance(error, FileNotFoundError) or "status code:" in str(error) or "sending" in str(error)


def _offending(error: Exception) -> str | None:
    """The key that obstore rejects as a path."""
    found = re.search(r'[Pp]ath "(.*?)"(?: contained|: Encountered|$)', str(error))
    return found[1] if found else None


def _behind(key: str) -> str:
    """A key after an invalid key, and after all keys that are invalid for the same reason."""
    parts = key.split("/")
    for count, part in enumerate(parts):
        if part in ("", ".", ".."):
            return "/".join(parts[: count + 1]) + "0"  # the character after the slash
    at = next(i for i, character in enumerate(key) if not character.isprintable())
    return key[:at] + (" " if key[at] < " " else "\x80")


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise LimitExceeded(f"the file is {size:,} bytes, over the limit of {limit:,} (--max-file-size)")
