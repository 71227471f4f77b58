"""What XMP packets say of the pictures and videos behind a JPEG's image, and edits of that.

A packet is parsed as XML by expat, without entities, and edited at the positions that the parser reports. All
other bytes remain as they were: a packet that is written anew would lose its prefixes and its padding, on which
other readers depend.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

_ITEM = "http://ns.google.com/photos/1.0/container/item/"
_CONTAINER = "http://ns.google.com/photos/1.0/container/"
_CAMERA = "http://ns.google.com/photos/1.0/camera/"
_HDRGM = "http://ns.adobe.com/hdr-gain-map/1.0/"
_XMP = "http://ns.adobe.com/xap/1.0/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DEPTH = {f"http://ns.google.com/photos/1.0/{name}/" for name in ("depthmap", "image", "audio")}
_MOTION = ("MotionPhoto", "MicroVideo")
"""The first letters of the properties of a motion photo."""
_CLAIMS = re.compile(
    rb"container/|hdr-gain-map|MotionPhoto|MicroVideo|Thumbnails|photos/1\.0/(?:depthmap|image|audio)/"
)
"""A packet without a match has nothing that this module edits."""
_ATTRIBUTE = re.compile(rb"\s+([^\s=/>]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_MOST_ELEMENTS, _MOST_DEPTH = 10_000, 64
_MOST_ITEMS = 64
"""Maximum number of items in a container's directory."""

Name = tuple[str, str]
"""The namespace and the local name."""
_COLOUR_SPACE = re.compile(rb"(exif:ColorSpace\s*(?:=\s*[\"']|>)\s*)\d+")
_PROFILE_NAME = re.compile(rb"(photoshop:ICCProfile\s*(?:=\s*[\"']|>))[^\"'<]*")


class Value(NamedTuple):
    """A value in a packet: the bytes to remove with it, and the bytes of the value itself."""

    text: str
    start: int
    end: int
    value_start: int
    value_end: int


class Element(NamedTuple):
    name: Name
    start: int
    body: int
    """Where its content begins."""
    ends: list[int]
    """Where its content ends, and where the element ends."""
    attributes: dict[Name, Value]
    place: int
    """Its number in the packet."""

    @property
    def end(self) -> int:
        return self.ends[1]


class Item(NamedTuple):
    """A picture or a video that the packet announces behind the image."""

    semantic: str
    length: int
    padding: int = 0


class Claims(NamedTuple):
    """What a packet says of the rest of the file."""

    items: tuple[Item, ...] = ()
    video_from_end: int = 0
    """The position of a motion photo's video, counted from the file's end; 0 if it is not stated."""
    has_gain_map: bool = False
    has_video: bool = False


