"""The chunks of a PNG, and the metadata in them (PNG specification, third edition, clauses 5 and 11)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import suppress

from imageloom.codecs import adapt, rawprofiles
from imageloom.codecs.bits import MOST_AT_ONCE, Data, MoreNeeded, block
from imageloom.codecs.metadata import Density, Luminance, Metadata, Primaries, Text
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import Thing

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_XMP = b"XML:com.adobe.xmp"
_RAW = rawprofiles.KEYWORD.encode()
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TAIL = 64 << 10
"""Size of the end of a file that is searched for an orientation, in bytes."""
_MOST_CHUNKS = 1 << 18
"""Maximum number of chunks in a file. Chunks written by libpng usually have 8 KB of pixels."""
_MOST_TEXTS = 10_000
_COMPRESSED = range(1 << 10, (1 << 20) + 1)
"""Texts of these sizes are written compressed. Many readers refuse a compressed text of more than 1 MB."""
_INCH = 0.0254
"""In metres."""
_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"}
_CODING = {b"iDOT"}
"""Chunks that only describe the coded pixels: here the offsets of parts, in files of Apple."""
_HINTS = {b"sBIT", b"bKGD", b"hIST", b"sPLT"}
_ANIMATION = {b"acTL", b"fcTL", b"fdAT"}
_COLOURS = {b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf"}
_SIZES = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"pHYs": 9}
"""Sizes of chunks with numbers, in bytes."""


def walk(data: Data) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the body of each chunk, up to the end of the image.

    Raises:
        MoreNeeded: the data ends too early.
        CorruptImage, UnsupportedImage: there is no chunk where one is expected, or there are too many chunks.
    """
    at = len(SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        head = data[at : at + 8]
        if len(head) < 8:
            raise MoreNeeded
        name, end = head[4:], at + 8 + int.from_bytes(head[:4])
        if not name.isalpha():
            raise CorruptImage(f"the PNG is damaged at byte {at}")
        yield name, at + 8, end
        if name == b"IEND":
            return
        at = end + 4
    raise UnsupportedImage(f"PNG with more than {_MOST_CHUNKS:,} chunks is not supported")


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4)


def is_intact(data: Data, start: int, end: int) -> bool:
    """Whether the checksum of a chunk is right."""
    return zlib.crc32(data[start - 4 : end]) == int.from_bytes(data[end : end + 4])


def orientation(data: Data, before: list[tuple[bytes, int, int]], drawn: int) -> int:
    """The orientation, 1 to 8, of a file.

    Args:
        before: the chunks before the pixels.
        drawn: where the pixels begin. Of the chunks after them, only the end of the file is searched.
    """
    found = _Found()
    for name, start, end in before:
        found.turn(data, name, start, end)
    begin = max(drawn, len(data) - _TAIL)
    tail = data[begin : len(data)]
    for name, start, end in _behind(tail):
        found.turn(tail, name, start, end)
    return found.orientation


def colours(data: Data, before: list[tuple[bytes, int, int]], channels: int) -> str:
    """What the chunks before the pixels state of the colours, as a text of `colours`."""
    found = _Found()
    for name, start, end in before:
        if name in _COLOURS or (name in _TEXTS and data[start : start + len(_RAW)] == _RAW):
            with suppress(LimitExceeded):
                found.take(data, name, start, end)
    return colours_of(found.metadata(), channels)


def orientation_of(data: bytes) -> int:
    """The orientation, 1 to 8, of a complete file."""
    found = _Found()
    for name, start, end in whole(data):
        found.turn(data, name, start, end)
    return found.orientation


