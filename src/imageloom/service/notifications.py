"""Notifications of object stores: which objects were created. Only bucket and key of a record are used.

Ceph's gateway and MinIO post the records of S3. Keys are encoded as in a form by S3 and MinIO; versions of Ceph
differ. So a key that reads differently when it is decoded stands for two names. A name without an object is
harmless: the store is asked for each.
"""

from __future__ import annotations

from urllib.parse import unquote_plus

import msgspec

from imageloom.errors import UsageError, WrongState
from imageloom.model import Plain
from imageloom.stores import is_remote
from imageloom.stores.names import unsafe

MOST_RECORDS = 2000
"""Maximum number of records in one request. S3 and Ceph send one, MinIO up to 1,000."""


class _Bucket(msgspec.Struct, frozen=True):
    name: str = ""


class _Object(msgspec.Struct, frozen=True):
    key: str = ""


class _Storage(msgspec.Struct, frozen=True):
    bucket: _Bucket = _Bucket()
    object: _Object = _Object()


class _Record(msgspec.Struct, frozen=True):
    eventName: str = ""  # noqa: N815 the names are those of S3
    s3: _Storage = _Storage()


class _Notification(msgspec.Struct, frozen=True):
    Records: list[_Record] = []


class Created(Plain, frozen=True):
    """The objects that a notification names."""

    keys: tuple[str, ...]
    """Names relative to the source that may be new. Two for one record if its key can be read in two ways."""
    ignored: int
    """Number of records about something else: a removal, another bucket, or a key outside of the source."""


def created(body: bytes, source: str) -> Created:
    """The objects of a source that a notification names.

    Args:
        body: JSON with `Records`. A body without them, such as the event by which a store tests the address, names
            no object.
        source: address of the source.

    Raises:
        WrongState: the source is not a bucket.
        UsageError: the body is not a notification.
    """
    scheme, _, rest = source.partition("://")
    if not is_remote(source) or scheme != "s3":
        raise WrongState(
            "notifications are for flows whose source is a bucket of S3: give s3://bucket/folder"
        )
    bucket, _, folder = rest.strip("/").partition("/")
    prefix = f"{folder}/" if folder else ""
    try:
        records = msgspec.json.decode(body, type=_Notification).Records
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the body is not a notification of S3: {error}") from None
    if len(records) > MOST_RECORDS:
        raise UsageError(f"a notification has at most {MOST_RECORDS} records")
    keys: dict[str, None] = {}
    ignored = 0
    for record in records:
        given = record.s3.object.key
        named = [
            name.removeprefix(prefix)
            for name in dict.fromkeys((unquote_plus(given, errors="replace"), given))
            if name.startswith(prefix) and not unsafe(name.removeprefix(prefix))
        ]
        if "ObjectCreated" not in record.eventName or record.s3.bucket.name != bucket or not named:
            ignored += 1
            continue
        keys.update(dict.fromkeys(named))
    return Created(tuple(keys), ignored)