class Packet:
    """A parsed packet.

    Raises:
        ValueError: it is not XML without entities.
    """

    def __init__(self, data: bytes) -> None:
        from xml.parsers import expat  # most files have no XMP

        self.data = data.rstrip(b"\0")
        if b"\0" in self.data:
            raise ValueError("only UTF-8 is supported")
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self._scopes: list[dict[str, str]] = [{"": "", "xml": "http://www.w3.org/XML/1998/namespace"}]
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = _refuse
        try:
            self._parser.Parse(self.data, True)
        except expat.ExpatError as error:
            raise ValueError(str(error)) from None

    def _start(self, tag: str, _: object) -> None:
        if len(self.elements) > _MOST_ELEMENTS or len(self._open) > _MOST_DEPTH:
            raise ValueError("too many elements")
        start = self._parser.CurrentByteIndex
        at = start + 1 + len(tag.encode())
        raw: list[tuple[str, Value]] = []
        while found := _ATTRIBUTE.match(self.data, at):
            group = 2 if found[2] is not None else 3
            value = Value(_text(found[group]), found.start(), found.end(), *found.span(group))
            raw.append((found[1].decode(), value))
            at = found.end()
        scope = self._scopes[-1]
        if declared := {name[6:]: value.text for name, value in raw if name.startswith("xmlns:")}:
            scope = {**scope, **declared}
        self._scopes.append(scope)
        attributes = {_resolved(name, scope): value for name, value in raw}
        body = self.data.index(b">", at) + 1
        self._open.append(Element(_resolved(tag, scope), start, body, [], attributes, len(self.elements)))
        self.elements.append(self._open[-1])

    def _end(self, _: str) -> None:
        element, at = self._open.pop(), self._parser.CurrentByteIndex
        self._scopes.pop()
        if self.data[at : at + 2] == b"</":
            element.ends.extend((at, self.data.index(b">", at) + 1))
        else:  # an element without content
            element.ends.extend((element.body, element.body))

    def values(self, name: Name, of: Element | None = None) -> Iterator[Value]:
        """A property of an element or of the whole packet, as an attribute or as an element."""
        for element in self.within(of) if of else self.elements:
            if value := element.attributes.get(name):
                yield value
            elif element.name == name:
                text = _text(self.data[element.body : element.ends[0]])
                yield Value(text, element.start, element.end, element.body, element.ends[0])

    def within(self, of: Element) -> Iterator[Element]:
        """An element and those inside it."""
        for place in range(of.place, len(self.elements)):
            if self.elements[place].start >= of.end:
                return
            yield self.elements[place]

    def value(self, of: Element, name: Name) -> Value | None:
        return next(self.values(name, of), None)

    def items(self) -> list[tuple[Element, Item]]:
        """The list elements of the container's directory."""
        found = []
        for element in self.elements:
            if element.name == (RDF, "li") and (semantic := self.value(element, (_ITEM, "Semantic"))):
                length, padding = (
                    _number(self.value(element, (_ITEM, name))) for name in ("Length", "Padding")
                )
                found.append((element, Item(semantic.text, length, padding)))
            if len(found) > _MOST_ITEMS:
                raise ValueError("too many items")
        return found

    def edited(self, edits: Iterable[tuple[int, int, bytes]]) -> bytes:
        """The packet with bytes replaced. Edits inside a removed range are left out."""
        parts, at = [], 0
        for start, end, new in sorted(set(edits), key=lambda edit: (edit[0], -edit[1])):
            if start >= at:
                parts += [self.data[at:start], new]
                at = end
        return b"".join((*parts, self.data[at:]))


def _refuse(*_: object) -> None:
    raise ValueError("a document type is not supported")


def _text(value: bytes) -> str:
    return value.decode(errors="replace").strip()


def _number(value: Value | None) -> int:
    return int(value.text) if value and value.text.isdecimal() and len(value.text) < 16 else 0


def _resolved(name: str, scope: Mapping[str, str]) -> Name:
    prefix, _, local = name.rpartition(":")
    return ("xmlns", local) if prefix == "xmlns" else (scope.get(prefix, ""), local)


def claims(packet: bytes) -> Claims:
    """What a packet says of the rest of the file; nothing if it is not valid."""
    if not _CLAIMS.search(packet):
        return Claims()
    try:
        parsed = Packet(packet)
        items = tuple(item for _, item in parsed.items())
    except ValueError:
        return Claims()
    offset = next(parsed.values((_CAMERA, "MicroVideoOffset")), None)
    motion = any(name[1].startswith(_MOTION) for name in _names(parsed) if name[0] == _CAMERA)
    gain_map = any(name[0] == _HDRGM for name in _names(parsed))
    semantics = {item.semantic for item in items}
    return Claims(
        items,
        _number(offset),
        gain_map or "GainMap" in semantics,
        motion or "MotionPhoto" in semantics,
    )


def _names(parsed: Packet) -> Iterator[Name]:
    for element in parsed.elements:
        yield element.name
        yield from element.attributes


