"""Texts and numbers as people read them, and what forms send."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl

from imageloom.errors import UsageError

MOST_FIELDS = 50


def number(value: float) -> str:
    """A number with spaces between groups of three digits."""
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def rate(value: float) -> str:
    """A rate per second, or per minute if it is slow."""
    if not value:
        return "–"
    return f"{value:.3g}/s" if value >= 1 else f"{60 * value:.2g}/min"


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 2880 else f"{minutes // 1440} days"


def worker(name: str) -> str:
    """The name of a worker, without the thread if it has only one."""
    return name.removesuffix("/MainThread")


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def moment(seconds: float | None) -> str:
    """Seconds since the epoch, for the attribute of a `time` element. The page shows it in the reader's zone."""
    return datetime.fromtimestamp(seconds or 0.0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc(seconds: float | None) -> str:
    """Seconds since the epoch, as read without JavaScript."""
    return datetime.fromtimestamp(seconds or 0.0, UTC).strftime("%Y-%m-%d %H:%M UTC")


def fields_of(body: bytes) -> dict[str, str]:
    """The fields of a form.

    Raises:
        UsageError: it is not a form.
    """
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except (UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"this is not a form: {error}") from None
    return {name: value.replace("\r\n", "\n") for name, value in pairs}
