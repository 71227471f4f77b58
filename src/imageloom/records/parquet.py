"""The items of a job as a Parquet file, for programs that read tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from imageloom.errors import MissingExtra, StorageError
from imageloom.records.schema import ItemRecord

ROWS = 10_000
"""Number of rows that are in memory at once: one row group of the file."""


def write(path: Path, items: Iterable[ItemRecord]) -> int:
    """Write one row for each item. The file appears when it is complete; an existing file is replaced.

    Returns:
        The number of rows.

    Raises:
        MissingExtra: pyarrow is not installed.
        StorageError: the file cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("a Parquet file", "parquet") from None
    text, texts = pyarrow.string(), pyarrow.list_(pyarrow.string())
    whole, seconds = pyarrow.int64(), pyarrow.float64()
    columns = {"key": text, "state": text, "attempts": pyarrow.int32()}
    columns |= dict.fromkeys(("kind", "message", "trace"), text)
    columns |= {"worker": text, "started": pyarrow.timestamp("us", tz="UTC"), "pixels": whole}
    columns |= dict.fromkeys(("read", "decode", "filter", "encode", "write"), seconds)
    columns |= {"dropped": texts, "warnings": texts}
    schema = pyarrow.schema(list(columns.items()))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    count = 0
    try:
        try:
            with pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
                for group in _groups(items):
                    writer.write_table(pyarrow.Table.from_pylist([_row(item) for item in group], schema))
                    count += len(group)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {path} (--parquet): {error.strerror or error}") from None
    return count


def _groups(items: Iterable[ItemRecord]) -> Iterator[list[ItemRecord]]:
    remaining = iter(items)
    while group := list(islice(remaining, ROWS)):
        yield group


def _row(item: ItemRecord) -> dict[str, Any]:
    failure, times = item.failure, item.times
    return {
        "key": _valid(item.key),
        "state": item.state,
        "attempts": item.attempts,
        "kind": failure.kind if failure else None,
        "message": _valid(failure.message) if failure else None,
        "trace": (_valid(failure.trace) or None) if failure else None,
        "worker": _valid(item.worker),
        "started": round(item.started * 1_000_000),
        "pixels": item.pixels,
        "read": times.read,
        "decode": times.decode,
        "filter": times.filter,
        "encode": times.encode,
        "write": times.write,
        "dropped": item.dropped,
        "warnings": [_valid(warning) for warning in item.warnings],
    }


def _valid(text: str) -> str:
    """The text with escapes for what is not Unicode: a file's name may be any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()