def with_lengths(packet: bytes, lengths: Mapping[str, int]) -> bytes:
    """The packet with the lengths of the things behind the image, by their semantics, which are the only ones.

    A thing that is not in `lengths` is not mentioned any more: its item and its properties are removed.

    Raises:
        ValueError: the packet cannot be edited.
    """
    if not _CLAIMS.search(packet):
        return packet
    parsed = Packet(packet)
    edits: list[tuple[int, int, bytes]] = []
    left = 0
    for element, item in parsed.items():
        if item.semantic == "Primary":
            if padding := parsed.value(element, (_ITEM, "Padding")):
                edits.append((padding.value_start, padding.value_end, b"0"))
        elif item.semantic in lengths:
            left += 1
            stated = parsed.value(element, (_ITEM, "Length"))
            if stated is None:
                raise ValueError("an item has no length")
            edits.append((stated.value_start, stated.value_end, b"%d" % lengths[item.semantic]))
            if padding := parsed.value(element, (_ITEM, "Padding")):
                edits.append((padding.value_start, padding.value_end, b"0"))
        else:
            edits.append((element.start, element.end, b""))
    if not left:
        edits += _removals(parsed, lambda name: name == (_CONTAINER, "Directory"))
    if "MotionPhoto" not in lengths:
        edits += _removals(parsed, lambda name: name[0] == _CAMERA and name[1].startswith(_MOTION))
    for value in parsed.values((_CAMERA, "MicroVideoOffset")):
        edits.append((value.value_start, value.value_end, b"%d" % lengths.get("MotionPhoto", 0)))
    if "GainMap" not in lengths:
        edits += _removals(parsed, lambda name: name[0] == _HDRGM)
        edits += _declarations(parsed, {_HDRGM})
    return parsed.edited(edits)


def without_old_pictures(packet: bytes, thumbnails: bool, depth: bool) -> bytes:
    """The packet without its thumbnails, or without its depth map and the picture beside that.

    Raises:
        ValueError: the packet cannot be edited.
    """
    if not _CLAIMS.search(packet):
        return packet
    parsed = Packet(packet)
    return parsed.edited(
        (
            *_removals(parsed, lambda name: thumbnails and name == (_XMP, "Thumbnails")),
            *_removals(parsed, lambda name: depth and name[0] in _DEPTH),
            *_declarations(parsed, _DEPTH if depth else ()),
        )
    )


def _removals(parsed: Packet, matches: Callable[[Name], bool]) -> Iterator[tuple[int, int, bytes]]:
    for element in parsed.elements:
        if matches(element.name):
            yield element.start, element.end, b""
        for name, value in element.attributes.items():
            if matches(name):
                yield value.start, value.end, b""


def _declarations(parsed: Packet, spaces: Collection[str]) -> Iterator[tuple[int, int, bytes]]:
    """The declarations of namespaces, which are no longer used."""
    for element in parsed.elements:
        for name, value in element.attributes.items():
            if name[0] == "xmlns" and value.text in spaces:
                yield value.start, value.end, b""


_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)([1-8])\b")
_SIZES = (
    re.compile(rb"((?:tiff:ImageWidth|exif:PixelXDimension)\s*(?:=\s*[\"']|>)\s*)\d+"),
    re.compile(rb"((?:tiff:ImageLength|exif:PixelYDimension)\s*(?:=\s*[\"']|>)\s*)\d+"),
)


def orientation(packet: bytes) -> int | None:
    """The orientation that a packet states, 1 to 8."""
    found = _ORIENTATION.search(packet)
    return int(found[2]) if found else None


def in_srgb(packet: bytes) -> bytes:
    """The packet with sRGB as the colours, where it states colours."""
    packet = _COLOUR_SPACE.sub(rb"\g<1>1", packet)
    return _PROFILE_NAME.sub(rb"\g<1>sRGB IEC61966-2.1", packet)


def upright(packet: bytes, width: int, height: int) -> bytes:
    """The packet with the normal orientation and the size of the output, where it states them."""
    packet = _ORIENTATION.sub(rb"\g<1>1", packet)
    for pattern, size in zip(_SIZES, (width, height), strict=True):
        packet = pattern.sub(rb"\g<1>%d" % size, packet)
    return packet