def whole(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The chunks that are complete."""
    with suppress(MoreNeeded):
        for name, start, end in walk(data):
            if end + 4 > len(data):
                return
            yield name, start, end


def _behind(tail: bytes) -> list[tuple[bytes, int, int]]:
    """The chunks after the pixels, in the end of a file: from the first text or EXIF to IEND, all intact."""
    for match in re.finditer(rb"eXIf|[tzi]TXt", tail):
        chain: list[tuple[bytes, int, int]] = []
        at = match.start() - 4
        while 0 <= at <= len(tail) - 12:
            name, start, end = tail[at + 4 : at + 8], at + 8, at + 8 + int.from_bytes(tail[at : at + 4])
            if end + 4 > len(tail) or not is_intact(tail, start, end):
                break
            if name == b"IEND":
                return chain
            chain.append((name, start, end))
            at = end + 4
    return []


def read(data: bytes) -> Metadata:
    """The metadata of a file.

    Raises:
        LimitExceeded: a block is too large, or there are too many texts.
    """
    found = _Found()
    for name, start, end in whole(data):
        if name not in _PIXELS and name not in _CODING:
            found.take(data, name, start, end)
    return found.metadata()


class _Found:
    """Collects the metadata of a file. Of chunks that may be there once, the first one counts."""

    def __init__(self) -> None:
        self._blocks: dict[str, bytes] = {}
        self._texts: list[Text] = []
        self._copied: list[bytes] = []
        self._things: set[Thing] = set()
        self._inflated = 0

    @property
    def orientation(self) -> int:
        return adapt.orientation(self._blocks.get("eXIf", b""), self._blocks.get("XMP", b""))

    def turn(self, data: Data, name: bytes, start: int, end: int) -> None:
        """Take only what may hold an orientation, and not if it is too large for a header."""
        held = name in _TEXTS and data[start : start + len(_RAW)].startswith((_RAW, _XMP[: len(_RAW)]))
        if (held or name == b"eXIf") and end - start <= MOST_AT_ONCE:
            with suppress(LimitExceeded):
                self.take(data, name, start, end)

    def take(self, data: Data, name: bytes, start: int, end: int) -> None:
        """Take a chunk.

        Raises:
            LimitExceeded: it is too large, or there are too many texts.
        """
        if not is_intact(data, start, end):
            self._things.add("damaged metadata")
            return
        if name in _ANIMATION:
            self._things.add("animation")
        elif name in _HINTS:
            self._things.add("display hints")
        elif name in _TEXTS:
            self._take_text(name, _body(data, start, end, "text"))
        elif name in _SIZES:
            fits = end - start == _SIZES[name]
            self._once(name.decode(), data[start:end] if fits else b"")
        elif name == b"eXIf":
            self._once("eXIf", _body(data, start, end, "EXIF").removeprefix(b"Exif\0\0"))
        elif name == b"iCCP":
            packed = _body(data, start, end, "colour profile").partition(b"\0")[2][1:]
            self._once("iCCP", self._inflate(packed, "colour profile"))
        elif name == b"tIME" or (name[0] & name[3] & 0x20):  # ancillary, and safe to copy
            self._copied.append(chunk(name, _body(data, start, end, "private chunk")))
        else:
            self._things.add("private metadata")

    def _once(self, kind: str, body: bytes) -> None:
        if not body or kind in self._blocks:
            self._things.add("damaged metadata")
        else:
            self._blocks[kind] = body

    def _take_text(self, name: bytes, body: bytes) -> None:
        keyword, _, rest = body.partition(b"\0")
        language = translated = b""
        if name == b"iTXt":
            packed, rest = rest[:1] == b"\1", rest[2:]
            language, _, rest = rest.partition(b"\0")
            translated, _, rest = rest.partition(b"\0")
        else:
            packed, rest = name == b"zTXt", rest[1:] if name == b"zTXt" else rest
        if packed:
            rest = self._inflate(rest, "text")
        if keyword == _XMP:
            self._once("XMP", rest)
        elif keyword.startswith(_RAW):
            self._take_profile(keyword[len(_RAW) :].decode("latin-1").lower(), rest.decode("latin-1"))
        elif not 0 < len(keyword) < 80:
            self._things.add("damaged metadata")
        else:
            code = "utf-8" if name == b"iTXt" else "latin-1"
            try:
                words = rest.decode(code), language.decode("ascii"), translated.decode("utf-8")
            except UnicodeDecodeError:
                self._things.add("damaged metadata")
                return
            if len(self._texts) >= _MOST_TEXTS:
                raise LimitExceeded(
                    f"it has more than {_MOST_TEXTS:,} texts, which is the limit (--metadata strip)"
                )
            self._texts.append(Text(keyword.decode("latin-1"), *words))

    def _take_profile(self, kind: str, text: str) -> None:
        profile = rawprofiles.parsed(text)
        if kind in ("exif", "app1") and profile.startswith((b"Exif\0\0", b"II", b"MM")):
            self._once("eXIf", profile.removeprefix(b"Exif\0\0"))
        elif kind in ("xmp", "app1") and profile:
            self._once("XMP", profile.removeprefix(b"http://ns.adobe.com/xap/1.0/\0"))
        elif kind in ("icc", "icm") and profile:
            self._once("iCCP", profile)
        elif kind in ("iptc", "8bim") and profile:
            iptc, others = rawprofiles.iptc_of(profile)
            if others:
                self._things.add("private metadata")
            self._once("IPTC", iptc)
        else:
            self._things.add("private metadata" if profile else "damaged metadata")

    def _inflate(self, packed: bytes, what: str) -> bytes:
        plain = adapt.inflate(packed, what)
        self._inflated += len(plain)
        if self._inflated > adapt.MOST_INFLATED:
            raise LimitExceeded(
                f"its texts and profiles decompress to more than {adapt.MOST_INFLATED:,} bytes, which is the limit "
                "(--metadata strip)"
            )
        if packed and not plain:
            self._things.add("damaged metadata")
        return plain

    def metadata(self) -> Metadata:
        get = self._blocks.get
        copied = b"".join(self._copied)
        if len(copied) > MOST_AT_ONCE:
            raise LimitExceeded(
                f"its private chunks take more than {MOST_AT_ONCE:,} bytes (--metadata strip)"
            )
        colours = Primaries(
            cicp=tuple(get("cICP", b"")) or None,  # type: ignore[arg-type]
            gamma=int.from_bytes(get("gAMA", b"")),
            chromaticities=tuple(int.from_bytes(xy) for xy in _parts(get("cHRM", b""), 4)),
            intent=next(iter(get("sRGB", b"")), None),
        )
        luminance = Luminance(get("mDCV", b""), get("cLLI", b""))
        return Metadata(
            exif=get("eXIf", b""),
            xmp=get("XMP", b""),
            icc=get("iCCP", b""),
            iptc=get("IPTC", b""),
            density=_density(get("pHYs", b"")),
            texts=tuple(self._texts),
            colours=None if colours == Primaries() else colours,
            luminance=None if luminance == Luminance() else luminance,
            chunks=copied,
            found=tuple(sorted(self._things)),
        )


def _body(data: Data, start: int, end: int, what: str) -> bytes:
    return block(data, start, end - start, what)


def _parts(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _density(body: bytes) -> Density | None:
    """The density of a pHYs chunk. Pixels per metre become whole numbers per inch, if these give the same again."""
    if not body:
        return None
    x, y = (int.from_bytes(each) for each in _parts(body[:8], 4))
    if not x or not y:
        return None
    return Density(_per_inch(x), _per_inch(y)) if body[8] == 1 else Density(x, y, "none")


def _per_inch(metre: int) -> float:
    inch = round(metre * _INCH)
    return float(inch) if round(inch / _INCH) == metre else metre * _INCH


def written(metadata: Metadata) -> bytes:
    """The chunks with the metadata, which go between the header and the pixels."""
    return b"".join(_written(metadata))


def _written(metadata: Metadata) -> Iterator[bytes]:
    colours, luminance = metadata.colours or Primaries(), metadata.luminance or Luminance()
    if colours.cicp:
        yield chunk(b"cICP", bytes(colours.cicp))
    if metadata.icc:
        yield chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc))
    if colours.intent is not None:
        yield chunk(b"sRGB", bytes((colours.intent,)))
    if colours.gamma:
        yield chunk(b"gAMA", colours.gamma.to_bytes(4))
    if colours.chromaticities:
        yield chunk(b"cHRM", b"".join(number.to_bytes(4) for number in colours.chromaticities))
    if luminance.display:
        yield chunk(b"mDCV", luminance.display)
    if luminance.content:
        yield chunk(b"cLLI", luminance.content)
    if metadata.density:
        yield chunk(b"pHYs", _physical(metadata.density))
    if metadata.exif:
        yield chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        yield chunk(b"iTXt", _XMP + bytes(5) + metadata.xmp)
    for text in metadata.texts:
        yield _text(text)
    if metadata.iptc:
        profile = rawprofiles.of("iptc", rawprofiles.photoshop_of(metadata.iptc))
        yield _text(Text(rawprofiles.KEYWORD + "iptc", profile))
    yield metadata.chunks


def _physical(density: Density) -> bytes:
    metre = {"inch": 1 / _INCH, "cm": 100.0, "none": 1.0}[density.unit]
    x, y = (min(max(1, round(value * metre)), (1 << 31) - 1) for value in (density.x, density.y))
    return x.to_bytes(4) + y.to_bytes(4) + bytes((density.unit != "none",))


def _text(text: Text) -> bytes:
    """The chunk of a text: tEXt or zTXt for Latin-1 without a language, otherwise iTXt."""
    keyword = text.keyword.encode("latin-1", "replace")[:79].replace(b"\0", b" ") or b"Comment"
    try:
        if text.language or text.translated:
            raise ValueError("only iTXt has a language")
        body, is_latin = text.text.encode("latin-1"), True
    except ValueError:
        body, is_latin = text.text.encode(errors="replace"), False
    packed = zlib.compress(body) if len(body) in _COMPRESSED else b""
    if is_latin:
        return (
            chunk(b"zTXt", keyword + b"\0\0" + packed) if packed else chunk(b"tEXt", keyword + b"\0" + body)
        )
    language, translated = text.language.encode("ascii", "replace"), text.translated.encode()
    head = b"\0".join((keyword, bytes((bool(packed), 0)) + language, translated, b""))
    return chunk(b"iTXt", head + (packed or body))
