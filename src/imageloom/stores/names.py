"""Names that imageloom makes: of outputs in a sink, and of staged files.

The name of a staged file is a token: `{job}-{item}-{attempt}-{12 hex digits}`, and a suffix for the output, the
piece or the scratch file. Only files with such names are ever removed from a staging folder, and the locks of
shards, `shard-{number}-of-{count}`.
"""

from __future__ import annotations

import os
import re

from imageloom.errors import InvalidName, TaskRefused

STAGING = ".imageloom"
"""The hidden folder of a sink for staged outputs."""
PROBE = "0-0-0-000000000000"
"""The token of a file that is written to check whether a store can be written to."""
MOST_PART_BYTES = 255
"""Maximum length of one part of a path in bytes, the limit of common file systems."""
MOST_BYTES = 4096

HASH = "{hash}"
"""In the names of a `Work` with `hashed`: what the worker replaces by the digest of the output's bytes."""
DIGITS = 16
"""Hexadecimal digits of such a digest."""

_CONTROL = r"[\x00-\x1f\x7f]"
_NO_PARTS = ("//", "/./", "/../")
_TOKEN = r"[0-9]+-[0-9]+-[0-9]+-[0-9a-f]{12}(?:-[0-9]+){0,3}(?:-file|-input)?(?:\.old)?"
_RANDOM = 12
"""Hexadecimal digits of a token that nobody can guess."""
_unused: list[str] = []
"""Such digits for the next tokens of this process: the system is asked for many at once."""
os.register_at_fork(after_in_child=_unused.clear)


def new_token(job: str, item: int, attempt: int) -> str:
    """A unique token for an attempt.

    Raises:
        TaskRefused: the job is not a number, so that the token might be a path.
    """
    if not (job.isascii() and job.isdecimal()):
        raise TaskRefused(f"{job[:40]!r} is not a job's number")
    return f"{job}-{item}-{attempt}-{_random()}"


def _random() -> str:
    try:
        return _unused.pop()
    except IndexError:
        digits = os.urandom(64 * _RANDOM).hex()
        first, *others = (digits[at : at + _RANDOM] for at in range(0, len(digits), _RANDOM))
        _unused.extend(others)
        return first


def job_of(shard: int, job: int) -> str:
    """The job's number in tokens: for a shard, it begins with `own_tokens`. 0 is no shard."""
    return f"{own_tokens(shard)}{job}"


def own_tokens(shard: int) -> str:
    """What the tokens of a shard begin with, and no others; empty for 0, no shard."""
    return f"0{shard:05}" if shard else ""


def is_token(name: str) -> bool:
    """Whether a name is that of a file staged by imageloom."""
    return re.fullmatch(_TOKEN, name) is not None


def lock_of(number: int, count: int) -> str:
    """The name of the file that a shard locks."""
    return f"shard-{number}-of-{count}"


def shard_of_lock(name: str) -> tuple[int, int] | None:
    """Number and count of the shard that locks a file of this name; None if it is no such file."""
    found = re.fullmatch("shard-([0-9]{1,5})-of-([0-9]{1,5})", name)
    return (int(found[1]), int(found[2])) if found else None


def why_no_path(key: str) -> str | None:
    """Why a key is not a valid relative path; None if it is valid."""
    framed = f"/{key}/"
    if any(part in framed for part in _NO_PARTS):
        return "its name has an empty part, '.' or '..', which is not a valid path"
    return None


def unsafe(key: str) -> str | None:
    """Why a key of a remote store is not a valid relative path; None if it is valid."""
    if re.search(_CONTROL, key):
        return "its name has control characters"
    return why_no_path(key)


def hashed(name: str, *pieces: bytes) -> str:
    """A name with the digest of an output's bytes, the first digits of their SHA-256."""
    import hashlib  # few outputs need it

    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return name.replace(HASH, digest.hexdigest()[:DIGITS])


def is_hashed(name: str, template: str) -> bool:
    """Whether a name is that of `hashed` for some bytes."""
    before = template.partition(HASH)[0]
    digest = name[len(before) : len(before) + DIGITS]
    return re.fullmatch("[0-9a-f]+", digest) is not None and template.replace(HASH, digest) == name


def check_output_name(name: str) -> str:
    """Check the name of an output: a relative path inside the sink. Returns the name.

    Raises:
        InvalidName: it has an empty part, '.' or '..', is in the staging folder, is too long, or is not valid.
    """
    framed = f"/{name}/"
    is_plain = (
        name.isascii()
        and len(name) <= MOST_PART_BYTES
        and "/." not in framed
        and "//" not in framed
        and "\0" not in name
    )
    if not is_plain and (reason := _why_no_output(name)):
        raise InvalidName(f"its output's name {_shown(name)} {reason} (--name)")
    return name


def _why_no_output(name: str) -> str | None:
    if "\0" in name:
        return "has a NUL character"
    if why_no_path(name):
        return "has an empty part, '.' or '..': outputs must be inside the sink"
    parts = name.split("/")
    if any(part.lower() == STAGING for part in parts):
        return f"lies in {STAGING}, which imageloom uses itself"
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "is not UTF-8"
    if max(sizes) > MOST_PART_BYTES:
        return f"has a part of {max(sizes):,} bytes, over the limit of {MOST_PART_BYTES}"
    if sum(sizes) + len(sizes) - 1 > MOST_BYTES:
        return f"has more bytes than the limit of {MOST_BYTES:,}"
    return None


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:60]}...{name[-30:]}")
