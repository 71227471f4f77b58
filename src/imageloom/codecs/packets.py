"""XMP packets: the orientation in a packet, and a packet with its extension joined to one."""

from __future__ import annotations

import re

_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")
_REFERENCE = re.compile(
    rb"\s*\bxmpNote:HasExtendedXMP\s*=\s*(\"[^\"<>]*\"|'[^'<>]*')"
    rb"|<xmpNote:HasExtendedXMP>[^<>]*</xmpNote:HasExtendedXMP>"
)
_START, _END = re.compile(rb"<rdf:RDF\b([^<>]*)>"), b"</rdf:RDF>"
_NAMESPACE = re.compile(rb"\bxmlns:([\w.-]+)\s*=\s*(?:\"([^\"<>]*)\"|'([^'<>]*)')")


def orientation(xmp: bytes) -> int:
    """The orientation, 1 to 8, in a packet; 1 if it is missing (XMP specification part 2, 3.2)."""
    found = _ORIENTATION.search(xmp)
    return int(found[1]) if found else 1


def alone(xmp: bytes) -> bytes:
    """A packet without the reference to its extension (XMP specification part 3, 1.1.3.1)."""
    return _REFERENCE.sub(b"", xmp)


def joined(xmp: bytes, extension: bytes) -> bytes:
    """One packet with the descriptions of both; empty if they cannot be joined to valid XML."""
    main, more = _START.search(xmp), _START.search(extension)
    at, end = xmp.rfind(_END), extension.rfind(_END)
    if not (main and more and main.end() <= at and more.end() <= end):
        return b""
    before = _namespaces(xmp[: main.end()])
    added = {
        prefix: uri for prefix, uri in _namespaces(extension[: more.end()]).items() if prefix not in before
    }
    declared = b"".join(b' xmlns:%s="%s"' % pair for pair in added.items())
    start = main.end() - 1
    packet = b"".join((xmp[:start], declared, xmp[start:at], extension[more.end() : end], xmp[at:]))
    packet = alone(packet)
    return packet if _is_valid(packet) else b""


def _namespaces(start: bytes) -> dict[bytes, bytes]:
    return {found[1]: found[2] or found[3] or b"" for found in _NAMESPACE.finditer(start)}


def _is_valid(packet: bytes) -> bool:
    """Whether a packet is XML with all namespaces declared, and without a document type, which may hide bombs."""
    from xml.parsers import expat  # only files with an extension need it

    if b"<!DOCTYPE" in packet:
        return False
    try:
        expat.ParserCreate(namespace_separator=" ").Parse(packet, True)
    except expat.ExpatError:
        return False
    return True
