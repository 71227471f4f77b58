"""Files that steps name: watermarks, fonts, tables of colours.

A step has the path of its file and a digest, the SHA-256 of the content. A job fills in both when it begins
(`recipes.files`), so a worker on another machine uses the same content or refuses the step.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from msgspec import Meta

from imageloom.errors import OperatorRefused

T = TypeVar("T")
MOST_BYTES = 64 << 20
"""Maximum size of a file."""
MOST_KEPT = 16
"""Number of files whose contents are kept ready for use."""

File = Annotated[str, Meta(min_length=1, max_length=4096, description="the path of a file")]
Digest = Annotated[
    str,
    Meta(max_length=64, description="the SHA-256 that the file must have, in hexadecimal; jobs fill it in"),
]

_kept: OrderedDict[tuple[str, Callable[[bytes], Any]], Any] = OrderedDict()
_lock = threading.Lock()


def loaded(path: str, digest: str, make: Callable[[bytes], T]) -> T:
    """What `make` makes of the content of a file. It is kept for the next call with the same digest.

    Raises:
        OperatorRefused: the file cannot be read, is too large, or has another digest.
    """
    if digest:
        with _lock:
            if (digest, make) in _kept:
                _kept.move_to_end((digest, make))
                found: T = _kept[digest, make]
                return found
    data = read(path)
    if (actual := digest_of(data)) != (digest or actual):
        raise OperatorRefused(
            f"{path} differs from the file at the start of the job: it was edited, or this worker sees another "
            "file at the same path"
        )
    made = make(data)
    with _lock:
        _kept[actual, make] = made
        while len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
    return made


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe without a writer


def digest_of(data: bytes) -> str:
    """The SHA-256 of a content, in hexadecimal."""
    from hashlib import sha256  # it loads OpenSSL, which takes longer than all operators

    return sha256(data).hexdigest()


def read(path: str) -> bytes:
    """The content of a file.

    Raises:
        OperatorRefused: it cannot be read, is no regular file, or is too large.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise OperatorRefused(f"{path} is not a file")
            if about.st_size > MOST_BYTES:
                raise OperatorRefused(f"{path} has {about.st_size:,} bytes, over the limit of {MOST_BYTES:,}")
            return file.read(MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OperatorRefused(f"cannot read {path}: {reason}") from None
