"""The manifest of a run: which outputs each item has, with their sizes, as JSON or as `<picture>` elements.

It has all items of the source that are done with the recipe, also those that an earlier run has done. The sizes
come from the headers of the outputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from html import escape
from urllib.parse import quote

import msgspec

from imageloom import codecs
from imageloom.driver.sink import Sink
from imageloom.driver.source import Source
from imageloom.errors import UsageError
from imageloom.model import Format, Plain, path_and_page
from imageloom.recipes.meaning import Meanings
from imageloom.records.ledger import Ledger

_TYPES: dict[Format, str] = {
    "avif": "image/avif",
    "jxl": "image/jxl",
    "webp": "image/webp",
    "heif": "image/heic",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
}
"""Media types, in the order of the sources: browsers take the first one that they know."""
_FALLBACK = ("jpeg", "png", "gif", "webp", "avif", "jxl", "heif")
"""The format of the `<img>`: the first one that there is."""
SIZES = "100vw"
SUFFIXES = (".json", ".html")


class Made(Plain, frozen=True):
    """An output of an item."""

    name: str
    """Relative to the sink."""
    format: Format
    width: int
    height: int
    bytes: int


class Entry(Plain, frozen=True):
    """An item with its outputs, the smallest first."""

    input: str
    outputs: tuple[Made, ...]


def check_manifest(path: str) -> None:
    """Check the name of a manifest's file.

    Raises:
        UsageError: its suffix does not say what it is.
    """
    if not path.lower().endswith(SUFFIXES):
        raise UsageError(f"--manifest {path}: the name must end in {' or '.join(SUFFIXES)}")


def entries(source: Source, sink: Sink, ledger: Ledger, meanings: Meanings) -> Iterator[Entry]:
    """The items that are done, by name.

    Raises:
        StorageError: the sink cannot be read.
        ItemError: an output is no longer an image.
    """
    found: defaultdict[str, dict[str, list[tuple[str, int]]]] = defaultdict(lambda: defaultdict(list))
    for name, key, fingerprint, meaning, size in ledger.made(source.root, sink.address):
        if size and meaning == meanings.of(key) and source.is_mine(path_and_page(key)[0]):
            found[key][fingerprint].append((name, size))
    for key in sorted(found):
        versions = found[key]
        if len(versions) > 1 and (item := source.store.find(key)):  # names with digests of an older version
            versions = {item.fingerprint: versions.get(item.fingerprint, [])}
        made = [_made(sink, name, size) for outputs in versions.values() for name, size in outputs]
        yield Entry(key, tuple(sorted(made, key=lambda one: (one.width, one.format, one.name))))


def _made(sink: Sink, name: str, size: int) -> Made:
    store = sink.store

    def read(start: int, length: int) -> bytes:
        return store.head(name, length, start)

    header = codecs.read_header(lambda length: read(0, length), size, read)
    return Made(name, header.format, header.frame.width, header.frame.height, size)


def as_json(found: Iterable[Entry]) -> bytes:
    """The manifest as JSON."""
    return msgspec.json.format(msgspec.json.encode({"items": list(found)}), indent=2) + b"\n"


def as_html(found: Iterable[Entry], sizes: str = SIZES) -> bytes:
    """The manifest as HTML: a `<picture>` of each item. Addresses are relative to the sink.

    Args:
        sizes: how wide the picture is shown, as in the attribute `sizes`.
    """
    return "\n".join(picture(entry, sizes) for entry in found if entry.outputs).encode() + b"\n"


def picture(entry: Entry, sizes: str) -> str:
    """The `<picture>` of an item."""
    formats = {one.format for one in entry.outputs}
    fallback = next((format for format in _FALLBACK if format in formats), entry.outputs[0].format)
    others = [format for format in _TYPES if format in formats - {fallback}]
    sources = [
        f'  <source type="{_TYPES[format]}" srcset="{_srcset(entry, format)}" sizes="{escape(sizes)}">'
        for format in others
    ]
    largest = [one for one in entry.outputs if one.format == fallback][-1]
    image = (
        f'  <img src="{_address(largest)}" srcset="{_srcset(entry, fallback)}" sizes="{escape(sizes)}" '
        f'width="{largest.width}" height="{largest.height}" loading="lazy" alt="">'
    )
    return "\n".join([f"<!-- {_comment(entry.input)} -->", "<picture>", *sources, image, "</picture>"])


def _srcset(entry: Entry, format: Format) -> str:
    return ", ".join(f"{_address(one)} {one.width}w" for one in entry.outputs if one.format == format)


def _address(one: Made) -> str:
    return escape(quote(one.name))


def _comment(key: str) -> str:
    return escape(key).replace("--", "- -").replace("\n", " ")
