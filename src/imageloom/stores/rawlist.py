"""Lists the raw keys of an S3 bucket.

obstore refuses a whole page of a listing if one of its keys is not a valid path, such as `a//b.jpg`. Then the
bucket is listed by S3's ListObjectsV2, with AWS Signature Version 4. This needs an access key: with the role of a
machine, only obstore can list.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_plus, urlsplit
from xml.etree import ElementTree

TIMEOUT = 30.0
"""Time-out of a request in seconds."""
TRIES = 4
MOST_BYTES = 16 << 20
"""Maximum size of a page, in bytes. A page has at most 1,000 keys of 1,024 bytes."""
_EMPTY = hashlib.sha256(b"").hexdigest()


class Listed(NamedTuple):
    """A listed object."""

    key: str
    size: int
    modified: datetime
    etag: str


class RawListing:
    """The keys of a bucket, as they are.

    Args:
        config: settings of obstore: access_key_id, secret_access_key, session_token, region, endpoint. Those that
            are missing come from the environment.
    """

    def __init__(self, bucket: str, config: Mapping[str, str]) -> None:
        def setting(name: str, variable: str = "") -> str:
            return os.environ.get(variable or f"AWS_{name.upper()}") or config.get(name, "")

        self._id, self._secret = setting("access_key_id"), setting("secret_access_key")
        self._token = setting("session_token")
        self._region = setting("region") or "us-east-1"
        is_public = os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true")
        self.is_possible = bool(self._id and self._secret) or is_public
        """Whether there is an access key, or none is needed."""
        endpoint = config.get("endpoint") or f"https://s3.{self._region}.amazonaws.com"
        has_bucket = os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in ("1", "true")
        self._url = endpoint.rstrip("/") + ("/" if has_bucket else f"/{quote(bucket)}")

    def has(self, prefix: str) -> bool:
        """Whether any key starts with a prefix."""
        return next(self.keys(prefix, most=1), None) is not None

    def keys(self, prefix: str, after: str = "", most: int = 1000) -> Iterator[Listed]:
        """The objects whose keys start with a prefix, in the order of their keys.

        Args:
            after: only the keys after this one.
            most: number of keys per request.

        Raises:
            OSError: the store cannot be reached, or refuses.
            ValueError: the answer is not a listing.
        """
        while True:
            query = {"list-type": "2", "encoding-type": "url", "max-keys": str(most), "prefix": prefix}
            if after:
                query["start-after"] = after
            root = ElementTree.fromstring(self._get(query))
            namespace = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
            found = [_listed(entry, namespace) for entry in root.iter(f"{namespace}Contents")]
            yield from found
            if root.findtext(f"{namespace}IsTruncated") != "true" or not found:
                return
            after = found[-1].key

    def _get(self, query: dict[str, str]) -> bytes:
        for turn in range(TRIES):
            text = "&".join(f"{quote(name, safe='')}={quote(query[name], safe='')}" for name in sorted(query))
            request = urllib.request.Request(f"{self._url}?{text}", headers=self._headers(text))
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                    data: bytes = answer.read(MOST_BYTES + 1)
                if len(data) > MOST_BYTES:
                    raise ValueError("the page is too long")
                return data
            except urllib.error.HTTPError as error:
                if error.code < 500 or turn == TRIES - 1:
                    raise OSError(f"status code: {error.code} {error.reason}") from None
            except (OSError, http.client.HTTPException) as error:
                if turn == TRIES - 1:
                    raise OSError(f"error sending request: {type(error).__name__}") from None
        raise AssertionError("the last try returns or raises")

    def _headers(self, query: str) -> dict[str, str]:
        """The headers of a signed request (AWS Signature Version 4)."""
        if not self._id:
            return {}
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        parts = urlsplit(self._url)
        headers = {"host": parts.netloc, "x-amz-content-sha256": _EMPTY, "x-amz-date": now}
        if self._token:
            headers["x-amz-security-token"] = self._token
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        asked = f"GET\n{parts.path or '/'}\n{query}\n{lines}\n{names}\n{_EMPTY}"
        scope = f"{now[:8]}/{self._region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
        key = f"AWS4{self._secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._id}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return headers


def _listed(entry: ElementTree.Element, namespace: str) -> Listed:
    def text(name: str) -> Any:
        return entry.findtext(f"{namespace}{name}") or ""

    modified = datetime.fromisoformat(text("LastModified"))
    return Listed(unquote_plus(text("Key")), int(text("Size")), modified, text("ETag").strip('"'))
